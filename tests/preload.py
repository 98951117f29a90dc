"""
What nearly every notebook imports: a fork server imports this module once, a child starts with all of it loaded.

Of this library, modules that import most of the others. The garbage collector does not run meanwhile, and afterwards
it leaves alone what is there.
"""

import gc
import os
import sys
from importlib import import_module

MODULES = [
    'IPython',
    'execnb.shell',
    'matplotlib.pyplot',
    'nbformat',
    'openai',
    'pandas',
    'papermill',
    'pyarrow',
    'seaborn',
    'spacy',
    'statsmodels.api',
    'torch',
    'peft',
    'tracenb.audit.page',
    'tracenb.cli.main',
    'tracenb.interventions.grid',
    'tracenb.interventions.running',
    'tracenb.teacher.serve',
    'tracenb.ratings.analysis',
    'tracenb.report.page',
    'tracenb.runs.engine',
    'tracenb.runs.explorer',
    'tracenb.runs.finished',
    'tracenb.study.server',
    'tracenb.teacher.collection',
]

# This folder is first in PYTHONPATH so that this module is found; processes below are not to find more than others
_, _, others = os.environ.pop('PYTHONPATH').partition(os.pathsep)
if others:
    os.environ['PYTHONPATH'] = others
gc.disable()
for name in MODULES:
    import_module(name)
sys.modules['tracenb.interventions.running']._code()  # parses the library: kept for all children
sys.modules['nbformat'].validate(sys.modules['nbformat'].v4.new_notebook())  # compiles the schema
sys.modules['IPython.core.history'].HistoryManager.enabled = False  # no database for each notebook
gc.enable()
gc.set_threshold(20_000)
gc.freeze()
