"""`tracenb study import`: what is understood without a mapping, what is asked, and what the written file keeps."""

import csv
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from tracenb.cli.main import app
from tracenb.core.records import TracenbError
from tracenb.fieldwork.mapping import draft_mapping, write_mapping
from tracenb.fieldwork.qualtrics import read_mapping, read_qualtrics
from tracenb.fieldwork.source import exclude_listed, join_prolific, read_source, write_imported
from tracenb.ratings.analysis import analyze
from tracenb.study.answers import read_answers

HEAD = ['StartDate', 'Status', 'Finished', 'ResponseId', 'Duration (in seconds)']


def qualtrics(path, people=12, text=None, delimiter=',', encoding='utf-8', names=('1', '2'), dot='.'):
    "Three items on two scales of 7 points; `text` maps a number to a text."
    ratings = [f'Q{i}_{n}' for i in (1, 2, 3) for n in names]
    head = [
        *HEAD,
        *ratings,
        *(f'T{i}_Page Submit' for i in (1, 2, 3)),
        'check',
        'Age',
        'Comment',
        'PROLIFIC_PID',
        'group',
    ]
    labels = [*HEAD, *[f'Rate it - {n}' for _ in (1, 2, 3) for n in ('It was clear', 'It was hard')], *head[11:]]
    rows = []
    for k in range(people):
        values = [1 + (k + 2 * i + n) % 7 for i in range(3) for n in (0, 1)]
        times = [f'{10 + k + i / 4:.2f}'.replace('.', dot) for i in range(3)]
        shown = [text[v - 1] if text else v for v in values]
        about = ['2026-11-01', 'IP Address', 'True', f'R_{k}', '600']
        rows.append([*about, *shown, *times, '2', 20 + k, 'ok; =1+1', f'pid{k}', ('r1', 'post_hoc')[k % 2]])
    with open(path, 'w', newline='', encoding=encoding) as f:
        write = csv.writer(f, delimiter=delimiter)
        write.writerows([head, labels, [f'{{"ImportId":"{h}"}}' for h in head], *rows])
    return path


@pytest.mark.parametrize(
    ('delimiter', 'encoding', 'dot'),
    [(',', 'utf-8', '.'), (';', 'utf-8-sig', ','), ('\t', 'utf-16', ','), (';', 'cp1252', ',')],
)
def test_a_draft_of_the_mapping_reads_the_file(tmp_path, delimiter, encoding, dot):
    path = qualtrics(tmp_path / 'wide.csv', delimiter=delimiter, encoding=encoding, dot=dot)
    rows, notes, questions = draft_mapping(path)
    roles = {row['column']: row['role'] for row in rows}
    assert {c: roles[c] for c in ('Status', 'Finished', 'ResponseId', 'group', 'check', 'PROLIFIC_PID')} == {
        'Status': 'status',
        'Finished': 'finished',
        'ResponseId': 'participant',
        'group': 'condition',
        'check': 'attention',
        'PROLIFIC_PID': 'panel_id',
    }
    assert {roles[c] for c in ('StartDate', 'Duration (in seconds)', 'Age', 'Comment')} == {'ignore'}
    rated = [(r['item'], r['dimension'], r['points']) for r in rows if r['role'] == 'rating']
    assert rated == [(f'q{i}', scale, 7) for i in (1, 2, 3) for scale in ('it_was_clear', 'it_was_hard')]
    assert '3 header rows, 12 responses' in notes[0] and any('7 points' in q and 'reversed' in q for q in questions)
    answers = read_qualtrics(path, write_mapping(rows, tmp_path / 'map.csv'))
    trials = answers[answers.kind == 'trial']
    assert len(trials) == 72 and trials.seconds.tolist()[0] == 10.0 and trials.value.max() == 7
    assert set(trials.condition) == {'r1', 'post_hoc'} and answers[answers.kind == 'attention'].right.all()


