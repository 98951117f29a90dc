"""
A worker of xdist as a fork of the process that has imported the libraries: the tests are collected in half the time.

Takes the arguments with which execnet starts Python, `-u -c CODE`.
"""

import os
import sys
from multiprocessing.reduction import DupFd

import run_notebook


def _work(code, env, streams):
    "Run `code` with the three standard streams and the environment of the process that asked."
    os.environ.clear()
    os.environ.update(env)
    for number, stream in enumerate(streams):
        os.dup2(stream.detach(), number)
    sys.stdin, sys.stdout, sys.stderr = (open(n, mode, closefd=False) for n, mode in enumerate('rww'))
    sys.argv = ['-c']
    exec(code, {'__name__': '__main__'})


if __name__ == '__main__':
    process = run_notebook.context().Process(
        target=_work, args=(sys.argv[-1], dict(os.environ), [*map(DupFd, range(3))])
    )
    process.start()
    process.join()
    sys.exit(process.exitcode)
