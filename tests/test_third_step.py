"""A third step wherever steps are used: interventions, audits, displays, figures."""

import math
import re
from dataclasses import replace
from itertools import combinations

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from tracenb.audit.judging import Prediction, score_variants
from tracenb.audit.tables import overview, reading_table, sentences
from tracenb.audit.variants import SCORINGS, fitting_scorings
from tracenb.core.records import TracenbError
from tracenb.interventions.attribution import _parts, shapley
from tracenb.interventions.probes import Probed
from tracenb.interventions.questions import QuestionItem, cut_points, split_steps
from tracenb.interventions.registry import run_question, summarize_rows
from tracenb.report.design_figures import DESIGN, corruption_figure
from tracenb.report.figures import STEPS, steps_figure
from tracenb.report.interventions import dots_figure, summarize_dots
from tracenb.scoring.overlap import mask_answers
from tracenb.tasks.gsm8k import gsm8k
from tracenb.tasks.gsm8k_sim import simulate_gsm8k
from tracenb.tasks.task import get_task
from tracenb.traces.conditions import ConditionContext, build_traces
from tracenb.traces.display import MARK_SIGNS, MARK_TITLES, show_response, show_trace
from tracenb.traces.parsing import parse_trace

EXAMPLES = simulate_gsm8k(40, seed=5)
GAINS = dict(label=1.0, facts=2.0, work=4.0)


def subsets(steps):
    return [s for n in range(len(steps) + 1) for s in combinations(steps, n)]


class Adding:
    "lp(answer) = -9, more for each step of the trace that is there and right, and 0.5 for all of them."

    def __init__(self, item=None):
        self.item = item

    def trace_tokens(self, trace):
        return tuple(m.span() for m in re.finditer(r'\S+', trace))

    def hidden_sizes(self, chat, context, gold=()):
        return dict(context=60, gold=8, control=8)

    def logprob(self, trace):
        own = split_steps(self.item, self.item.correct.text)
        there = [GAINS[k] for k, sentence in own.items() if sentence.strip() in trace]
        return -9 + sum(there) + 0.5 * (len(there) == len(own))

    def score(self, chat, probes, context=None, gold=()):
        spans = [(p, self.trace_tokens(p.trace)) for p in probes]
        cut = [p.trace if p.until in (None, len(x)) else p.trace[: x[p.until - 1][1]] * bool(p.until) for p, x in spans]
        return [Probed(self.logprob(trace), True, 2) for trace in cut]

    def write(self, asks, seed=0):
        return [['0'] * (1 + a.n_samples) for a in asks]


def items(task, examples):
    ctx = ConditionContext(task, tuple(examples), task.labels, seed=3)
    for e in examples:
        subject = Adding()
        subject.item = QuestionItem(e, ctx, subject)
        yield subject.item


ITEMS = list(items(gsm8k, EXAMPLES))


# --- interventions


@given(st.integers(1, 4), st.data())
def test_shapley_values_of_any_number_of_steps_share_out_what_the_trace_adds(n, data):
    steps = ['label', 'facts', 'work', 'more'][:n]
    v = {'+'.join(s) or 'none': data.draw(st.floats(-20, 0)) for s in subsets(steps)}
    found = shapley(v)
    assert sum(found[f'phi_{x}'] for x in steps) == pytest.approx(v['+'.join(steps)] - v['none'], abs=1e-9)
    assert all(0 <= found[f'thinking_{x}'] <= 1 for x in steps)


def test_shapley_values_of_a_sum_are_its_terms():
    v = {'+'.join(s) or 'none': sum(GAINS[x] for x in s) - 9 for s in subsets(GAINS)}
    found = shapley(v)
    assert {k: found[f'phi_{k}'] for k in GAINS} == pytest.approx(GAINS) and found['interaction'] == pytest.approx(0)
    v['label+facts+work'] += 3
    assert {k: shapley(v)[f'phi_{k}'] for k in GAINS} == pytest.approx({k: x + 1 for k, x in GAINS.items()})
    assert shapley(v)['interaction'] == pytest.approx(3)


@pytest.mark.parametrize('item', ITEMS[:8], ids=lambda item: item.example.id)
def test_every_subset_of_the_steps_is_a_trace(item):
    own = split_steps(item, item.correct.text)
    assert list(own) == ['label', 'facts', 'work'] and ''.join(own.values()) == item.correct.text
    parts = _parts(item)
    for way, traces in parts.items():
        assert set(traces) == {'+'.join(s) or 'none' for s in subsets(own)}, way
        assert traces['label+facts+work'] == item.correct.text
    gold = item.steps
    for kept, text in parts['wrong'].items():
        said = parse_trace(text, item.example, gsm8k)
        right = dict(
            label=said.label == gold.label,
            facts=set(said.facts) == {item.example.context[i] for i in gold.facts},
            work=said.work == gold.work,
        )
        assert {k for k, ok in right.items() if ok} == set(kept.split('+')) - {'none'}
    assert parts['deleted']['none'] == '' and parts['deleted']['work'].startswith('I need to calculate: ')
    for kept, text in parts['filler'].items():
        assert len(item.tokens(text)) == len(item.tokens(item.correct.text)), kept


