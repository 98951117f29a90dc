"""The human study, from design to server."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'design': ['Study', 'read_study', 'demo_study'],
        'steps': ['step_sequence', 'trials'],
        'sampling': ['StudyConfig', 'read_config'],
        'preregister': ['prolific_draft'],
        'build': ['build_study', 'write_study'],
        'answers': ['read_answers'],
        'participants': ['Store'],
    },
)
