"""
Every notebook runs from top to bottom: three in Jupyter, the others in forks of a process with all imports done.

Cells that begin with `#| slow` run in `make test-all` alone.
"""

import pytest
from conftest import ROOT
from execute import run as run_in_jupyter
from run_notebook import SLOW, run
from test_layout import cells, source

# Experiments are run by papermill in test_runs.py, tutorials by JupyterLab in test_lab.py; findings are stored pages of
# runs that took hours: nbs/site/refresh.py makes them from those runs
ELSEWHERE = ('experiments', 'tutorials', 'findings')
NOTEBOOKS = sorted(
    p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts and p.parent.name not in ELSEWHERE
)
IN_JUPYTER = [p for p in NOTEBOOKS if p.stem in ('02_task', '02_association', '06_display')]
WITH_SLOW_CELLS = [p for p in NOTEBOOKS if SLOW.search('\n'.join(source(c) for c in cells(p)))]


@pytest.mark.slow
@pytest.mark.parametrize(
    'path', [p for p in NOTEBOOKS if p not in IN_JUPYTER], ids=lambda p: f'{p.parent.name}/{p.stem}'
)
def test_notebook_runs(path):
    assert run(path) == ''


@pytest.mark.exhaustive
@pytest.mark.parametrize('path', WITH_SLOW_CELLS, ids=lambda p: p.stem)
def test_notebook_runs_with_its_slow_cells(path):
    assert run(path, slow=True) == ''


@pytest.mark.slow
@pytest.mark.parametrize('path', IN_JUPYTER, ids=lambda p: p.stem)
def test_notebook_runs_in_jupyter(path):
    run_in_jupyter(path)
