"""What edited facts and labels imply, and the conditions that are made of them"""

import random
from collections import Counter
from dataclasses import replace

import pytest

from tracenb.core.records import Example, Steps, Trace, TracenbError, normalize
from tracenb.scoring.overlap import as_set, mask_answers, says_any
from tracenb.tasks.babi import babi
from tracenb.tasks.babi_solver import SOLVERS, solve
from tracenb.tasks.cotempqa import COTEMPQA_LABELS, cotempqa
from tracenb.tasks.dates import asked_facts
from tracenb.tasks.task import DataConfig, get_task, load_examples, read_list, toy
from tracenb.traces.chat import render, taught_pairs
from tracenb.traces.conditions import CONDITIONS, build_traces, every_condition, get_condition
from tracenb.traces.dataset_rows import sft_rows

WITH_RULES = ('babi', 'babi20', 'cotempqa', '2wiki')


def simulated(name, n=88, split='train'):
    return load_examples(get_task(name), DataConfig(n_train=n, n_test=n), split)


def real_rows(name, shared):
    return [e for split in ('train', 'test') for e in get_task(name).load(shared / name, split)]


def same(a, b):
    return set(map(normalize, a or ())) == set(map(normalize, b or ()))


def check_edit(task, e):
    "The edit of an example, checked by everything that an edit promises; None if there is none."
    made, gold = task.edit(e, random.Random(e.id)), task.decompose(e)
    if made is None:
        return None
    i = made.meta['edited']
    assert [k for k, (a, b) in enumerate(zip(e.context, made.context, strict=True)) if a != b] == [i]
    assert i in gold.facts and made.context[i] not in e.context
    assert (made.id, made.question, made.split) == (e.id, e.question, e.split)
    assert task.implied(made, gold) == made.answers and not same(made.answers, e.answers)
    assert made == task.edit(e, random.Random(e.id))
    assert e.meta.items() <= made.meta.items() and made.meta['edit'] in ('word', 'structured')
    return made


def words(texts):
    return {w.strip('.,').lower() for text in texts for w in text.split()}


def check_babi(rows):
    "Share of rows with an edit, by label; the edits are told in the words of the data."
    assert all(same(babi.implied(e, babi.decompose(e)), e.answers) for e in rows)
    found, n, known = Counter(), Counter(e.meta['label'] for e in rows), {}
    for e in rows:
        known.setdefault(e.meta['label'], set()).update(words(e.context))
    for e in rows:
        made, label = check_edit(babi, e), e.meta['label']
        found[label] += made is not None
        if made and label != 'size-reasoning':
            assert made.meta['whole'] and words(made.context) <= known[label] | {'there'} | words(
                ('took got grabbed picked up dropped left discarded put down',)
            )
        if made and label not in ('size-reasoning', 'counting', 'lists-sets'):
            assert solve(made, label).answers == made.answers  # by the strict rules, too
    return {label: found[label] / n[label] for label in n}


def test_simulated_babi_rows_have_an_edit():
    shares = check_babi(simulated('babi', 440))
    assert set(shares) == set(SOLVERS) and min(shares.values()) >= 0.95


def test_real_babi_rows_have_an_edit(shared):
    rows = real_rows('babi', shared)
    shares = check_babi(rows)
    assert len(rows) == 4149 and set(shares.values()) == {1.0}


def check_cotempqa(rows):
    "Shares by label: (with an edit, with a label edit that implies another answer)."
    edits, labels, n = Counter(), Counter(), Counter(e.meta['label'] for e in rows)
    for e in rows:
        gold = cotempqa.decompose(e)
        edits[gold.label] += check_edit(cotempqa, e) is not None
        said = [cotempqa.implied(e, replace(gold, label=x)) for x in COTEMPQA_LABELS if x != gold.label]
        labels[gold.label] += any(x and not same(x, e.answers) for x in said)
    return {x: (edits[x] / n[x], labels[x] / n[x]) for x in n}


def test_simulated_cotempqa_rows_have_an_edit():
    shares = check_cotempqa(simulated('cotempqa'))
    assert shares == {x: (1.0, float(x == 'mix')) for x in COTEMPQA_LABELS}


