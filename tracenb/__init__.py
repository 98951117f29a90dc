import os

os.environ.setdefault('GOMP_SPINCOUNT', '10000')  # before torch is loaded: threads that spin for long slow training down several times when another program wants a core
__version__ = "0.1.0"
