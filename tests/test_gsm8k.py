"""GSM8K: three steps of a word problem, each checked; and third steps in general."""

import gzip
import json
import random
import time
import warnings
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracenb.core.records import Example, Generation, Response, Steps, Trace, TracenbError
from tracenb.core.rows import RowsLeftOut
from tracenb.scoring.tables import fitting_scorers, score_response
from tracenb.tasks.arithmetic import (
    calculation_kind,
    certain_sentences,
    evaluate_expression,
    number_text,
    numbers_in,
    operand_sources,
    read_equation,
    recalculate,
    unit_factors,
)
from tracenb.tasks.gsm8k import (
    ROW_CLASSES,
    annotations,
    check_calculation,
    edit_problem,
    gsm8k,
    implied_result,
    load_gsm8k,
    problem_sentences,
    read_gsm8k_row,
    read_number,
    read_problem,
    split_problem,
    wrong_calculation,
)
from tracenb.tasks.gsm8k_sim import certified, simulate_gsm8k
from tracenb.tasks.task import DataConfig, Work, check_examples, get_task, load_examples, split_of, toy
from tracenb.traces.conditions import CONDITIONS, build_traces, every_condition
from tracenb.traces.dataset_rows import step_rows
from tracenb.traces.parsing import parse, parse_trace

QUESTION = (
    'Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. '
    'How many clips did Natalia sell altogether in April and May?'
)
ANSWER = 'She sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips altogether.\n#### 72'
ROW = dict(question=QUESTION, answer=ANSWER)
SIMULATED = simulate_gsm8k(240, seed=3)


def said(text, example=SIMULATED[0], task=gsm8k):
    return parse(Generation(id=example.id, text=text, n_tokens=0, finish_reason='stop'), example, task)


def number_of(text):
    return evaluate_expression(text.replace(',', ''))


# --- arithmetic


@given(
    st.recursive(
        st.integers(0, 999).map(str),
        lambda x: st.tuples(x, st.sampled_from('+-*/'), x).map('({0[0]}{0[1]}{0[2]})'.format),
        max_leaves=8,
    )
)
def test_expressions_have_the_value_that_python_gives_them(text):
    try:
        wanted = eval(''.join(f'F({t})' if t.isdigit() else t for t in _pieces(text)), {'F': Fraction})
    except ZeroDivisionError:
        wanted = None
    assert evaluate_expression(text) == wanted


def _pieces(text):
    word = ''
    for c in text:
        if c.isdigit():
            word += c
        else:
            yield from filter(None, [word, c])
            word = ''
    yield word


@pytest.mark.parametrize(
    'text', ['', '2**3', '560//10', '(1', '1)', '1/0', '1 2', 'a+1', '__import__("os")', '9' * 500, '(' * 9000]
)
def test_other_texts_are_no_expressions(text):
    assert evaluate_expression(text) is None


@given(st.integers(-(10**9), 10**9), st.integers(0, 6))
def test_numbers_are_written_exactly(n, places):
    value = Fraction(n, 10**places)
    assert evaluate_expression(number_text(value)) == value and 'e' not in number_text(value)


@pytest.mark.parametrize(
    ('line', 'computes'),
    [
        ('48/2=24', True),
        ('+30+46=76', True),
        ('0.1+0.2=0.3', True),
        ('20*25=500.00', True),
        ('10/3=3.33', True),
        ('10/3=3.3', False),
        ('48+24=74', False),
        ('98*3,400=$333,200', True),
    ],
)
def test_an_equation_computes_or_not(line, computes):
    assert read_equation(line).computes == computes


@pytest.mark.parametrize('line', ['', '24', '=24', '48/2=', '560//10=56', '1=1=1', 'x=3'])
def test_other_lines_are_no_equations(line):
    assert read_equation(line) is None


@pytest.mark.parametrize(
    ('text', 'numbers'),
    [
        ('He has 1,200 hats.', ['1200']),
        ('It costs $.50, or $1.25 each.', ['0.5', '1.25']),
        ('twenty-five of two hundred and six', ['25', '206']),
        ('three thousand two hundred', ['3200']),
        ('one two', ['1', '2']),
        ('half of it, two thirds, 3/4, 1 1/2', ['0.5', '2/3', '0.75', '1.5']),
        ('twice a dozen', ['2', '12']),
        ('the third day, a third of it, the other third', ['1/3', '1/3']),
        ('Someone often tends a stone.', []),
    ],
)
def test_numbers_are_read_in_digits_and_words(text, numbers):
    assert [number_text(m.plain) for m in numbers_in(text)] == numbers


