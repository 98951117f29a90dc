"""The tutorials and the start page keep their promises; test_lab.py runs some of them in JupyterLab."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from run_notebook import run
from test_lab import IN_BROWSER
from test_layout import cells, source

from tracenb.fieldwork.screenshots import find_browser

NBS = ROOT / 'nbs'
TUTORIALS = sorted((NBS / 'tutorials').glob('*.ipynb'))
START = NBS / 'start.ipynb'
EACH = pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)


def prose(path):
    return '\n'.join(source(c) for c in cells(path, 'markdown'))


def test_the_start_page_leads_to_every_tutorial():
    assert TUTORIALS and all(f'](tutorials/{p.name})' in prose(START) for p in TUTORIALS)


@EACH
def test_says_what_one_will_have_how_long_it_takes_and_what_it_needs(path):
    first = source(cells(path, 'markdown')[0])
    assert re.match(r'# [^\n]+\n\n> [^\n]+\n', first)
    for promise in ('**At the end**', '**Time:** ', '**You need** '):
        assert promise in first, promise
    for part in ('## Exercises', '## Where next'):
        assert part in prose(path), part


@pytest.mark.parametrize('path', [START, *TUTORIALS], ids=lambda p: p.stem)
def test_links_lead_somewhere(path):
    links = [link for link in re.findall(r'\]\(([^)\s]+)\)', prose(path)) if not link.startswith('http')]
    assert links and [link for link in links if not (path.parent / link).is_file()] == []


@EACH
def test_cells_hold_one_idea_and_a_text_follows_each_output(path):
    every = json.loads(path.read_text())['cells']
    for cell, after in zip(every, every[1:]):
        if cell['cell_type'] == 'markdown':
            continue
        lines = source(cell).splitlines()
        assert len(lines) <= 18 and max(map(len, lines)) <= 110, f'{cell["id"]}: to be read without scrolling'
        assert not cell['outputs'] or after['cell_type'] == 'markdown', f'{cell["id"]}: no text explains this output'
    assert sum(bool(c['outputs']) for c in cells(path)) > len(cells(path)) / 2, 'kept as executed'


def modules_that_are_imported(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


@EACH
def test_calls_the_library_and_adds_nothing_to_it(path):
    for cell in cells(path):
        tree = ast.parse(source(cell))
        assert '#|' not in source(cell), f'{cell["id"]}: not a library notebook'
        packages = {name.partition('.')[0] for name in modules_that_are_imported(tree)}
        assert packages <= {'tracenb', 'pandas', *sys.stdlib_module_names}, cell['id']
        defines = any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(tree))
        assert path.stem == 'add_a_data_set' or not defines, cell['id']


OUTSIDE = [
    pytest.param(p, marks=pytest.mark.exhaustive) if p.stem == 'train' else p  # trains the embedded model for minutes
    for p in TUTORIALS
    if not find_browser() or f'tutorials/{p.name}' not in IN_BROWSER
]


# Where a tutorial takes a minute, every cell is run with a smaller model and less data.
SMALLER = {
    'intervene': {
        "model='smollm2-135m'": "model='tiny-random'",
        "'n_train': 96, 'n_test': 12": "'n_train': 16, 'n_test': 3",
        'limit=8': 'limit=2',
    },
}


def made_smaller(path, changes):
    "Replace text in the code cells of a notebook. Each change must occur."
    notebook = json.loads(path.read_text())
    for old, new in changes.items():
        found = [c for c in notebook['cells'] if c['cell_type'] == 'code' and old in source(c)]
        assert found, f'{path.name} has no {old}'
        for cell in found:
            cell['source'] = source(cell).replace(old, new)
    path.write_text(json.dumps(notebook))


@pytest.mark.slow
@pytest.mark.parametrize('path', OUTSIDE, ids=lambda p: p.stem)
def test_runs_in_any_folder_and_leaves_nothing_there(path, tmp_path):
    copy = Path(shutil.copy(path, tmp_path))
    made_smaller(copy, SMALLER.get(path.stem, {}))
    assert run(copy, timeout=900) == ''
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.exhaustive
@pytest.mark.parametrize('path', [p for p in TUTORIALS if p.stem in SMALLER], ids=lambda p: p.stem)
def test_runs_as_it_is_written(path, tmp_path):
    assert run(Path(shutil.copy(path, tmp_path)), timeout=900) == ''
