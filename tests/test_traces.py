"""What each condition must keep and what it must break, over all data sets."""

from collections import Counter
from functools import cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tracenb.core.records import Example, Generation, Trace, TracenbError
from tracenb.models.loading import load_tokenizer
from tracenb.runs.grids import get_grid
from tracenb.scoring.overlap import as_set, forced_facts, is_forced, n_traces_missing_facts
from tracenb.scoring.tables import score_response
from tracenb.tasks.task import DataConfig, get_task, load_examples, read_list, toy
from tracenb.traces.chat import TEMPLATES, completion_text, render, taught_pairs
from tracenb.traces.conditions import (
    CONDITIONS,
    build_traces,
    condition,
    count_words,
    every_condition,
    get_condition,
)
from tracenb.traces.loss_mask import encode
from tracenb.traces.overview import completion_counter, lengths
from tracenb.traces.parsing import parse

REAL_TASKS = ('cotempqa', 'msmarco', 'babi', 'babi20', '2wiki', 'hotpotqa')
names, seeds = st.sampled_from(('toy', *REAL_TASKS)), st.integers(0, 10**6)


@cache
def examples(name, n=None, seed=0, split='train'):
    n = n or (120 if name == 'babi20' else 44)  # some of each label
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
@given(seeds, st.sampled_from([x for x in REAL_TASKS if get_task(x).paper]))
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


def quoted(t):
    "The facts that a trace lists."
    return read_list(
        t.text.partition('to answer the question: ')[2].partition('\nI need to ')[0]
    )  # before a third step


def n_right(which, name, rows, seed=7):
    "Number of traces that the scorers call right for their own question: by any gold fact, and exactly."
    task, right = get_task(name), Counter()
    for e, gold, t in built(name, which, seed, rows=rows):
        text = completion_text(e, t, task)
        said = parse(Generation(id=e.id, text=text, n_tokens=1, finish_reason='stop'), e, task)
        for s in score_response(said, e, gold, ['trace_correct_any', 'trace_correct_exact', 'classification']):
            right[s.scorer] += s.value
    assert right['classification'] == len(rows)
    return right['trace_correct_any'], right['trace_correct_exact']


@settings(max_examples=15)
@given(seeds, st.sampled_from(REAL_TASKS))
def test_foreign_facts_keep_the_label_and_come_from_other_examples_of_it(seed, name):
    task, rows = get_task(name), examples(name)
    for e, gold, t in built(name, 'foreign_facts', seed):
        facts, own = quoted(t), as_set(e.context)
        assert t.steps is None and gold.label in t.text
        assert len(set(facts)) == len(facts) == max(len(gold.facts), 1)
        assert not as_set(facts) & own
        others = {c for o in rows if o.id != e.id and task.decompose(o).label == gold.label for c in o.context}
        assert set(facts) <= others
    assert n_right('foreign_facts', name, rows, seed) == (0, 0)


def test_foreign_facts_are_not_forced_where_wrong_facts_are():
    rows = load_examples(get_task('babi'), DataConfig(n_train=40, labels=('positional-reasoning',)), 'train')
    draws = {c: [[t.text for *_, t in built('babi', c, s, rows=rows)] for s in range(4)] for c in CORRUPT}
    assert all(is_forced(e, get_task('babi').decompose(e)) for e in rows)
    assert all(len(set(texts)) == 1 for texts in zip(*draws['wrong_facts']))
    assert sum(len(set(texts)) > 1 for texts in zip(*draws['foreign_facts'])) > 35


CORRUPT = ('wrong_facts', 'foreign_facts')


def story(i, *context, gold=(0,), label='color'):
    "A small example of the toy task."
    more = dict(context=context, question=f'Question {i}?', answers=('x',), meta=dict(label=label, facts=list(gold)))
    return Example(id=f's{i}', dataset='toy', split='train', **more)


@pytest.mark.parametrize(
    'foreign',
    ['the cup is RED', 'The cup is red!', 'The cup is red and old.', ' ', 'We see: the cup is red.'],
    ids=['case', 'punctuation', 'longer', 'empty', 'framed'],
)
def test_a_fact_of_the_own_context_is_not_foreign(foreign):
    rows = [story(0, 'The cup is red.', 'The hat is blue.'), story(1, foreign, 'The sky is gray.')]
    for seed in range(8):
        assert quoted(build_traces(rows, toy, 'foreign_facts', seed)[0]) == ('The sky is gray.',)


