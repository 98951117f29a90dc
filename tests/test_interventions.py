"The tests A to J on subjects whose dependence on trace and context is known by construction."

import json
import math
import random
import re
from copy import copy
from dataclasses import replace

import pandas as pd
import pytest
from fastcore.test import test_close as close
from hypothesis import given
from hypothesis import strategies as st

from tracenb.core.records import Example, Steps, TracenbError
from tracenb.interventions.attribution import area_over_curve, area_under_curve, commitment, shapley
from tracenb.interventions.probes import Probed
from tracenb.interventions.questions import (
    InterventionSettings,
    QuestionItem,
    cut_points,
    filler_text,
    gives,
    orders,
    score_request,
)
from tracenb.interventions.registry import (
    Metric,
    answer_requests,
    estimate_mean,
    get_intervention,
    known_interventions,
    run_question,
    summarize_rows,
)
from tracenb.interventions.validity import certify, force_contrasts, force_matrix, validity
from tracenb.stats.comparisons import holm, paired
from tracenb.stats.intervals import wilson
from tracenb.tasks.task import DataConfig, Task, get_task, load_examples
from tracenb.traces.conditions import ConditionContext, build_traces

NAMES = 'Ann Bob Cid Dan Eve Fay'.split()
SLOTS = {'place': 'park shop barn lake'.split(), 'mood': 'happy angry tired calm'.split()}
ANSWERS = [*SLOTS['place'], *SLOTS['mood']]
SURE, UNSURE = math.log(0.93), math.log(0.01)  # the answer that is known; each of the other seven
GUESS = math.log(1 / 8)


def fact(name, place, mood):
    return f'{name} is in the {place} and {mood}.'


def read_fact(text):
    "(place, mood) for each name that the text has a fact about."
    found = re.findall(r'(\w+) is in the (\w+) and (\w+)\.', text)
    return {name: dict(place=place, mood=mood) for name, place, mood in found}


def steps_of(example):
    kind, name = re.match(r'What (\w+) has (\w+)', example.question).groups()
    return Steps(label=kind, facts=(next(i for i, c in enumerate(example.context) if c.startswith(name)),))


def implied(example, steps):
    known = read_fact(' '.join(example.context[i] for i in steps.facts))
    slots = known.get(example.question.removesuffix('?').split()[-1])
    return (slots[steps.label],) if slots else None


def edit(example, rng):
    steps = steps_of(example)
    [i] = steps.facts
    new = rng.choice([x for x in SLOTS[steps.label] if x != example.answers[0]])
    context = list(example.context)
    context[i] = context[i].replace(example.answers[0], new)
    return replace(example, context=tuple(context), answers=(new,))


def no_load(*_):
    return []


TASK = Task(
    name='people',
    labels=('place', 'mood'),
    decompose=steps_of,
    load=no_load,
    simulate=no_load,
    implied=implied,
    edit=edit,
)


def make_examples(n, seed=0):
    rng, made = random.Random(seed), []
    for k in range(n):
        slots = {name: {kind: rng.choice(words) for kind, words in SLOTS.items()} for name in NAMES}
        name, kind = rng.choice(NAMES), ('place', 'mood')[k % 2]
        context = tuple(fact(x, **s) for x, s in slots.items())
        question = f'What {kind} has {name}?'
        shared = dict(dataset='people', split='test', context=context, question=question)
        made.append(Example(id=f'q{k}', answers=(slots[name][kind],), **shared))
    return made


def read_prompt(chat):
    "(name, kind, what the context says)."
    text = chat.prompt[-1]['content']
    kind, name = re.search(r'What (\w+) has (\w+)', text).groups()
    return name, kind, read_fact(text)


def claimed(trace):
    "The label that a trace names, None without one."
    found = re.search(r'question asked is: (\w+)\.', trace)
    return found and found[1]


