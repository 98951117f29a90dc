"""The layout: notebooks are the source, the library is exported from them, and file names give order and law."""

import ast
import importlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

NBS = ROOT / 'nbs'
LIBRARY = sorted(NBS.glob('[0-9]*/[0-9]*.ipynb'))  # reading order, and the order in which one may import another
EVERY = sorted(p for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
EXPERIMENTS = sorted((NBS / 'experiments').glob('*.ipynb'))
BIN = Path(sys.executable).parent


def cells(path, kind='code'):
    return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]


def source(cell):
    return ''.join(cell['source'])


def module(path):
    "'tasks.babi' for nbs/01_tasks/11_babi.ipynb, from the names of folder and file alone."
    return '.'.join(re.sub(r'^[0-9]+_', '', part) for part in (path.parent.name, path.stem))


def exported(path):
    return [source(c) for c in cells(path) if source(c).startswith('#| export')]


def lines_of_code(cell):
    return [line for line in cell.splitlines() if line.strip() and not line.startswith('#|')]


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the sources, exported and cleaned."
    to = tmp_path_factory.mktemp('copy')
    for name in ('settings.ini', 'pyproject.toml', 'setup.py', 'README.md'):
        shutil.copy(ROOT / name, to)
    for name in ('nbs', 'tracenb'):
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for command in ('nbdev_export', 'nbdev_clean'):
        subprocess.run([BIN / command], cwd=to, check=True, capture_output=True)
    return to


def test_export_leaves_no_difference(copy):
    made = {p.relative_to(copy / 'tracenb'): p.read_text() for p in (copy / 'tracenb').rglob('*.py')}
    here = {p.relative_to(ROOT / 'tracenb'): p.read_text() for p in (ROOT / 'tracenb').rglob('*.py')}
    assert made.keys() == here.keys()
    assert [str(p) for p in made if made[p] != here[p]] == []


def test_clean_leaves_no_difference(copy):
    assert [str(p.relative_to(ROOT)) for p in EVERY if (copy / p.relative_to(ROOT)).read_text() != p.read_text()] == []


def test_clean_keeps_the_parameters_tag(copy):
    for p in EXPERIMENTS:
        tags = [t for c in cells(copy / p.relative_to(ROOT)) for t in c['metadata'].get('tags', [])]
        assert 'parameters' in tags, p.name