def test_without_foreign_facts_there_is_an_error_that_says_so():
    alone = [story(0, 'The cup is red.'), story(1, 'The sky is gray.', label='place')]
    same = [story(0, 'The cup is red.', 'Ann sings.'), story(1, 'the cup is red', 'Ann sings!')]
    few = [story(0, 'A is a.', 'B is b.', gold=(0, 1)), story(1, 'C is c.', 'A is a.')]
    for rows, found in (
        (alone, '0 foreign facts, 1 are'),
        (same, '0 foreign facts, 1 are'),
        (few, '1 foreign facts, 2 are'),
    ):
        with pytest.raises(TracenbError, match=f"s0: other examples of 'color' have {found} wanted"):
            build_traces(rows, toy, 'foreign_facts')


def test_facts_are_taken_from_different_examples_as_long_as_there_are_enough():
    rows = [story(0, 'A is a.', 'B is b.', gold=(0, 1)), *(story(i, f'C{i} is c.', f'D{i} is d.') for i in (1, 2))]
    for seed in range(8):
        facts = quoted(build_traces(rows, toy, 'foreign_facts', seed)[0])
        assert {f[1] for f in facts} == {'1', '2'}
    assert set(quoted(build_traces(rows[:2], toy, 'foreign_facts')[0])) == {'C1 is c.', 'D1 is d.'}


@pytest.mark.slow
@pytest.mark.parametrize(
    'name, every', [('babi', 1), ('cotempqa', 3), pytest.param('cotempqa', 1, marks=pytest.mark.exhaustive)]
)
def test_no_swapped_trace_and_no_foreign_fact_is_right_in_real_rows(name, every, shared):
    for split in ('train', 'test'):
        rows = get_task(name).load(shared / name, split)[::every]
        assert len(rows) > 300
        assert n_right('swapped', name, rows) == n_right('foreign_facts', name, rows) == (0, 0)


@settings(max_examples=10)
@given(seeds, st.sampled_from(REAL_TASKS))
def test_no_swapped_trace_is_right(seed, name):
    assert n_right('swapped', name, examples(name), seed) == (0, 0)


def test_a_donor_that_shares_a_gold_fact_is_passed_over():
    shared = [
        story(1, 'the cup is RED', 'Ann sings.', gold=(0, 1)),
        story(2, 'The cup is red and old.'),
        story(3, 'Bob sings.', 'The cup is red.', gold=(1,)),
    ]
    rows = [story(0, 'The cup is red.', 'The hat is blue.'), *shared, story(4, 'The hat is blue.')]
    for seed in range(12):
        assert quoted(build_traces(rows, toy, 'swapped', seed)[0]) == ('The hat is blue.',)
    with pytest.raises(TracenbError, match="s0: no other example of 'color' has a trace that is wrong here"):
        build_traces(rows[:-1], toy, 'swapped')


def test_swapped_reasoning_quotes_no_gold_fact():
    rows = [story(i, f'The cup {i} is red.', 'The hat is blue.') for i in range(4)]
    texts = ['Cup 0.', 'Well: the cup 0 is red!', 'I see THE CUP 0 IS RED, so red.', 'Hmm, cup 3 it is.']
    teacher = {
        'r1': {e.id: Trace(id=e.id, condition='r1', text=x, steps=None, source='t') for e, x in zip(rows, texts)}
    }
    for seed in range(12):
        assert build_traces(rows, toy, 'r1_swapped', seed, teacher=teacher)[0].text == texts[3]
    with pytest.raises(TracenbError, match='has a trace that is wrong here'):
        build_traces(rows[:3], toy, 'r1_swapped', teacher=teacher)


@pytest.mark.parametrize(
    'context, gold, forced',
    [
        ('g a', (0,), True),  # one other sentence
        ('g a b', (0,), False),
        ('g h a b', (0, 1), True),  # two others, two are quoted
        ('g h a', (0, 1), True),  # too few
        ('g h a b c', (0, 1), False),
        ('g h', (0, 1), True),  # none: the empty list
        ('g a a a', (0,), True),  # all others read the same
        ('g g a', (0,), True),  # a repeat of gold is right
        ('a', (), True),  # no gold fact: one is quoted
        ('a b', (), False),
    ],
)
def test_wrong_facts_are_forced_where_only_one_set_is_possible(context, gold, forced):
    e = story(0, *context.split(), gold=gold)
    draws = {quoted(build_traces([e], toy, 'wrong_facts', seed)[0]) for seed in range(40)}
    assert is_forced(e, toy.decompose(e)) == forced == (len(draws) == 1)
    found = forced_facts([e], build_traces([e], toy, 'incorrect'), toy)
    assert found == dict(n=1, forced=int(forced), share=float(forced))


def test_the_forced_share_is_that_of_the_wrong_traces():
    rows = examples('babi')
    share = lambda c: forced_facts(rows, [t for *_, t in built('babi', c)], get_task('babi'))
    none = dict(n=0, forced=0, share=None)
    assert share('correct') == share('wrong_label') == share('vanilla') == share('swapped') == share('filler') == none
    assert share('foreign_facts') == none and share('incorrect') == share('wrong_facts') == share('mix:1')
    assert share('mix:0.5')['n'] == len(rows) // 2 and 0 < share('incorrect')['share'] < 1