@pytest.mark.parametrize(
    ('text', 'reading', 'ratio'),
    [
        ('20% off', '0.8', True),
        ('20 percent more', '1.2', True),
        ('half as many', '2', True),
        ('3/4 of them', '0.25', True),
        ('two thirds', '3', True),
        ('2 dozen', '24', False),
        ('50 cents', '0.5', False),
        ('5 million', '5000000', False),
    ],
)
def test_a_calculation_may_use_a_number_otherwise(text, reading, ratio):
    m = numbers_in(text)[0]
    assert number_of(reading) in m.readings and m.ratio == ratio


def sources_of(lines, story):
    return operand_sources([read_equation(x) for x in lines], story, unit_factors(' '.join(story)))


def test_operands_come_from_sentences_units_and_earlier_lines():
    found = sources_of(('4*7=28', '28*9=252'), ('He had 4 cups.', 'He worked a week.', 'And 4 hats.'))
    assert [(s.kind, s.sentences) for s in found] == [
        ('sentence', (0, 2)),
        ('unit', ()),
        ('earlier', ()),
        ('nowhere', ()),
    ]


@pytest.mark.parametrize(
    ('lines', 'story', 'facts'),
    [
        (['48/2=24'], ['She sold 48.', 'Then half as many.', 'In May.'], (0, 1)),
        (['48/2=24'], ['She sold 48.', 'Then half as many.', 'Two friends saw it.'], None),
        (['5+5=10'], ['She has 5 cups.', 'He has 5 hats.'], (0, 1)),
        (['5*3=15'], ['She has 5 cups.', 'Each of the 3 costs $5.'], None),
        (['5-3=2', '2+7=9', '9-2=7'], ['He had 5.', 'He returned 3 and took 7.', 'He returned 2 of them.'], None),
        (['8-1=7'], ['She had 8 puppies.', 'She kept one.'], (0, 1)),
        (['8-1=7'], ['She had 8 puppies.', 'He had half as many.'], (0,)),
        (['6/3=2'], ['He had 6.', 'A third of them is red.', 'On the third day it rained.'], (0, 1)),
    ],
)
def test_facts_are_the_sentences_that_are_certain_to_hold_the_operands(lines, story, facts):
    assert certain_sentences(sources_of(lines, story)) == facts


@pytest.mark.parametrize(
    ('lines', 'kind'),
    [(['3+4=7', '7-1=6'], 'additive'), (['3*4=12', '12/2=6'], 'multiplicative'), (['3*4=12', '12+4=16'], 'mixed')],
)
def test_the_kind_follows_from_the_signs(lines, kind):
    equations = [read_equation(x) for x in lines]
    assert calculation_kind(equations, operand_sources(equations, ('1 2 3 4',), frozenset())) == kind
    ratio = operand_sources(equations, ('She took 3/4.',), frozenset())
    assert calculation_kind(equations, ratio) == 'proportional'


# --- rows


def test_a_row_becomes_three_steps():
    e = read_gsm8k_row(ROW, 'train')
    assert gsm8k.decompose(e) == Steps('proportional', (0,), ('48/2=24', '48+24=72')) and e.answers == ('72',)
    assert e.question == 'How many clips did Natalia sell altogether in April and May?' and len(e.context) == 1
    assert e.id == read_gsm8k_row(ROW, 'train').id != read_gsm8k_row(ROW | dict(question='X' + QUESTION), 'train').id


@pytest.mark.parametrize(
    ('change', 'found'),
    [
        (dict(answer='She sold 72.\n#### 72'), 'no_equation'),
        (dict(answer=ANSWER.replace('#### 72', '#### many')), 'no_number'),
        (dict(answer=ANSWER.replace('<<48/2', '<<48//2')), 'unreadable'),
        (dict(answer=ANSWER.replace('48/2=24>>', '48/2=25>>')), 'wrong'),
        (dict(answer=ANSWER.replace('#### 72', '#### 73')), 'other_end'),
        (dict(question=QUESTION.replace('48', '47')), 'nowhere'),
        (dict(question='How many weeks has a year?', answer='<<52=52>>\n#### 52'), 'no_fact'),
        (dict(question='Two children wait. ' + QUESTION), 'ambiguous'),
        (dict(answer=ANSWER.replace('#### 72', '#### 72.0')), 'verified'),
    ],
)
def test_rows_are_classed_by_the_first_check_that_fails(change, found):
    row = ROW | change
    assert read_problem(row['question'], row['answer'])[0] == found
    if found != 'verified':
        with pytest.raises(TracenbError, match='not verified') as error:
            read_gsm8k_row(row, 'train')
        assert ROW_CLASSES[found] in str(error.value)


