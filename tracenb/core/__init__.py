"""Records that flow through an experiment, their files, and how they show themselves."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'records': ['Example', 'Steps', 'Trace', 'ChatExample', 'Generation', 'Response', 'Score', 'TracenbError'],
        'files': ['read_jsonl', 'write_jsonl'],
        'html': ['render_template'],
    },
)
