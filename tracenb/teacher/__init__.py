"""Traces that a teacher model writes: endpoint, prompts, collection."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'collection': ['collect', 'import_traces'],
    },
)
