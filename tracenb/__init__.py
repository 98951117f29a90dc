"""Do small models distilled on reasoning traces need those traces to be right, and do they use them?"""

import os

import lazy_loader

# Set before torch is loaded: threads that spin while they wait slow training down when another program needs a core.
os.environ.setdefault('GOMP_SPINCOUNT', '10000')
__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=['audit'],  # a package that can be called: `audit(files, out)`
    submod_attrs={
        'core': ['Example', 'Generation', 'Response', 'Score', 'Steps', 'Trace', 'TracenbError'],
        'tasks': ['get_task', 'load_examples'],
        'traces': ['build_traces', 'parse', 'render'],
        'runs': ['explore', 'make_run', 'open_run'],
    },
)
