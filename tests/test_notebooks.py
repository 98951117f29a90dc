"""Every notebook runs from top to bottom, as a reader would run it."""

import pytest
from conftest import ROOT
from execute import run

NOTEBOOKS = sorted(
    p
    for p in (ROOT / 'nbs').rglob('*.ipynb')
    if '.ipynb_checkpoints' not in p.parts and p.parent.name not in ('experiments', 'tutorials')
)  # these have tests of their own


@pytest.mark.slow
@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path):
    run(path)
