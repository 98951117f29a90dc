"""Run notebooks in forks of one process that has imported the libraries: faster than one kernel per notebook."""

import multiprocessing
import os
import re
import traceback
from pathlib import Path

# What nearly every notebook imports. The server imports it once; a child starts with all of it loaded.
PRELOAD = [
    'IPython',
    'execnb.shell',
    'matplotlib.pyplot',
    'pandas',
    'seaborn',
    'statsmodels.api',
    'torch',
    'peft',
    'tracenb',
]


def _cells(path):
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    return [c for c in cells if c.cell_type == 'code' and not re.search(r'^#\| *eval: *false', c.source, re.M)]


def _child(path, pipe):
    "Run all code cells of the notebook at `path` in its folder. Sends '' or the cell that failed with its traceback."
    try:
        os.chdir(path.parent)
        from execnb.shell import CaptureShell

        shell = CaptureShell(path.parent)
        for cell in _cells(path):
            shell.run(cell.source)
            if shell.exc:
                why = ''.join(traceback.format_exception(shell.exc))
                pipe.send(f'{path.name}, cell {cell.id}:\n{cell.source}\n\n{why}')
                return
        pipe.send('')
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


def context():
    "A fork server with the libraries loaded."
    found = multiprocessing.get_context('forkserver')
    found.set_forkserver_preload(PRELOAD)
    return found


def run(path: Path, timeout: float = 300) -> str:
    "Run one notebook. Returns '', or the cell that failed and its traceback. Raises `TimeoutError` after `timeout` s."
    here, there = context().Pipe(duplex=False)
    child = context().Process(target=_child, args=(path, there))
    child.start()
    there.close()
    try:
        if not here.poll(timeout):
            raise TimeoutError(f'{path.name} ran for more than {timeout} s')
        return here.recv()
    except EOFError:
        return f'{path.name}: the process died'
    finally:
        child.kill()
        child.join()
