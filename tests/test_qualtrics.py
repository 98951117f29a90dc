"""Answers from Qualtrics, jsPsych, Prolific and a study's own files: the same ratings in, the same means out."""

import csv
import json

import pandas as pd
import pytest

from tracenb.core.records import TracenbError
from tracenb.fieldwork.jspsych import read_jspsych
from tracenb.fieldwork.qualtrics import read_mapping, read_qualtrics
from tracenb.fieldwork.source import join_prolific, read_source
from tracenb.ratings.analysis import compute
from tracenb.ratings.effects import Effects
from tracenb.ratings.scales import rules_of
from tracenb.ratings.simulated import answers_of, save_answers, seconds_of, simulate_answers
from tracenb.study.design import demo_study
from tracenb.study.participants import Store, enter, step_page, store_answer

STUDY = demo_study(trials=4, n_per_condition=14)
RULES = rules_of(STUDY)


@pytest.fixture(scope='module')
def answers():
    return simulate_answers(STUDY, seed=1)


@pytest.fixture(scope='module')
def own(answers):
    "The analysis of the same answers without a detour."
    return compute(answers, RULES).tables


def same_means(found, own):
    key = ['outcome', 'condition']
    means = [t['means'].set_index(key).sort_index()[['participants', 'mean']] for t in (found, own)]
    pd.testing.assert_frame_equal(*means)
    p = [t['tests'].set_index('outcome').p['load'] for t in (found, own)]
    assert p[0] == pytest.approx(p[1])


def qualtrics_file(answers, path):
    "The answers as Qualtrics would export them; returns the mapping."
    rated = answers[answers.kind == 'trial'][['id', 'condition']].drop_duplicates()
    names, mapping = {(r.id, r.condition): f'Q{k}' for k, r in enumerate(rated.itertuples())}, {}
    for (i, c), q in names.items():
        mapping |= {f'{q}_{d}': dict(item=i, condition=c, dimension=d) for d in RULES.dimensions}
    mapping |= {f'{q}_time': dict(role='seconds', item=i, condition=c) for (i, c), q in names.items()}
    checks = {c.name: dict(role='attention', right=str(c.right)) for c in STUDY.checks if c.kind == 'attention'}
    mapping |= checks | dict(group=dict(role='condition'))
    header = ['Status', 'Finished', 'ResponseId', *mapping]
    lines = [header, header, [json.dumps(dict(ImportId=h)) for h in header]]
    for p, part in answers.groupby('participant', sort=False):
        finished = str(part.status.iloc[0] == 'complete')
        row = dict.fromkeys(header, '') | dict(Status='IP Address', Finished=finished, ResponseId=p)
        row['group'] = part.condition.iloc[0]
        for r in part.itertuples():
            if r.kind == 'trial':
                q = names[r.id, r.condition]
                row |= {f'{q}_{r.dimension}': r.value, f'{q}_time': r.seconds}
            elif r.kind == 'attention':
                row[r.id] = r.value
        lines.append([row[h] for h in header])
    with open(path, 'w', newline='', encoding='utf-8') as f:
        csv.writer(f).writerows(lines)
    return mapping


def test_the_same_ratings_from_qualtrics_give_the_same_means(tmp_path, answers, own):
    mapping = qualtrics_file(answers, tmp_path / 'wide.csv')
    same_means(compute(read_qualtrics(tmp_path / 'wide.csv', mapping), RULES).tables, own)


def test_the_same_ratings_from_jspsych_give_the_same_means(tmp_path, answers, own):
    trials, keys = [], ['participant', 'step', 'id', 'condition']
    for (p, _, i, c), part in answers[answers.kind == 'trial'].groupby(keys, sort=False):
        about = dict(trial_type='survey-likert', participant=p, item=i, condition=c, rt=1000 * part.seconds.iloc[0])
        response = {d: v - 1 for d, v in zip(part.dimension, part.value)}
        trials.append(about | dict(response=response, finished=part.status.iloc[0] == 'complete'))
    for r in answers[answers.kind == 'attention'].itertuples():
        about = dict(participant=r.participant, check=r.id, correct=bool(r.right))
        trials.append(about | dict(condition=r.condition, response=r.value, rt=1.0))
    (tmp_path / 'data.json').write_text(json.dumps(trials))
    same_means(compute(read_source(tmp_path / 'data.json')[0], RULES).tables, own)