class Constructed:
    "A subject that has a rule instead of weights: `knows` gives the answer it is sure of, or None."

    def __init__(self):
        self.score_calls, self.answer_calls, self.n_probes, self.traces = 0, 0, 0, set()

    def knows(self, chat, trace, hide=()):
        raise NotImplementedError

    def logprob(self, chat, trace, answer, hide=()):
        known = self.knows(chat, trace, hide)
        if answer not in ANSWERS:
            return -50.0
        return GUESS if known is None else SURE if answer == known else UNSURE

    def trace_tokens(self, trace):
        return tuple(m.span() for m in re.finditer(r'\s*\S+', trace))

    def hidden_sizes(self, chat, context, gold=()):
        return dict(context=60, gold=8, control=8)

    def cut(self, probe):
        spans = self.trace_tokens(probe.trace)
        if probe.until is None or probe.until >= len(spans):
            return probe.trace
        return probe.trace[: spans[probe.until - 1][1]] if probe.until else ''

    def best(self, chat, trace, hide=()):
        return max(ANSWERS, key=lambda a: self.logprob(chat, trace, a, hide))

    def score(self, chat, probes, context=None, gold=()):
        self.score_calls, self.n_probes = self.score_calls + 1, self.n_probes + len(probes)
        self.traces |= {self.cut(p) for p in probes}
        found = []
        for p in probes:
            trace = self.cut(p)
            best = self.best(chat, trace, p.hide)
            found.append(Probed(self.logprob(chat, trace, p.answer, p.hide), p.answer == best, 2))
        return found

    def write(self, asks, seed=0):
        self.answer_calls += 1
        return [[self.best(a.chat, a.trace)] * (1 + a.n_samples) for a in asks]


class Follower(Constructed):
    "Answers what the trace says: its label, its fact about whom the question asks for."

    def knows(self, chat, trace, hide=()):
        name, _, _ = read_prompt(chat)
        if 'trace' in hide:
            return None
        about = read_fact(trace).get(name) or next(iter(read_fact(trace).values()), None)
        said = about and about.get(claimed(trace))
        return said if said in ANSWERS else None


class Ignorer(Constructed):
    "Answers what the context says."

    def knows(self, chat, trace, hide=()):
        name, kind, known = read_prompt(chat)
        return None if {'context', 'gold'} & set(hide) else known[name][kind]


class Peeker(Follower):
    "Sees what is hidden from it: an error in the scoring."

    def knows(self, chat, trace, hide=()):
        return super().knows(chat, trace)


class Mixture(Constructed):
    "Follows its trace in questions with an even number, and ignores it in the others."

    def knows(self, chat, trace, hide=()):
        kind = Follower if int(chat.id[1:]) % 4 < 2 else Ignorer
        return kind.knows(self, chat, trace, hide)


class Additive(Constructed):
    "lp(gold) = -4, 1 more with the right label in the trace, 2 with the gold fact (1 if masked), and 0.5 with both."

    label, facts, both = 1.0, 2.0, 0.5

    def logprob(self, chat, trace, answer, hide=()):
        name, kind, known = read_prompt(chat)
        if answer != known[name][kind]:
            return -10.0
        said = claimed(trace) == kind
        fact_there = read_fact(trace).get(name) == known[name]
        hidden = not fact_there and f'{name} is in the' in trace and '___' in trace
        lp = -4 + self.label * said + self.facts * fact_there + self.facts / 2 * hidden
        return lp + self.both * (said and fact_there)


def items(subject, n=40, **settings):
    ctx = ConditionContext(TASK, tuple(make_examples(n)), TASK.labels, seed=3)
    settings = dict(longest=16) | settings
    return [QuestionItem(e, ctx, subject, InterventionSettings(**settings)) for e in ctx.examples]


ALL = tuple('ABCDEFGHI')


def rows_of(subject, tests=ALL, n=40, **settings):
    return [row for item in items(subject, n, **settings) for row in run_question(item, tests)]


@pytest.fixture(scope='module')
def follower():
    return rows_of(Follower())


@pytest.fixture(scope='module')
def ignorer():
    return rows_of(Ignorer())


def pick(summary, test, metric, variant=None):
    found = summary[(summary.test == test) & (summary.metric == metric)]
    found = found if variant is None else found[found.variant == variant]
    assert len(found) == 1, found
    return found.iloc[0]


def test_all_tests_are_registered_with_letters_and_docstrings():
    tests = known_interventions()
    assert [t.letter for t in tests.values()] == list(ALL)
    assert all(t.about and t.metrics for t in tests.values())
    assert get_intervention('a') is get_intervention('forced_wrong')
    with pytest.raises(TracenbError, match="unknown intervention 'swapp'.*\n.*did you mean 'swap'"):
        get_intervention('swapp')


