"""What each condition must keep and what it must break."""
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracenb import babi  # registers its task
from tracenb.core import TracenbError
from tracenb.task import DataConfig, get_task, load_examples
from tracenb.traces import CONDITIONS, build_traces, get_condition, shortfall


def examples(task, n=33, seed=0, split='train'): return load_examples(get_task(task), DataConfig(n_train=n, n_test=n, seed=seed), split)


@pytest.mark.parametrize('name', ['toy', 'babi'])
def test_correct_claims_gold(name):
    task = get_task(name)
    for e, t in zip(examples(name), build_traces(examples(name), task, 'correct')):
        assert t.steps == task.decompose(e)
        assert all(e.context[i] in t.text or repr(e.context[i])[1:-1] in t.text for i in t.steps.facts)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(['toy', 'babi']))
def test_incorrect_breaks_both_steps_of_every_example(seed, name):
    task, rows = get_task(name), examples(name)
    for e, t in zip(rows, build_traces(rows, task, 'incorrect', seed)):
        gold = task.decompose(e)
        assert t.steps.label in task.labels and t.steps.label != gold.label
        wrong, right = {e.context[i] for i in t.steps.facts}, {e.context[i] for i in gold.facts}
        assert not wrong & right
        others = sum(c not in right for c in e.context)
        assert len(t.steps.facts) == min(len(gold.facts), others)
        assert list(t.steps.facts) == sorted(set(t.steps.facts))


def test_conditions_are_formatted_alike():
    task, rows = get_task('babi'), examples('babi')
    frame = lambda t, s: t.text.replace(s.label, 'L').split('answer the question: ')[0]
    texts = {c: [frame(t, t.steps) for t in build_traces(rows, task, c)] for c in ('correct', 'incorrect')}
    assert texts['correct'] == texts['incorrect']


def test_wrong_labels_stay_among_the_labels_in_play():
    task, labels = get_task('babi'), ('counting', 'conjunction', 'lists-sets')
    rows = load_examples(task, DataConfig(n_train=60, labels=labels), 'train')
    said = [t.steps.label for t in build_traces(rows, task, 'incorrect', 1, labels)]
    assert set(said) == set(labels)


def test_wrong_labels_are_uniform_over_the_other_labels():
    from scipy.stats import chisquare
    task, labels = get_task('babi'), get_task('babi').labels
    rows = load_examples(task, DataConfig(n_train=2200, labels=('counting', 'time-reasoning')), 'train')
    said = [t.steps.label for e, t in zip(rows, build_traces(rows, task, 'incorrect', 3)) if task.decompose(e).label == 'counting']
    counts = [said.count(x) for x in labels if x != 'counting']
    assert sum(counts) == 1100 and chisquare(counts).pvalue > 1e-4


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 99), st.integers(1, 32))
def test_adding_examples_changes_no_other_trace(seed, k):
    task, rows = get_task('babi'), examples('babi')
    assert build_traces(rows[:k], task, 'incorrect', seed) == build_traces(rows, task, 'incorrect', seed)[:k]
    assert build_traces(rows[::-1], task, 'incorrect', seed)[::-1] == build_traces(rows, task, 'incorrect', seed)


def test_conditions_without_trace():
    rows = examples('toy', 6)
    for c in ('zero_shot', 'vanilla'):
        assert all(t.text == '' and t.steps is None for t in build_traces(rows, get_task('toy'), c))
    assert not get_condition('zero_shot').trains and get_condition('vanilla').trains


def test_every_condition_says_what_it_is():
    assert all(c.about and c.about.strip().endswith('.') for c in CONDITIONS.values())


def test_unknown_condition():
    with pytest.raises(TracenbError, match="did you mean 'incorrect'"): get_condition('incorect')


def test_shortfall_counts_stories_without_other_sentences():
    task = get_task('babi')
    rows = load_examples(task, DataConfig(n_train=20, labels=('positional-reasoning',)), 'train')
    assert shortfall(rows, build_traces(rows, task, 'incorrect'), task) == 20  # both sentences of such a story are gold
    assert shortfall(rows, build_traces(rows, task, 'correct'), task) == 0


def test_real_rows(shared):
    task = get_task('babi')
    rows = task.load(shared/'babi', 'test')
    for e, t in zip(rows, build_traces(rows, task, 'incorrect', 1)):
        assert not {e.context[i] for i in t.steps.facts} & {e.context[i] for i in task.decompose(e).facts}
