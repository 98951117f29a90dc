"""A study in the field: simulated participants on the real server, and answers that other tools collected."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'load_test': ['participate', 'LocalServer'],
        'qualtrics': ['read_qualtrics', 'read_mapping'],
        'jspsych': ['read_jspsych'],
        'source': ['read_source', 'join_prolific'],
        'prolific': ['follow_prolific', 'study_status', 'payments', 'withdraw', 'exclude'],
    },
)
