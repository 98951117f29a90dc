"""Published generations: joins, rows that are left out and why, and that no value of a field breaks the reader."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tracenb.audit.joining import Index, dataset_of
from tracenb.audit.judging import Prediction
from tracenb.audit.published import group_files, name_parts, read_predictions, taught_steps
from tracenb.audit.reading import Reader
from tracenb.core.files import write_jsonl
from tracenb.core.records import TracenbError
from tracenb.tasks.task import TASKS, get_task
from tracenb.traces.chat import completion_text
from tracenb.traces.conditions import build_traces

TASK = get_task('cotempqa')
ASKED = TASK.simulate(12, 5, 'test', TASK.labels, None)
TEXTS = [completion_text(e, t, TASK) for e, t in zip(ASKED, build_traces(ASKED, TASK, 'correct', 1))]
FULL = [
    dict(
        dataset='cotempqa',
        model='Tiny',
        condition='correct',
        question=e.question,
        category=TASK.decompose(e).label,
        facts=list(e.context),
        gold=list(e.answers),
        triple_element=e.meta['triple_element'],
        prediction=text,
    )
    for e, text in zip(ASKED, TEXTS)
]
BARE = [dict(model='Tiny', condition='correct', id=e.id, prediction=text) for e, text in zip(ASKED, TEXTS)]
BABI = dict(
    passage=['Ann is here.', 'Bob is there.'],
    question='Where is Ann?',
    query_type='single-supporting-fact',
    answer_passage=['Ann is here.'],
    gold='here',
    prediction='here',
)
MARCO = dict(
    query='How far?', query_type='NUMERIC', passages=['A mile.', 'No idea.'], answers=['A mile'], prediction='a mile'
)


def made(tmp_path, rows, index=None, task=None, name='a.jsonl'):
    "The predictions of a file of these rows; a text is taken as a line."
    (tmp_path / name).write_text(''.join((r if isinstance(r, str) else json.dumps(r)) + '\n' for r in rows))
    return read_predictions([tmp_path / name], index, task)


# --- 1. Joining


def test_an_unknown_id_is_not_joined_by_its_question():
    index = Index(ASKED)
    with pytest.raises(TracenbError, match='fit no example'):
        index.find(dict(id='nobody', question=ASKED[0].question), 'p1')
    with pytest.raises(TracenbError, match=r"s: 1 fit no example, the first: p1 \('nobody'\)"):
        index.check('s')


@pytest.mark.parametrize(
    'question, fits',
    [
        (ASKED[0].question, True),
        (f' {ASKED[0].question.upper()}\n', True),
        (None, True),
        ('', True),
        (ASKED[1].question, False),
        ('Who else?', False),
    ],
)
def test_a_question_beside_an_id_must_be_its_own(question, fits):
    index, row = Index(ASKED), dict(id=ASKED[0].id, question=question)
    if fits:
        assert index.find(row, 'p1') is ASKED[0] and index.check('s') is None
    else:
        with pytest.raises(TracenbError, match='contradict'):
            index.find(row, 'p1')
        with pytest.raises(
            TracenbError, match='s: 1 contradict themselves: id and question are of different examples, the first: p1'
        ):
            index.check('s')


def test_the_context_tells_apart_what_asks_the_same():
    one, other = ASKED[0], replace(ASKED[0], id='other', context=ASKED[1].context)
    for name in ('facts', 'passage', 'passages'):
        for form in (list, lambda c: str(list(c))):
            index = Index([one, other])
            assert [index.find({'question': one.question, name: form(e.context)}, 'p') for e in (other, one)] == [
                other,
                one,
            ]
    for row in ({}, dict(facts=['Something else.']), dict(facts=7), dict(facts='[{[1]: 2}]'), dict(facts=[[1]])):
        with pytest.raises(TracenbError):
            Index([one, other]).find(row | dict(question=one.question), 'p')


def test_repeats_of_one_example_are_given_out_in_order(tmp_path):
    twin, row = (
        replace(ASKED[0], id='twin'),
        {k: v for k, v in BARE[0].items() if k != 'id'} | dict(question=ASKED[0].question),
    )
    got = made(tmp_path, [row, row, row], Index([ASKED[0], twin]))
    assert [(c.example.id, c.sample) for c in got.cases] == [(ASKED[0].id, 0), ('twin', 0), (ASKED[0].id, 1)]
    assert got.unanswered == 0 and not got.problems


def test_all_rows_without_an_example_are_on_the_error(tmp_path):
    rows = [r | dict(id=f'x{k}') for k, r in enumerate(BARE[:7])] + [BARE[7] | dict(question='Who?'), BARE[8]]
    with pytest.raises(TracenbError, match='7 fit no example, the first: .*1 contradict') as e:
        made(tmp_path, rows, Index(ASKED))
    assert str(e.value).count('a.jsonl:') == 5 and len(e.value.rows) == 8
    assert (
        e.value.rows[6].startswith(f"{tmp_path}/a.jsonl:7 ('x6'): fit no example") and 'contradict' in e.value.rows[7]
    )


# --- 2, 3. What was asked


def test_examples_without_a_prediction_are_counted_and_stay_asked(tmp_path):
    got = made(tmp_path, [BARE[5], BARE[3] | dict(prediction=None), BARE[2]], Index(ASKED))
    assert (
        [c.example.id for c in got.cases] == [ASKED[5].id, ASKED[2].id]
        and got.unanswered == 10
        and len(got.problems) == 1
    )
    assert [e.id for e in got.asked[:3]] == [ASKED[k].id for k in (5, 3, 2)] and sorted(
        e.id for e in got.asked
    ) == sorted(e.id for e in ASKED)


def test_rows_with_a_context_are_asked_even_without_a_prediction(tmp_path):
    rows = [dict(r) for r in FULL]
    rows[1]['prediction'], rows[4]['prediction'], rows[6]['facts'] = None, '\ud83d', []
    del rows[2]['prediction']
    got = made(tmp_path, [*rows, rows[0]])
    assert got.unanswered == 0 and len(got.cases) == 9 and len(got.problems) == 4
    assert [e.question for e in got.asked] == [e.question for k, e in enumerate(ASKED) if k != 6]
    assert {c.example.id for c in got.cases} < {e.id for e in got.asked} and len({e.id for e in got.asked}) == 11


def test_a_second_prediction_of_an_example_is_asked_once(tmp_path):
    got = made(tmp_path, [BARE[0] | dict(prediction=None), BARE[0], BARE[0]], Index(ASKED[:1]))
    assert (
        [c.sample for c in got.cases] == [0, 1]
        and len(got.asked) == 1
        and got.unanswered == 0
        and ['null' in str(p) for p in got.problems] == [True]
    )


# --- 4. Data set and types


def test_no_row_chooses_what_is_imported(tmp_path, monkeypatch):
    (tmp_path / 'harm_of_rows.py').write_text('raise SystemExit("imported")')
    (tmp_path / 'harm').mkdir()
    (tmp_path / 'harm' / 'of_rows.py').write_text('raise SystemExit("imported")')
    monkeypatch.syspath_prepend(tmp_path)
    for name in ('harm_of_rows', 'harm.of_rows', 'os.path'):
        with pytest.raises(TracenbError, match='unknown data set'):
            dataset_of(dict(dataset=name), '')
    assert not {'harm_of_rows', 'harm.of_rows'} & sys.modules.keys()


@pytest.mark.parametrize('name', ['dataset', 'model', 'condition', 'run'])
@pytest.mark.parametrize('value', [7.5, True, ['a'], {'a': 1}, 12])
def test_names_that_are_not_text(tmp_path, name, value):
    got = made(
        tmp_path,
        [FULL[0] | {name: value}] + FULL[1:] if (name, value) != ('run', 12) else [r | dict(run=12) for r in FULL],
    )
    if (name, value) == ('run', 12):
        assert got.run == '12' and len(got.cases) == 12
    else:
        assert len(got.cases) == 11 and f'a.jsonl:1: the {name} is {value!r}, not a text' in str(got.problems[0])


def test_the_index_names_the_data_set(tmp_path):
    rows = [
        BARE[0],
        BARE[1] | dict(dataset='cotempqa'),
        BARE[2] | dict(dataset='babi'),
        BARE[3] | dict(label='nonsense'),
    ]
    for task in (TASK, None):
        got = made(tmp_path, rows, Index(ASKED), task)
        assert (got.dataset, len(got.cases), len(got.problems)) == ('cotempqa', 3, 1)
        assert "a.jsonl:3: the dataset is 'babi', but the examples are of 'cotempqa'" in str(got.problems[0])
    with pytest.raises(TracenbError, match='neither a data set nor a label'):
        made(tmp_path, rows[:1])


# --- 5. Values that break readers


def test_nesting_and_halves_of_characters_are_problems_of_their_row(tmp_path):
    deep = '[' * 99999 + ']' * 99999
    lines = [
        *FULL[:3],
        json.dumps(FULL[3])[:-1] + f', "extra": {deep}}}',
        FULL[4] | dict(prediction='so \ud83d'),
        FULL[5] | dict(question='Who \udc00?'),
        FULL[6] | dict(facts=['\ud800 in 1990.']),
        FULL[7] | {'\ud800': 1, 'facts': None},
    ]
    got = made(tmp_path, lines)
    says = [
        'nested too deeply',
        'the prediction holds half a surrogate pair',
        'the question holds half a surrogate pair',
        '',
        '',
    ]
    assert len(got.cases) == 3 and len(got.problems) == 5
    for k, (problem, words) in enumerate(zip(got.problems, says), 4):
        assert f'a.jsonl:{k}: ' in str(problem) and words in str(problem)
    write_jsonl(
        tmp_path / 'left_out.jsonl', [dict(problem=p.what, remedy=p.remedy) for p in got.problems]
    )  # can be written


@pytest.mark.parametrize(
    'change, name',
    [
        (dict(passage=['Ann is here.', 'So \ud800.']), 'context'),
        (dict(gold='\udfff'), 'answers'),
        (dict(row_id='\ud800'), 'id'),
    ],
)
def test_halves_of_characters_in_what_is_kept_of_a_row(change, name):
    with pytest.raises(TracenbError, match=f'the {name} holds half a surrogate pair'):
        Reader().read(BABI | change, name_parts(Path('a.jsonl')), 'p')


@pytest.mark.parametrize('error', [ValueError, TypeError, RecursionError])
def test_what_readers_of_rows_raise_is_a_problem_of_the_row(error, monkeypatch):
    def read_row(row, split):
        raise error('a\nreason')

    monkeypatch.setitem(TASKS, 'cotempqa', replace(TASK, read_row=read_row))
    with pytest.raises(TracenbError, match="not a row of 'cotempqa': a reason"):
        Reader().read(FULL[0], name_parts(Path('a.jsonl')), 'p')


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(['equal', '[1]', '[{[1]: 2}]', "['a']", '\ud800', 'babi', 'Ann is here.', '(' * 400]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(['passage_text', 'is_selected']), inner, max_size=3)
    ),
    max_leaves=6,
)
DEEP = [[]]
for _ in range(5000):
    DEEP = [DEEP]
FIELDS = [
    'dataset',
    'model',
    'condition',
    'run',
    'id',
    'row_id',
    'query_id',
    'index',
    'split',
    'question',
    'query',
    'facts',
    'passage',
    'passages',
    'gold',
    'answer',
    'answers',
    'category',
    'label',
    'query_type',
    'triple_element',
    'answer_passage',
    'wellFormedAnswers',
    'prediction',
    'text',
    'output',
]
INDEX = Index(ASKED)


@given(
    row=st.sampled_from([FULL[0], BARE[0], BABI, MARCO]),
    changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3),
    joined=st.booleans(),
)
@example(row=FULL[0], changes={'facts': '[{[1]: 2}]'}, joined=False)
@example(row=BABI, changes={'passage': '[{[1]: 2}]'}, joined=False)
@example(row=FULL[0], changes={'row_id': float('inf')}, joined=False)
def test_any_value_gives_a_case_or_an_error(row, changes, joined):
    holds(row, changes, joined)


@pytest.mark.parametrize('name', FIELDS)
@pytest.mark.parametrize('row', [FULL[0], BARE[0], BABI, MARCO], ids=['cotempqa', 'joined', 'babi', 'msmarco'])
def test_any_depth_gives_a_case_or_an_error(row, name):
    holds(row, {name: DEEP}, row is BARE[0])
    holds(row, {name: {'passage_text': DEEP, 'is_selected': DEEP}}, row is BARE[0])


def holds(row, changes, joined):
    "Whatever is read is a case that can be written, or an error."
    row, parts = row | changes, name_parts(Path('a.jsonl'))
    reader = Reader(INDEX if joined else None)
    for act in (lambda: reader.identity(row, parts), lambda: reader.read(row, parts, 'p')):
        try:
            got = act()
        except TracenbError:
            continue
        if isinstance(got, tuple):
            assert all(isinstance(x, str) and x.encode() is not None for x in got[:3])
        else:
            assert isinstance(got, Prediction) and got.example.to_json().encode() and got.text.encode() is not None


# --- 7, 9. Was the model taught to write steps?


@pytest.mark.parametrize('condition', ['mix', 'correct:5', 'mix:2', 'of their own', 'r2', 'swapped'])
@pytest.mark.parametrize('with_steps, taught', [(12, True), (6, True), (5, False), (1, False)])
def test_unknown_conditions_follow_half_of_the_responses(tmp_path, condition, with_steps, taught):
    rows = [
        r | dict(condition=condition, prediction=text if k < with_steps else 'no idea')
        for k, (r, text) in enumerate(zip(FULL, TEXTS))
    ]
    got = made(tmp_path, rows)
    assert (got.condition, got.has_steps, len(got.cases)) == (condition, taught, 12)


def test_our_own_conditions_define_whether_steps_are_taught():
    cases = [Prediction(e, t, TASK) for e, t in zip(ASKED, TEXTS)]
    assert [taught_steps(c, cases)[0].taught for c in ('vanilla', 'correct', 'mix:0.5', 'filler', 'r1')] == [
        False,
        True,
        True,
        False,
        False,
    ]


# --- 8. Several models in one file


def test_the_majority_is_kept_and_the_others_named(tmp_path):
    rows = [r | dict(model='Other') for r in FULL[:3]] + FULL[3:] + [BABI]
    got = made(tmp_path, rows)
    assert got.name == 'cotempqa Tiny correct' and len(got.cases) == len(got.asked) == 9
    assert [str(p).split(': ')[1].split('\n')[0] for p in got.problems] == [
        'a row of cotempqa Other correct among rows of cotempqa Tiny correct'
    ] * 3 + ['a row of babi a unknown among rows of cotempqa Tiny correct']
    assert [f'a.jsonl:{k}:' in str(p) for p, k in zip(got.problems, (1, 2, 3, 13))] == [True] * 4


# --- 10. Names and folders


@pytest.mark.parametrize(
    'middle, condition, run',
    [
        ('', 'vanilla', ''),
        ('-reasoning-facts', 'correct', ''),
        ('-reasoning-facts-perturbed-121', 'incorrect', '121'),
        ('-reasoning-r1-traces', 'r1', ''),
        ('-reasoning-summarized-r1-traces', 'r1_summary', ''),
        ('-reasoning-r1-explanations', 'post_hoc', ''),
        ('-reasoning-r1-set-swapped', 'swapped', ''),
        ('-reasoning-r1-set-vanilla', 'vanilla', 'r1-set'),
        ('-reasoning-r1-set-custom-traces', 'correct', 'r1-set'),
        ('-reasoning-r1-set-incorrect-traces', 'incorrect', 'r1-set'),
        ('-reasoning-r1-set-vanilla-7', 'vanilla', 'r1-set 7'),
        ('-something-new', 'something-new', ''),
    ],
)
def test_names_of_the_release(middle, condition, run):
    for name in (
        f'mix/M-1B-sft-adapter{middle}_default.json',
        f'mix_default/M-1B-sft-adapter{middle}_default_mix.json',
    ):
        assert name_parts(Path(name)) == dict(
            model='M-1B', condition=condition, run=run, label='mix', stem=f'M-1B-sft-adapter{middle}_default'
        )


@pytest.mark.parametrize(
    'name',
    [
        '{}_default/M-1B-sft-adapter_default_{}.json',
        '{}_default/M-1B-sft-adapter_default.json',
        '{}/anything.json',
        'anything_{}.json',
    ],
)
def test_files_of_the_labels_belong_together(tmp_path, name):
    for label in TASK.labels:
        path = tmp_path / name.format(label, label)
        path.parent.mkdir(exist_ok=True)
        write_jsonl(
            path,
            [
                {k: v for k, v in r.items() if k in ('question', 'facts', 'gold', 'triple_element', 'prediction')}
                for r in FULL
                if r['category'] == label
            ],
        )
    (tmp_path / 'anything_counting.json').write_text(json.dumps(BABI))
    group, alone = sorted(group_files([tmp_path]), key=len, reverse=True)
    got = read_predictions(group)
    assert (
        len(group) == 4
        and len(got.cases) == 12
        and not got.problems
        and got.model == ('anything' if 'any' in name else 'M-1B')
    )
    assert [p.name for p in alone] == ['anything_counting.json']  # of another data set


def test_files_of_an_audit_and_hidden_files_are_not_predictions(tmp_path):
    for name in (
        'a.jsonl',
        'rows.jsonl',
        '.hidden.jsonl',
        '.ipynb_checkpoints/a.jsonl',
        'out/audit.json',
        'out/rows.parquet',
        'out/left_out.jsonl',
        'theirs/rows.parquet',
        '.run/generations.jsonl',
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(g[0].relative_to(tmp_path)) for g in group_files([tmp_path])] == [
        'a.jsonl',
        'rows.jsonl',
        'theirs/rows.parquet',
    ]  # no audit wrote the last one
    with pytest.raises(TracenbError, match='no file of generations'):
        group_files([tmp_path / 'out'])
    for name in ('.hidden.jsonl', 'out/left_out.jsonl'):
        assert group_files([tmp_path / name]) == [[tmp_path / name]]  # who names it wants it


# --- Published rows, joined to the research copies


def test_published_stories_are_joined_by_question_and_context(shared, tmp_path):
    task = TASKS['babi']
    examples = task.load(shared / 'babi', 'test')
    [group] = group_files([shared / 'published' / 'babi_Qwen3-1.7B_correct.jsonl.gz'])
    joined, alone = read_predictions(group, Index(examples)), read_predictions(group)
    assert len(joined.cases) == len(alone.cases) == 376 and joined.unanswered == 0 and not joined.problems
    assert [c.example.context for c in joined.cases] == [c.example.context for c in alone.cases]