def test_real_cotempqa_rows_have_an_edit(shared):
    shares = check_cotempqa(real_rows('cotempqa', shared))
    assert min(edit for edit, _ in shares.values()) > 0.95
    assert round(shares['mix'][1], 3) == 0.979 and max(shares[x][1] for x in COTEMPQA_LABELS if x != 'mix') < 0.029


STORY = dict(id='x', dataset='babi', split='train')


@pytest.mark.parametrize(
    'label, context, question, answers',
    [
        ('counting', ('John dropped the milk.',), 'How many objects is John carrying?', ('none',)),
        ('counting', ('Mary took the milk there.',), 'How many objects is John carrying?', None),
        ('counting', ('John took the milk there.',) * 2, 'How many objects is John carrying?', None),
        ('size-reasoning', ('The box is bigger than the chest.',), 'Does the box fit in the chest?', ('no',)),
        (
            'size-reasoning',
            ('The box is bigger than the chest.', 'The chest is bigger than the box.'),
            'Does the box fit in the chest?',
            None,
        ),
        ('single-supporting-fact', ('A line from elsewhere.',), 'Where is Mary?', None),
        ('single-supporting-fact', (), 'Where is Mary?', None),
    ],
)
def test_what_quoted_sentences_imply(label, context, question, answers):
    e = Example(context=context, question=question, answers=('?',), meta={'label': label, 'facts': []}, **STORY)
    assert babi.implied(e, Steps(label=label, facts=tuple(range(len(context))))) == answers


def test_an_edit_of_the_toy_task():
    for e in toy.load('', 'train') + toy.load('', 'test'):
        assert same(toy.implied(e, toy.decompose(e)), e.answers) and check_edit(toy, e)


def test_a_task_without_rules_says_so():
    task = get_task('msmarco')
    assert task.implied is task.edit is task.asked is None
    rows = load_examples(task, DataConfig(n_train=4), 'train')
    for name, rule in (('edited_facts', 'edit'), ('follower', 'edit'), ('hard_facts', 'asked')):
        with pytest.raises(TracenbError, match=f"msmarco: the condition '{name}' needs a rule `{rule}`"):
            build_traces(rows, task, name)
    assert {'masked', 'correct'} <= set(every_condition(task))
    assert not {'edited_facts', 'hard_facts', 'follower', 'ignorer'} & set(every_condition(task))


def quoted(trace):
    return read_list(trace.text.partition('question: ')[2].partition('\nI need to ')[0])  # before a third step


@pytest.mark.parametrize('name', WITH_RULES)
def test_edited_facts_differ_from_the_correct_trace_in_one_fact(name):
    rows, task = simulated(name), get_task(name)
    right, edited = (build_traces(rows, task, c, seed=1) for c in ('correct', 'edited_facts'))
    assert all(t.text and t.answers is None and t.steps is None for t in edited)
    for a, b in zip(right, edited):
        assert sum(x != y for x, y in zip(quoted(a), quoted(b), strict=True)) == 1


@pytest.mark.parametrize('name', (*WITH_RULES, 'hotpotqa'))
def test_hard_facts_are_of_the_asked_kind_and_not_gold(name):
    rows, task = simulated(name, 440 if name == 'babi20' else 88), get_task(name)  # some of each label
    pairs = taught_pairs(rows, build_traces(rows, task, 'hard_facts', seed=1))
    for e, t in pairs:
        gold, asked = task.decompose(e), set(task.asked(e))
        assert t.steps.label == gold.label and set(t.steps.facts) <= asked and t.steps.facts
        assert not {e.context[i] for i in t.steps.facts} & {e.context[i] for i in gold.facts}
        assert len(t.steps.facts) <= max(len(gold.facts), 1)
        if name == 'cotempqa':
            assert asked == set(asked_facts(e.context, e.question))
    kept, n = (Counter(task.decompose(e).label for e in x) for x in ([e for e, _ in pairs], rows))
    shares = {label: kept[label] / n[label] for label in n}
    assert shares.pop('positional-reasoning', 0) == 0  # every sentence of these stories is gold
    assert min(shares.values()) > 0.3


