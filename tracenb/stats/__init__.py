"""Intervals, association, paired tests and power."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'association': ['two_by_two', 'independence'],
        'intervals': ['wilson', 'proportions', 'bootstrap'],
        'comparisons': ['paired', 'compare_conditions'],
    },
)
