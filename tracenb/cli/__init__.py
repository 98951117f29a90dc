"""The command `tracenb`."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'main': ['app', 'run', 'ls', 'show', 'verify', 'report', 'bench'],
    },
)
