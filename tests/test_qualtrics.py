"""Answers from Qualtrics, jsPsych, Prolific and a study's own files: the same ratings in, the same means out."""

import csv
import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from tracenb.cli.main import app
from tracenb.core.records import TracenbError
from tracenb.fieldwork.jspsych import read_jspsych
from tracenb.fieldwork.qualtrics import read_mapping, read_qualtrics, scale_rules
from tracenb.fieldwork.source import join_prolific, read_source, write_imported
from tracenb.ratings.analysis import compute
from tracenb.ratings.effects import Effects
from tracenb.ratings.scales import Rules, check_answers, participant_table, rules_of, score_trials
from tracenb.ratings.simulated import answers_of, save_answers, seconds_of, simulate_answers
from tracenb.study.answers import COLUMNS, read_answers
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
    (tmp_path / 'two.csv').write_text('\n'.join(text[:1] + text[2:]))  # Without the wording
    same = read_qualtrics(tmp_path / 'wide.csv', mapping)
    pd.testing.assert_frame_equal(read_qualtrics(tmp_path / 'two.csv', mapping), same)
    (tmp_path / 'none.csv').write_text('\n'.join(text[3:]))
    with pytest.raises(TracenbError, match="no column 'responseid'"):
        read_qualtrics(tmp_path / 'none.csv', mapping)


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


# --- the forms in which files come

MAP = {
    'Q1': dict(item='q1', dimension='clarity', kind='quality', points='7'),
    'Q2': dict(item='q1', dimension='confusion', kind='quality', points='7', reverse='yes'),
    'T1': dict(role='seconds', item='q1'),
    'group': dict(role='condition'),
}
HEAD = ['ResponseId', 'Status', 'Finished', 'prolific_pid', 'Q1', 'Q2', 'T1', 'group', 'Comment']
PEOPLE = [
    ['R_1', 'IP Address', 'True', 'a', '6', '2', '12.5', 'x', 'schön; "gut", ja'],
    ['R_2', '0', 'Wahr', 'b', '7', '1', '20.25', 'y', 'née'],
]


def saved(at, people=PEOPLE, head=HEAD, delimiter=',', encoding='utf-8', import_ids=True):
    ids = [[json.dumps(dict(ImportId=h)) for h in head]] if import_ids else []
    with open(at / 'wide.csv', 'w', newline='', encoding=encoding) as f:
        csv.writer(f, delimiter=delimiter).writerows([head, [f'Wording of {h}' for h in head], *ids, *people])
    return at / 'wide.csv'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])
@pytest.mark.parametrize('delimiter', [',', ';', '\t'])
@pytest.mark.parametrize('import_ids', [True, False])
@pytest.mark.parametrize('comma', [True, False])
def test_separator_encoding_header_rows_and_decimal_mark_change_nothing(
    tmp_path, encoding, delimiter, import_ids, comma
):
    people = [[c.replace('.', ',') if k == 6 and comma else c for k, c in enumerate(row)] for row in PEOPLE]
    found = read_source(saved(tmp_path, people, HEAD, delimiter, encoding, import_ids), None, MAP)[0]
    rated = found[found.kind == 'trial']
    assert rated.value.tolist() == [6, 2, 7, 1] and rated.seconds.tolist() == [12.5, 12.5, 20.25, 20.25]
    assert set(found.status) == {'complete'} and set(found.panel_id) == {'a', 'b'}
    assert found.attrs['notes'][-1] == 'Responses: 2 complete.'


@pytest.mark.parametrize(
    ('status', 'finished', 'wanted'),
    [
        *(('IP Address', yes, 'complete') for yes in ('True', 'TRUE', '1', 'Yes', 'Wahr', 'Vrai', '是')),
        *(('0', no, 'active') for no in ('False', '0', 'Falsch', 'Non', '')),
        *((code, '1', 'preview') for code in ('1', '2', '9', '17', 'Survey Preview/Spam', 'Offline Survey Preview')),
        *((code, '1', 'spam') for code in ('8', '12', 'Spam', 'Imported/Spam')),
        *((code, '1', 'complete') for code in ('4', '16', 'Imported', 'Offline')),
    ],
)
def test_status_codes_are_read_as_numbers_and_words(tmp_path, status, finished, wanted):
    found = read_qualtrics(saved(tmp_path, [['R_1', status, finished, *PEOPLE[0][3:]]]), MAP)
    assert set(found.status) == {wanted}


