"""Data sets: what a task says about itself, official formats, rules, simulators, solvers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'task': ['Task', 'DataConfig', 'get_task', 'register_task', 'load_examples', 'check_examples'],
    },
)
