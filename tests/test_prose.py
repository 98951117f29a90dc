"""What can be said about traces that are free text."""

import socket
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracenb.core.records import Trace, TracenbError
from tracenb.tasks import cotempqa  # noqa: F401
from tracenb.tasks.task import get_task
from tracenb.traces.conditions import build_traces
from tracenb.traces.free_text import (
    closest,
    describe_text,
    describe_traces,
    find_conclusion,
    named_labels,
    split_sentences,
    verify_text,
)

TOY = get_task('toy')
HAT = TOY.load('', 'train')[0]


@given(st.text(max_size=200))
def test_any_text_can_be_described_and_checked(text):
    how, checks = describe_text(text), verify_text(text, HAT, TOY)
    assert how['words'] >= 0 and not set(checks.quoted) & set(checks.near)
    assert (checks.conclusion is None) == (checks.right is None)


def test_exact_quotes_need_whole_words():
    assert verify_text('THE HAT IS BLUE', HAT, TOY).quoted == (1,)
    assert verify_text('Is the hat is bluebell', HAT, TOY).quoted == ()


def test_unlike_sentences_quote_nothing():
    checks = verify_text('Let me think about this for a moment. Wait. So', HAT, TOY)
    assert (checks.quoted, checks.near) == ((), ())


def test_short_sentences_are_compared_whole():
    assert closest('the', HAT.context)[1] < 60
    assert closest('I read that the hat was blue.', HAT.context)[0] == 1


def test_labels_with_hyphens_and_inside_words():
    task = replace(TOY, labels=('co-temporal', 'equal', 'mix'))
    assert named_labels('This is CO TEMPORAL, unequal and mixed.', task) == ('co-temporal',)


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('The answer is blue. I am sure.', 'blue.'),
        ('Hence: red', 'red'),
        ('Therefore, the answer to the question is Ann.', 'Ann.'),
        ('so it was. One. Two. Three.', None),
        ('also sober thusly', None),
        ('So', None),
        ('', None),
    ],
)
def test_conclusions(text, said):
    assert find_conclusion(text) == said


def test_conclusion_against_gold_and_final_answer():
    check = lambda text, final=(): verify_text(text, HAT, TOY, final)
    assert (check('So it is red.', ('red',)).agrees, check('So it is red.', ('red',)).right) == (True, False)
    assert (check('So it is blueish.').right, check('So it is blue.').agrees) == (False, None)
    both = replace(HAT, answers=('cup', 'hat'))
    assert verify_text('So the hat.', both, TOY).right is False
    assert verify_text('So the hat.', both, replace(TOY, alternatives=True)).right is True


def test_nothing_is_fetched(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('the network was asked')

    monkeypatch.setattr(socket, 'socket', refuse)
    assert (
        describe_text('An unprecedented deliberation took place.')['reading_ease']
        < describe_text('The cat sat on the mat.')['reading_ease']
    )


def test_a_table_row_a_trace_and_equal_context_items():
    task = get_task('cotempqa')
    examples = task.simulate(n=8, seed=5, split='train', labels=task.labels, max_words=None)
    table = describe_traces(
        build_traces(examples, task, 'correct')
        + [Trace(id=examples[0].id, condition='empty', text='', steps=None, source='rule')],
        examples[::-1],
        task,
    )
    assert (
        len(table) == 9 and (table.f1[:8] == 1).all() and table.recall.iloc[8] == 0 and table.precision.isna().iloc[8]
    )
    twice = replace(HAT, context=('The hat is blue.',) + HAT.context)
    assert (
        describe_traces(
            [Trace(id=twice.id, condition='x', text='The hat is blue.', steps=None, source='rule')],
            [twice],
            replace(TOY, decompose=lambda e: replace(TOY.decompose(HAT), facts=(2,))),
        ).f1[0]
        == 1
    )
    with pytest.raises(TracenbError, match='without its example'):
        describe_traces(build_traces(examples, task, 'correct'), [], task)


def test_sentences_end_at_stops_and_lines():
    assert split_sentences('It is 3.5 m. Yes?\n- No!') == ['It is 3.5 m.', 'Yes?', '- No!']
