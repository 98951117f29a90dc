"""Show the newest results on the site.

`python nbs/site/refresh.py`, after `make demo`: copies the report of outputs/demo, and stores two executed notebooks as
pages: a run of the demo, and the analysis of a simulated study. Then run `make export`, which writes the README.

`python nbs/site/refresh.py finding`, after `tracenb run finding`: executes the notebook of verdicts and stores it.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tracenb.runs.notebook import execute, experiment

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / 'nbs' / 'site' / 'experiments'
REPORT = (
    'report.html',
    'passport.html',
    'passport.json',
    'headline.csv',
    'headline.md',
    'headline.tex',
    'pairs.csv',
    'rows.parquet',
    'runs.csv',
)


def copy_report(demo: Path):
    "Copy the report with the tables and figures that it links to."
    to = ROOT / 'nbs' / 'site' / '_extra' / 'start'
    for name in REPORT:
        shutil.copy(demo / name, to)
    shutil.rmtree(to / 'figures', ignore_errors=True)
    shutil.copytree(demo / 'figures', to / 'figures')
    shutil.copy(demo / 'figures' / 'accuracy.png', ROOT / 'nbs' / 'images' / 'demo-accuracy.png')


def store(executed: Path, page: Path, root: str | Path = ROOT):
    "Store an executed notebook as a page, with paths as seen from `root`; the page's first cell stays."
    first = ''.join(json.loads(page.read_text())['cells'][0]['source'])
    subprocess.run([sys.executable, ROOT / 'tests' / 'execute.py', '--show', executed, page, first], check=True)
    page.write_text(page.read_text().replace(f'{root}/', ''))


def refresh(demo: Path = ROOT / 'outputs' / 'demo'):
    "Bring everything that the site shows of the demo up to date."
    copy_report(demo)
    [run] = demo.glob('babi/*/correct/*/run.ipynb')
    out = json.loads(run.read_text())['metadata']['papermill']['parameters']['out']  # perhaps of another checkout
    store(run, PAGES / 'demo_run.ipynb', Path(out).parents[1])
    with tempfile.TemporaryDirectory() as d:
        settings = dict(out=f'{d}/outputs/study', n_per_condition=25)
        executed = execute(experiment('study'), Path(d, 'study.ipynb'), settings)
        store(executed, PAGES / 'simulated_study.ipynb', d)
    subprocess.run([sys.executable, ROOT / 'tests' / 'execute.py', ROOT / 'nbs' / 'index.ipynb'], check=True)


def refresh_finding(folder: Path = ROOT / 'outputs' / 'finding'):
    "Store the verdicts on the runs of the grid `finding` as a page."
    with tempfile.TemporaryDirectory() as d:
        executed = execute(experiment('finding'), Path(d, 'finding.ipynb'), dict(folder=str(folder)))
        store(executed, PAGES.parent / 'findings' / 'use_of_traces.ipynb')


if __name__ == '__main__':
    name, *folders = sys.argv[1:] or ['demo']
    dict(demo=refresh, finding=refresh_finding)[name](*map(Path, folders))
