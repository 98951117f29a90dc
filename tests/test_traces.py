"""What each condition must keep and what it must break, over all data sets."""

from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracenb.core.records import Generation, TracenbError
from tracenb.tasks.task import DataConfig, get_task, load_examples, toy
from tracenb.traces.chat import render
from tracenb.traces.conditions import (
    CONDITIONS,
    build_traces,
    condition,
    count_words,
    every_condition,
    get_condition,
    n_traces_missing_facts,
)
from tracenb.traces.parsing import parse

REAL_TASKS = ('cotempqa', 'msmarco', 'babi')
names, seeds = st.sampled_from(('toy', *REAL_TASKS)), st.integers(0, 10**6)


@cache
def examples(name, n=44, seed=0, split='train'):
    return load_examples(
        get_task(name), DataConfig(n_train=n, n_test=n, seed=seed, max_words=None if name != 'msmarco' else 300), split
    )


def built(name, which, seed=1, rows=None, **kw):
    "(example, gold, trace) of each example."
    rows = examples(name) if rows is None else rows
    return [
        (e, get_task(name).decompose(e), t) for e, t in zip(rows, build_traces(rows, get_task(name), which, seed, **kw))
    ]


def texts(e, facts):
    return {e.context[i] for i in facts}


@pytest.mark.parametrize('name', ('toy', *REAL_TASKS))
def test_correct_claims_gold(name):
    for e, gold, t in built(name, 'correct'):
        assert t.steps == gold
        assert all(repr(c)[1:-1] in t.text for c in texts(e, gold.facts))


@given(seeds, names)
def test_incorrect_breaks_both_steps_of_every_example(seed, name):
    for e, gold, t in built(name, 'incorrect', seed):
        assert t.steps.label in get_task(name).labels and t.steps.label != gold.label
        right = texts(e, gold.facts)
        assert not texts(e, t.steps.facts) & right
        assert len(t.steps.facts) == min(max(len(gold.facts), 1), sum(c not in right for c in e.context))
        assert list(t.steps.facts) == sorted(set(t.steps.facts))


@given(seeds, names)
def test_the_corruption_design_has_four_cells(seed, name):
    cells = {
        c: [t.steps for *_, t in built(name, c, seed)] for c in ('correct', 'wrong_label', 'wrong_facts', 'incorrect')
    }
    for gold, label, facts, both in zip(*cells.values()):
        assert label.label != gold.label and label.facts == gold.facts
        assert facts.label == gold.label and facts.facts != gold.facts
        assert (label.label, facts.facts) == (both.label, both.facts)  # the same draws in every cell


@pytest.mark.parametrize('name', REAL_TASKS)
def test_our_conditions_are_formatted_alike(name):
    frame = lambda t: t.text.replace(t.steps.label, 'L').split('to answer the question: ')[0]
    made = {c: [frame(t) for *_, t in built(name, c)] for c in ('correct', 'wrong_label', 'wrong_facts', 'incorrect')}
    assert all(frames == made['correct'] for frames in made.values())


@settings(max_examples=15)
@given(seeds, st.sampled_from(REAL_TASKS))
def test_incorrect_paper_is_wrong_and_written_the_papers_way(seed, name):
    task = get_task(name)
    for (e, gold, t), (*_, ours) in zip(built(name, 'incorrect_paper', seed), built(name, 'incorrect', seed)):
        said = parse(
            Generation(id=e.id, text=f'<think>{t.text}</think> <answer>x</answer>', n_tokens=1, finish_reason='stop'),
            e,
            task,
        )
        assert said.label == ours.steps.label != gold.label  # the same wrong label as in our form
        quoted = t.text.split('to answer the question: ')[1]
        paper_gold = texts(e, task.paper.decompose(e).facts)
        if name == 'babi':
            assert quoted == quoted.lower() and quoted.startswith('[')
        elif name == 'msmarco':
            assert (
                quoted in e.context
            )  # a short answer shares fewer than 8 word types with every passage, the right one included
        else:
            assert quoted in e.context and quoted not in paper_gold


