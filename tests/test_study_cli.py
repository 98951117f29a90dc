"""A study from its config to its figures, by the command alone, as `make study-demo` does it."""

import csv
import json
import re
import shlex
import stat
from itertools import product

import pandas as pd
import pytest
from conftest import ROOT
from typer.testing import CliRunner

from tracenb.cli.main import app
from tracenb.study.answers import read_answers

pytestmark = pytest.mark.slow
DATA = ROOT / 'nbs' / 'data'


def invoke(*args):
    return CliRunner().invoke(app, ['study', *map(str, args)])


def output_of(*args):
    "What the command prints; it has to succeed."
    result = invoke(*args)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A built study with the answers of 24 simulated participants."
    folder = tmp_path_factory.mktemp('study')
    built = output_of('build', DATA / 'study_demo.yaml', '--out', folder / 'survey')
    assert 'decomposition, r1, r1_summary, post_hoc' in built
    assert re.search(r'about \d+ minutes per participant; .* 100 participants cost', built)
    answered = output_of('simulate', folder / 'survey', '--db', folder / 'study.sqlite', '--n', 24, '--seed', 3)
    assert '0 answers lost, 0 doubled' in answered
    return folder


def test_a_build_names_its_questions_and_keeps_its_codes_private(folder):
    survey = folder / 'survey'
    study = json.loads((survey / 'study.json').read_text())
    assert len(study['items']) == 8
    assert set(study['items'][0]['shown']) == {'decomposition', 'r1', 'r1_summary', 'post_hoc'}
    assert stat.S_IMODE((survey / 'private.json').stat().st_mode) == 0o600
    codes = [c for c in json.loads((survey / 'private.json').read_text())['codes'].values() if c]
    public = [p.read_text() for p in survey.rglob('*') if p.is_file() and p.name != 'private.json']
    assert len(codes) >= 3 and not any(code in text for code in codes for text in public)


def test_preregistration_and_draft(folder):
    draft = ('--prolific', folder / 'draft.json', '--url', 'https://study.example.org/')
    output_of('preregister', folder / 'survey', '--out', folder / 'plan.md', *draft)
    plan, draft = (folder / 'plan.md').read_text(), json.loads((folder / 'draft.json').read_text())
    assert 'Kruskal-Wallis' in plan and 'H1' in plan and '{{%PROLIFIC_PID%}}' in json.dumps(draft)
    assert draft['total_available_places'] == 100


def test_simulated_answers_are_labeled_as_they_are_stored(folder):
    rows = read_answers(folder / 'study.sqlite')
    assert rows.simulated.all() and rows.participant.nunique() == 24
    assert rows.query("kind == 'enter'").participant.nunique() == 24
    trials = rows[rows.kind == 'trial']
    assert 0.25 < trials.context_opened.mean() < 0.5
    assert rows.context_opened.isna().equals(rows.kind != 'trial')


def test_simulated_participants_stay_simulated_to_the_last_figure(folder):
    out, performance = folder / 'analysis', DATA / 'study_demo_performance.csv'
    text = output_of('analyse', folder / 'study.sqlite', '--performance', performance, '--out', out)
    assert 'participants are simulated' in text and re.search(r'Kruskal-Wallis, H\(3\)', text)
    assert 'SIMULATED' in (out / 'analysis.html').read_text()
    assert json.loads((out / 'analysis.json').read_text())['simulated'] is True
    for table in (out / 'tables').glob('*.csv'):
        assert table.stem == 'flow' or pd.read_csv(table).simulated.all(), table.name
    flow = pd.read_csv(out / 'tables' / 'flow.csv').set_index('stage')
    assert flow.n['entered'] == flow.simulated['entered'] == 24
    assert {'flow', 'likert', 'means', 'tradeoff'} <= {p.stem for p in (out / 'figures').glob('*.png')}


def test_a_copy_can_be_restored(folder):
    output_of('backup', '--db', folder / 'study.sqlite', '--to', folder / 'copy.sqlite')
    output_of('restore', folder / 'copy.sqlite', '--db', folder / 'again.sqlite')
    restored, original = (read_answers(folder / name) for name in ('again.sqlite', 'study.sqlite'))
    pd.testing.assert_frame_equal(restored, original)


def test_a_backup_into_a_missing_folder_fails(folder):
    "The folder may be a disk that is not mounted: it is not created, and the command fails so that cron reports it."
    result = invoke('backup', '--db', folder / 'study.sqlite', '--to', folder / 'unmounted' / 'copy.sqlite')
    assert result.exit_code != 0 and 'no copy could be made' in str(result.exception) + result.output
    assert not (folder / 'unmounted').exists()


