"""Every notebook runs from top to bottom: three in Jupyter, the others in forks of a process with all imports done."""

import pytest
from conftest import ROOT
from execute import run as run_in_jupyter
from run_notebook import run

ELSEWHERE = ('experiments', 'tutorials')  # run by papermill in test_runs.py, by JupyterLab in test_lab.py
NOTEBOOKS = sorted(
    p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts and p.parent.name not in ELSEWHERE
)
IN_JUPYTER = [p for p in NOTEBOOKS if p.stem in ('02_task', '02_association', '06_display')]


@pytest.mark.slow
@pytest.mark.parametrize(
    'path', [p for p in NOTEBOOKS if p not in IN_JUPYTER], ids=lambda p: f'{p.parent.name}/{p.stem}'
)
def test_notebook_runs(path):
    assert run(path) == ''


@pytest.mark.slow
@pytest.mark.parametrize('path', IN_JUPYTER, ids=lambda p: p.stem)
def test_notebook_runs_in_jupyter(path):
    run_in_jupyter(path)
