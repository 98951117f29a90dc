"""The wheel: a usable library, the command, and the experiment notebooks, outside any checkout."""

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import ROOT


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    to = tmp_path_factory.mktemp('wheel')
    done = subprocess.run(
        [sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--wheel-dir', to, str(ROOT)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return next(to.glob('*.whl'))


@pytest.mark.slow
def test_the_wheel_holds_library_command_and_experiments_and_nothing_else(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert {
        'tracenb/core/records.py',
        'tracenb/cli/main.py',
        'tracenb/experiments/sft.ipynb',
        'tracenb/experiments/report.ipynb',
        *(f'tracenb/study/page/{n}' for n in ('index.html', 'survey.js', 'survey.css', 'wording.yaml')),
    } <= set(names)
    assert {n.split('/')[0].split('-')[0] for n in names} == {'tracenb'}
    entry = next(n for n in names if n.endswith('entry_points.txt'))
    assert 'tracenb = tracenb.cli.main:main' in zipfile.ZipFile(wheel).read(entry).decode()


@pytest.mark.slow
def test_the_unpacked_wheel_finds_its_own_experiments(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path / 'site')
    code = """
import tracenb
from tracenb.runs.notebook import experiment
from tracenb.runs.provenance import provenance
print(tracenb.__file__, experiment('sft'), provenance()['git'], sep='|')
"""
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=tmp_path,
        env=os.environ | {'PYTHONPATH': str(tmp_path / 'site')},
        capture_output=True,
        text=True,
    )
    package, notebook, git = done.stdout.strip().split('|')
    assert package.startswith(str(tmp_path)) and notebook == str(
        tmp_path / 'site' / 'tracenb' / 'experiments' / 'sft.ipynb'
    )
    assert git == 'None', 'an installed package reports no revision of a checkout that happens to lie around it'


@pytest.mark.parametrize('chosen', [None, '7'])
def test_threads_do_not_spin_unless_the_user_says_so(chosen):
    env = {k: v for k, v in os.environ.items() if k != 'GOMP_SPINCOUNT'} | (
        {'GOMP_SPINCOUNT': chosen} if chosen else {}
    )
    done = subprocess.run(
        [sys.executable, '-c', "import os, sys, tracenb; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [chosen or '10000', 'False'], done.stderr


def test_data_sets_that_ship_are_known_before_their_module_is_imported():
    code = """
import sys
from tracenb import get_task
for name in ('babi', 'cotempqa', 'msmarco'):
    assert f'tracenb.tasks.{name}' not in sys.modules
    print(get_task(name).name)
"""
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ['babi', 'cotempqa', 'msmarco'], done.stderr


# --- the base install: what an extra brings cannot be imported


def tracenb(*args, env, cwd):
    return subprocess.run(
        [sys.executable, '-c', MAIN, *map(str, args)], env=env, cwd=cwd, capture_output=True, text=True
    )


MAIN = 'from tracenb.cli.main import main; main()'


@pytest.mark.slow
def test_the_base_install_runs_the_smoke_grid_its_report_and_an_audit(base_only, smoke, tmp_path):
    "The grid and the report of the fixture `smoke` were made with the base requirements alone."
    done = tracenb('audit', smoke, '--out', tmp_path / 'audit', env=base_only, cwd=tmp_path)
    assert done.returncode == 0, f'{done.stdout[-1000:]}{done.stderr[-3000:]}'
    assert (smoke / 'report.html').exists() and (tmp_path / 'audit' / 'audit.html').exists()


@pytest.mark.parametrize(
    ('code', 'extra'),
    [
        ('import tracenb.study.server', 'study'),
        ('import tracenb.teacher.client', 'teacher'),
        ('from tracenb.teacher.serve import serve_embedded\nwith serve_embedded(): pass', 'teacher'),
        ('from tracenb import explore', 'lab'),
    ],
)
def test_a_missing_extra_is_named_with_the_command_that_installs_it(base_only, code, extra):
    done = subprocess.run([sys.executable, '-c', code], env=base_only, capture_output=True, text=True)
    assert f'pip install "tracenb[{extra}]"' in done.stderr, done.stderr[-2000:]


@pytest.mark.exhaustive
def test_a_fresh_environment_with_the_wheel_alone_runs_the_smoke_grid_and_an_audit(wheel, tmp_path):
    "Installs the newest versions that settings.ini allows, torch apart: that one as tested."
    subprocess.run([sys.executable, '-m', 'venv', tmp_path / 'venv'], check=True)
    python = tmp_path / 'venv' / 'bin' / 'python'
    torch = next(line for line in (ROOT / 'constraints.txt').read_text().splitlines() if line.startswith('torch=='))
    subprocess.run([python, '-m', 'pip', 'install', '--quiet', torch, wheel], check=True)
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    for args in (('run', 'smoke', '--out', 'smoke'), ('report', 'smoke'), ('audit', 'smoke', '--out', 'audit')):
        done = subprocess.run([python.parent / 'tracenb', *args], env=env, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f'{args}: {done.stdout[-1000:]}{done.stderr[-3000:]}'