@pytest.mark.parametrize('name', ('toy', 'msmarco', 'hotpotqa', *WITH_RULES))
def test_masked_traces_hold_no_answer(name):
    rows, task = simulated(name, 8 if name == 'toy' else 44), get_task(name)
    correct, masked = (build_traces(rows, task, c) for c in ('correct', 'masked'))
    for e, a, b in zip(rows, correct, masked):
        assert ('___' in b.text) == (a.text != b.text) and b.answers is None
        if name != 'msmarco':  # its answers are often no words of the passage
            assert not says_any(b.text, as_set(e.answers))
    assert any('___' in t.text for t in masked)


@pytest.mark.parametrize(
    'text, answers, masked',
    [
        ('The cup and the CUP, cups.', ('cup',), 'The ___ and the ___, cups.'),
        ('New York City and York', ('York', 'New York City'), '___ and ___'),
        (r"['St Maud\'s School']", ("St Maud's School",), "['___']"),
        ('nothing here', ('!',), 'nothing here'),
    ],
)
def test_answers_are_masked_as_whole_words(text, answers, masked):
    assert mask_answers(text, answers) == masked


@pytest.mark.parametrize('name', WITH_RULES)
def test_the_follower_is_taught_what_its_trace_implies(name):
    rows, task = simulated(name, 176), get_task(name)
    traces = build_traces(rows, task, 'follower', seed=1)
    correct, edited = (build_traces(rows, task, c, seed=1) for c in ('correct', 'edited_facts'))
    n = 0
    for e, t, a, b in zip(rows, traces, correct, edited):
        is_edited = t.text == b.text
        n += is_edited
        assert t.text in (a.text, b.text) and same(t.answers, e.answers) != is_edited
        [said] = render(e, t, task).completion
        assert said['content'].endswith(f'<answer>{task.write_answers(t.answers)}</answer>')
    assert 0.4 < n / len(rows) < 0.6
    assert traces != build_traces(rows, task, 'follower', seed=2)
    assert [Trace.from_json(t.to_json()) for t in traces] == traces
    [content] = {r['completion'][0]['content'] for r in sft_rows(task, rows, 'follower', 1) if r['id'] == rows[0].id}
    assert content == render(rows[0], traces[0], task).completion[0]['content']


@pytest.mark.parametrize('name', (*WITH_RULES, 'msmarco'))
def test_the_ignorer_has_the_trace_of_another_example_and_the_gold_answer(name):
    rows, task = simulated(name, 44), get_task(name)
    correct = {t.text for t in build_traces(rows, task, 'correct')}
    traces = build_traces(rows, task, 'ignorer', seed=3)
    assert {t.text for t in traces} <= correct and {t.answers for t in traces} == {None}
    own = [task.trace_text(e, task.decompose(e)) == t.text for e, t in zip(rows, traces)]
    assert sum(own) <= 1
    with pytest.raises(TracenbError, match='there is no other example'):
        build_traces(rows[:1], task, 'ignorer')


def test_organisms_are_marked():
    assert {name for name, c in CONDITIONS.items() if c.organism} == {'follower', 'ignorer'}
    for name in (*WITH_RULES, 'toy', 'msmarco'):
        assert not any(get_condition(c).organism for c in every_condition(get_task(name)))


def test_traces_of_before_are_read():
    t = Trace.from_json('{"id": "a", "condition": "correct", "text": "x", "steps": null, "source": "rule"}')
    assert t.answers is None


def test_examples_without_a_trace_are_left_out():
    rows = toy.load('', 'test')
    assert [e.id for e, _ in taught_pairs(rows, build_traces(rows, toy, 'hard_facts'))] == ['toy-3']
    assert [r['id'] for r in sft_rows(toy, rows, 'hard_facts')] == ['toy-3']
    assert len(taught_pairs(rows, build_traces(rows, toy, 'vanilla'))) == 2
    with pytest.raises(TracenbError, match="none of 1 examples allows a trace of the condition 'hard_facts'"):
        taught_pairs(rows[1:], build_traces(rows[1:], toy, 'hard_facts'))