def test_qualtrics_files_that_do_not_fit_are_refused_with_their_place(tmp_path, answers):
    mapping = qualtrics_file(answers, tmp_path / 'wide.csv')
    with pytest.raises(TracenbError, match='needs a mapping'):
        read_source(tmp_path / 'wide.csv')
    with pytest.raises(TracenbError, match="no column 'Q99'"):
        read_qualtrics(tmp_path / 'wide.csv', mapping | dict(Q99=dict(item='q', dimension='effort')))
    text = (tmp_path / 'wide.csv').read_text().split('\n')
    (tmp_path / 'two.csv').write_text('\n'.join(text[:2] + text[3:]))
    with pytest.raises(TracenbError, match='line 3 holds no import ids'):
        read_qualtrics(tmp_path / 'two.csv', mapping)


def test_qualtrics_texts_are_refused_unless_their_numbers_are_given(tmp_path):
    path, mapping = tmp_path / 'text.csv', dict(Q1=dict(item='q1', condition='r1', dimension='effort'))
    path.write_text('ResponseId,Finished,Q1\nw,w,w\n"{""ImportId"":""a""}",b,c\nR1,True,Agree\n')
    with pytest.raises(TracenbError, match="Q1, line 4: 'Agree' is not a number"):
        read_qualtrics(path, mapping)
    found = read_qualtrics(path, mapping, dict(Agree=4))
    assert found.query("kind == 'trial'").value.tolist() == [4]
    with pytest.raises(TracenbError, match='a rating without a condition'):
        read_qualtrics(path, dict(Q1=dict(item='q1', dimension='effort')), dict(Agree=4))
    with pytest.raises(TracenbError, match='no dimension'):
        read_mapping(dict(Q1=dict(item='q1')))


def test_jspsych_files_that_do_not_fit_are_refused_with_their_place(tmp_path):
    (tmp_path / 'a.json').write_text('[{"response": {"effort": 1}, "item": "q", "condition": "r1"}]')
    with pytest.raises(TracenbError, match='trial 0: no participant'):
        read_jspsych(tmp_path / 'a.json')
    (tmp_path / 'b.json').write_text('{')
    with pytest.raises(TracenbError, match='not JSON'):
        read_jspsych(tmp_path / 'b.json')


def test_prolific_joins_only_where_ids_were_kept(tmp_path, answers):
    path = tmp_path / 'prolific.csv'
    path.write_text(
        'Submission id,Participant id,Status,Age,Sex\n'
        's1,pid1,APPROVED,34,Female\ns2,pid2,APPROVED,DATA_EXPIRED,Male\ns3,pid3,APPROVED,40,Male\n'
    )
    _, none = join_prolific(answers, path)
    assert none == dict(rows=3, joined=0, unjoinable=3, without=answers.participant.nunique())
    joined, some = join_prolific(answers, path, dict(p0001='pid1', p0002='pid2'))
    assert some['joined'] == 2 and some['unjoinable'] == 1 and len(joined) == len(answers) + 3
    assert joined.simulated.all() and joined[joined.step == 'prolific'].status.tolist() == ['complete'] * 3
    (tmp_path / 'no.csv').write_text('a\n1\n')
    with pytest.raises(TracenbError, match="no column 'Participant id'"):
        join_prolific(answers, tmp_path / 'no.csv')


@pytest.fixture(scope='module')
def database(tmp_path_factory):
    "The database of a small study: 12 simulated participants, who all finish."
    path, study = tmp_path_factory.mktemp('study') / 'study.sqlite', demo_study(trials=4, n_per_condition=3)
    effects = Effects(inattentive_rate=0.0, dropout=0.0, declined=0.0, check_failure_rate=0.0)
    answer, seconds = answers_of(study, effects, 1), seconds_of(effects, 1)
    store = Store(path, study, b'k' * 32)
    try:
        for number in range(1, 13):
            entered = enter(store, dict(PROLIFIC_PID=f'x{number}', simulated=True))
            token = entered['token']
            for step in entered['steps']:
                values = answer(step, step_page(store, token, step), number)
                store_answer(store, token, step, values, seconds(step, number), f'{number}-{step}')
    finally:
        store.close()
    return path, study


def test_a_database_and_its_export_are_analyzed_alike(tmp_path, database):
    path, study = database
    table, own, ids = read_source(path)
    assert own == study and len(ids) == 12
    one = compute(table, rules_of(own), own)
    exported, design, _ = read_source(save_answers(table, tmp_path / 'responses.csv'), study)
    other = compute(exported, rules_of(design), design)
    for name in one.tables:
        pd.testing.assert_frame_equal(one.tables[name], other.tables[name])
    assert one.facts['simulated'] == 12 and one.facts['analyzed'] == 12
