"""Trace conditions; chats rendered and parsed; rows exported."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'conditions': ['CONDITIONS', 'build_traces', 'condition', 'get_condition'],
        'chat': ['render'],
        'loss_mask': ['encode', 'show_mask'],
        'blocks': ['read_blocks'],
        'parsing': ['parse'],
        'display': ['show_trace', 'show_response'],
    },
)
