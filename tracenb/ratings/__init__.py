"""Analysis and power of the human study."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'analysis': ['analyze', 'write_analysis'],
    },
)