@pytest.mark.parametrize('row', [{}, dict(question=QUESTION), ROW | dict(answer=''), ROW | dict(question=5)])
def test_a_row_without_texts_says_so(row):
    with pytest.raises(TracenbError, match='(question|answer) is'):
        read_gsm8k_row(row, 'train')


def test_sentences_end_where_a_reader_ends_them():
    text = 'Mr. Lee and J. Doe met Dr. Ray at 3 p.m. on Monday. "Is it 1.5 km?" He paid $5. How much is left?'
    assert problem_sentences(text) == [
        'Mr. Lee and J. Doe met Dr. Ray at 3 p.m. on Monday.',
        '"Is it 1.5 km?"',
        'He paid $5.',
        'How much is left?',
    ]


def test_the_question_is_a_fact_too_where_it_holds_numbers():
    context, question = split_problem('Ann has 2 cups. If each costs $3, how much are they?')
    assert context[1] == question and split_problem('He has 2 cups. How many is that?')[0] == ('He has 2 cups.',)


@pytest.mark.parametrize(
    'text', ['1,000', '1000', '1000.0', '$1,000.00', '1000 clips.', '500*2 = 1,000', 'one thousand']
)
def test_a_number_is_the_same_answer_however_it_is_written(text):
    assert read_number(text) == ('1000',)


@pytest.mark.parametrize(
    ('text', 'numbers'),
    [
        ('-5', ('-5',)),
        ('10-12', ('10', '12')),
        ('0.50', ('0.5',)),
        ('1/2', ('0.5',)),
        ('5%', ('5',)),
        ('72 in both months', ('72',)),
        ('72 or 73', ('72', '73')),
        ('nothing', ('nothing',)),
        ('', ()),
    ],
)
def test_units_are_dropped_from_answers(text, numbers):
    assert read_number(text) == numbers


def test_answers_are_scored_as_numbers():
    e = replace(SIMULATED[0], answers=('1000',))
    right = {
        x: score_response(said(f'<think>x</think> <answer>{x}</answer>', e), e, gsm8k.decompose(SIMULATED[0]))[0].value
        for x in ('1,000', '$1000.0', '100', '1000 or 5')
    }
    assert right == {'1,000': 1, '$1000.0': 1, '100': 0, '1000 or 5': 0}


def test_files_of_both_splits_are_found(tmp_path):
    for split in ('train', 'test'):
        with gzip.open(tmp_path / f'{split}.jsonl.gz', 'wt') as f:
            f.write(json.dumps(ROW) + '\n' + json.dumps(ROW | dict(question=QUESTION.replace('48', '47'))) + '\n')
    with pytest.warns(RowsLeftOut, match='not verified'):
        (e,) = load_gsm8k(tmp_path, 'test')
    assert e.split == 'test'
    with pytest.warns(RowsLeftOut):
        assert load_gsm8k(tmp_path / 'test.jsonl.gz', 'train')[0].split == 'train'
    (tmp_path / 'test.jsonl.gz').unlink()
    with pytest.raises(TracenbError, match='no test file'):
        load_gsm8k(tmp_path, 'test')


# --- real rows


@pytest.fixture
def real(shared):
    with gzip.open(shared / 'gsm8k' / 'train.jsonl.gz', 'rt') as f:
        return [json.loads(line) for line in f]


def test_the_official_rows_fall_into_these_classes(real):
    read = [read_problem(r['question'], r['answer']) for r in real]
    assert Counter(name for name, _ in read) == dict(
        verified=5161, nowhere=1189, ambiguous=647, other_end=377, no_equation=95, unreadable=2, no_fact=2
    )
    kinds = Counter(made['label'] for name, made in read if name == 'verified')
    assert kinds == dict(mixed=2448, proportional=1639, multiplicative=590, additive=484)


def test_official_rows_keep_the_invariants_of_every_condition(shared):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore', RowsLeftOut)
        examples = load_examples(gsm8k, DataConfig(source=str(shared / 'gsm8k'), n_train=150), 'train')
    for name in every_condition(gsm8k):
        holds(examples, name)


def test_no_real_row_is_slow(shared):
    examples = simulate_gsm8k(300)
    start = time.process_time()
    for name in every_condition(gsm8k):
        build_traces(examples, gsm8k, name)
    assert time.process_time() - start < 60 * len(examples) / 10_000 * 4  # four times as long as the aim


# --- simulation


