"""Forced traces: does the answer of a model depend on its trace?"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'probes': ['Probe', 'Probed'],
        'subject': ['Subject'],
        'questions': ['QuestionItem'],
        'registry': ['get_intervention', 'run_question', 'summarize_rows'],
        'validity': ['certify', 'force_matrix'],
        'running': ['intervene', 'make_config'],
        'panel': ['explore_trace'],
    },
)