def test_what_is_left_out_of_a_file_is_counted_and_named(tmp_path):
    people = [*PEOPLE, PEOPLE[0][:4] + ['1', '1', '9', 'x', ''], ['R_3', '0', '1', '5.7E+23', '-99', '4', '', 'x', '']]
    found = read_qualtrics(saved(tmp_path, people), MAP)
    assert found[found.kind == 'trial'].value.tolist() == [6, 2, 7, 1, 4]
    notes = ' '.join(found.attrs['notes'])
    assert 'Left out: 1 responses with an id' in notes and 'Left out: 1 panel ids like' in notes
    with pytest.raises(TracenbError, match="column 'Q1' is there twice"):
        read_qualtrics(saved(tmp_path, [[*row, '3'] for row in PEOPLE], [*HEAD, 'Q1']), MAP)
    other = {'Q1 (2)' if k == 'Q1' else k: v for k, v in MAP.items()}
    found = read_qualtrics(tmp_path / 'wide.csv', other)
    assert found[found.dimension == 'clarity'].value.tolist() == [3, 3]


def test_of_two_participations_of_a_person_the_finished_one_counts(tmp_path):
    people = [['R_0', '0', 'False', 'a', '1', '', '', 'x', ''], *PEOPLE, ['R_9', '0', '1', 'a', '1', '7', '9', 'x', '']]
    rows = check_answers(read_qualtrics(saved(tmp_path, people), MAP), Rules(**scale_rules(read_mapping(MAP), {})))
    assert participant_table(rows, Rules(**scale_rules(read_mapping(MAP), {}))).reason.tolist() == [
        'unfinished',
        '',
        '',
        'repeated',
    ]


def test_scales_of_a_mapping_are_analyzed_with_its_points_and_turned_around(tmp_path):
    rules = Rules(**scale_rules(read_mapping(MAP), {}))
    assert (rules.dimensions, rules.points) == (dict(clarity='quality', confusion='quality'), 7)
    rows = check_answers(read_qualtrics(saved(tmp_path), MAP), rules)
    table = score_trials(rows, participant_table(rows, rules), rules)
    assert table['kind:quality'].tolist() == [6.0, 7.0] and table['scale:confusion'].tolist() == [6.0, 7.0]
    for wrong in ('12', '0 to 1', '0 to 2000', '5 to'):
        with pytest.raises(TracenbError, match=f"points is '{wrong}'"):
            scale_rules(read_mapping({'Q1': dict(item='q', dimension='a', points=wrong)}), {})


def test_sliders_of_a_mapping_keep_their_ends_and_values_beyond_them_are_refused(tmp_path):
    cells = [['80', '-9'], ['0', '50'], ['100', '-99'], ['47', '']]
    rows = [[f'R_{k}', '0', '1', f'p{k}', *own, '', 'x', ''] for k, own in enumerate(cells)]
    here = MAP | {
        'Q1': dict(item='q', dimension='clear', kind='quality', points='0 to 100'),
        'Q2': dict(item='q', dimension='tone', kind='tone', points='-50 to 50'),
    }
    answers = read_qualtrics(saved(tmp_path, rows), here)
    rated = answers[answers.kind == 'trial']
    assert rated[rated.dimension == 'clear'].value.tolist() == [80, 0, 100, 47]
    assert rated[rated.dimension == 'tone'].value.tolist() == [-9, 50]  # -9 is on this scale; -99 is a code
    assert 'Left out: 1 ratings that are a code for no answer' in ' '.join(answers.attrs['notes'])
    write_imported(answers, tmp_path / 'a.csv', mapping=here)
    rules = Rules(**read_source(tmp_path / 'a.csv')[0].attrs['scale_rules'])
    assert rules.sliders == dict(clear=(0, 100), tone=(-50, 50)) == Rules(**scale_rules(read_mapping(here), {})).sliders
    rows[0][4] = '101'
    with pytest.raises(TracenbError, match='Q1, line .: 101 is not from 0 to 100'):
        read_qualtrics(saved(tmp_path, rows), here)


