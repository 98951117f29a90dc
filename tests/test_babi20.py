"All twenty bAbI tasks: files, readers, simulator, edits, answers whose order counts, and every condition."

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracenb.core.records import Example, Generation, Steps, TracenbError
from tracenb.core.rows import RowsLeftOut
from tracenb.runs.grids import get_grid
from tracenb.scoring.baselines import guess_scores
from tracenb.scoring.overlap import as_set, says_any
from tracenb.scoring.tables import score_response
from tracenb.tasks.babi import BABI_TASKS, babi, load_babi
from tracenb.tasks.babi20 import BABI20_TASKS, babi20, load_babi20, read_answers20, read_babi20_row
from tracenb.tasks.babi20_sim import SIMULATORS20, simulate_babi20
from tracenb.tasks.babi20_solver import SOLVERS20, edit20, implied20
from tracenb.tasks.babi_sim import simulate_babi
from tracenb.tasks.babi_solver import check_gold, gold_table, solve
from tracenb.tasks.task import check_examples, get_task, read_list, split_of
from tracenb.traces.conditions import build_traces, every_condition
from tracenb.traces.parsing import parse

NEW = tuple(label for n, label in BABI20_TASKS.items() if n not in BABI_TASKS)
SIMULATED = simulate_babi20(400, seed=7)


def asked(label, context, question, answers=('?',), facts=()):
    meta = {'label': label, 'facts': list(facts)}
    return Example('x', 'babi20', 'test', tuple(context), question, tuple(answers), meta)


# --- the data set


def test_all_twenty_are_registered_and_the_eleven_stay():
    assert list(BABI20_TASKS) == [*range(1, 21)] and get_task('babi20') is babi20
    assert set(BABI20_TASKS.values()) == set(babi20.labels) == set(SIMULATORS20) == set(SOLVERS20)
    assert len(babi.labels) == 11 and BABI_TASKS.items() < BABI20_TASKS.items() and len(NEW) == 9


@pytest.mark.parametrize(
    'text, answers',
    [
        ('n,e', ('n,e',)),
        ('S, w', ('s,w',)),
        ('north, East', ('n,e',)),
        ('north, milk', ('north', 'milk')),
        ('n,n', ('n,n',)),
        ('n', ('n',)),
        ('milk, apple', ('milk', 'apple')),
        ('yes', ('yes',)),
        ('news', ('news',)),
        ('n,e,milk', ('n', 'e', 'milk')),
        (' ,', ()),
    ],
)
def test_directions_are_one_answer(text, answers):
    assert read_answers20(text) == answers


@pytest.mark.parametrize('text, right', [('s,e', 1), ('s, e', 1), ('S,E', 1), ('e,s', 0), ('s', 0), ('s,e,s', 0)])
def test_the_order_of_directions_counts(text, right):
    e = asked('path-finding', ['The office is east of the hallway.'], 'How?', ['s,e'])
    said = parse(Generation('x', f'<answer>{text}</answer>', 1, 'stop'), e, babi20, trace=False)
    assert [s.value for s in score_response(said, e, babi20.decompose(e), ['answer_exact'], trace=False)] == [right]


@pytest.mark.parametrize('text, right', [('milk,apple', 1), ('apple, milk', 1), ('milk', 0)])
def test_carried_things_are_a_set(text, right):
    e = asked('lists-sets', ['Mary got the milk there.'], 'What is Mary carrying?', ['milk', 'apple'])
    said = parse(Generation('x', f'<answer>{text}</answer>', 1, 'stop'), e, babi20, trace=False)
    assert [s.value for s in score_response(said, e, babi20.decompose(e), ['answer_exact'], trace=False)] == [right]


PATHS = """1 The office is east of the hallway.
2 The kitchen is north of the office.
3 How do you go from the kitchen to the hallway?\ts,w\t1 2
"""
MAYBE = """1 Bill is either in the school or the park.
2 Is Bill in the park?\tmaybe\t1
3 Bill went to the office.
4 Is Bill in the park?\tno\t3
1 Fred went to the park.
2 Is Fred in the park?\tyes\t7
"""


def test_files_of_the_official_form(tmp_path):
    (tmp_path / 'qa19_path-finding_train.txt').write_text(PATHS)
    (tmp_path / 'qa10_indefinite-knowledge_train.txt').write_text(MAYBE)
    with pytest.warns(RowsLeftOut, match='supporting ID 7'):
        items = check_examples(load_babi20(tmp_path, 'train'), babi20)
    assert [(e.id, e.answers, e.meta['facts'], len(e.context)) for e in items] == [
        ('babi20-qa10-train-0000', ('maybe',), [0], 1),
        ('babi20-qa10-train-0000-2', ('no',), [1], 2),
        ('babi20-qa19-train-0000', ('s,w',), [0, 1], 2),
    ]
    assert {e.dataset for e in items} == {'babi20'} and all(Example.from_json(e.to_json()) == e for e in items)
    [one] = load_babi20(tmp_path / 'qa19_path-finding_train.txt', 'train')
    assert one == items[-1] and babi20.decompose(one) == Steps('path-finding', (0, 1))
    with pytest.raises(TracenbError, match='task 19 is not used here'):
        load_babi(tmp_path / 'qa19_path-finding_train.txt', 'train')
    with pytest.raises(TracenbError, match='no such file'):
        load_babi20(tmp_path / 'qa19_path-finding_train.txt', 'test')


