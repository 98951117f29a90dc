"""Data sets: the protocol of a task, official formats, rules, simulators, solvers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'paper': ['PaperRules'],
        'task': [
            'Task',
            'DataConfig',
            'get_task',
            'register_task',
            'load_examples',
            'check_examples',
            'match_examples',
            'round_robin',
        ],
    },
)
