"""The house: notebooks are the source, the library is exported, each room imports only rooms below it."""
import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

NBS = ROOT/'nbs'
LIBRARY = sorted(NBS.glob('[0-9]*.ipynb'), key=lambda p: (p.name[:2], p.name[2] == '_', p.name))  # 04a is the ground of 04
EVERY = sorted(p for p in NBS.rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
EXPERIMENTS = sorted((NBS/'experiments').glob('*.ipynb'))

# Floors of the house, lowest first; a room imports rooms of lower floors, or of its own floor if they come before it in the notebooks' order.
FLOORS = [{'core', 'rows', 'simulate', 'matched', 'provenance', 'markup', 'npm'},
          {'task', 'traces', 'chat', 'models', 'sentences', 'paper', 'prose', 'score', 'intervals', 'association', 'stats', 'dates'},
          {'cotempqa_sim', 'cotempqa', 'msmarco_sim', 'msmarco', 'babi_sim', 'babi_solve', 'babi', 'teacher', 'data', 'endpoint', 'batches', 'train', 'serve', 'generate', 'page', 'canvas', 'figures', 'study_figures', 'collect', 'design', 'answers', 'store', 'guard', 'participants', 'survey', 'people', 'scales', 'contrasts', 'power', 'rating_figures', 'foreign', 'rating_page', 'rehearsal', 'display'},
          {'stages', 'grids', 'folders', 'kernels', 'runs', 'engine', 'results', 'tables', 'claims', 'viewer', 'report', 'trace_types', 'ladder', 'published', 'audit', 'bench', 'ratings', 'choice', 'questionnaire', 'preregister', 'explore'},
          {'cli_teacher', 'cli_study', 'cli', 'docs'}]


def cells(path, kind='code'): return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]

def source(cell): return ''.join(cell['source'])

def module(path): return next(m[1] for c in cells(path) if (m := re.search(r'#\| default_exp (\S+)', source(c))))

def exported(path): return [source(c) for c in cells(path) if source(c).startswith('#| export')]


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "A copy of the sources, to export and clean in."
    to = tmp_path_factory.mktemp('copy')
    for name in ('settings.ini', 'pyproject.toml', 'setup.py', 'README.md'): shutil.copy(ROOT/name, to)
    for name in ('nbs', 'tracenb'): shutil.copytree(ROOT/name, to/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for command in ('nbdev_export', 'nbdev_clean'):
        subprocess.run([Path(sys.executable).parent/command], cwd=to, check=True, capture_output=True)
    return to


def test_export_leaves_no_difference(copy):
    made = {p.relative_to(copy/'tracenb'): p.read_text() for p in (copy/'tracenb').rglob('*.py')}
    here = {p.relative_to(ROOT/'tracenb'): p.read_text() for p in (ROOT/'tracenb').rglob('*.py')}
    assert made.keys() == here.keys()
    assert [str(p) for p in made if made[p] != here[p]] == []


def test_clean_leaves_no_difference(copy):
    assert [str(p.relative_to(ROOT)) for p in EVERY if (copy/p.relative_to(ROOT)).read_text() != p.read_text()] == []


def test_clean_keeps_the_parameters_tag(copy):
    for p in EXPERIMENTS:
        assert any('parameters' in c['metadata'].get('tags', []) for c in cells(copy/p.relative_to(ROOT))), p.name


def test_readme_is_the_index_notebook(tmp_path):
    from tracenb.report import write_readme
    assert write_readme(NBS/'index.ipynb', tmp_path/'README.md').read_text() == (ROOT/'README.md').read_text()


def test_rooms_import_only_rooms_below():
    floor = {m: i for i, f in enumerate(FLOORS) for m in f}
    order = [module(p) for p in LIBRARY]
    assert set(order) == set(floor), 'a new room needs its floor'
    for p in LIBRARY:
        here = module(p)
        for node in ast.walk(ast.parse('\n'.join(exported(p)))):
            if isinstance(node, ast.ImportFrom) and node.module == 'tracenb': names = [a.name for a in node.names if a.name in floor]
            elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('tracenb.'): names = [node.module.split('.')[1]]
            else: continue
            for name in names:
                assert floor[name] <= floor[here], f'{p.name} imports {name}, which is on a higher floor'
                assert order.index(name) < order.index(here), f'{p.name} imports {name}, which comes later'


def test_rooms_and_cells_are_small():
    for p in LIBRARY:
        code = exported(p)
        assert sum(len(c.splitlines()) for c in code) <= 320, f'{p.name} is two rooms'
        assert max(len(c.splitlines()) for c in code) <= 36, p.name


def test_imports_stand_alone():
    "The site's builder runs exported cells and cells with imports, and nothing else: what else stands in such a cell would not find its names."
    mixed = []
    for p in LIBRARY:
        for c in cells(p):
            if source(c).startswith('#| export'): continue
            kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source(c)).body}
            inner = any(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.walk(ast.parse(source(c)))) and kinds == {False}
            if len(kinds) == 2 or inner: mixed.append(f"{p.name}: {c['id']}")
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
        assert len(set(ids)) == len(ids) and notebook['nbformat_minor'] >= 5 and set(notebook['metadata']) <= {'kernelspec'}, p.name
        for c in notebook['cells']:
            assert set(c['metadata']) <= {'tags'} and c.get('execution_count') is None, f"{p.name}: {c['id']}"
            for o in c.get('outputs', ()):
                assert o.get('execution_count') is None and not o.get('metadata'), f"{p.name}: {c['id']}"
                assert not any('widget' in kind for kind in o.get('data', {})), f"{p.name}: {c['id']}: store it with tests/execute.py, which keeps the HTML"


# --- the files around the library say the same thing

def settings():
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini')
    return config['DEFAULT']


def test_environment_yml_equals_settings():
    import yaml
    env = yaml.safe_load((ROOT/'environment.yml').read_text())
    pip = next(d['pip'] for d in env['dependencies'] if isinstance(d, dict))
    assert sorted(pip) == sorted(settings()['requirements'].split() + settings()['dev_requirements'].split())
    assert f"python>={settings()['min_python']},<3.14" in env['dependencies']


def test_constraints_fix_every_requirement():
    plain = lambda name: name.lower().replace('_', '-')
    pins = {plain(n): v for n, v in (x.split('==') for x in (ROOT/'constraints.txt').read_text().splitlines() if x and not x.startswith('#'))}
    for key in ('requirements', 'dev_requirements', 'bench_requirements'):
        for need in settings()[key].split():
            name, version = need.split('==')
            assert pins[plain(name)] == version, name


def test_ci_runs_the_test_command_of_the_readme():
    assert 'make test' in (ROOT/'README.md').read_text()
    assert 'make test' in (ROOT/'.ci'/'run').read_text()


def test_outputs_is_tracked_and_explained():
    text = (ROOT/'outputs'/'README.md').read_text()
    for name in ('run.json', 'chat.jsonl', 'adapter/', 'train_log.jsonl', 'generations.jsonl', 'scores.jsonl', 'run.ipynb', 'metrics.json', 'report.html'): assert name in text