def test_rows_are_json_lines_with_ids(follower):
    assert [json.loads(json.dumps(r)) for r in follower]
    assert {r['test'] for r in follower} == set(known_interventions())
    assert {r['id'] for r in follower} == {f'q{k}' for k in range(40)}


def test_the_follower_follows_in_every_test(follower):
    s = summarize_rows(follower)
    gap = SURE - UNSURE
    wrong = dict(variant='edited_facts')
    assert pick(s, 'forced_wrong', 'follow', **wrong)[['estimate', 'n', 'n_eligible']].tolist() == [1, 40, 40]
    assert pick(s, 'forced_wrong', 'resist', **wrong).estimate == 0
    assert pick(s, 'forced_wrong', 'sampled_follow', **wrong).estimate == 1
    net = pick(s, 'forced_wrong', 'net_follow', **wrong)
    assert (net.estimate, net.verdict) == (1, 'differ') and net.p == 2 * 0.5**40
    close(pick(s, 'forced_wrong', 'lp_preference', **wrong).estimate, gap, 1e-9)
    assert pick(s, 'forced_wrong', 'accuracy', variant='correct').estimate == 1
    assert pick(s, 'forced_wrong', 'accuracy', **wrong).estimate == 0
    for variant in ('swapped_label_kept', 'swapped_label_changed'):
        assert pick(s, 'swap', 'follow', variant=variant).estimate == 1
        assert pick(s, 'swap', 'null_change', variant=variant)[['estimate', 'n_eligible']].tolist() == [0, 40]
    assert pick(s, 'conflict', 'reliance').estimate == 1
    close(pick(s, 'conflict', 'nie').estimate, 2 * gap, 1e-9)
    assert pick(s, 'conflict', 'nde').estimate == 0
    close(pick(s, 'conflict', 'te').estimate, 2 * gap, 1e-9)
    assert pick(s, 'label_edit', 'follow', variant='inconsistent').estimate == 1
    assert pick(s, 'label_edit', 'changed', variant='consistent').estimate == 1
    close(pick(s, 'knock_out', 'drop_trace').estimate, SURE - GUESS, 1e-9)
    assert pick(s, 'knock_out', 'drop_context').estimate == 0
    assert pick(s, 'knock_out', 'beyond_control').estimate == 0
    close(pick(s, 'token_attribution', 'gain').estimate, SURE - GUESS, 1e-9)
    close(pick(s, 'token_attribution', 'largest_gain').estimate, SURE - GUESS, 1e-9)
    for variant in ('filler_equal', 'varied_equal', 'shuffled'):
        assert pick(s, 'filler_sweep', f'drop_{variant}').estimate > 0.9 * (SURE - GUESS)


def test_the_ignorer_resists_in_every_test(ignorer):
    s = summarize_rows(ignorer)
    gap = SURE - UNSURE
    wrong = dict(variant='edited_facts')
    assert pick(s, 'forced_wrong', 'follow', **wrong).estimate == 0
    assert pick(s, 'forced_wrong', 'resist', **wrong).estimate == 1
    net = pick(s, 'forced_wrong', 'net_follow', **wrong)
    assert net.estimate == 0 and net.verdict != 'differ'
    assert pick(s, 'swap', 'follow', variant='swapped_label_kept').estimate == 0
    assert pick(s, 'conflict', 'reliance').estimate == 0
    assert pick(s, 'conflict', 'nie').estimate == 0
    close(pick(s, 'conflict', 'nde').estimate, 2 * gap, 1e-9)
    assert pick(s, 'early_answering', 'aoc').estimate == pick(s, 'early_answering', 'commitment').estimate == 0
    assert pick(s, 'early_answering', 'auc_accuracy').estimate == 1
    assert set(s[s.metric.isin(['phi_label', 'phi_facts', 'interaction', 'lp_drop'])].estimate) == {0}
    assert pick(s, 'label_edit', 'changed', variant='inconsistent').estimate == 0
    assert pick(s, 'knock_out', 'drop_trace').estimate == 0
    close(pick(s, 'knock_out', 'drop_context').estimate, SURE - GUESS, 1e-9)
    close(pick(s, 'knock_out', 'beyond_control').estimate, SURE - GUESS, 1e-9)
    assert pick(s, 'token_attribution', 'gain').estimate == 0


