"""Real kills: at file operations, in every stage, of a worker, of the report; full disks; a cluster."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import forked
import psutil
import pytest
import yaml

from tracenb.core.records import TracenbError
from tracenb.runs.engine import Unwritable, run_grid
from tracenb.runs.finished import verify
from tracenb.runs.folders import list_runs, state
from tracenb.runs.grids import get_grid
from tracenb.runs.stages import answer, build, finish, make_run, open_run, score, tune

BIN = Path(sys.executable).parent
SMALL = dict(
    dataset='toy',
    condition='incorrect',
    data={'n_train': 8, 'n_test': 4},
    train={'num_train_epochs': 2, 'gradient_accumulation_steps': 1, 'save_steps': 1},
    generate={'max_new_tokens': 6, 'batch_size': 2},
)
RESULTS = ('examples.jsonl', 'chat.jsonl', 'generations.jsonl', 'scores.jsonl', 'metrics.json')


@pytest.mark.slow
def test_a_report_that_is_killed_is_made_again(tmp_path, smoke):
    "The first test, so that `smoke` is there when another process needs it."
    shutil.copytree(smoke, tmp_path / 'o')
    for made in ('report.html', 'figures'):
        path = tmp_path / 'o' / made
        path.unlink() if path.is_file() else shutil.rmtree(path)
    before = bytes_of(tmp_path / 'o')
    process = forked.start_tracenb('report', 'o', cwd=tmp_path)
    assert until(lambda: list((tmp_path / 'o').glob('figures/*.png')), process) and process.poll() is None
    kill_all(process)
    assert not (tmp_path / 'o' / 'report.html').exists()
    again('report', 'o', cwd=tmp_path)
    assert (tmp_path / 'o' / 'report.html').read_text().rstrip().endswith('</html>') and bytes_of(
        tmp_path / 'o'
    ) == before


# The process forks one child per try; the child kills itself before its n-th operation on
# files of the run. The first try is not killed: it tells at which stage each operation is.
KILLED = """
import json, os, signal, sys
import bitsandbytes, peft
from pathlib import Path
from tracenb.runs.folders import state
from tracenb.runs.stages import answer, build, finish, make_run, open_run, score, tune

run, root, every = make_run(**json.loads(sys.argv[1])), Path(sys.argv[2]), sys.argv[3] == 'every'

def attempt(out, n):
    "0 if the run ended, -9 if it was killed before operation n."
    pid = os.fork()
    if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    stages = []
    def hook(event, args):
        if event not in ('os.rename', 'os.remove', 'os.mkdir', 'os.rmdir'): return
        if isinstance(args[0], (str, Path)) and str(args[0]).startswith(str(out)):
            stages.append(state(out/run.name).split()[0])
            if len(stages) == n: os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    try:
        opened = open_run(run, out)
        tune(opened, build(opened))
        finish(opened, score(opened, answer(opened)))
    except BaseException as e: print(json.dumps(dict(n=n, error=repr(e))), flush=True); os._exit(1)
    Path(f'{out}.stages').write_text(' '.join(stages))
    os._exit(0)

assert attempt(root/'whole', 0) == 0
stages = (root/'whole.stages').read_text().split()
chosen = range(1, len(stages) + 1) if every else [stages.index(s) + 1 for s in dict.fromkeys(stages)]
for n in chosen:
    code = attempt(root/str(n), n)
    found = state(root/str(n)/run.name)
    print(json.dumps(dict(n=n, code=code, state=found, again=attempt(root/str(n), 0))), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize('which', ['first', pytest.param('every', marks=pytest.mark.exhaustive)])
def test_killed_before_file_operations_a_run_ends_with_the_same_bytes(tmp_path, which):
    "Before the first operation of each stage, or before every one."
    run = make_run(**SMALL)
    done = forked.script(KILLED, json.dumps(SMALL), tmp_path, which)
    killed = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not [t for t in killed if 'error' in t], done.stdout[-500:] + done.stderr[-1500:]
    assert {t['code'] for t in killed} == {-signal.SIGKILL} and {t['again'] for t in killed} == {0}
    stages = Counter(t['state'].split()[0] for t in killed)
    print(f'{len(killed)} kills: {dict(stages)}')
    assert stages.keys() >= {'building', 'training', 'generating', 'scoring', 'finished'}
    assert which == 'first' or len(killed) >= 30
    whole = {name: (tmp_path / 'whole' / run.name / name).read_bytes() for name in RESULTS}
    for t in killed:
        run_dir = tmp_path / str(t['n']) / run.name
        assert {name: (run_dir / name).read_bytes() for name in RESULTS} == whole, t
        assert verify(run_dir) == [] and not (run_dir / 'checkpoints').exists(), t


def grid_file(folder, name='g', **more):
    (folder / f'{name}.yaml').write_text(
        yaml.safe_dump(dict(datasets=['toy'], models=['tiny-random'], conditions=['correct', 'incorrect']) | more)
    )
    return f'{name}.yaml'


def start(*args, cwd):
    return subprocess.Popen(
        [BIN / 'tracenb', *map(str, args)], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def until(true, process, seconds=300):
    "Wait for something; False if the process ends before."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        if process.poll() is not None:
            return True if true() else False
        time.sleep(0.01)
    pytest.fail('it never came to that')


def kill_all(process):
    "The command alone is killed; everything below it must end by itself. Returns how many processes that were."
    below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive
    return len(below)


def again(*args, cwd):
    "The command again, without the start of a process."
    done = forked.tracenb(*args, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]


def undisturbed(runs, out):
    "All stages of all runs, one after the other, in this process."
    for run in runs:
        opened = open_run(run, out)
        tune(opened, build(opened))
        finish(opened, score(opened, answer(opened)))


def bytes_of(out):
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob('*'))
        if p.name in ('scores.jsonl', 'metrics.json')
    }