@settings(max_examples=15)
@given(seeds, st.sampled_from(REAL_TASKS))
def test_swapped_keeps_the_label_and_tells_of_another_example(seed, name):
    task, rows = get_task(name), examples(name)
    correct = {e.id: t.text for e, _, t in built(name, 'correct')}
    for e, gold, t in built(name, 'swapped', seed):
        owners = [i for i, text in correct.items() if text == t.text]
        assert owners and e.id not in owners and t.text != correct[e.id]
        assert all(task.decompose(o).label == gold.label for o in rows if o.id in owners)


@settings(max_examples=15)
@given(seeds, names)
def test_shuffled_keeps_the_words_and_no_order(seed, name):
    made = [
        (c.text.split(), s.text.split())
        for (*_, c), (*_, s) in zip(built(name, 'correct'), built(name, 'shuffled', seed))
    ]
    assert all(sorted(a) == sorted(b) for a, b in made)
    assert sum(a == b for a, b in made) < len(made) / 10


@pytest.mark.parametrize('name', ('toy', *REAL_TASKS))
def test_filler_keeps_the_length_and_no_words(name):
    for (*_, correct), (*_, filler) in zip(built(name, 'correct'), built(name, 'filler')):
        assert count_words(filler.text) == count_words(correct.text) and set(filler.text) == {'.', ' '}


def test_filler_matches_the_tokens_of_a_tokenizer_that_merges_stops():
    count = lambda text: len(
        text.replace('. . . .', '#').replace('. ', '.').replace(' ', '')
    )  # four stops are one token
    for (*_, correct), (*_, filler) in zip(built('babi', 'correct'), built('babi', 'filler', count=count)):
        assert count(filler.text) == count(correct.text)


@given(st.floats(0, 1), seeds, names)
def test_mix_corrupts_exactly_its_share(share, seed, name):
    wrong = [t.steps != gold for *_, gold, t in built(name, f'mix:{share:g}', seed)]
    assert sum(wrong) == round(float(f'{share:g}') * len(wrong))


@settings(max_examples=10)
@given(seeds, st.sampled_from(REAL_TASKS))
def test_mixes_are_nested_between_correct_and_incorrect(seed, name):
    mixes = [[t.text for *_, t in built(name, c, seed)] for c in ('mix:0', 'mix:0.25', 'mix:0.5', 'mix:1')]
    right, wrong = ([t.text for *_, t in built(name, c, seed)] for c in ('correct', 'incorrect'))
    assert mixes[0] == right and mixes[-1] == wrong
    assert all(
        b == w for a, b, w, r in zip(*mixes[1:3], wrong, right) if a != r
    )  # wrong at a quarter is wrong at a half


def test_wrong_labels_stay_among_the_labels_in_play():
    task, labels = get_task('babi'), ('counting', 'conjunction', 'lists-sets')
    rows = load_examples(task, DataConfig(n_train=60, labels=labels), 'train')
    for c in ('incorrect', 'wrong_label'):
        assert {t.steps.label for t in build_traces(rows, task, c, 1, labels)} == set(labels)
    with pytest.raises(TracenbError, match="no label other than 'counting' is in play"):
        build_traces(rows, task, 'incorrect', 1, ('counting',))


def test_wrong_labels_are_uniform_over_the_other_labels():
    from scipy.stats import chisquare

    task, labels = get_task('babi'), get_task('babi').labels
    rows = load_examples(task, DataConfig(n_train=2200, labels=('counting', 'time-reasoning')), 'train')
    said = [
        t.steps.label
        for e, t in zip(rows, build_traces(rows, task, 'incorrect', 3))
        if task.decompose(e).label == 'counting'
    ]
    counts = [said.count(x) for x in labels if x != 'counting']
    assert sum(counts) == 1100 and chisquare(counts).pvalue > 1e-4


@settings(max_examples=10)
@given(
    st.integers(0, 99),
    st.integers(1, 32),
    st.sampled_from(['incorrect', 'wrong_label', 'wrong_facts', 'incorrect_paper', 'shuffled', 'filler']),
    st.sampled_from(REAL_TASKS),
)
def test_adding_examples_changes_no_other_trace(seed, k, which, name):
    task, rows = get_task(name), examples(name)
    assert build_traces(rows[:k], task, which, seed) == build_traces(rows, task, which, seed)[:k]
    assert build_traces(rows[::-1], task, which, seed)[::-1] == build_traces(rows, task, which, seed)


