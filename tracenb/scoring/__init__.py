"""Scorers of answers and steps, by name."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'overlap': ['Overlap', 'as_set'],
        'scorers': ['SCORERS', 'scorer'],
        'tables': ['score_all', 'score_response', 'tabulate'],
    },
)