@pytest.mark.parametrize('command', [['format', '--check'], ['check']], ids=['format', 'lint'])
def test_notebooks_and_tests_pass_ruff(command):
    done = subprocess.run([BIN / 'ruff', *command, '--no-cache', '.'], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f'run `make export`:\n{done.stdout[-3000:]}'


def test_every_module_has_its_notebook_and_every_notebook_its_module():
    wanted = {f'{module(p).replace(".", "/")}.py' for p in LIBRARY}
    packages = {p.parent.name.split('_', 1)[1] for p in LIBRARY}
    found = {p.relative_to(ROOT / 'tracenb').as_posix() for p in (ROOT / 'tracenb').rglob('*.py')}
    assert found == wanted | {'__init__.py', '_modidx.py'} | {f'{name}/__init__.py' for name in packages}


def test_a_notebook_exports_the_module_that_its_name_says():
    for p in LIBRARY:
        says = [m[1] for c in cells(p) if (m := re.search(r'#\| default_exp (\S+)', source(c)))]
        assert says == [module(p)], p


def test_folders_hold_3_to_10_notebooks():
    "More only where data sets are: each is two notebooks, its rules and its simulator, and some share a third."
    for folder in {p.parent for p in LIBRARY}:
        names = sorted(p.name for p in folder.glob('[0-9]*.ipynb'))
        assert 3 <= len(names) <= (20 if folder.name == '01_tasks' else 10), folder.name
        assert [int(n[:2]) for n in names] == list(range(1, len(names) + 1)), folder.name


def imports(code):
    "Modules of the package that `code` imports, 'tasks.babi' or a whole sub-package, 'tasks'."
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (a.name.removeprefix('tracenb.') for a in node.names if a.name.startswith('tracenb.'))
        elif isinstance(node, ast.ImportFrom) and node.module == 'tracenb':
            yield from (a.name for a in node.names if not a.name.startswith('__'))
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('tracenb.'):
            name = node.module.removeprefix('tracenb.')
            yield from ([name] if '.' in name else [f'{name}.{a.name}' for a in node.names])


def test_a_module_imports_only_what_comes_before_it():
    place = {module(p): i for i, p in enumerate(LIBRARY)}
    for p in LIBRARY:
        for name in imports('\n'.join(exported(p))):
            assert name in place, f'{p.name} imports {name}, which is not a module: name the one that defines it'
            assert place[name] < place[module(p)], f'{p.name} imports {name}, which comes later'


def test_one_name_is_one_thing():
    homes = {}
    for p in LIBRARY:
        if p.parent.name == '15_cli':
            continue  # a verb of the command is called like the function that does its work
        for name in getattr(importlib.import_module(f'tracenb.{module(p)}'), '__all__', ()):
            homes.setdefault(name, []).append(module(p))
    assert {name: where for name, where in homes.items() if len(where) > 1} == {}


def test_modules_and_cells_are_small():
    "Lines of 120 columns at most, blank ones not counted: about 300 a module, about 30 a cell."
    for p in LIBRARY:
        sizes = [len(lines_of_code(c)) for c in exported(p)]
        assert sum(sizes) <= 330, f'{p.name}: {sum(sizes)} lines are two modules'
        assert max(sizes) <= 36, f'{p.name}: a cell of {max(sizes)} lines'


def test_packages_offer_their_names_lazily():
    for folder in sorted({p.parent for p in LIBRARY}):
        package = importlib.import_module(f'tracenb.{folder.name.split("_", 1)[1]}')
        modules = {module(p).split('.')[1] for p in LIBRARY if p.parent == folder}
        names = set(package.__all__) - {'page'}  # the module that `tracenb.audit` calls
        assert 5 <= len(names) <= 12, f'{package.__name__}: {len(names)} names'
        assert not names & modules, f'{package.__name__}: {names & modules} would be a name and a module'
        assert all(getattr(package, name) is not None for name in names)


def test_importing_the_package_loads_nothing_heavy():
    heavy = ('torch', 'matplotlib', 'fastapi', 'pandas', 'numpy', 'pydantic', 'transformers')
    code = f'import sys, tracenb; print([m for m in {heavy} if m in sys.modules])'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == '[]'


def test_the_names_that_everybody_needs_are_at_the_top():
    code = 'from tracenb import get_task, build_traces, render, parse, make_run, open_run, audit, explore; print(audit)'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert 'tracenb.audit' in done.stdout, done.stderr


def test_imports_stand_alone():
    "The site's builder runs exported cells and cells with imports, and nothing else: other code in them would fail."
    mixed = []
    for p in LIBRARY:
        for c in cells(p):
            if source(c).startswith('#| export'):
                continue
            tree = ast.parse(source(c))
            kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body}
            inner = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(tree)) and kinds == {False}
            if len(kinds) == 2 or inner:
                mixed.append(f'{p.name}: {c["id"]}')
    assert mixed == []


def test_experiments_are_prose_and_calls():
    assert {p.stem for p in EXPERIMENTS} >= {'sft', 'report'}
    for p in EXPERIMENTS:
        assert not any(re.search(r'^\s*(def|class) ', source(c), re.M) for c in cells(p)), p.name


def test_every_notebook_explains_itself():
    for p in EVERY:
        kinds = [c['cell_type'] for c in json.loads(p.read_text())['cells']]
        assert kinds[0] == 'markdown' and kinds.count('markdown') >= kinds.count('code') / 5, p.name
        assert all(len(c['id']) >= 3 for k in ('code', 'markdown') for c in cells(p, k)), p.name


def test_committed_outputs_hold_no_errors_and_no_machine_paths():
    for p in EVERY:
        for c in cells(p):
            for o in c['outputs']:
                assert o['output_type'] != 'error', p.name
                text = ''.join(o.get('text', '')) + json.dumps(o.get('data', {}).get('text/plain', ''))
                assert not re.search(r'/(home|root|tmp|work|Users)/', text), f'{p.name}: {text[:200]}'


def test_notebooks_are_stored_as_they_diff_best():
    "Ids that stay, no counts of executions, no widgets without their kernel, no state of an editor."
    for p in EVERY:
        notebook = json.loads(p.read_text())
        ids = [c['id'] for c in notebook['cells']]
        assert len(set(ids)) == len(ids) and notebook['nbformat_minor'] >= 5, p.name
        assert set(notebook['metadata']) <= {'kernelspec'}, p.name
        for c in notebook['cells']:
            assert set(c['metadata']) <= {'tags'} and c.get('execution_count') is None, f'{p.name}: {c["id"]}'
            for o in c.get('outputs', ()):
                assert o.get('execution_count') is None and not o.get('metadata'), f'{p.name}: {c["id"]}'
                kinds = ' '.join(o.get('data', {}))
                assert 'widget' not in kinds, f'{p.name}: {c["id"]}: store it with tests/execute.py'