def test_a_subject_that_adds_has_its_own_values():
    rows = [r for item in ITEMS for r in run_question(item, 'BI')]
    table = summarize_rows(rows).set_index(['test', 'variant', 'metric']).estimate
    for way in ('deleted', 'wrong', 'filler'):
        for step, gain in GAINS.items():
            assert table['step_attribution', way, f'phi_{step}'] == pytest.approx(gain + 0.5 / 3)
        assert table['step_attribution', way, 'interaction'] == pytest.approx(0.5)
    for step, gain in GAINS.items():
        assert table['token_attribution', 'correct', f'gain_{step}'] == pytest.approx(gain + 0.5 * (step == 'work'))


def test_two_steps_have_no_value_of_a_third():
    task = get_task('babi')
    rows = [r for item in items(task, task.simulate(n=4, seed=0, split='test')) for r in run_question(item, 'BI')]
    names = set(summarize_rows(rows).metric)
    assert {'phi_label', 'phi_facts', 'thinking_facts', 'gain_facts'} <= names and not [n for n in names if 'work' in n]
    [item] = items(task, task.simulate(n=1, seed=0, split='test'))
    with pytest.raises(TracenbError, match='babi has no step .work.'):
        item.forced('work_alone')


def test_a_trace_is_cut_after_each_line_of_its_work():
    item = max(ITEMS, key=lambda x: len(x.steps.work))
    text, points = item.correct.text, cut_points(item, item.correct.text)
    spans, kinds = item.tokens(text), set(points.values())
    assert {'empty', 'label', 'fact', 'work', 'decile', 'whole'} == kinds
    ends = [text[: spans[n - 1][1]] for n, kind in points.items() if kind == 'work']
    lines = [re.search(r"'([^']*)'[\],]*$", x)[1] for x in ends]
    assert lines == list(item.steps.work[: len(lines)]) and len(lines) >= len(item.steps.work) - 1


@pytest.mark.parametrize('item', ITEMS[:12], ids=lambda item: item.example.id)
def test_forced_traces_imply_what_their_equations_end_at(item):
    wrong, edited = item.forced('wrong_work'), item.forced('edited_facts')
    assert item.correct.answers == item.example.answers
    for forced in (wrong, edited):
        [line] = parse_trace(forced.text, item.example, gsm8k).work[-1:]
        assert forced.answers == (line.partition('=')[2],) != item.example.answers
    assert [item.forced(f'{k}_alone').text for k in GAINS] == list(split_steps(item, item.correct.text).values())


# --- audit


def predictions(conditions):
    traces = {c: build_traces(EXAMPLES, gsm8k, c, seed=2) for c in set(conditions)}
    for k, (e, c) in enumerate(zip(EXAMPLES, conditions, strict=True)):
        answer = e if c != 'wrong_work' else replace(e, answers=('1',))
        yield Prediction(e, gsm8k.completion(answer, traces[c][k].text), gsm8k)


def test_an_audit_asks_for_the_third_step():
    half = len(EXAMPLES) // 2
    figures, tables = score_variants(list(predictions(['correct'] * half + ['wrong_work'] * half)))
    by = figures.set_index('scoring')
    assert list(by.index) == [s.name for s in fitting_scorings(gsm8k)] and set(by.work_accuracy) == {0.5}
    shares = {name: by.loc[name].trace_accuracy for name in ('own_any', 'ours', 'own_work', 'two_steps', 'own_label')}
    assert shares == dict(own_any=0.5, ours=0.5, own_work=0.5, two_steps=1, own_label=1)
    assert by.loc['own_work'].phi == pytest.approx(1) and by.loc['own_any'].table == (half, 0, 0, half)
    assert tables['own_any'].trace.tolist() == tables['own_any'].work.tolist()


def test_tables_of_an_audit_show_the_third_step():
    from tracenb.audit.tables import add_links

    half = len(EXAMPLES) // 2
    figures, tables = score_variants(list(predictions(['correct'] * half + ['wrong_work'] * half)))
    figures = add_links(figures, tables).assign(name='x', dataset='gsm8k')
    assert set(reading_table(figures)['third step right, %']) == {'50.0'}
    assert overview(figures)[['third step right', 'phi, third step alone']].values.tolist() == [['50.0', '1.00']]
    assert [s for s in sentences(figures) if s.startswith('The third step is right in 50.0 %. By it alone: ')]