@pytest.mark.parametrize(
    ('head', 'finished'),
    [
        (['CASE', 'FINISHED', 'A1', 'grp'], '1'),  # SoSci
        (['Response ID', 'Date submitted', 'A1', 'grp'], '2026-01-02 10:00:00'),  # LimeSurvey
        (['session', 'ended', 'A1', 'grp'], '2026-01-02 10:00:00'),  # formr
    ],
)
def test_exports_of_other_tools_have_their_own_names(tmp_path, head, finished):
    (tmp_path / 'x.csv').write_text(f'{";".join(head)}\n17;{finished};4;x\n18;;2;y\n')
    found = read_source(
        tmp_path / 'x.csv', None, {'A1': dict(item='q', dimension='effort'), 'grp': dict(role='condition')}
    )[0]
    assert found[found.kind == 'trial'][['participant', 'status', 'value']].values.tolist() == [
        ['17', 'complete', 4],
        ['18', 'active', 2],
    ]


def test_restarts_of_jspsych_and_results_of_jatos(tmp_path):
    trial = dict(workerId='w', item='q1', condition='x', rt=9000, response=dict(effort=3))
    text = json.dumps([trial, trial | dict(response=dict(effort=0))]) + json.dumps([trial | dict(workerId='v')])
    (tmp_path / 'jatos.txt').write_text(text)
    found = read_source(tmp_path / 'jatos.txt')[0]
    assert found[['participant', 'value']].values.tolist() == [['w', 4], ['v', 4]]
    assert found.attrs['notes'][-1] == 'Left out: 1 trials of participants who began again.'


@pytest.mark.parametrize('name', ['Participant id', 'Participant ID', 'participant_id'])
def test_prolifics_columns_have_many_spellings_and_the_accepted_submission_counts(tmp_path, name):
    answers = pd.DataFrame(
        [dict.fromkeys(COLUMNS) | dict(participant='p', panel_id='a', kind='enter', status='complete')]
    )
    lines = [
        f'Submission id;{name};Status;Submission approved at;Age',
        's1;a;RETURNED;2026;20',
        's2;a;APPROVED;2026;21',
    ]
    (tmp_path / 'p.csv').write_text('\n'.join(lines), encoding='utf-16')
    joined, counts = join_prolific(answers, tmp_path / 'p.csv')
    assert joined[joined.kind == 'demographics'][['id', 'value']].values.tolist() == [['Age', '21']]
    assert counts == dict(rows=2, joined=1, unjoinable=0, without=0)


def test_an_imported_file_is_the_same_table_and_names_what_was_understood(tmp_path):
    saved(tmp_path, delimiter=';', encoding='utf-16')
    (tmp_path / 'map.csv').write_text(
        'column;role;item;dimension;kind;points;reverse\nQ1;rating;q1;clarity;quality;7;\n'
        'Q2;rating;q1;confusion;quality;7;yes\nT1;seconds;q1;;;;\ngroup;condition;;;;;\n'
    )
    files = str(tmp_path / 'wide.csv'), '--mapping', str(tmp_path / 'map.csv'), '--out', str(tmp_path / 'a.csv')
    done = CliRunner().invoke(app, ['study', 'import', *files])
    assert done.exit_code == 0, done.output
    said = done.output
    assert 'utf-16, separator semicolon, 3 header rows, 2 responses' in said and '2 participants, 4 ratings' in said
    again = read_answers(tmp_path / 'a.csv')
    assert again[again.kind == 'trial'][['dimension', 'value', 'seconds']].values.tolist() == [
        ['clarity', 6, 12.5],
        ['confusion', 2, 12.5],
        ['clarity', 7, 20.25],
        ['confusion', 1, 20.25],
    ]
