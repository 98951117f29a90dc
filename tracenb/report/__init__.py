"""Results of finished runs: tables, statements, figures, one page."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'seed_means': ['over_seeds'],
        'results': ['gather', 'load_runs', 'Results'],
        'tables': ['headline'],
        'statements': ['findings'],
        'page': ['make_report', 'to_page'],
    },
)