@pytest.mark.parametrize('name', REAL_TASKS)
def test_seeds_differ_and_repeat(name):
    for which in ('incorrect', 'incorrect_paper', 'swapped', 'shuffled', 'mix:0.5'):
        one, again, other = ([t.text for *_, t in built(name, which, seed)] for seed in (1, 1, 2))
        assert one == again != other


def test_conditions_without_trace():
    for c in ('zero_shot', 'vanilla'):
        assert all(t.text == '' and t.steps is None for *_, t in built('toy', c))
    assert not get_condition('zero_shot').trains and get_condition('vanilla').trains


def test_the_answer_is_right_under_every_condition():
    for name in REAL_TASKS:
        task = get_task(name)
        for which in every_condition(task):
            for e, _, t in built(name, which):
                said = parse(
                    Generation(
                        id=e.id, text=render(e, t, task).completion[0]['content'], n_tokens=1, finish_reason='stop'
                    ),
                    e,
                    task,
                    get_condition(which).has_trace,
                    get_condition(which).has_steps,
                )
                assert set(said.answers) == set(e.answers[:1] if task.alternatives else e.answers)
                assert said.error is None


def test_every_condition_says_what_it_is():
    assert {
        'zero_shot',
        'vanilla',
        'correct',
        'incorrect',
        'incorrect_paper',
        'wrong_label',
        'wrong_facts',
        'swapped',
        'shuffled',
        'filler',
        'mix',
        'r1',
        'r1_summary',
        'post_hoc',
        'r1_swapped',
    } == set(CONDITIONS)
    assert all(c.about and c.about.strip().endswith('.') for c in CONDITIONS.values())
    assert get_condition('mix:0.50').about == CONDITIONS['mix'].about and get_condition('mix:0.50').name == 'mix:0.5'


@pytest.mark.parametrize(
    'name, message',
    [
        ('incorect', "did you mean 'incorrect'"),
        ('mix', "needs the share of incorrect traces, not ''"),
        ('mix:half', "not 'half'"),
        ('mix:1.01', "not '1.01'"),
        ('mix:nan', "not 'nan'"),
        ('correct:1', 'takes no number'),
    ],
)
def test_unknown_conditions(name, message):
    with pytest.raises(TracenbError, match=message):
        get_condition(name)


def test_what_cannot_be_built_is_an_error():
    with pytest.raises(TracenbError, match='no other example of'):
        build_traces(examples('babi')[:1], get_task('babi'), 'swapped')
    with pytest.raises(TracenbError, match="no incorrect traces for 'toy'"):
        build_traces(examples('toy'), toy, 'incorrect_paper')


def test_a_condition_of_ones_own():
    @condition('shouted')
    def shouted(example, ctx):
        "The correct trace in capitals."
        return ctx.correct_text(example).upper()

    try:
        assert built('toy', 'shouted')[0][2].text == built('toy', 'correct')[0][2].text.upper()
    finally:
        del CONDITIONS['shouted']


def test_missing_facts_are_counted_in_stories_without_other_sentences():
    task = get_task('babi')
    rows = load_examples(task, DataConfig(n_train=20, labels=('positional-reasoning',)), 'train')
    assert (
        n_traces_missing_facts(rows, build_traces(rows, task, 'incorrect'), task) == 20
    )  # both sentences of such a story are gold
    assert n_traces_missing_facts(rows, build_traces(rows, task, 'correct'), task) == 0


@pytest.mark.parametrize('name', ['cotempqa', 'babi'])
def test_real_rows(name, shared):
    task = get_task(name)
    rows = task.load(shared / name, 'test')
    for e, gold, t in built(name, 'incorrect', rows=rows):
        assert not texts(e, t.steps.facts) & texts(e, gold.facts)
    counts = Counter(
        len(t.text) > 0
        for c in every_condition(task)
        if get_condition(c).has_trace
        for *_, t in built(name, c, rows=rows)
    )
    assert counts == {True: len(rows) * sum(get_condition(c).has_trace for c in every_condition(task))}