def test_the_follower_answers_when_its_trace_names_the_fact(follower):
    "It knows the answer once label, fact about the person, and the slot are there: only the last cuts."
    rows = [r for r in follower if r['test'] == 'early_answering']
    assert all(r['eligible'] for r in rows) and len(rows) == 40
    for r in rows:
        known = [right for right, kind in zip(r['right'], r['kinds']) if kind in ('fact', 'whole')]
        assert all(known) and r['same'][-1] and r['kinds'][0] == 'empty' and r['kinds'][-1] == 'whole'
        weights = [k for k, same in zip(r['kept'][:-1], r['same'][:-1]) if not same]
        close(r['aoc'], sum(weights) / sum(r['kept'][:-1]), 1e-12)
        assert r['commitment'] == r['kept'][r['same'].index(True)] / r['kept'][-1] or not all(
            r['same'][r['same'].index(True) :]
        )


def test_additive_subject_has_its_own_shapley_values():
    s = summarize_rows(rows_of(Additive(), 'BIHD'))
    for metric, value in dict(phi_label=1.25, phi_facts=2.25, interaction=0.5).items():
        close(pick(s, 'step_attribution', metric, 'deleted').estimate, value, 1e-9)
        close(pick(s, 'step_attribution', metric, 'filler').estimate, value, 1e-9)
        close(pick(s, 'step_attribution', metric, 'wrong').estimate, value, 1e-9)
    close(pick(s, 'token_attribution', 'gain').estimate, 3.5, 1e-9)
    close(pick(s, 'token_attribution', 'gain_label').estimate, 1, 1e-9)
    close(pick(s, 'token_attribution', 'gain_facts').estimate, 2.5, 1e-9)
    close(pick(s, 'filler_sweep', 'drop_filler_equal').estimate, 3.5, 1e-9)


def test_a_mixture_is_measured_as_its_shares():
    s = summarize_rows(rows_of(Mixture(), 'AG'))
    follow, resist = (pick(s, 'forced_wrong', m, 'edited_facts') for m in ('follow', 'resist'))
    assert follow.estimate == resist.estimate == 0.5
    assert (follow.low, follow.high) == wilson(20, 40)
    assert pick(s, 'conflict', 'reliance').estimate == 0.5
    close(pick(s, 'conflict', 'nie').estimate, SURE - UNSURE, 1e-9)


def test_the_null_channel_finds_a_subject_that_sees_what_is_hidden():
    rows = [r for r in rows_of(Peeker(), 'E', 20) if r['variant'] == 'swapped_label_kept']
    assert max(abs(r['null_change']) for r in rows) > 1


def test_all_tests_of_a_question_share_their_requests():
    "One call of scoring per prompt, two of writing (with samples, without) and one for the edited prompt."
    subject = Follower()
    run_question(items(subject, longest=256)[0], ALL)
    assert subject.score_calls == 2 and subject.answer_calls <= 3
    assert subject.n_probes <= 200
    subject = Follower()
    item = items(subject)[0]
    twice = [score_request('', 'park')] * 2
    assert len(answer_requests(item, twice)) == 1 and subject.n_probes == 1


def test_a_test_that_cannot_be_made_leaves_a_reason_and_the_others_go_on():
    class Short(Follower):
        def score(self, chat, probes, context=None, gold=()):
            if any(len(self.trace_tokens(self.cut(p))) > 100 for p in probes):
                raise TracenbError(f'{chat.id}: prompt, trace and answer are too long')
            return super().score(chat, probes, context, gold)

    rows = rows_of(Short(), 'ADI', 6, longest=128)
    assert {(r['test'], r['eligible']) for r in rows if r['test'] != 'forced_wrong'} == {
        ('filler_sweep', False),
        ('token_attribution', True),
    }
    assert all('too long' in r['why'] for r in rows if r['test'] == 'filler_sweep')
    s = summarize_rows(rows)
    sweep = s[s.test == 'filler_sweep']
    assert len(sweep) and set(zip(sweep.n, sweep.n_eligible)) == {(6, 0)}
    assert sweep.sentence.str.contains('no eligible question').all()
    equal = pick(s, 'filler_sweep', 'drop_filler_equal')  # a test left out as a whole is counted in its variants
    assert (equal.n, equal.n_eligible) == (6, 0)


