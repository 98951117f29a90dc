"""Intervals, association, paired tests and power."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        'intervals': ['wilson', 'proportions', 'bootstrap'],
        'association': ['two_by_two', 'stratified'],
        'comparisons': ['paired', 'compare_seeds', 'holm'],
        'power': ['paired_power', 'detectable'],
        'verdicts': ['pair_verdicts'],
        'links': ['link'],
    },
)
