"""Run notebooks in forks of one process that has imported the libraries: faster than one kernel per notebook."""

import multiprocessing
import os
import re
import stat
import sys
import traceback
from contextlib import contextmanager, suppress
from importlib import import_module
from multiprocessing import forkserver, resource_tracker, util
from pathlib import Path
from unittest import mock

SLOW = re.compile(r'^#\| *slow', re.M)  # nbdev's flag: long simulations, which `make test-all` runs

# Nobody sees these figures: each is drawn once, and not twice, to find its margins
SMALL_FIGURES = """
from matplotlib_inline.backend_inline import set_matplotlib_formats
set_matplotlib_formats('png', dpi=40, bbox_inches=None)
"""


def _cells(path, slow):
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    cells = [c for c in cells if c.cell_type == 'code' and not re.search(r'^#\| *eval: *false', c.source, re.M)]
    return [c for c in cells if slow or not SLOW.search(c.source)]


def _child(path, slow, pipe):
    "Run the code cells of the notebook at `path` in its folder. Sends '' or the cell that failed with its traceback."
    try:
        assert 'preload' in sys.modules, 'the fork server has not imported the libraries'
        os.chdir(path.parent)
        from execnb.shell import CaptureShell
        from forked import fork_kernels

        fork_kernels()
        shell = CaptureShell(path.parent)
        shell.run(SMALL_FIGURES)
        for cell in _cells(path, slow):
            shell.run(cell.source)
            if shell.exc:
                why = ''.join(traceback.format_exception(shell.exc))
                pipe.send(f'{path.name}, cell {cell.id}:\n{cell.source}\n\n{why}')
                return
        pipe.send('')
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


@contextmanager
def _preload_can_be_found():
    "`preload` takes the folder out of PYTHONPATH again, for processes below."
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop('PYTHONPATH', None)
        else:
            os.environ['PYTHONPATH'] = before


def context():
    """
    A fork server with the libraries loaded.

    It looks for `preload` in PYTHONPATH only, and says nothing where it finds none: `_child` does.
    """
    found = multiprocessing.get_context('forkserver')
    found.set_forkserver_preload(['preload'])
    with _preload_can_be_found():
        forkserver.ensure_running()
    return found


def _fork(path, args, keep):
    "A fork in place of a new interpreter with the arguments `args` and the file descriptors `keep`."
    if pid := os.fork():
        return pid
    try:
        for fd in map(int, os.listdir('/dev/fd')):
            with suppress(OSError):  # the one of this list
                if fd > 2 and fd not in keep and stat.S_ISFIFO(os.fstat(fd).st_mode):
                    os.close(fd)  # or a process at its other end would wait for this one
        exec(args[-1], {})
    finally:
        os._exit(0)


def fork_this_process():
    "Start the fork server as a fork of this process, which imports the libraries: once for both. Due before any test."
    with _preload_can_be_found():
        import_module('preload')
    resource_tracker.ensure_running()  # this one in an interpreter of its own
    with mock.patch.object(util, 'spawnv_passfds', _fork):
        context()


def run(path: Path, timeout: float = 300, slow: bool = False) -> str:
    """
    Run one notebook; its slow cells only if asked. Returns '', or the cell that failed and its traceback.

    Raises `TimeoutError` after `timeout` s.
    """
    here, there = context().Pipe(duplex=False)
    child = context().Process(target=_child, args=(path, slow, there))
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
