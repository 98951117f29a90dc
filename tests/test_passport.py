"""The passport of a study: plan and verdicts, versions, checksums, terms of data and models."""

import hashlib
import json
import os
import shutil
import subprocess

import pandas as pd
import pytest

from tracenb.core.records import TracenbError
from tracenb.runs.folders import find_runs
from tracenb.sharing.passport import LINK, plan_hypotheses, read_plan, study_passport, write_passport

PLAN = """# Plan

## Hypotheses

1. **Wrong traces cost answers.** Exact answers of `correct` are above those of `incorrect`.
2. `correct` and `filler` differ.

## Limits

1. One model.
"""


@pytest.fixture
def grid(smoke, tmp_path):
    return shutil.copytree(smoke, tmp_path / 'grid')


def git(folder, *args, **env):
    subprocess.run(
        ['git', '-c', 'user.name=a', '-c', 'user.email=a@b.c', *args], cwd=folder, env=os.environ | env, check=True
    )


@pytest.fixture
def plan(tmp_path):
    "A plan in a repository of its own, committed long before the runs."
    (tmp_path / 'plans').mkdir()
    path = tmp_path / 'plans' / 'plan.md'
    path.write_text(PLAN)
    git(path.parent, 'init', '-q')
    git(path.parent, 'add', '.')
    git(path.parent, 'commit', '-qm', 'plan', GIT_COMMITTER_DATE='2020-01-02T03:04:05Z')
    return path


def test_a_report_comes_with_its_passport(smoke):
    "The fixture's report was made by the command."
    made = json.loads((smoke / 'passport.json').read_text())
    page = (smoke / 'report.html').read_text()
    assert page.count(LINK) == 1 and page.index(LINK) < page.index('<h1')
    assert made['plan'] == read_plan(None) and 'exploratory' in (smoke / 'passport.html').read_text()
    table = pd.read_csv(smoke / 'pairs.csv')
    assert [(v['a'], v['b'], v['verdict'], v['hypotheses']) for v in made['verdicts']] == [
        (a, b, verdict, []) for a, b, verdict in table[['a', 'b', 'verdict']].itertuples(index=False)
    ]
    assert made['data'][0]['license'].startswith('made by the simulator') and made['data'][0]['simulated']
    assert made['models'] == [dict(model='tiny-random', license='made here, with random weights')]
    [environment] = made['environment']
    record = json.loads((next(find_runs(smoke)) / 'run.json').read_text())
    assert environment == {k: record.get(k) for k in environment}
    for name, digest in made['files'].items():
        assert hashlib.sha256((smoke / name).read_bytes()).hexdigest() == digest
    assert {'report.html', 'pairs.csv', 'rows.parquet'} <= set(made['files'])
    assert len(made['runs']) == 4 and all('generations.jsonl' in r['files'] for r in made['runs'])


def test_verdicts_belong_to_the_hypotheses_of_a_plan(grid, plan):
    write_passport(grid, plan)
    made = json.loads((grid / 'passport.json').read_text())
    assert list(made['plan']['hypotheses']) == ['1', '2']
    assert made['plan']['sha256'] == hashlib.sha256(PLAN.encode()).hexdigest()
    assert made['plan']['time'] == '2020-01-02T03:04:05+00:00' and 'before the first run' in made['plan']['words']
    named = {(v['a'], v['b']): v['hypotheses'] for v in made['verdicts']}
    assert named['correct', 'incorrect'] == ['1'] and set(map(tuple, named.values())) == {(), ('1',)}
    page = (grid / 'passport.html').read_text()
    assert 'Wrong traces cost answers.' in page and 'exploratory' in page and page.count('none here') == 1
    assert (grid / 'report.html').read_text().count(LINK) == 1  # written twice, linked once


def test_a_plan_that_came_later_is_said(grid, plan):
    for at in find_runs(grid):
        os.utime(at / 'examples.jsonl', (10**9, 10**9))
    write_passport(grid, plan)
    assert 'AFTER the first run' in json.loads((grid / 'passport.json').read_text())['plan']['words']
    plan.write_text(PLAN.replace('filler', 'masked'))
    assert 'not recorded' in read_plan(plan, 0.0)['words'] and 'time' not in read_plan(plan, 0.0)


def test_what_is_missing_is_said_before_anything_is_written(grid, call, tmp_path):
    before = {p.name: p.stat().st_mtime_ns for p in grid.iterdir()}
    (tmp_path / 'empty.md').write_text('# Plan\n\nWe look at it.\n')
    for name, words in (('absent.md', 'no such file'), ('empty.md', 'no numbered hypothesis')):
        assert words in call('report', grid, '--plan', tmp_path / name, cwd=tmp_path, code=1)[1]
    assert {p.name: p.stat().st_mtime_ns for p in grid.iterdir()} == before
    (grid / 'pairs.csv').unlink()
    with pytest.raises(TracenbError, match='there is no report'):
        write_passport(grid)


def test_a_study_with_people_has_one(call, tmp_path):
    from tracenb.study.design import demo_study
    from tracenb.study.preregister import hypotheses, preregister

    text = preregister(demo_study(trials=4))
    (tmp_path / 'preregistration.md').write_text(text)
    assert list(plan_hypotheses(text)) == [f'H{k}' for k in range(1, len(hypotheses(demo_study(trials=4))) + 1)]
    record = dict(simulated=True, sentences=['Means differ.'], versions=dict(numpy='2'), rules={}, facts={}, tables={})
    (tmp_path / 'analysis').mkdir()
    (tmp_path / 'analysis' / 'analysis.json').write_text(json.dumps(record))
    (tmp_path / 'analysis' / 'analysis.html').write_text('<html><body class="a">\n<h1>Results</h1></body></html>')
    write_passport(tmp_path / 'analysis', tmp_path / 'preregistration.md')
    assert (tmp_path / 'analysis' / 'analysis.html').read_text().startswith(f'<html><body class="a">\n{LINK}')
    page = (tmp_path / 'analysis' / 'passport.html').read_text()
    assert 'Means differ.' in page and 'simulated people' in page and 'H1' in page
    assert study_passport(tmp_path / 'analysis')['files'].keys() == {'analysis.html', 'analysis.json'}