EVERY_STAGE = ('building', 'training', 'generating', 'rendering')


@pytest.mark.slow
@pytest.mark.parametrize(
    'conditions, stages, n_train, n_tokens, begin',
    [
        (['incorrect'], ('rendering',), 40, 50, forked.start_tracenb),
        pytest.param(['correct', 'incorrect'], EVERY_STAGE, 80, 100, start, marks=pytest.mark.exhaustive),
    ],
    ids=['rendering', 'every'],
)
def test_the_command_killed_in_its_stages_and_while_rendering(tmp_path, conditions, stages, n_train, n_tokens, begin):
    """
    SIGKILL of `tracenb run` while a run is building, training, generating, and when only its notebook is missing.

    The first three are in every run of the tests too: `test_killed_before_file_operations_...` kills one run in each.
    """
    size = len(conditions)
    file = grid_file(
        tmp_path,
        conditions=conditions,
        settings=dict(
            data={'n_train': n_train, 'n_test': 4 * size},
            train={'num_train_epochs': 2, 'gradient_accumulation_steps': 1, 'save_steps': 5 * size},
            generate={'max_new_tokens': n_tokens, 'batch_size': 1},
        ),
    )
    runs = get_grid(str(tmp_path / file)).runs
    undisturbed(runs, tmp_path / 'whole')
    rendering = lambda at: (at / 'metrics.json').exists() and not (at / 'run.ipynb').exists()
    working = lambda at: (at / 'run.json').exists()  # written by the kernel; the folder is there before
    kills = []
    for stage in stages:
        process = begin('run', file, '--out', 'killed', cwd=tmp_path)
        there = lambda: any(
            rendering(at) if stage == 'rendering' else working(at) and state(at).startswith(stage)
            for at in (tmp_path / 'killed' / r.name for r in runs)
        )
        if until(there, process) and process.poll() is None:
            assert kill_all(process) >= 4  # worker, fork server, proxy, kernel
            kills.append(stage)
    assert kills == list(stages)
    again('run', file, '--out', 'killed', cwd=tmp_path)
    found, whole = bytes_of(tmp_path / 'killed'), bytes_of(tmp_path / 'whole')
    assert found == whole and len(whole) == 2 * size
    for r in runs:
        cells = json.loads((tmp_path / 'killed' / r.name / 'run.ipynb').read_text())['cells']
        assert all(c['execution_count'] for c in cells if c['cell_type'] == 'code') and not list(
            (tmp_path / 'killed' / r.name).glob('.*partial*')
        ), 'the notebook is whole'


@pytest.mark.exhaustive  # in every run of the tests: `test_a_scheduler_elsewhere_...` kills such a worker
@pytest.mark.parametrize(
    'conditions, seeds, n_train',
    [
        (['incorrect'], [1], 40),
        (['vanilla', 'correct', 'incorrect'], [1, 2], 40),
    ],
    ids=['small', 'whole'],
)
def test_two_workers_one_of_them_killed(tmp_path, conditions, seeds, n_train):
    "2 data sets, conditions and seeds: another worker resumes the run, and the results have the same bytes."
    file = grid_file(
        tmp_path,
        datasets=['toy', 'babi'],
        conditions=conditions,
        seeds=seeds,
        settings=dict(
            data={'n_train': n_train, 'n_test': 6, 'max_words': 40},
            train={'num_train_epochs': 2, 'gradient_accumulation_steps': 1, 'save_steps': 5},
            generate={'max_new_tokens': 8},
        ),
        overrides=dict(datasets=dict(toy=dict(data=dict(max_words=None)))),
    )
    runs = get_grid(str(tmp_path / file)).runs
    n = len(runs)
    assert n == 2 * len(conditions) * len(seeds)
    undisturbed(runs, tmp_path / 'whole')
    process = start('run', file, '--out', 'killed', '--workers', 2, cwd=tmp_path)
    training = lambda: [r for r in runs if state(tmp_path / 'killed' / r.name).startswith('training')]
    assert until(training, process)
    workers = [
        p for p in psutil.Process(process.pid).children() if len(p.children()) > 0
    ]  # each has a fork server below it
    assert len(workers) == 2
    workers[0].kill()
    assert process.wait(180) == 0
    assert list_runs(tmp_path / 'killed').state.tolist() == ['finished'] * n
    assert bytes_of(tmp_path / 'killed') == bytes_of(tmp_path / 'whole') and len(bytes_of(tmp_path / 'whole')) == 2 * n


