"""Traces that a teacher model writes: endpoint, prompts, collection."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'endpoint': ['Endpoint', 'Request', 'Reply'],
        'client': ['ask', 'estimate_cost'],
        'prompts': ['Outcome', 'read_outcomes', 'tally'],
        'collection': ['Collection', 'collect', 'run_collection'],
        'importing': ['import_traces'],
    },
)