def test_rows():
    row = dict(passage=['The office is east of the hallway.'], answer_passage=['The office is east of the hallway.'])
    row |= dict(question='How do you go?', answer='w, w', query_type='path-finding', row_id=3)
    e = read_babi20_row(row, 'test')
    assert (e.id, e.dataset, e.answers, e.meta) == (
        'babi20-3',
        'babi20',
        ('w,w',),
        dict(label='path-finding', facts=[0]),
    )
    with pytest.raises(TracenbError, match='label of babi20'):
        read_babi20_row(row | dict(query_type='path-findin'), 'test')
    with pytest.raises(TracenbError, match='label of babi '):
        babi.read_row(row, 'test')


# --- readers

KNOWN = [
    (
        'three-supporting-facts',
        ['John went to the office.', 'John got the milk.', 'John went to the garden.', 'John left the milk there.'],
        'Where was the milk before the garden?',
        'office',
        (0, 2, 3),
    ),
    (
        'three-supporting-facts',
        ['John took the milk.', 'John went to the garden.', 'Mary went to the office.', 'John moved to the hallway.'],
        'Where was the milk before the hallway?',
        'garden',
        (0, 1, 3),
    ),
    (
        'three-arg-relations',
        ['Fred gave the milk to Bill.', 'Bill gave the milk to Fred.', 'Fred passed the milk to Jeff.'],
        'Who did Fred give the milk to?',
        'Jeff',
        (2,),
    ),
    ('three-arg-relations', ['Fred gave the milk to Bill.'], 'What did Fred give to Bill?', 'milk', (0,)),
    ('yes-no-questions', ['Mary went to the park.', 'Mary got the milk there.'], 'Is Mary in the park?', 'yes', (0,)),
    ('simple-negation', ['Mary is in the park.', 'Mary is not in the park.'], 'Is Mary in the park?', 'no', (1,)),
    ('indefinite-knowledge', ['Bill is either in the park or the school.'], 'Is Bill in the school?', 'maybe', (0,)),
    ('indefinite-knowledge', ['Bill is either in the park or the school.'], 'Is Bill in the office?', 'no', (0,)),
    ('indefinite-knowledge', ['Bill is either in the park or the park.'], 'Is Bill in the park?', 'maybe', (0,)),
    (
        'basic-coreference',
        ['Mary went to the office.', 'Then she moved to the garden.', 'John went to the kitchen.'],
        'Where is Mary?',
        'garden',
        (0, 1),
    ),
    (
        'compound-coreference',
        ['Mary and John went to the office.', 'Afterwards they moved to the garden.'],
        'Where is John?',
        'garden',
        (0, 1),
    ),
    (
        'path-finding',
        ['The office is east of the hallway.', 'The kitchen is north of the office.'],
        'How do you go from the hallway to the kitchen?',
        'e,n',
        (0, 1),
    ),
    ('agents-motivations', ['Yann is thirsty.'], 'Where will yann go?', 'kitchen', (0,)),
    ('agents-motivations', ['Yann is bored.'], 'Why did yann get the football?', 'bored', (0,)),
    (
        'lists-sets',
        ['Mary got the milk there.', 'Mary got the apple there.', 'Mary left the milk.', 'Mary took the milk there.'],
        'What is Mary carrying?',
        'milk,apple',
        (0, 1, 2, 3),
    ),
    (
        'time-reasoning',
        ['Yesterday Bill went to the park.', 'This evening Bill went to the school.'],
        'Where was Bill before the school?',
        'park',
        (0, 1),
    ),
]


@pytest.mark.parametrize('label, context, question, answer, facts', KNOWN)
def test_known_solutions(label, context, question, answer, facts):
    found = solve(asked(label, context, question), label, SOLVERS20)
    assert (','.join(found.answers), found.facts) == (answer, (facts,))