@pytest.mark.parametrize('name', ['babi', 'cotempqa', 'msmarco'])
def test_an_audit_of_two_steps_does_not_speak_of_a_third(name):
    task = get_task(name)
    asked = task.simulate(n=12, seed=1, split='test')
    traces = build_traces(asked, task, 'correct', seed=1)
    figures, tables = score_variants([Prediction(e, task.completion(e, t.text), task) for e, t in zip(asked, traces)])
    assert 'work_accuracy' not in figures and not {'own_work', 'two_steps'} & set(figures.scoring)
    assert set(figures.scoring) <= set(SCORINGS) and not any('work' in t for t in tables.values())


# --- displays and figures


def test_displays_mark_a_wrong_third_step():
    e, wrong = EXAMPLES[0], build_traces(EXAMPLES, gsm8k, 'wrong_work')[0]
    right = build_traces(EXAMPLES, gsm8k, 'correct')[0]
    assert 'wrong third step' in show_trace(e, wrong).html and 'right third step' in show_trace(e, right).html
    said = parse_trace(wrong.text, e, gsm8k)
    assert 'wrong third step' in show_response(said, e).html and len(MARK_TITLES) == len(MARK_SIGNS)


def rows(dataset, conditions, third):
    made = []
    for c in conditions:
        for k in range(12):
            row = dict(dataset=dataset, model='m', condition=c, seed=1, id=f'q{k}', label='ab'[k % 2], answer_exact=1.0)
            row |= dict.fromkeys(STEPS, float(k % 3 > 0)) | dict(work_valid=k % 4 / 4 if third else math.nan)
            made.append(row)
    return pd.DataFrame(made)


def test_figures_show_a_third_step_where_there_is_one():
    two, three = rows('babi', ['correct'], False), rows('gsm8k', ['correct'], True)
    for table, wanted in ((two, set()), (two.drop(columns='work_valid'), set()), (three, {'gsm8k'})):
        data = steps_figure(table)[1]
        assert set(data[data.scorer == 'work_valid'].dropna(subset='mean').dataset) == wanted
    fig, data = steps_figure(pd.concat([two, three]))
    names = [[t.get_text() for t in ax.get_yticklabels()] for ax in fig.axes if len(ax.get_yticklabels()) > 2]
    assert sorted('third step' in n for n in names) == [False, True] and 'third step' not in names[0]


def test_the_design_of_two_steps_leaves_data_sets_with_a_third_out():
    assert corruption_figure(rows('gsm8k', DESIGN, True))[1].empty
    data = corruption_figure(pd.concat([rows('gsm8k', DESIGN, True), rows('babi', DESIGN, False)]))[1]
    assert set(data.dataset) == {'babi'}


def test_attribution_is_drawn_and_said_for_three_steps():
    run = dict(dataset='gsm8k', model='m', seed=1, condition='correct', test='step_attribution', eligible=True, why='')
    made = [
        run | dict(id=f'q{k}', variant=v, phi_label=0.1, phi_facts=1.0, phi_work=2.0 + k / 10)
        for k in range(8)
        for v in ('deleted', 'wrong', 'filler')
    ]
    fig, data = dots_figure(pd.DataFrame(made))
    assert set(data.metric) == {'phi_label', 'phi_facts', 'phi_work'}
    assert 'The third step: correct +2.35' in summarize_dots(data)[0]
    legend = {t.get_text() for t in fig.findobj(Text)}
    assert {f'{k} step; removed: {way}' for k in ('label', 'third') for way in ('deleted', 'filler')} <= legend
    fig, data = dots_figure(pd.DataFrame(made).drop(columns='phi_work'))
    assert not [t for t in fig.findobj(Text) if 'third' in t.get_text()] and set(data.metric) == {
        'phi_label',
        'phi_facts',
    }


@pytest.mark.parametrize(
    ('text', 'answer', 'masked'),
    [
        ('5*.5=2.5, 15/5=3, 1,500, 5.', '5', '___*.5=2.5, 15/___=3, 1,500, ___.'),
        ('20*.1=2, 2.', '2', '20*.1=___, ___.'),
        ('She paid $1,000.50 or 1,000.', '1,000', 'She paid $1,000.50 or ___.'),
        ('hat,cup', 'cup', 'hat,___'),
    ],
)
def test_an_answer_is_masked_as_a_whole_number(text, answer, masked):
    assert mask_answers(text, [answer]) == masked