def test_texts_become_labels_whose_order_is_asked(tmp_path):
    words = ['gar nicht', 'kaum', 'wenig', 'mittel', 'ziemlich', 'sehr', 'völlig']
    rows, _, questions = draft_mapping(qualtrics(tmp_path / 'wide.csv', text=words))
    labels = next(r['labels'] for r in rows if r['role'] == 'rating').split('|')
    assert sorted(labels) == sorted(words) and any('in order' in q for q in questions)
    for row in rows:
        row['labels'] = '|'.join(words) if row['role'] == 'rating' else ''
    answers = read_qualtrics(tmp_path / 'wide.csv', write_mapping(rows, tmp_path / 'map.csv'))
    assert answers[answers.kind == 'trial'].value.tolist()[:6] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ('columns', 'wanted'),
    [
        (['clarity_1', 'clarity_2', 'effort_1', 'effort_2'], ('item_1', 'clarity')),
        (['q1_clarity', 'q1_effort', 'q2_clarity', 'q2_effort'], ('q1', 'clarity')),
        (['G1Q1[SQ001]', 'G1Q1[SQ002]', 'G1Q2[SQ001]', 'G1Q2[SQ002]'], ('g1q1', 'sq001')),
        (['AB01_01', 'AB01_02', 'AB02_01', 'AB02_02'], ('ab01', 'scale_01')),
    ],
)
def test_names_of_other_tools_give_items_and_scales(tmp_path, columns, wanted):
    lines = [['id', 'submitdate', 'group', *columns], *[[k, '2026-11-01', 'r1', 1, 2, 3, 4] for k in (1, 2)]]
    path = tmp_path / 'wide.csv'
    path.write_text('\n'.join(';'.join(map(str, line)) for line in lines))
    rows, _, questions = draft_mapping(path)
    rated = [(r['item'], r['dimension']) for r in rows if r['role'] == 'rating']
    assert len(rated) == 4 and rated[0] == wanted


def test_what_the_file_cannot_tell_is_asked_and_no_ratings_are_refused(tmp_path):
    path = tmp_path / 'wide.csv'
    path.write_text('who,done,q1_clarity,q2_clarity\na,1,4,2\nb,1,3,5\n')
    _, _, questions = draft_mapping(path)
    assert any(q.startswith('condition') for q in questions) and any(q.startswith('participant') for q in questions)
    path.write_text('a,b\nx y z,1\nsome text,hundred\n')
    with pytest.raises(TracenbError, match='no columns that look like ratings'):
        draft_mapping(path)


def test_a_slider_is_drafted_with_its_ends(tmp_path):
    path = tmp_path / 'wide.csv'
    path.write_text('ResponseId,group,q1_clear,q1_tone,q2_clear,q2_tone\na,x,80,-40,7,5\nb,y,3,20,100,-9\n')
    rows, notes, questions = draft_mapping(path)
    ends = {row['dimension']: row['points'] for row in rows if row['role'] == 'rating'}
    assert ends == dict(clear='0 to 100', tone='-50 to 50') and 'clear (0 to 100)' in notes[-1]
    assert 'is it a slider from 0 to 100 (values from 3 to 100)?' in ' '.join(questions)


def test_a_column_to_ignore_needs_nothing_and_other_roles_are_checked():
    rows = read_mapping({'a': dict(role='ignore'), 'b': dict(item='q', dimension='clarity')})
    assert [row['column'] for row in rows] == ['b']
    with pytest.raises(TracenbError, match='role of mapping row 2'):
        read_mapping({'a': dict(role='ratings')})


def run(*args, code=0):
    done = CliRunner().invoke(app, ['study', 'import', *map(str, args)])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output + str(done.exception or '')


def test_without_a_terminal_the_draft_is_written_and_waits_to_be_checked(tmp_path):
    path, out = qualtrics(tmp_path / 'wide.csv'), tmp_path / 'a.csv'
    said = run(path, '--out', out, code=1)
    assert 'a draft of the mapping' in said and '--mapping' in said and '--yes' in said and not out.exists()
    assert '12 participants, 72 ratings on it_was_clear, it_was_hard' in run(path, '--out', out, '--yes')
    assert run(path, '--out', out, '--mapping', tmp_path / 'a.mapping.csv').startswith('Read as utf-8')


