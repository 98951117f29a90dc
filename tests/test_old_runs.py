"""Runs and grids that version 0.1 wrote: listed, shown, reported and verified under the setting names of today."""

import json
import shutil

import pytest
from conftest import ROOT

from tracenb.core.records import TracenbError
from tracenb.models.batches import TrainConfig
from tracenb.report.page import make_report
from tracenb.runs.engine import run_grid
from tracenb.runs.finished import verify
from tracenb.runs.folders import list_runs, show_run
from tracenb.runs.grids import Grid, expand
from tracenb.runs.provenance import OLD_NAMES, current_names
from tracenb.runs.stages import Run, load_run

# Two runs of the smoke grid of revision fcd2576, without adapter, chats and notebook.
STORED = ROOT / 'tests' / 'data' / 'version_0.1'
TRAINED = 'toy/tiny-random/vanilla/seed1-944bd9d5'


@pytest.fixture
def old(tmp_path):
    "A copy: reading must not write, but a report does."
    return shutil.copytree(STORED, tmp_path / 'old')


def test_every_old_name_leads_to_a_setting():
    assert set(OLD_NAMES['train'].values()) < TrainConfig.__dataclass_fields__.keys()
    assert set(OLD_NAMES['run'].values()) < Run.__dataclass_fields__.keys()
    stored = json.loads((STORED / TRAINED / 'run.json').read_text())['settings']
    assert OLD_NAMES['run'].keys() < stored.keys() and OLD_NAMES['train'].keys() < stored['train'].keys()


def test_an_old_run_is_read_as_the_run_that_it_was():
    run = load_run(STORED / TRAINED)
    assert run.quantize == 'nf4'
    assert run.train == TrainConfig(num_train_epochs=1, gradient_accumulation_steps=1, learning_rate=0.001)


def test_an_old_optimizer_keeps_its_meaning():
    assert current_names({'train': {'optimiser': 'adamw'}}) == {'train': {'optim': 'adamw_torch'}}


def test_a_setting_under_both_names_is_refused():
    with pytest.raises(TracenbError, match='lr and learning_rate are the same setting'):
        current_names({'train': {'lr': 1e-3, 'learning_rate': 1e-3}})


def test_old_runs_are_listed_and_shown(old):
    table = list_runs(old)
    assert table.condition.tolist() == ['vanilla', 'zero_shot']
    assert table.state.tolist() == ['stale', 'stale'] and table.answer_exact.tolist() == [0, 0]
    shown = show_run(old / TRAINED)
    for words in ('quantize: "nf4"', '"learning_rate": 0.001', 'fcd2576', 'answer_exact'):
        assert words in shown


def test_old_runs_verify(old):
    assert [verify(p.parent) for p in sorted(old.rglob('run.json'))] == [[], []]
    path = old / TRAINED / 'run.json'
    path.write_text(path.read_text().replace('"lr": 0.001', '"lr": 0.002'))
    [found] = verify(path.parent)
    assert found.startswith('the folder is not named after its settings')


def test_old_runs_are_reported(old, forked_kernels):
    page = make_report(old)
    assert page.is_file()
    headline = (old / 'headline.md').read_text()
    assert 'vanilla' in headline and 'zero_shot' in headline


def test_a_grid_is_not_run_beside_its_old_runs(old):
    "A report on both would count each question twice."
    grid = Grid(name='g', runs=(load_run(old / TRAINED),))
    with pytest.raises(TracenbError, match=f'another version of the code, the first: {TRAINED}'):
        run_grid(grid, old)


def test_an_old_grid_file_is_the_same_grid():
    spec = dict(datasets=['toy'], models=['tiny-random'], conditions=['vanilla', 'correct'])
    old = dict(
        settings=dict(quantise='none', train=dict(lr=0.001, epochs=2)),
        overrides=dict(conditions=dict(correct=dict(train=dict(learning_rate=0.01, optimiser='adamw')))),
    )
    new = dict(
        settings=dict(quantize='none', train=dict(learning_rate=0.001, num_train_epochs=2)),
        overrides=dict(conditions=dict(correct=dict(train=dict(learning_rate=0.01, optim='adamw_torch')))),
    )
    assert expand(spec | old, 'g') == expand(spec | new, 'g')