@pytest.mark.parametrize(
    'label, context, question',
    [
        (
            'three-supporting-facts',
            ['Mary got the milk.', 'John went to the park.'],
            'Where was the milk before the park?',
        ),
        ('three-arg-relations', ['Fred gave the milk to Bill.'], 'Who gave the milk to Fred?'),
        ('simple-negation', ['Mary is no longer in the park.'], 'Is Mary in the school?'),
        ('yes-no-questions', ['Mary went to the park.'], 'Is John in the park?'),
        ('basic-coreference', ['Mary went to the park.'], 'Where is John?'),
        (
            'path-finding',
            ['The a is north of the b.', 'The c is south of the a.'],
            'How do you go from the b to the c?',
        ),
        ('agents-motivations', ['Yann went to the garden.'], 'Where will yann go?'),
    ],
)
def test_stories_without_an_answer(label, context, question):
    with pytest.raises(TracenbError, match='does not settle'):
        solve(asked(label, context, question), label, SOLVERS20)


@pytest.mark.parametrize(
    'pronoun, name', [('she', 'John'), ('he', 'Mary'), ('they', 'Mary'), ('she', 'Mary and Sandra')]
)
def test_a_pronoun_needs_somebody_whom_it_fits(pronoun, name):
    story = [f'{name} went to the park.', f'Then {pronoun} went to the office.']
    with pytest.raises(TracenbError, match=f'{pronoun!r} can mean'):
        solve(asked('basic-coreference', story, 'Where is Mary?'), 'basic-coreference', SOLVERS20)


@pytest.mark.parametrize('label', NEW)
def test_a_strange_sentence_and_a_strange_question_are_named(label):
    for e in simulate_babi20(10, seed=10, labels=(label,)):
        for i in range(len(e.context)):
            broken = [*e.context[:i], 'It rained in May.', *e.context[i + 1 :]]
            with pytest.raises(TracenbError, match='x .*It rained in May.'):
                solve(asked(label, broken, e.question), label, SOLVERS20)
        with pytest.raises(TracenbError, match=r'Who\?.* is not of the form'):
            solve(asked(label, e.context, 'Who?'), label, SOLVERS20)


# --- simulator


@settings(max_examples=10)
@given(seed=st.integers(), split=st.sampled_from(['train', 'test']), max_words=st.sampled_from([None, 60, 200]))
def test_simulated_stories_are_certified(seed, split, max_words):
    items = check_examples(simulate_babi20(27, seed, split, NEW, max_words), babi20)
    assert [why for e in items if (why := check_gold(e, SOLVERS20).why)] == []
    assert items == simulate_babi20(40, seed, split, NEW, max_words)[:27]
    for e in items:
        assert implied20(e, babi20.decompose(e)) == e.answers and split_of(e) == split and e.meta['simulated']
        assert babi20.read_answers(babi20.write_answers(e.answers)) == e.answers
        assert max_words is None or len(' '.join(e.context).split()) <= max_words


def test_the_check_notices_a_wrong_answer_and_a_wrong_fact():
    for e in SIMULATED:
        wrong = ('no',) if e.answers == ('yes',) else ('yes',)
        assert check_gold(asked(e.meta['label'], e.context, e.question, wrong, e.meta['facts']), SOLVERS20)[:2] == (
            False,
            True,
        )
        assert not check_gold(asked(e.meta['label'], e.context, e.question, e.answers, ()), SOLVERS20).facts


def test_the_eleven_tell_what_babi_tells():
    labels = tuple(BABI_TASKS.values())
    told = lambda items: [(e.context, e.question, e.answers, e.meta) for e in items]
    assert told(simulate_babi20(44, 3, labels=labels)) == told(simulate_babi(44, 3, labels=labels))


def test_every_answer_of_a_kind_is_told():
    answers = lambda label: {e.answers[0] for e in simulate_babi20(300, seed=2, labels=(label,))}
    assert answers('indefinite-knowledge') == {'yes', 'no', 'maybe'}
    assert answers('simple-negation') == answers('yes-no-questions') == {'yes', 'no'}
    assert len(answers('path-finding')) == 12 and len(answers('agents-motivations')) == 7


# --- edits and conditions


@given(st.sampled_from(SIMULATED), st.integers(0, 10**6))
def test_an_edit_replaces_one_gold_sentence_and_implies_another_answer(e, seed):
    made, gold = edit20(e, random.Random(seed)), babi20.decompose(e)
    if made is None:
        return
    i = made.meta['edited']
    assert [k for k, (a, b) in enumerate(zip(e.context, made.context, strict=True)) if a != b] == [i]
    assert i in gold.facts and made.context[i] not in e.context and made.answers != e.answers
    assert implied20(made, gold) == made.answers and made == edit20(e, random.Random(seed))


def test_nearly_every_story_has_an_edit():
    found = Counter(e.meta['label'] for e in SIMULATED if edit20(e, random.Random(e.id)))
    assert min(found[label] for label in babi20.labels) >= 19  # of 20


