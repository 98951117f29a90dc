"""The human study, from design to server."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'build': ['build_study'],
        'sampling': ['read_config'],
    },
)