def test_power_of_the_built_study(folder):
    out, options = folder / 'power', ('--sims', 100, '--largest', 16)
    text = output_of('power', '--study', folder / 'survey', *options, '--out', out)
    table = pd.read_csv(out / 'power.csv')
    assert 'SIMULATED' in text and 25 in set(table.n) and table.simulated.all()
    assert (out / 'power.png').is_file() and (out / 'needed.csv').is_file()


HOWTO = ROOT / 'nbs' / 'site' / 'howto' / 'run_a_study.md'


def test_a_study_of_ones_own_in_german_by_the_commands_of_the_how_to(tmp_path, monkeypatch):
    "Three kinds of traces within subjects, scales of 7 points, a table that a spreadsheet saved."
    monkeypatch.chdir(tmp_path)
    lines = [line for line in HOWTO.read_text().splitlines() if line.startswith('tracenb study ')]
    first = {shlex.split(line)[2]: shlex.split(line, comments=True)[2:] for line in reversed(lines)}
    assert first['build'] == ['build', 'my-study/study.yaml', '--out', 'survey']
    own = next(line for line in lines if 'analyse trial' in line)
    assert first['template'][-1] == 'de' and 'my-study/items.csv' in output_of(*first['template'])

    with open('my-study/items.csv', 'w', encoding='cp1252', newline='') as f:
        write = csv.writer(f, delimiter=';').writerow
        write(['question', 'context', 'condition', 'trace', 'answer', 'right'])
        for k, c in product(range(6), ('kurz', 'lang', 'zerlegt')):
            told = f'Jonas trug Schlüssel {k} in die Küche.\nEr ging hinaus.'
            write(
                [f'Wo ist Schlüssel {k}?', told, c, f'{c}: Er liegt in der Küche.', 'Küche', 'ja' if k % 2 else 'nein']
            )
    config, words = tmp_path / 'my-study' / 'study.yaml', tmp_path / 'my-study' / 'wording.yaml'
    config.write_text(
        config.read_text()
        .replace('layout: between', 'layout: within')
        .replace('n_per_condition: 25', 'n_per_condition: 18')
    )
    scales = words.read_text().partition('\nscales:')[2].partition('\ncomparisons:')[0]
    words.write_text(words.read_text().replace(scales, scales.replace('points: 5', 'points: 7')))

    assert '6 questions under kurz, lang, zerlegt; 6 per participant, within' in output_of(*first['build'])
    output_of(*first['preregister'])
    plan = (tmp_path / 'preregistration.md').read_text()
    assert plan.count('to 7, ') == 6 and 'Friedman' in plan and 'right in every condition for 3, wrong' in plan
    assert '0 answers lost, 0 doubled' in (said := output_of(*first['simulate'])) and 'kurz' in said
    said = output_of(*shlex.split(own, comments=True)[2:])
    assert re.search(r'Mean interpretability \(1 to 7\), from the highest: kurz .*; lang .*; zerlegt', said)
    assert 'Interpretability differs between conditions: Friedman, chi-square(2)' in said
    means = pd.read_csv('trial/tables/means.csv').set_index(['outcome', 'condition'])['mean']
    for c, true in dict(kurz=5.5, lang=4.9, zerlegt=4.3).items():  # As `simulate` said that it assumes
        assert means['interpretability', c] == pytest.approx(true, abs=0.6)
    assert (tmp_path / 'trial' / 'figures' / 'means.png').stat().st_size > 10_000


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('simulate', '{}/survey', '--db', '{}/study.sqlite'), 'study.sqlite exists already'),
        (('serve', '{}', '--db', '{}/x.sqlite'), 'no study.json'),
        (('preregister', '{}/survey', '--prolific', '{}/d.json'), 'add --url'),
        (('backup', '--db', '{}/study.sqlite', '--to', '{}/unmounted/copy.sqlite'), 'No such file or directory'),
        (('analyse', '{}/plan.txt', '--out', '{}/a'), 'no such file'),
        (('build', '{}/wrong.yaml', '--out', '{}/s'), "did you mean 'traces'"),
        (('power', '--effects', '{}/wrong.yaml', '--out', '{}/p'), 'wrong.yaml'),
    ],
    ids=lambda a: a[0] if isinstance(a, tuple) else '',
)
def test_errors_name_the_remedy(folder, args, message, call):
    (folder / 'wrong.yaml').write_text('name: x\ncontact: a@b.example\ntracs: {r1: r1.jsonl}\n')
    _, err = call('study', *(a.format(folder) for a in args), cwd=folder, code=1)
    assert err.startswith('error: ') and message in err and 'Traceback' not in err


def test_the_load_test_reports_what_became_of_every_answer():
    text = output_of('load', '--n', 8, '--trials', 2, '--pause', 0, '--kills', 1)
    found = dict(line.split(None, 1) for line in text.splitlines())
    assert [found[k] for k in ('n', 'kills', 'lost', 'doubled')] == ['8', '1', '0', '0'] and float(found['p99']) > 0
