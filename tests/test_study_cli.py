"""A study from its config to its figures, by the command alone, as `make study-demo` does it."""

import json
import re
import stat
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from tracenb.cli.main import app
from tracenb.study.answers import read_answers

pytestmark = pytest.mark.slow


def said(*args):
    "What the command prints; it has to end well."
    result = CliRunner().invoke(app, ['study', *map(str, args)])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp('study')
    built = said('build', ROOT / 'nbs' / 'data' / 'study_demo.yaml', '--out', at / 'survey')
    assert 'decomposition, r1, r1_summary, post_hoc' in built and re.search(
        r'about \d+ minutes a participant; .* 100 participants cost', built
    )
    assert '0 answers lost, 0 doubled' in said(
        'simulate', at / 'survey', '--db', at / 'study.sqlite', '--n', 24, '--seed', 3
    )
    return at


def test_a_build_names_its_questions_and_keeps_its_codes(folder):
    study = json.loads((folder / 'survey' / 'study.json').read_text())
    assert len(study['items']) == 8 and set(study['items'][0]['shown']) == {
        'decomposition',
        'r1',
        'r1_summary',
        'post_hoc',
    }
    assert stat.S_IMODE((folder / 'survey' / 'private.json').stat().st_mode) == 0o600
    codes = json.loads((folder / 'survey' / 'private.json').read_text())['codes'].values()
    assert not any(
        c in p.read_text()
        for c in codes
        for p in (folder / 'survey').rglob('*')
        if p.is_file() and p.name != 'private.json'
    )


def test_preregistration_and_draft(folder):
    said(
        'preregister',
        folder / 'survey',
        '--out',
        folder / 'plan.md',
        '--prolific',
        folder / 'draft.json',
        '--url',
        'https://study.example.org/',
    )
    plan, draft = (folder / 'plan.md').read_text(), json.loads((folder / 'draft.json').read_text())
    assert 'Kruskal-Wallis' in plan and 'H1' in plan and '{{%PROLIFIC_PID%}}' in json.dumps(draft)
    assert draft['total_available_places'] == 100


def test_simulated_people_stay_simulated_to_the_last_figure(folder):
    rows = read_answers(folder / 'study.sqlite')
    assert (
        rows.simulated.all() and rows.query("kind == 'enter'").participant.nunique() == rows.participant.nunique() == 24
    )
    trials = rows[rows.kind == 'trial']
    assert 0.25 < trials.context_opened.mean() < 0.5 and rows.context_opened.isna().equals(rows.kind != 'trial')
    text = said(
        'analyse',
        folder / 'study.sqlite',
        '--performance',
        ROOT / 'nbs' / 'data' / 'study_demo_performance.csv',
        '--out',
        folder / 'analysis',
    )
    assert 'participants are simulated' in text and re.search(r'Kruskal-Wallis, H\(3\)', text)
    assert (
        'SIMULATED' in (folder / 'analysis' / 'analysis.html').read_text()
        and json.loads((folder / 'analysis' / 'analysis.json').read_text())['simulated'] is True
    )
    for table in (folder / 'analysis' / 'tables').glob('*.csv'):
        assert table.stem == 'flow' or pd.read_csv(table).simulated.all(), table.name
    flow = pd.read_csv(folder / 'analysis' / 'tables' / 'flow.csv').set_index('stage')
    assert flow.n['entered'] == flow.simulated['entered'] == 24
    assert {'flow', 'likert', 'means', 'tradeoff'} <= {p.stem for p in (folder / 'analysis' / 'figures').glob('*.png')}


def test_a_copy_is_restored_and_nothing_is_overwritten(folder):
    said('backup', '--db', folder / 'study.sqlite', '--to', folder / 'copy.sqlite')
    said('restore', folder / 'copy.sqlite', '--db', folder / 'again.sqlite')
    pd.testing.assert_frame_equal(read_answers(folder / 'again.sqlite'), read_answers(folder / 'study.sqlite'))


def test_a_copy_goes_nowhere_but_where_it_was_sent(folder):
    "A missing folder may be a disk that is not mounted: it is not created, and the command fails so that cron reports it."
    result = CliRunner().invoke(
        app,
        ['study', 'backup', '--db', str(folder / 'study.sqlite'), '--to', str(folder / 'unmounted' / 'copy.sqlite')],
    )
    assert result.exit_code != 0 and 'no copy could be made' in str(result.exception) + result.output
    assert not (folder / 'unmounted').exists()


def test_power_of_the_built_study(folder):
    text = said('power', '--study', folder / 'survey', '--sims', 100, '--largest', 16, '--out', folder / 'power')
    table = pd.read_csv(folder / 'power' / 'power.csv')
    assert (
        'SIMULATED' in text
        and 25 in set(table.n)
        and table.simulated.all()
        and (folder / 'power' / 'power.png').is_file()
    )


@pytest.mark.parametrize(
    'args, what',
    [
        (('simulate', '{}/survey', '--db', '{}/study.sqlite'), 'study.sqlite is there'),
        (('serve', '{}', '--db', '{}/x.sqlite'), 'there is no study.json'),
        (('preregister', '{}/survey', '--prolific', '{}/d.json'), 'add --url'),
        (('backup', '--db', '{}/study.sqlite', '--to', '{}/unmounted/copy.sqlite'), 'No such file or directory'),
        (('analyse', '{}/plan.txt', '--out', '{}/a'), 'no such file'),
        (('build', '{}/wrong.yaml', '--out', '{}/s'), "did you mean 'traces'"),
        (('power', '--effects', '{}/wrong.yaml', '--out', '{}/p'), 'wrong.yaml'),
    ],
    ids=lambda a: a[0] if isinstance(a, tuple) else '',
)
def test_errors_say_what_to_do_without_a_traceback(folder, args, what):
    (folder / 'wrong.yaml').write_text('name: x\ncontact: a@b.example\ntracs: {r1: r1.jsonl}\n')
    ran = subprocess.run(
        [Path(sys.executable).parent / 'tracenb', 'study', *(a.format(folder) for a in args)],
        capture_output=True,
        text=True,
    )
    assert ran.returncode != 0 and what in ran.stderr and 'Traceback' not in ran.stderr, ran.stderr


def test_the_load_test_says_what_became_of_every_answer():
    text = said('load', '--n', 8, '--trials', 2, '--pause', 0, '--kills', 1)
    found = dict(line.split(None, 1) for line in text.splitlines())
    assert [found[k] for k in ('n', 'kills', 'lost', 'doubled')] == ['8', '1', '0', '0'] and float(found['p99']) > 0
