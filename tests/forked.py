"""Commands in forks of a process that has imported the libraries: a process of their own without seconds of start."""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from run_notebook import context

from tracenb.runs.kernels import ForkServer

NOWHERE = os.devnull, os.devnull


def _child(function, args, cwd, env, outputs):
    "Call `function(*args)` with the folder, the environment and the two outputs (paths of files) of a new process."
    assert 'preload' in sys.modules, 'the fork server has not imported the libraries'
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, name, path in zip((1, 2), ('stdout', 'stderr'), outputs):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        setattr(sys, name, open(number, 'w', closefd=False))
    function(*args)


def _begin(function, args, cwd, env, outputs):
    env = dict(os.environ if env is None else env)
    process = context().Process(target=_child, args=(function, args, str(cwd), env, outputs))
    process.start()
    return process


def _run(function, args, cwd='.', env=None, timeout=600):
    "As `subprocess.run` with text output. Raises `TimeoutError` after `timeout` s."
    with tempfile.TemporaryDirectory() as d:
        outputs = Path(d, 'stdout'), Path(d, 'stderr')
        process = _begin(function, args, cwd, env, outputs)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f'{function.__name__}{args} ran for more than {timeout} s')
        out, err = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(args, process.exitcode, out, err)


def _script(code, *args):
    sys.argv = ['-c', *args]
    exec(code, {'__name__': '__main__'})


def fork_kernels():
    """
    From now on kernels and workers that this process starts are forks of it: no second import.

    Called before anything else in a process that is itself a fork with the imports done.
    """
    from tracenb.runs import kernels, notebook, workers

    server = ForkServer()
    server.folder = tempfile.TemporaryDirectory(prefix='tracenb-')
    socket = f'{server.folder.name}/socket'
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        os.setsid()
        os.close(theirs)
        sys.stdin = open(ours)
        kernels.serve_forks(socket)
        os._exit(0)
    os.close(ours)  # the server ends when this process does, which closes the other end
    server.socket = lambda: socket
    while not Path(socket).exists():
        time.sleep(0.005)
    kernels.FORK_SERVER = server
    notebook.execute.__defaults__ = (kernels.ForkedKernelManager,)
    workers.START = 'fork'
    # a worker is forked while its parent holds this lock, and may start workers of its own
    os.register_at_fork(after_in_child=lambda: setattr(workers, '_STARTING', threading.Lock()))


def _main(*args):
    from tracenb.cli.main import main

    fork_kernels()
    main(list(args))


def _send(function, to, *args):
    "Write to the file `to` what the function returns, or raises."
    fork_kernels()
    try:
        result = function(*args), None
    except Exception as e:
        result = None, e
    Path(to).write_bytes(pickle.dumps(result))


def call(function, *args):
    "`function(*args)`, with its workers and kernels, and what it printed: the value and the text of both outputs."
    with tempfile.TemporaryDirectory() as d:
        done = _run(_send, [function, f'{d}/result', *args])
        assert done.returncode == 0, done.stderr
        value, error = pickle.loads(Path(d, 'result').read_bytes())
    if error:
        raise error
    return value, done.stdout + done.stderr


def script(code, *args, **more) -> subprocess.CompletedProcess:
    "As `python -c CODE ARGS`; `more`: `cwd`, `env`, `timeout`."
    return _run(_script, [code, *map(str, args)], **more)


def start(code, *args, cwd='.', env=None):
    "As `Popen(['python', '-c', CODE, *ARGS])` without output."
    return _as_popen(_begin(_script, [code, *map(str, args)], cwd, env, NOWHERE))


def tracenb(*args, **more) -> subprocess.CompletedProcess:
    "As `tracenb ARGS`. A test of what a process imports, or of how the command is killed, starts a new one instead."
    return _run(_main, [*map(str, args)], **more)


def start_tracenb(*args, cwd):
    "As `Popen(['tracenb', *ARGS])` without output: has `pid`, `poll`, `kill` and `wait`."
    return _as_popen(_begin(_main, [*map(str, args)], cwd, None, NOWHERE))


def _as_popen(process):
    "Give a process of `multiprocessing` the methods of `subprocess.Popen`."
    process.poll = lambda: process.exitcode
    process.wait = lambda timeout=None: process.join(timeout) or process.exitcode
    return process


def popen(command, stdout, stderr):
    "As `subprocess.Popen` of `python -c CODE ARGS` with both outputs in one file: has `pid`, `poll`, `kill`, `wait`."
    _, flag, code, *args = command
    assert flag == '-c' and stdout is stderr
    path = Path(stdout.name).absolute()
    return _as_popen(_begin(_script, [code, *args], '.', None, (path, path)))


SERVE = """
import os, sys
from tracenb.runs.kernels import serve_forks
socket, stdin = sys.argv[1:]
sys.stdin = open(stdin)
serve_forks(socket)
"""


class Forks(ForkServer):
    "A fork server of kernels that is itself a fork of the process with the imports. It ends with this process."

    def socket(self) -> str:
        if self.process is None:
            self.folder = tempfile.TemporaryDirectory(prefix='tracenb-')
            path = Path(self.folder.name)
            os.mkfifo(path / 'stdin')
            self.process = start(SERVE, path / 'socket', path / 'stdin')
            self.stdin = open(path / 'stdin', 'w')  # waits until the other end is open
            while not (path / 'socket').exists():
                time.sleep(0.01)
        return f'{self.folder.name}/socket'

    def close(self):
        "End the server, if it was started."
        if self.process is not None:
            self.stdin.close()
            self.process.join()
