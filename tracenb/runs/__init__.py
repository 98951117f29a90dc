"""One run, one folder; grids of runs; the explorer."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'stages': ['Run', 'make_run', 'open_run', 'load_run'],
        'finished': ['TrainedRun', 'verify'],
        'grids': ['get_grid'],
        'folders': ['list_runs', 'show_run'],
        'engine': ['run_grid'],
        'explorer': ['explore'],
    },
)