def test_on_a_terminal_points_and_direction_are_asked(tmp_path, monkeypatch):
    import tracenb.cli.fieldwork as verbs

    class Terminal:
        isatty = staticmethod(lambda: True)

    monkeypatch.setattr(verbs, 'sys', type('S', (), {'stdin': Terminal}))
    path, out = qualtrics(tmp_path / 'wide.csv'), tmp_path / 'a.csv'
    done = CliRunner().invoke(app, ['study', 'import', str(path), '--out', str(out)], input='7\nn\n7\ny\ny\n')
    assert done.exit_code == 0 and 'points of it_was_hard' in done.output, done.output
    assert read_source(out)[0].attrs['scale_rules']['reverse'] == ('it_was_hard',)


def test_the_file_keeps_ids_points_and_reversal_so_that_the_analysis_is_the_same(tmp_path):
    path, out = qualtrics(tmp_path / 'wide.csv', people=16), tmp_path / 'a.csv'
    run(path, '--out', tmp_path / 'x.csv', '--yes')
    rows = list(csv.DictReader((tmp_path / 'x.mapping.csv').read_text().splitlines()))
    for row in rows:
        row['reverse'] = 'yes' if row['dimension'] == 'it_was_hard' else ''
        row['kind'] = 'quality' if row['role'] == 'rating' else ''
    mapping = write_mapping(rows, tmp_path / 'map.csv')
    run(path, '--out', out, '--mapping', mapping)
    answers, _, _ = read_source(out)
    assert answers.panel_id.nunique() == 16 and len(read_answers(out)) == len(answers)
    found = [
        analyze(source, tmp_path / name, mapping=use, draws=50)
        .tables['means']
        .set_index(['outcome', 'condition'])['mean']
        for name, source, use in (('direct', path, mapping), ('imported', out, None))
    ]
    pd.testing.assert_series_equal(*found)
    assert 'quality' in found[1].index.get_level_values(0)


def test_who_returned_or_was_rejected_at_prolific_is_not_analyzed(tmp_path):
    path, status = qualtrics(tmp_path / 'wide.csv'), tmp_path / 'prolific.csv'
    said = {0: 'RETURNED', 1: 'Rejected', 2: 'TIMED-OUT', 3: 'APPROVED', 4: 'Awaiting Review'}
    lines = [f's{k},pid{k},{what},40' for k, what in said.items()]
    status.write_text('\n'.join(['Submission id,Participant id,Status,Age', *lines]))
    output = run(path, '--out', tmp_path / 'a.csv', '--yes', '--prolific', status)
    assert '1 returned, 1 rejected' in output
    first = read_answers(tmp_path / 'a.csv').drop_duplicates('participant').set_index('participant').status
    assert first.to_dict() == {f'R_{k}': {0: 'returned', 1: 'rejected'}.get(k, 'complete') for k in range(12)}


def test_a_list_of_exclusions_is_counted_in_the_analysis(tmp_path):
    path = qualtrics(tmp_path / 'wide.csv', people=16)
    run(path, '--out', tmp_path / 'a.csv', '--yes')
    (tmp_path / 'out.csv').write_text('participant;reason\nR_3;pilot\npid5;asked to be\n')
    made = analyze(tmp_path / 'a.csv', tmp_path / 'an', draws=50, exclude=tmp_path / 'out.csv')
    flow = made.tables['flow'].set_index('stage').n
    assert (flow['was excluded by the researcher'], flow['analyzed']) == (2, 14)
    (tmp_path / 'out.csv').write_text('R_99\n')
    with pytest.raises(TracenbError, match="line 1: 'R_99' is not a participant"):
        exclude_listed(read_answers(tmp_path / 'a.csv'), tmp_path / 'out.csv')
    assert Path(write_imported(read_answers(tmp_path / 'a.csv'), tmp_path / 'b.csv')).is_file()
    assert join_prolific.__doc__