@given(st.integers(0, 10**6), st.sampled_from(['train', 'test']), st.sampled_from([None, 40, 80]))
def test_simulated_problems_are_certified(seed, split, max_words):
    examples = check_examples(simulate_gsm8k(8, seed, split, max_words=max_words), gsm8k)
    assert [e.meta['label'] for e in examples] == [*gsm8k.labels] * 2
    for e in examples:
        kind, facts, equations = certified(e.context, e.question, e.meta['work'])
        assert (kind, list(facts)) == (e.meta['label'], e.meta['facts']) and split_of(e) == split
        assert max_words is None or len(' '.join(e.context).split()) <= max_words
        others = {m.plain for i, c in enumerate(e.context) if i not in facts for m in numbers_in(c)}
        assert not others & {x for q in equations for x in (*q.operands, q.stated)}


def test_a_simulation_says_when_it_is_too_short():
    with pytest.raises(TracenbError, match='in at most 5 words'):
        simulate_gsm8k(4, max_words=5)


# --- conditions


def holds(examples, name):
    "What a condition promises of label, facts and calculation, read back from its traces."
    built = build_traces(examples, gsm8k, name)
    promised = dict(
        correct=(1, 1, 1), wrong_label=(0, 1, 1), wrong_facts=(1, 0, 1), wrong_work=(1, 1, 0), incorrect=(0, 0, 0)
    )
    for e, t in zip(examples, built, strict=True):
        gold, r = gsm8k.decompose(e), parse_trace(t.text, e, gsm8k)
        if not t.text or name not in (*promised, 'edited_facts', 'foreign_facts', 'swapped'):
            continue
        facts = set(r.facts) == {e.context[i] for i in gold.facts}
        work = not check_calculation(e, gold, r.work)
        if name in promised:
            assert (r.label == gold.label, facts, work) == promised[name], (name, e.id)
        else:
            assert r.label == gold.label and not facts, (name, e.id)
        if name in ('wrong_work', 'incorrect', 'edited_facts'):
            assert not work and implied_result(e, Steps('', (), r.work)) != e.answers and len(r.work) == len(gold.work)
        if t.steps:
            assert (r.label, r.work) == (t.steps.label, t.steps.work)
            assert set(r.facts) == {e.context[i] for i in t.steps.facts}


@given(st.integers(0, 180), st.sampled_from(every_condition(gsm8k)))
def test_every_condition_keeps_its_promise(first, name):
    holds(SIMULATED[first : first + 60], name)  # 15 of each kind


@given(st.sampled_from(SIMULATED), st.integers(0, 10**6))
def test_a_wrong_calculation_is_consistent(e, seed):
    gold = gsm8k.decompose(e)
    lines = wrong_calculation(e, gold, random.Random(seed))
    bad = [k for k, line in enumerate(lines) if not read_equation(line).computes]
    assert len(bad) == 1 and 'does not compute' in check_calculation(e, gold, lines)
    assert implied_result(e, replace(gold, work=lines)) != e.answers
    assert lines[: bad[0]] == gold.work[: bad[0]]
    earlier = {read_equation(line).stated for line in lines[: bad[0] + 1]}
    for line in lines[bad[0] + 1 :]:
        assert set(read_equation(line).operands) & earlier or line in gold.work
        earlier.add(read_equation(line).stated)


@given(st.sampled_from(SIMULATED), st.integers(0, 10**6))
def test_an_edit_changes_one_number_and_all_that_follows_from_it(e, seed):
    made, gold = edit_problem(e, random.Random(seed)), gsm8k.decompose(e)
    if made is None:
        return
    i = made.meta['edited']
    assert [k for k, (a, b) in enumerate(zip(e.context, made.context)) if a != b] == [i] and i in gold.facts
    assert made.answers != e.answers and not check_calculation(made, gold, gsm8k.decompose(made).work)
    assert check_calculation(e, gold, gsm8k.decompose(made).work)


def test_most_examples_can_be_edited():
    assert sum(edit_problem(e, random.Random(0)) is not None for e in SIMULATED) > 0.9 * len(SIMULATED)


def test_other_ways_to_calculate_are_right():
    e = read_gsm8k_row(ROW, 'train')
    gold = gsm8k.decompose(e)
    assert check_calculation(e, gold, ('48*1/2=24', '24+48=72.0')) == ''
    assert check_calculation(e, gold, ('48/2+48=72',)) == ''
    assert 'is in no gold fact' in check_calculation(e, gold, ('70+2=72',))
    assert check_calculation(e, gold, ()) == 'no equation' and 'it ends at 24' in check_calculation(
        e, gold, ('48/2=24',)
    )
    assert 'is not an equation' in check_calculation(e, gold, ('72',))


