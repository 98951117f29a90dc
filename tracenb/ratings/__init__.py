"""Analysis, power and simulation of the human study."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'effects': ['Effects', 'true_means'],
        'simulated': ['simulate_answers'],
        'scales': ['Rules'],
        'reliability': ['cronbach_alpha'],
        'power': ['PowerPlan', 'power_table', 'participants_needed'],
        'analysis': ['analyze'],
    },
)