def test_the_forced_share_of_the_demo():
    task, data = get_task('babi'), get_grid('demo').runs[0].data
    rows = load_examples(task, data, 'train')
    found = forced_facts(rows, build_traces(rows, task, 'incorrect', 1, data.labels), task)
    assert found == dict(n=400, forced=326, share=0.815)


def test_the_forced_share_of_real_stories(shared):
    task = get_task('babi')
    rows = task.load(shared / 'babi', 'train')
    found = forced_facts(rows, build_traces(rows, task, 'wrong_facts', 1), task)
    assert (found['n'], found['forced']) == (3773, 1966)


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


@pytest.mark.slow
@pytest.mark.parametrize('style', TEMPLATES)
@pytest.mark.parametrize('model', ['tiny-random', 'smollm2-135m'])
def test_filler_makes_the_whole_completion_equally_long(model, style):
    "In tokens, as the chat template writes it; the trace alone differs, since its ends merge with the tags."
    try:
        tokenizer = load_tokenizer(model)
    except TracenbError as e:
        pytest.skip(f'the embedded model is not installed: {e.what}')
    tokenizer.chat_template = TEMPLATES[style]
    count, alone = completion_counter(tokenizer), 0
    n_tokens = lambda text: len(tokenizer(text, add_special_tokens=False)['input_ids'])
    for name in REAL_TASKS:
        rows, task = examples(name)[:12], get_task(name)
        right = build_traces(rows, task, 'correct')
        for e, a, b in zip(rows, right, build_traces(rows, task, 'filler', count=count)):
            assert set(b.text) == {'.', ' '}
            trained = [sum(encode(render(e, t, task), tokenizer).loss_mask) for t in (a, b)]
            assert trained[0] == trained[1] == count(completion_text(e, a, task))
            alone += n_tokens(a.text) != n_tokens(b.text)
    assert alone > 0 or style == 'qwen3'


@pytest.mark.parametrize('model', ['tiny-random', 'smollm2-135m'])
def test_filler_fits_any_count_of_the_completion(model):
    "A tokenizer without a template is enough: the text of the completion is what is counted."
    tokenizer = load_tokenizer(model)
    rows, count = examples('cotempqa')[:22], lambda text: len(tokenizer(text).input_ids)
    table = lengths(get_task('cotempqa'), rows, ('correct', 'filler'), count=count)
    assert table.completion_mean['correct'] == table.completion_mean['filler']
    assert table.completion_max['correct'] == table.completion_max['filler']


def test_where_no_number_of_stops_fits_the_closest_is_taken():
    triples = lambda text: text.count('.') // 3 * 3 + sum(c.isalpha() for c in text)  # three stops are three tokens
    task, rows = get_task('babi'), examples('babi')
    off = [
        abs(triples(completion_text(e, t, task)) - triples(completion_text(e, c, task)))
        for (e, _, t), (*_, c) in zip(built('babi', 'filler', count=triples), built('babi', 'correct'))
    ]
    assert len(off) == len(rows) and max(off) == 1 and min(off) == 0


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
    assume(task.paper or which != 'incorrect_paper')
    assert build_traces(rows[:k], task, which, seed) == build_traces(rows, task, which, seed)[:k]
    assert build_traces(rows[::-1], task, which, seed)[::-1] == build_traces(rows, task, which, seed)


@pytest.mark.parametrize('name', REAL_TASKS)
def test_seeds_differ_and_repeat(name):
    paper = ['incorrect_paper'] if get_task(name).paper else []
    for which in ('incorrect', *paper, 'swapped', 'shuffled', 'mix:0.5'):
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
            for e, t in taught_pairs(examples(name), [t for *_, t in built(name, which)]):
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
        'few_shot',
        'vanilla',
        'correct',
        'incorrect',
        'incorrect_paper',
        'wrong_label',
        'wrong_facts',
        'wrong_work',
        'foreign_facts',
        'swapped',
        'shuffled',
        'filler',
        'mix',
        'r1',
        'r1_summary',
        'post_hoc',
        'r1_swapped',
        'edited_facts',
        'hard_facts',
        'masked',
        'follower',
        'ignorer',
    } == set(CONDITIONS)
    assert {name for name, c in CONDITIONS.items() if c.organism} == {'follower', 'ignorer'}
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
        if get_condition(c).has_trace and not get_condition(c).rule
        for *_, t in built(name, c, rows=rows)
    )
    ruled = [c for c in every_condition(task) if get_condition(c).rule]
    n = sum(get_condition(c).has_trace for c in every_condition(task)) - len(ruled)
    assert counts == {True: len(rows) * n} and ruled == ['edited_facts', 'hard_facts']