# --- Disks


@pytest.fixture
def small_disk(tmp_path):
    "A disk of its own, of 4 MB, to be filled."
    disk = tmp_path / 'disk'
    disk.mkdir()
    made = (
        subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', disk], capture_output=True, text=True)
        if shutil.which('mount')
        else None
    )
    if made is None or made.returncode:
        pytest.skip('a small disk can only be mounted by root')
    yield disk
    subprocess.run(['umount', '-l', disk], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_grid_and_leaves_what_was_finished(small_disk, smoke):
    grid = get_grid('smoke', only=['condition=zero_shot,vanilla,correct'])
    out = small_disk / 'o'
    shutil.copytree(smoke / grid.runs[0].name, out / grid.runs[0].name)
    finished = bytes_of(out)
    (small_disk / 'ballast').write_bytes(
        bytes(shutil.disk_usage(small_disk).free - 200_000)
    )  # space for the first files of a run, not for its adapter
    began = time.monotonic()
    with pytest.raises(Unwritable, match='No space left on device\n.*free some space, and give the same command again'):
        forked.call(run_grid, grid, out)
    kept = bytes_of(out)
    assert (
        kept.items() >= finished.items()
        and 1 <= [state(out / r.name) for r in grid.runs].count('finished') < 3
        and time.monotonic() - began < 60
    )
    subprocess.run(['mount', '-o', 'remount,size=64m', small_disk], check=True)
    assert forked.call(run_grid, grid, out)[0] == {} and bytes_of(out).items() >= kept.items()
    assert bytes_of(out).items() <= bytes_of(smoke).items() and len(bytes_of(out)) == 6


def test_a_folder_that_cannot_be_written_to(small_disk, tmp_path):
    subprocess.run(['mount', '-o', 'remount,ro', small_disk], check=True)
    with pytest.raises(Unwritable, match='Read-only file system\n.*correct the permissions, or name a folder'):
        run_grid(get_grid('smoke'), small_disk / 'o')
    (tmp_path / 'file').touch()
    with pytest.raises(TracenbError, match='File exists'):
        run_grid(get_grid('smoke'), tmp_path / 'file')


# --- Elsewhere


@pytest.mark.slow
def test_a_scheduler_elsewhere_as_in_the_recipes(tmp_path):
    "The scheduler and the workers of the Slurm recipe; one of two workers is killed, the other ends the grid as ever."
    recipe = next(
        ''.join(c['source'])
        for c in json.loads((Path(__file__).parents[1] / 'nbs' / '07_runs/08_engine.ipynb').read_text())['cells']
        if 'sbatch --array' in ''.join(c['source'])
    )
    lines = {line.split()[1]: line.rstrip(' &').split() for line in recipe.splitlines() if line.startswith('dask ')}
    command = 'import dask.__main__, forked; forked.fork_kernels(); dask.__main__.main()'  # the command `dask`
    dask = lambda *more, what: forked.start(command, *lines[what][1:], *more, cwd=tmp_path)
    file = grid_file(
        tmp_path,
        settings=dict(
            data={'n_train': 32, 'n_test': 6},
            train={'num_train_epochs': 4, 'gradient_accumulation_steps': 1, 'save_steps': 5},
            generate={'max_new_tokens': 8},
        ),
    )
    processes = [dask('--port', '0', '--host', '127.0.0.1', what='scheduler')]
    try:
        assert until(
            lambda: (tmp_path / 'scheduler.json').exists() and (tmp_path / 'scheduler.json').stat().st_size > 0,
            processes[0],
        )
        processes += [dask(what='worker'), dask(what='worker')]
        grid = forked.start_tracenb('run', file, '--out', 'o', '--scheduler', 'scheduler.json', cwd=tmp_path)
        processes.append(grid)
        runs = get_grid(str(tmp_path / file)).runs
        assert until(lambda: all(state(tmp_path / 'o' / r.name) not in ('new', 'finished') for r in runs), grid)
        kill_all(processes[1])
        assert grid.wait(120) == 0
        assert list_runs(tmp_path / 'o').state.tolist() == ['finished'] * 2
        undisturbed(runs, tmp_path / 'whole')
        assert bytes_of(tmp_path / 'o') == bytes_of(tmp_path / 'whole') and len(bytes_of(tmp_path / 'whole')) == 4
    finally:
        for p in processes[::-1]:
            if p.poll() is None:
                p.terminate()
                p.wait(30)


def test_no_scheduler_there(tmp_path):
    with pytest.raises(TracenbError, match='scheduler.json: no such file'):
        run_grid(get_grid('smoke'), tmp_path / 'o', scheduler=str(tmp_path / 'scheduler.json'))
    with pytest.raises(TracenbError, match='no dask scheduler answers'):
        run_grid(get_grid('smoke'), tmp_path / 'o', scheduler='nonsense://here')
