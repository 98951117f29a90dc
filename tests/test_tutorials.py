"""The tutorials and the start page: what a reader is promised is there. JupyterLab runs them in test_lab.py; where there is no browser they are run here."""

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from execute import run
from test_house import NBS, cells, source
from test_lab import environment

TUTORIALS = sorted((NBS / 'tutorials').glob('*.ipynb'))
START = NBS / 'start.ipynb'
EACH = pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)
BROWSER = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')


def prose(path):
    return '\n'.join(source(c) for c in cells(path, 'markdown'))


def test_the_start_page_leads_to_every_tutorial():
    assert TUTORIALS and all(f'](tutorials/{p.name})' in prose(START) for p in TUTORIALS)


def test_make_lab_opens_the_start_page(tmp_path):
    recipe = re.search(r'^\t.*/jupyter lab (.*)$', (ROOT / 'Makefile').read_text(), re.M)[1]
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        *shlex.split(recipe),
        '--no-browser',
        '--allow-root',
        '--ServerApp.ip=127.0.0.1',
    ]
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        said = ''
        while 'token=' not in said and (line := server.stdout.readline()):
            said += line
        assert '/lab/tree/nbs/start.ipynb' in said, said
    finally:
        server.terminate()
        server.communicate()


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
def test_cells_hold_one_idea_and_what_they_show_is_read(path):
    every = json.loads(path.read_text())['cells']
    for cell, after in zip(every, every[1:]):
        if cell['cell_type'] == 'markdown':
            continue
        lines = source(cell).splitlines()
        assert len(lines) <= 18 and max(map(len, lines)) <= 110, f'{cell["id"]}: to be read without scrolling'
        assert not cell['outputs'] or after['cell_type'] == 'markdown', (
            f'{cell["id"]}: nobody says what this output means'
        )
    assert sum(bool(c['outputs']) for c in cells(path)) > len(cells(path)) / 2, 'kept as executed'


@EACH
def test_calls_the_library_and_adds_nothing_to_it(path):
    for cell in cells(path):
        tree = ast.parse(source(cell))
        assert '#|' not in source(cell), f'{cell["id"]}: no library notebook'
        names = {
            n.module if isinstance(n, ast.ImportFrom) else a.name
            for n in ast.walk(tree)
            if isinstance(n, (ast.Import, ast.ImportFrom))
            for a in n.names
        }
        assert {n.partition('.')[0] for n in names} <= {'tracenb', 'pandas', *sys.stdlib_module_names}, cell['id']
        assert path.stem == 'add_a_data_set' or not any(
            isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(tree)
        ), cell['id']


@pytest.mark.slow
@pytest.mark.skipif(bool(BROWSER), reason='a browser is here: test_lab.py runs the tutorials in JupyterLab')
@EACH
def test_runs_in_any_folder_and_leaves_nothing_there(path, tmp_path):
    run(Path(shutil.copy(path, tmp_path)))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