def test_a_slip_that_cannot_go_on_ends_at_another_answer():
    e = read_gsm8k_row(ROW, 'train')
    lines = [read_equation(x) for x in ('48/3=16', '100/16=6.25')]
    assert recalculate(lines, {}, (0, Fraction(17))) is None
    assert annotations(ANSWER) == (('48/2=24', '48+24=72'), '72') and e.meta['work'] == list(annotations(ANSWER)[0])


# --- the third step in general


EVIDENCE = Work(
    name='evidence',
    sentence='\nThe evidence is: {work}',
    wrong=lambda example, steps, rng: ('(x, y, z)',),
    check=lambda example, steps, lines: '' if set(lines) == {'(hat, color, blue)'} else 'other triples',
)


@pytest.fixture
def three(monkeypatch):
    "The toy task with a third step of another kind."
    from tracenb.tasks import task

    made = replace(
        toy, name='toy3', work=EVIDENCE, decompose=lambda e: replace(toy.decompose(e), work=('(hat, color, blue)',))
    )
    monkeypatch.setitem(task.TASKS, 'toy3', made)
    return made, [replace(e, dataset='toy3') for e in toy.simulate(n=3, seed=0, split='train')]


def test_a_third_step_of_another_kind_is_written_read_and_scored(three):
    task, examples = three
    check_examples(examples, task)
    for name, wanted in dict(correct=1, wrong_work=0, wrong_label=1, incorrect=0).items():
        for e, t in zip(examples, build_traces(examples, task, name)):
            r = said(task.completion(e, t.text), e, task)
            assert (r.error, r.work, r.label) == (None, t.steps.work, t.steps.label)
            assert set(r.facts) == {e.context[i] for i in t.steps.facts}
            scores = {s.scorer: s.value for s in score_response(r, e, task.decompose(e))}
            assert scores['work_valid'] == wanted
            assert scores['trace_correct_exact'] == scores['classification'] * scores['retrieval_exact'] * wanted
    assert 'its evidence is wrong: other triples' in str(
        pytest.raises(TracenbError, check_examples, examples, replace(task, decompose=toy.decompose)).value
    )


def test_a_trace_without_the_third_step_is_an_error_of_form(three):
    task, (e, *_) = three
    text = toy.completion(e, toy.trace_text(e, toy.decompose(e)))
    assert said(text, e, task).error == 'no evidence sentence' and said(text, e, toy).error is None
    assert said(text, e, task).work == ()


@pytest.mark.parametrize(
    'written', ['48/2=24\n48+24=72', '48/2=24; 48+24=72', "['48/2=24', '48+24=72']", "['48/2=24' '48+24=72'"]
)
def test_lines_are_read_however_they_are_separated(written):
    e = read_gsm8k_row(ROW, 'train')
    text = gsm8k.trace_text(e, replace(gsm8k.decompose(e), work=())).removesuffix('[]') + written
    r = parse_trace(text, e, gsm8k)
    assert [s.strip('[]\'" ') for s in r.work] == ['48/2=24', '48+24=72'] or written.endswith("72'")
    assert all(text[s.start : s.end] == s.value for s in r.spans if s.kind == 'work')
    assert set(r.facts) == set(e.context)


def test_tasks_of_two_steps_have_no_trace_of_the_third():
    e = toy.simulate(n=1, seed=0, split='train')[0]
    steps = toy.decompose(e)
    assert 'work' not in Trace(id='a', condition='c', text='', steps=steps, source='rule').to_json()
    assert 'work' not in repr(steps) and 'work' not in step_rows(toy, [e])[0]
    assert step_rows(gsm8k, SIMULATED[:1])[0]['work'] == list(SIMULATED[0].meta['work'])
    assert 'work_valid' in fitting_scorers(gsm8k)
    for name in ('toy', 'babi', 'cotempqa', 'msmarco'):
        task = get_task(name)
        assert 'work_valid' not in fitting_scorers(task) and 'wrong_work' not in every_condition(task)
    with pytest.raises(TracenbError, match='needs a rule `work`'):
        build_traces([e], toy, 'wrong_work')
    assert CONDITIONS['wrong_work'].rule == 'work'


@given(st.lists(st.text(min_size=1, max_size=9)))
def test_steps_with_work_survive_a_file(lines):
    steps = Steps('a', (1,), tuple(lines))
    trace = Trace(id='a', condition='c', text='', steps=steps, source='rule')
    assert Trace.from_json(trace.to_json()) == trace and Steps.from_json(steps.to_json()) == steps
    r = Response(id='a', label=None, facts=(), answers=(), work=tuple(lines))
    assert Response.from_json(r.to_json()) == r and Example.from_json(SIMULATED[0].to_json()) == SIMULATED[0]
