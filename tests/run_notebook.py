"""Run notebooks in forks of one process that has imported the libraries: faster than one kernel per notebook."""

import multiprocessing
import os
import re
import sys
import traceback
from multiprocessing import forkserver
from pathlib import Path

STARTS_KERNELS = re.compile(r'\b(execute|intervene_runs|make_report|run_grid)\(|runs\.(kernels|workers) import')
ADDRESS = 'TRACENB_FORK_SERVER'  # Environment variable: the socket of the server that is shared
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

        cells = _cells(path, slow)
        if any(STARTS_KERNELS.search(c.source) for c in cells):
            fork_kernels()  # without it they would be new processes: slower, and right
        shell = CaptureShell(path.parent)
        shell.run(SMALL_FIGURES)
        for cell in cells:
            shell.run(cell.source)
            if shell.exc:
                why = ''.join(traceback.format_exception(shell.exc))
                pipe.send(f'{path.name}, cell {cell.id}:\n{cell.source}\n\n{why}')
                return
        pipe.send('')
    except BaseException:
        pipe.send(traceback.format_exc())
        raise


def share():
    "Start one fork server for this process and the ones below it: each of its own would import everything again."
    context()
    os.environ[ADDRESS] = forkserver._forkserver._forkserver_address


def _use(address):
    "Let `multiprocessing` ask the fork server at `address`, which another process has started."
    server = forkserver._forkserver
    if 'ensure_running' not in vars(server):  # else it is done; a fork of that server knows the address, and no more
        server._forkserver_address = address
        server._forkserver_alive_fd = os.pipe()[1]  # children inherit it; this server lives as long as its parent
        server.ensure_running = lambda: None


def context():
    """
    A fork server with the libraries loaded: the one of `share`, or one of this process.

    It looks for `preload` in PYTHONPATH only, and says nothing where it finds none: `_child` does.
    """
    found, before = multiprocessing.get_context('forkserver'), os.environ.get('PYTHONPATH')
    if ADDRESS in os.environ:
        _use(os.environ[ADDRESS])
        return found
    found.set_forkserver_preload(['preload'])
    os.environ['PYTHONPATH'] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ['PYTHONPATH']
        else:
            os.environ['PYTHONPATH'] = before
    return found


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