def holds(examples, name):
    "What a condition promises of label and facts, read back from its traces."
    promised = dict(correct=(1, 1), wrong_label=(0, 1), wrong_facts=(1, 0), incorrect=(0, 0), hard_facts=(1, 0))
    promised |= dict(edited_facts=(1, 0), foreign_facts=(1, 0), swapped=(1, 0))
    for e, t in zip(examples, build_traces(examples, babi20, name), strict=True):
        gold = babi20.decompose(e)
        said = parse(Generation(e.id, f'<think>{t.text}</think> <answer>x</answer>', 1, 'stop'), e, babi20)
        right = {e.context[i] for i in gold.facts}
        if t.text and name in promised:
            assert (said.label == gold.label, set(said.facts) == right) == promised[name], (name, e.id)
        if t.steps:
            assert (said.label, set(said.facts)) == (t.steps.label, {e.context[i] for i in t.steps.facts})
        if name in ('wrong_facts', 'incorrect', 'foreign_facts', 'hard_facts', 'swapped'):
            assert not set(read_list(t.text.partition('question: ')[2]) or ()) & right
        if name == 'masked':
            assert not says_any(t.text, as_set(e.answers))


@settings(max_examples=14)
@given(st.integers(0, 200), st.sampled_from(every_condition(babi20)))
def test_every_condition_keeps_its_promise(first, name):
    holds(SIMULATED[first : first + 200], name)  # 10 of each task


def test_all_conditions_are_built_in_time():
    examples = simulate_babi20(400, seed=1)
    start = time.process_time()
    for name in every_condition(babi20):
        build_traces(examples, babi20, name)
    assert time.process_time() - start < 60 * len(examples) / 10_000 * 4  # four times as long as the aim


def test_guesses_do_not_solve_it():
    scores = guess_scores(SIMULATED, babi20).mean()
    assert {'guess_commonest', 'guess_commonest_of_label', 'guess_first', 'guess_last'} == set(scores.index)
    assert scores.max() < 0.5 and scores.guess_commonest_of_label > 0.25


@pytest.mark.parametrize('name, n', [('demo-babi20', 4), ('paper-babi20', 18)])
def test_grids(name, n):
    runs = get_grid(name).runs
    assert len(runs) == n and {r.dataset for r in runs} == {'babi20'} and set(runs[0].data.labels) <= {*babi20.labels}


# --- the official training files


LOADED = []


@pytest.fixture
def official(shared):
    if not LOADED:
        LOADED.extend(load_babi20(shared / 'babi_official', 'train'))
    return LOADED


def test_official_answers_and_facts_follow_from_the_text(official):
    table = gold_table(official, SOLVERS20)
    assert table.loc['all'].tolist() == [20_000, 19_998, 19_998] and (table.n[:-1] == 1000).all()
    assert table.loc['three-arg-relations'].tolist() == [1000, 998, 998]
    assert all(implied20(e, babi20.decompose(e)) == e.answers for e in official)


def test_official_questions_have_an_edit(official):
    new = [e for e in official if e.meta['label'] in NEW and e.meta['label'] != 'indefinite-knowledge'][::4]
    new += [e for e in official if e.meta['label'] == 'indefinite-knowledge']
    without = Counter(e.meta['label'] for e in new if edit20(e, random.Random(e.id)) is None)
    assert without == {}


def test_official_questions_keep_the_promises_of_every_condition(official):
    for name in every_condition(babi20):
        holds(official[::100], name)


def test_simulated_stories_are_like_the_official_ones(official):
    mean = lambda items, f: sum(map(f, items)) / len(items)
    words = lambda items: {
        w for e in items for s in (*e.context, e.question, *e.answers) for w in s.strip('.?').split()
    }
    share = lambda items: Counter(a for e in items for a in e.answers)
    simulated = simulate_babi20(9 * 500, seed=5, labels=NEW)
    for label in NEW:
        real, sim = ([e for e in x if e.meta['label'] == label] for x in (official, simulated))
        assert words(real) == words(sim), label
        assert mean(sim, lambda e: len(e.context)) == pytest.approx(mean(real, lambda e: len(e.context)), rel=0.15)
        assert mean(sim, lambda e: len(e.meta['facts'])) == mean(real, lambda e: len(e.meta['facts']))
        for answer, n in share(real).items():
            assert share(sim)[answer] / len(sim) == pytest.approx(n / len(real), abs=0.08), (label, answer)


def test_a_published_row_with_a_label_of_the_eleven_is_of_babi_and_with_one_of_the_nine_of_babi20():
    from tracenb.audit.joining import dataset_of

    found = {label: dataset_of({'label': label}, '').name for label in get_task('babi20').labels}
    assert {label for label, name in found.items() if name == 'babi'} == set(get_task('babi').labels)
    assert set(found.values()) == {'babi', 'babi20'}
    assert dataset_of({'label': 'counting', 'dataset': 'babi20'}, '').name == 'babi20'