@pytest.mark.parametrize('lost', ['edit', 'implied'])
def test_a_task_without_a_rule_has_no_eligible_question_and_says_so(lost):
    bare = replace(TASK, **{lost: None})
    ctx = ConditionContext(bare, tuple(make_examples(6)), bare.labels)
    rows = [r for e in ctx.examples for r in run_question(QuestionItem(e, ctx, Follower()), 'AFG')]
    where = dict(edit=[('forced_wrong', 'edited_facts'), ('conflict', '')], implied=[('label_edit', 'consistent')])[
        lost
    ]
    for test, variant in where:
        part = [r for r in rows if (r['test'], r['variant']) == (test, variant)]
        assert len(part) == 6 and not any(r['eligible'] for r in part) and all(r['why'] for r in part)
    assert [r for r in rows if r['test'] == 'label_edit' and r['variant'] == 'inconsistent' and r['eligible']]


def test_net_follow_is_tested_as_mcnemar_does():
    rows = rows_of(Mixture(), 'A')
    part = pd.DataFrame([r for r in rows if r['variant'] == 'edited_facts']).set_index('id')
    s = summarize_rows(rows)
    assert pick(s, 'forced_wrong', 'net_follow', 'edited_facts').p == paired(part.follow, part.placebo).p
    declared = s[s.test_used.ne('') & s.p.notna()]
    assert declared.p_holm.tolist() == holm(declared.p)


def test_summaries_do_not_depend_on_the_order_of_questions():
    rows = rows_of(Mixture(), 'ABCG', 20)
    mixed = random.Random(1).sample(rows, len(rows))
    a, b = (summarize_rows(x).sort_values(['test', 'variant', 'metric']).reset_index(drop=True) for x in (rows, mixed))
    pd.testing.assert_frame_equal(a, b, check_dtype=False)


def test_questions_do_not_depend_on_each_other():
    alone = run_question(items(Follower())[7], ALL)
    assert alone == [r for r in rows_of(Follower(), ALL) if r['id'] == 'q7']


@given(st.lists(st.sampled_from([*ANSWERS, '', 'park,shop', 'nothing']), min_size=1, max_size=8))
def test_follow_resist_and_other_sum_to_one(texts):
    from tracenb.interventions.following import _choice

    item = items(Follower(), 2)[0]
    row = _choice(item, texts, ('calm',) if item.example.answers != ('calm',) else ('park',))
    close(sum(row.values()), 1, 1e-12)
    assert all(0 <= v <= 1 for v in row.values())


@given(st.lists(st.floats(-30, 0), min_size=4, max_size=4))
def test_shapley_values_sum_to_what_the_trace_adds(values):
    v = dict(zip(('label+facts', 'label', 'facts', 'none'), values))
    found = shapley(v)
    close(found['phi_label'] + found['phi_facts'], v['label+facts'] - v['none'], 1e-9)
    assert 0 <= found['thinking_label'] <= 1 and 0 <= found['thinking_facts'] <= 1


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=12))
def test_areas_and_commitment_are_between_0_and_1(cuts):
    kept = [0, *pd.Series([n for n, _ in cuts]).cumsum().tolist()]
    same = [*(s for _, s in cuts), True]
    for area in area_over_curve(kept, same):
        assert area is None or 0 <= area <= 1
    assert 0 <= area_under_curve(kept, same) <= 1 + 1e-9
    assert 0 <= commitment(kept, same) <= 1
    assert area_over_curve(kept, [True] * len(kept))[0] in (0, None)


