"""Published generations under every definition: `from tracenb import audit; audit(['rows.jsonl'], 'out')`.

The package can be called like its main function, `tracenb.audit.page.audit(paths, out, dataset, source, split)`: it
scores the predictions in `paths` (files, folders, run folders) under every scoring, writes audit.json, audit.html,
rows.parquet and left_out.jsonl into `out`, and returns the figures as a DataFrame.
"""

import sys
import types

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=['page'],
    submod_attrs={
        'page': ['audit', 'audit_page'],
        'variants': ['Scoring', 'VARIANTS', 'SCORINGS'],
        'judging': ['Prediction', 'score_variants'],
        'published': ['read_predictions', 'read_all'],
        'tables': ['disagreements', 'overview', 'reading_table'],
    },
)


class _CallableModule(types.ModuleType):
    "The package, which can be called like its main function: `from tracenb import audit; audit(files, out)`."

    def __call__(self, *args, **kwargs):
        return self.page.audit(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
