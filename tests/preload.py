"""
What nearly every notebook imports: a fork server imports this module once, a child starts with all of it loaded.

Of this library, modules that import most of the others. The garbage collector does not run meanwhile, and afterwards
it leaves alone what is there.
"""

import gc
from importlib import import_module

MODULES = [
    'IPython',
    'execnb.shell',
    'matplotlib.pyplot',
    'nbformat',
    'pandas',
    'pyarrow',
    'seaborn',
    'statsmodels.api',
    'torch',
    'peft',
    'tracenb.audit.page',
    'tracenb.cli.main',
    'tracenb.models.serve',
    'tracenb.ratings.analysis',
    'tracenb.report.page',
    'tracenb.runs.engine',
    'tracenb.runs.explorer',
    'tracenb.runs.finished',
    'tracenb.study.server',
    'tracenb.teacher.collection',
]
gc.disable()
for name in MODULES:
    import_module(name)
gc.enable()
gc.freeze()