def test_validity_certifies_the_controls_and_validates_the_metrics(follower, ignorer):
    assert certify(follower, 'follower')['certified'] and certify(ignorer, 'ignorer')['certified']
    assert not certify(ignorer, 'follower')['certified'] and not certify(follower, 'ignorer')['certified']
    assert certify(follower, 'follower')['sentence'].endswith('(40 of 40 questions eligible): certified.')
    table = validity(follower, ignorer).set_index(['test', 'metric', 'variant'])
    sure = [
        ('forced_wrong', 'follow', 'edited_facts'),
        ('forced_wrong', 'net_follow', 'edited_facts'),
        ('swap', 'follow', 'swapped_label_kept'),
        ('conflict', 'nie', ''),
        ('conflict', 'nde', ''),
        ('conflict', 'reliance', ''),
        ('knock_out', 'drop_trace', 'trace'),
        ('knock_out', 'beyond_control', 'gold'),
        ('step_attribution', 'phi_facts', 'deleted'),
        ('token_attribution', 'gain', 'correct'),
    ]
    for key in sure:
        r = table.loc[key]
        assert (r.d, r.verdict, r.n_eligible) == (1, 'validated', 40), key
        close([r.low, r.high], wilson(40, 40), 1e-9)
    r = table.loc[('early_answering', 'aoc', 'correct')]  # ties where the follower's first guess is right by chance
    assert 0.8 < r.d < 1 and r.ties > 0 and r.d == 1 - r.ties / 2 and r.verdict == 'validated'
    same = validity(follower, follower)
    assert set(same.verdict) == {'not validated here'} and set(same.d) == {0.5}
    assert {'validated', 'reversed: greater in the ignorer'} >= set(validity(ignorer, follower).verdict) - {
        'not validated here'
    }
    with pytest.raises(TracenbError, match='no question in common'):
        validity(follower, [r | dict(id='x' + r['id']) for r in ignorer])


def test_validity_with_several_seeds_counts_questions_once(follower, ignorer):
    seeds = [
        [r | dict(seed=k) for k in range(3) for r in rows if r['test'] == 'forced_wrong']
        for rows in (follower, ignorer)
    ]
    r = validity(*seeds).set_index(['metric', 'variant']).loc[('follow', 'edited_facts')]
    assert (r.n_eligible, r.seeds, r.d) == (40, 3, 1)
    close([r.low, r.high], wilson(40, 40), 1e-9)


def test_the_matrix_of_trained_and_forced_traces(follower, ignorer):
    rows = [r | dict(condition='follower') for r in follower] + [r | dict(condition='ignorer') for r in ignorer]
    cells = force_matrix(rows).set_index(['condition', 'forced', 'measure'])
    assert cells.loc[('follower', 'edited_facts', 'accuracy')].estimate == 0
    assert cells.loc[('follower', 'correct', 'accuracy')].estimate == 1
    assert cells.loc[('ignorer', 'edited_facts', 'accuracy')].estimate == 1
    assert cells.loc[('ignorer', 'edited_facts', 'follow')].estimate == 0
    close(cells.loc[('ignorer', 'none', 'lp_gold')].estimate, SURE, 1e-9)
    contrasts = force_contrasts(rows)
    r = contrasts[(contrasts.trained == 'follower') & (contrasts.b == 'edited_facts')].iloc[0]
    assert (r.a, r.difference, r.n, r.test) == ('correct', 1, 40, 'McNemar, exact')
    with pytest.raises(TracenbError, match='condition of training'):
        force_matrix(follower)


def test_a_null_is_called_equal_only_by_its_own_test():
    "Differences around 0: shown to be small with many questions, open with few."
    rng = random.Random(0)
    shared = dict(test='knock_out', variant='trace', eligible=True, why='')
    many = [dict(id=f'q{k}', lp_drop=rng.gauss(0, 0.3), **shared) for k in range(400)]
    open_, equal = summarize_rows(many[:12]).iloc[0], summarize_rows(many).iloc[0]
    assert equal.verdict == 'equal' and 'two one-sided tests' in equal.sentence and equal.p_equal < 0.05
    assert open_.verdict == 'open' and 'would be found four times in five' in open_.sentence
    assert open_.detectable > equal.detectable > 0


def test_seeds_are_nested_in_questions():
    shared = dict(test='knock_out', variant='trace', eligible=True, why='')
    rows = [dict(id=f'q{k}', seed=s, lp_drop=1 + s + k / 50, **shared) for k in range(50) for s in range(3)]
    r = summarize_rows(rows).iloc[0]
    assert (r.n, r.n_eligible, r.seeds, r.test_used) == (50, 50, 3, 't, seeds and questions')
    one = summarize_rows([x for x in rows if x['seed'] == 1]).iloc[0]
    assert r.high - r.low > 3 * (one.high - one.low)  # seeds differ much more than questions
    assert estimate_mean(pd.DataFrame(dict(id=['a', 'a', 'b'], seed=[0, 1, 0], value=[1.0, 0, 1])))['estimate'] == 0.75


def test_copy_share_is_the_part_that_masking_takes():
    s = summarize_rows(rows_of(Follower(), 'C', 30))
    r = pick(s, 'early_answering', 'copy_share_lp')
    close([r.estimate, r.low, r.high], [1, 1, 1], 1e-9)
    nothing = summarize_rows(rows_of(Ignorer(), 'C', 30))
    r = pick(nothing, 'early_answering', 'copy_share_lp')
    assert math.isnan(r.estimate) and 'no copy share' in r.sentence and r.n_eligible == 30


def test_cuts_are_at_steps_facts_and_tenths():
    item = items(Follower())[0]
    points = cut_points(item, item.correct.text)
    kinds = list(points.values())
    assert kinds[0] == 'empty' and kinds[-1] == 'whole' and {'label', 'decile'} <= set(kinds)
    spans = item.tokens(item.correct.text)
    label = next(k for k, kind in points.items() if kind == 'label')
    assert (
        item.correct.text[: spans[label - 1][1]].rstrip() == TASK.label_sentence.format(label=item.steps.label).rstrip()
    )
    assert points == dict(sorted(points.items()))


@given(st.integers(1, 80), st.booleans())
def test_filler_has_the_length_that_is_asked_for(n, varied):
    item = items(Follower(), 2)[0]
    words = filler_text(item, n, varied).split()
    assert len(words) == n and (not varied or len(set(words)) == n)


def test_answers_of_several_items_have_several_orders():
    item = items(Follower(), 2)[0]
    assert orders(item, ('a', 'b', 'c'))[0] == 'a,b,c' and len(orders(item, ('a', 'b', 'c'))) == 6
    assert orders(item, ('a', 'b', 'c', 'd')) == ('a,b,c,d',)
    assert gives(item, 'C, a,B', ('a', 'b', 'c')) and not gives(item, 'a,b', ('a', 'b', 'c'))
    either = replace(item, ctx=replace(item.ctx, task=replace(TASK, alternatives=True)))
    assert orders(either, ('a', 'b')) == ('a', 'b') and gives(either, 'b', ('a', 'b'))


def test_a_metric_has_the_margin_of_its_unit():
    assert Metric('x', '').margin == 0.03 and Metric('x', '', unit='logprob').margin == 0.1


@pytest.fixture(scope='module')
def tiny():
    "A real subject: random weights, fp32."
    from tracenb.interventions.subject import Subject
    from tracenb.models.loading import load_model, load_tokenizer

    return Subject(load_model('tiny-random', device='cpu', dtype='float32'), load_tokenizer('tiny-random'))


@pytest.fixture(scope='module')
def tiny_rows(tiny):
    with tiny.ready():
        return rows_of(tiny, n=4, samples=2)


def test_a_real_subject_gives_the_same_value_in_every_test(tiny_rows):
    by_test = {}
    for r in tiny_rows:
        by_test.setdefault((r['id'], r['test'], r['variant']), r)
    for k in range(4):
        own = by_test[f'q{k}', 'forced_wrong', 'correct']['lp_gold']
        others = [
            by_test[f'q{k}', 'step_attribution', 'deleted']['v']['label+facts'],
            by_test[f'q{k}', 'token_attribution', 'correct']['lp'][-1],
            by_test[f'q{k}', 'conflict', '']['lp']['00'][0],
            by_test[f'q{k}', 'knock_out', 'trace']['lp_own'],
            by_test[f'q{k}', 'swap', 'swapped_label_kept']['lp_own'],
            by_test[f'q{k}', 'filler_sweep', 'filler 4']['lp_own'],
        ]
        close(others, [own] * len(others), 1e-4)
        empty = [
            by_test[f'q{k}', 'forced_wrong', 'none']['lp_gold'],
            by_test[f'q{k}', 'filler_sweep', 'filler 0']['lp'],
            by_test[f'q{k}', 'step_attribution', 'deleted']['v']['none'],
        ]
        close(empty, [by_test[f'q{k}', 'token_attribution', 'correct']['lp'][0]] * 3, 1e-4)


def test_what_a_real_subject_cannot_see_changes_nothing(tiny_rows):
    changes = [r['null_change'] for r in tiny_rows if r['test'] == 'swap']
    assert len(changes) == 8 and max(map(abs, changes)) < 1e-4
    drops = [abs(r['lp_drop']) for r in tiny_rows if r['test'] == 'swap']
    assert max(drops) > 1e-4  # what it can see does change something


def test_the_null_channel_of_the_embedded_model_is_null_in_fp32(embedded_fp32):
    "In bf16 it is not quite: rounding depends on what else is computed."
    from tracenb.interventions.subject import Subject

    tok, model = embedded_fp32
    subject = Subject(model, tok)
    with subject.ready():
        rows = [r for item in items(subject, 8)[:2] for r in run_question(item, ['E']) if r['eligible']]
    assert len(rows) == 4 and max(abs(r['null_change']) for r in rows) < 1e-4
    assert min(abs(r['lp_drop']) for r in rows) > 0.1


def test_a_block_after_the_answer_changes_nothing(tiny):
    import torch

    from tracenb.interventions.probes import forced_chat
    from tracenb.traces.loss_mask import encode

    item = items(tiny, 2)[0]
    ids = encode(forced_chat(item.chat(), item.correct.text, item.example.answers[0]), tiny.tokenizer).input_ids
    blocks = [
        tiny.tokenizer(t, add_special_tokens=False)['input_ids'][:12] for t in ('The hat is blue. ' * 4, '. ' * 40)
    ]
    with torch.no_grad():
        a, b = (tiny.model(torch.tensor([[*ids, *block]])).logits[0, : len(ids)] for block in blocks)
    assert (a - b).abs().max() < 1e-4 and blocks[0] != blocks[1]


def test_a_real_subject_is_summarized_with_all_tests(tiny_rows):
    assert {r['test'] for r in tiny_rows} == set(known_interventions())
    json.dumps(tiny_rows)
    s = summarize_rows(tiny_rows)
    assert set(s.test) == set(known_interventions())
    assert s.sentence.str.len().min() > 20 and s.n.eq(4).all() and s.n_eligible.between(0, 4).all()
    shares = s[
        s.metric.isin(['follow', 'resist', 'other']) & (s.test == 'forced_wrong') & (s.variant == 'edited_facts')
    ]
    close(shares.estimate.sum(), 1, 1e-9)


@pytest.mark.parametrize('name', ['babi', 'babi20', 'cotempqa', 'msmarco', '2wiki', 'hotpotqa', 'toy'])
def test_every_task_can_be_asked_everything(tiny, name):
    "Simulated questions of the tasks that ship: what is not possible is counted with its reason, and nothing fails."
    task = get_task(name)
    examples = load_examples(task, DataConfig(n_test=8 if name != 'toy' else 2), 'test')
    if name == 'toy':
        examples += load_examples(task, DataConfig(n_train=3), 'train')
    ctx = ConditionContext(task, tuple(examples), task.labels)
    settings = InterventionSettings(samples=1, longest=8)
    tests = 'ABCDEFGH' if name == 'msmarco' else ALL  # its traces have hundreds of tokens: no score of each prefix
    subject = copy(tiny)
    subject.limit = 8192  # passages are long for a tokenizer of single characters
    with subject.ready():
        rows = [r for e in examples[:3] for r in run_question(QuestionItem(e, ctx, subject, settings), tests)]
    json.dumps(rows)
    s = summarize_rows(rows)
    assert set(s.test) == {get_intervention(t).name for t in tests} and s.n.le(3).all()
    assert all(r['why'] for r in rows if not r['eligible'])
    eligible = {r['test'] for r in rows if r['eligible']}
    assert eligible >= {'step_attribution', 'filler_sweep', 'knock_out'}
    wrong = [r for r in rows if r['test'] == 'forced_wrong' and r['variant'] == 'edited_facts']
    assert any(r['eligible'] for r in wrong) == (task.edit is not None)
    for r in wrong:
        if r['eligible']:
            assert r['follow'] + r['resist'] + r['other'] == 1 and r['implied'] and r['lp_implied'] < 0


def test_the_forced_edited_trace_is_the_one_that_the_condition_teaches(tiny):
    task = get_task('babi')
    examples = load_examples(task, DataConfig(n_test=10), 'test')
    ctx = ConditionContext(task, tuple(examples), task.labels, seed=5)
    taught = {t.id: t.text for t in build_traces(examples, task, 'edited_facts', seed=5)}
    forced = {e.id: QuestionItem(e, ctx, tiny) for e in examples if task.edit(e, random.Random(0))}
    assert forced and all(taught[k] == item.forced('edited_facts').text for k, item in forced.items() if taught[k])
