"""The statistics of a human study: worked examples, known effects, and tables without an answer."""

import math
from itertools import permutations

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, friedmanchisquare, kruskal, norm, wilcoxon

from tracenb.core.records import TracenbError
from tracenb.ratings.analysis import analyze, compute
from tracenb.ratings.contrasts import (
    Z,
    cliffs_delta,
    cliffs_delta_paired,
    correlations,
    mean_difference,
    omnibus,
    pairwise,
    wide_means,
)
from tracenb.ratings.effects import PAPER_MEANS, Effects, true_means
from tracenb.ratings.ordinal import fit_ordinal, odds_ratios, proportional_odds
from tracenb.ratings.reliability import cronbach_alpha, reliability
from tracenb.ratings.scales import (
    Rules,
    check_answers,
    mean_interval,
    mean_ratings,
    participant_flow,
    participant_table,
    rules_of,
    score_trials,
    widened_level,
)
from tracenb.ratings.sentences import rating_sentences
from tracenb.ratings.simulated import simulate_answers
from tracenb.study.design import demo_study

STUDY = demo_study(trials=4, n_per_condition=14)
RULES = rules_of(STUDY)
KINDS = ['interpretability', 'load']
WITHIN = demo_study(layout='within')
WITHIN_RULES = rules_of(WITHIN)


@pytest.fixture(scope='module')
def answers():
    return simulate_answers(STUDY, seed=1)


@pytest.fixture(scope='module')
def table(answers):
    return scored(answers, RULES)


def scored(answers, rules=Rules()):
    rows = check_answers(answers, rules)
    return score_trials(rows, participant_table(rows, rules), rules)


def answers_of(values, trials=2, dimensions=('understandability', 'effort'), status='complete', seconds=20.0):
    "Answers of participants: participant -> (condition, rating) or (condition, [one rating per trial])."
    rows = []
    for p, (condition, value) in values.items():
        shared = dict(participant=p, status=status, condition=condition, kind='trial', seconds=seconds)
        for k, v in enumerate(value if isinstance(value, list) else [value] * trials):
            rows += [shared | dict(step=f'trial:{k}', id=f'q{k}', dimension=d, value=v) for d in dimensions]
    return pd.DataFrame(rows)


def one_row(participant, condition, kind, name, status='complete', **columns):
    "The answer of one step that is not a trial."
    step = f'{kind}:{name}' if kind == 'attention' else kind
    row = dict(participant=participant, status=status, condition=condition, step=step, kind=kind, id=name)
    return pd.DataFrame([row | dict(dimension='', value=1) | columns])


# --- who is analyzed


@pytest.fixture(scope='module')
def mixed():
    "One participant for each reason of exclusion."
    return pd.concat(
        [
            answers_of(dict(fine=('r1', 3))),
            answers_of(dict(fast=('r1', 3)), seconds=1.0),
            answers_of(dict(asleep=('r1', 3)), seconds=1.0),
            one_row('asleep', 'r1', 'attention', 'a', right=False, seconds=3.0),
            one_row('fine', 'r1', 'attention', 'a', right=True, seconds=3.0),
            answers_of(dict(gone=('post_hoc', 3)), status='expired', trials=1),
            answers_of(dict(short=('post_hoc', 3)), trials=1),
            answers_of(dict(fake=('r1', 3)), status='preview'),
            one_row('no', 'r1', 'consent', 'agree', status='declined', value=0),
            one_row('silent', 'post_hoc', 'enter', '', status='active'),
        ]
    )


def test_each_participant_is_counted_once_at_the_first_reason_that_applies(mixed):
    participants = participant_table(check_answers(mixed), Rules()).set_index('participant')
    assert participants.reason.to_dict() == dict(
        fine='',
        fast='speed',
        asleep='attention',
        gone='unfinished',
        short='unfinished',
        fake='preview',
        no='declined',
        silent='unfinished',
    )
    assert participants.also['asleep'] == 'speed'
    flow = participant_flow(participants.reset_index()).set_index('stage')
    assert flow.n.to_dict() == {
        'entered': 8,
        'was a preview': 1,
        'did not consent': 1,
        'failed the comprehension check': 0,
        'did not finish': 3,
        'missed attention checks': 1,
        'answered too fast': 1,
        'analyzed': 1,
    }
    assert (flow.r1 + flow.post_hoc == flow.n).all()


def test_of_several_participations_the_first_counts(mixed):
    ids = mixed.participant.map(dict(fine='pid', fast='pid', gone='other'))
    found = participant_table(check_answers(mixed.assign(panel_id=ids))).set_index('participant')
    assert (found.reason['fine'], found.reason['fast'], found.also['fast']) == ('', 'repeated', 'speed')
    assert found.reason['gone'] == 'unfinished'


def test_attention_checks_may_be_missed_if_the_rules_allow_it(mixed):
    found = participant_table(check_answers(mixed), Rules(attention_allowed=1)).set_index('participant')
    assert found.reason['asleep'] == 'speed'


def test_rows_that_are_not_ratings_are_named(answers):
    first = answers.index[answers.kind == 'trial'][0]
    for column, value, message in (
        ('value', 6, 'p0001, trial:0, predictability: 6 is not a rating'),
        ('value', 2.5, 'is not a rating'),
        ('value', 'four', "'four' is not a rating"),
        ('dimension', 'trust', "scale 'trust' is unknown"),
        ('dimension', 'effort', 'effort: duplicate value'),
    ):
        wrong = answers.copy()
        wrong.loc[first, column] = value
        with pytest.raises(TracenbError, match=message):
            check_answers(wrong, RULES)
    with pytest.raises(TracenbError, match="no columns \\['status'\\]"):
        check_answers(answers.drop(columns='status'), RULES)
    with pytest.raises(TracenbError, match='none of them a rating'):
        check_answers(answers[answers.kind != 'trial'], RULES)
    with pytest.raises(TracenbError, match="nobody rated 'effort'"):
        check_answers(answers[answers.dimension != 'effort'], RULES)


def test_if_everybody_is_excluded_the_error_leaves_the_flow(tmp_path, answers):
    missed = answers.assign(right=answers.right.mask(answers.kind == 'attention', False))
    with pytest.raises(TracenbError, match='participants are excluded: .*missed attention checks'):
        analyze(missed, tmp_path, STUDY)
    assert pd.read_csv(tmp_path / 'tables' / 'flow.csv').set_index('stage').n['analyzed'] == 0
    assert len(pd.read_csv(tmp_path / 'tables' / 'participants.csv')) == answers.participant.nunique()
    assert not (tmp_path / 'analysis.html').exists()


# --- reliability


def test_alpha_is_the_documented_one():
    wide = pingouin.read_dataset('cronbach_alpha').pivot(index='Subj', columns='Items', values='Scores')
    found = [cronbach_alpha(wide)[k] for k in ('alpha', 'low', 'high')]
    assert found == pytest.approx([0.5917188, 0.195, 0.84], abs=1e-6)


def test_alpha_by_hand():
    scores = pd.DataFrame(dict(a=[1, 2, 3, 4], b=[2, 2, 4, 4], c=[1, 3, 3, 5.0]))
    by_hand = 3 / 2 * (1 - scores.var(ddof=1).sum() / scores.sum(axis=1).var(ddof=1))
    assert cronbach_alpha(scores)['alpha'] == pytest.approx(by_hand)
    gap = pd.DataFrame(dict(a=[np.nan], b=[1.0], c=[1.0]))
    assert cronbach_alpha(pd.concat([scores, gap]))['n'] == 4


def test_alpha_that_does_not_exist_states_why():
    assert cronbach_alpha(pd.DataFrame(dict(a=[1.0, 2, 3])))['note'] == 'a single scale: nothing to agree with'
    assert cronbach_alpha(pd.DataFrame(dict(a=[1.0, 2], b=[1.0, 2])))['note'] == '2 participants: too few'
    assert 'no variance' in cronbach_alpha(pd.DataFrame(dict(a=[3.0] * 5, b=[4.0] * 5)))['note']


def test_conditions_that_differ_do_not_make_scales_reliable():
    each, step = np.random.default_rng(0).normal(0, 0.5, (80, 2)), np.repeat([0.0, 4.0], 40)
    table = pd.DataFrame(dict(participant=range(80), condition=['a'] * 40 + ['b'] * 40, id='q'))
    table = table.assign(understandability=each[:, 0] + step, faithfulness=each[:, 1] + step)
    found = reliability(table).set_index('of').alpha
    assert found['all participants'] > 0.9 and found['within conditions'] < 0.3


# --- means


def test_a_participants_ratings_count_as_one_observation(table):
    repeated = pd.concat([table, table.assign(step=table.step + '-again')])
    once, twice = (mean_ratings(t, KINDS).select_dtypes('number') for t in (table, repeated))
    assert (twice.ratings == 2 * once.ratings).all()
    assert np.allclose(twice.drop(columns='ratings'), once.drop(columns='ratings'))
    once, twice = (pairwise(t, KINDS, RULES).select_dtypes('number') for t in (table, repeated))
    assert np.allclose(once, twice)


def test_the_order_of_rows_does_not_matter(answers):
    shuffled = answers.sample(frac=1, random_state=1)
    one, other = (compute(a, RULES, STUDY).tables for a in (answers, shuffled))
    for name in ('tests', 'reliability'):
        assert np.allclose(one[name].select_dtypes('number'), other[name].select_dtypes('number'), equal_nan=True)
    key = ['condition', 'outcome']
    means = [t['means'].set_index(key).sort_index()[['participants', 'mean']] for t in (one, other)]
    pd.testing.assert_frame_equal(*means)


def test_the_interval_of_a_mean_is_nearly_students():
    load = np.random.default_rng(2).normal(3, 0.6, 12)
    table = pd.DataFrame(dict(participant=range(12), condition='a', load=load))
    found = mean_interval(table, 'load', draws=20_000)
    half = 2.200985 * table.load.std() / math.sqrt(12)
    assert (found['high'] - found['low']) / 2 == pytest.approx(half, rel=0.06)
    assert widened_level(12) < 0.025 and widened_level(10**6) == pytest.approx(0.025, abs=1e-5)


def test_means_without_an_interval_state_why():
    table = scored(answers_of(dict(a=('x', 3), b=('x', 3), c=('y', 2))))
    found = mean_ratings(table, ['load']).set_index('condition')
    assert found.note['x'] == 'all participants have the same mean: no interval'
    assert found.note['y'] == 'one participant: no interval' and found.low.isna().all()


# --- tests


def test_cliffs_delta_by_hand():
    assert cliffs_delta([1, 2, 3], [2, 3, 4])[0] == pytest.approx(-5 / 9)
    assert cliffs_delta([4, 4], [1, 2])[0] == 1 and cliffs_delta([1, 1], [1, 1])[0] == 0
    assert all(map(math.isnan, cliffs_delta([1], [2, 3])))
    assert cliffs_delta_paired([3, 3, 1, 5], [1, 3, 2, 2])[0] == pytest.approx(0.25)


scores = st.lists(st.integers(1, 5), min_size=2, max_size=12)


@given(scores, scores)
def test_the_interval_of_cliffs_delta_solves_its_equation(a, b):
    delta, low, high = cliffs_delta(a, b)
    assert -1 <= low <= delta + 1e-9 and delta - 1e-9 <= high <= 1
    assert cliffs_delta(b, a) == pytest.approx((-delta, -high, -low), abs=1e-6)
    theta, size = (delta + 1) / 2, (len(a) + len(b)) / 2 - 1
    for end in (low, high):
        q = (end + 1) / 2
        variance = q * (1 - q) * (1 + size * (1 - q) / (2 - q) + size * q / (1 + q)) / len(a) / len(b)
        if 0 < q < 1:
            assert abs(theta - q) == pytest.approx(Z * math.sqrt(variance), abs=1e-5)


def test_tests_are_of_the_means_of_participants_and_exact_for_few():
    values = dict(a=('x', [1, 2]), b=('x', [2, 3]), c=('y', [3, 4]), d=('y', [4, 4]), e=('z', [5, 5]), f=('z', [2, 5]))
    table, groups = scored(answers_of(values)), [[1.5, 2.5], [3.5, 4.0], [5.0, 3.5]]
    found = omnibus(table, 'load')
    assert found['statistic'] == pytest.approx(kruskal(*groups).statistic)
    deals = [[list(x[:2]), list(x[2:4]), list(x[4:])] for x in permutations(sum(groups, []))]
    as_far = np.mean([kruskal(*deal).statistic >= found['statistic'] - 1e-9 for deal in deals])
    assert found['p'] == pytest.approx(as_far, abs=0.02) and found['note'] == 'exact p'
    assert found['size'] == pytest.approx(found['statistic'] / 5) and found['n'] == 6
    assert pairwise(table, ['load']).p.tolist() == pytest.approx([1 / 3, 1 / 3, 1])  # 2, 2 and 6 of 6 deals


def test_within_subjects_the_tests_are_friedmans_and_wilcoxons():
    effects = Effects(means={c: dict(interpretability=3.0 + k / 4, load=3.0) for k, c in enumerate(PAPER_MEANS)})
    table = scored(simulate_answers(WITHIN, effects, 30, 5), WITHIN_RULES)
    wide, found = wide_means(table, 'load', WITHIN_RULES), omnibus(table, 'load', WITHIN_RULES)
    assert found['test'] == 'Friedman'
    assert (found['statistic'], found['p']) == pytest.approx(tuple(friedmanchisquare(*wide.to_numpy().T)))
    pairs, (a, b) = pairwise(table, ['load'], WITHIN_RULES), wide.to_numpy().T[:2]
    assert pairs.test.unique().tolist() == ['Wilcoxon']
    assert pairs.p[0] == pytest.approx(wilcoxon(a, b, method='asymptotic', correction=True).pvalue)
    assert pairs.delta[0] == pytest.approx(np.sign(a - b).mean())
    paired, unpaired = (mean_difference(a, b, p) for p in (True, False))
    assert paired[0] == pytest.approx(unpaired[0]) and paired[2] - paired[1] < unpaired[2] - unpaired[1]


def test_within_subjects_correlations_leave_out_the_conditions():
    effects = Effects(means={c: dict(interpretability=2.0 + k / 2, load=3.0) for k, c in enumerate(PAPER_MEANS)})
    table = scored(simulate_answers(WITHIN, effects, 30, 5), WITHIN_RULES).astype(dict(trace_words=float))
    found = correlations(table, ['interpretability'], dict(trace_words='words')).iloc[0]
    assert found.rho_cells > 0.4 and abs(found.rho) < 0.3 and found.note == "the conditions' means are taken out"


def test_within_subjects_the_order_is_named_as_a_limit():
    found = compute(simulate_answers(WITHIN, seed=1, n_per_condition=12), WITHIN_RULES, WITHIN)
    assert any('saw several kinds' in s for s in rating_sentences(found))


def test_tests_without_an_answer_state_why():
    tied = scored(answers_of(dict(a=('x', 3), b=('x', 3), c=('y', 3), d=('y', 3))))
    assert omnibus(tied, 'load')['note'] == pairwise(tied, ['load']).note[0] == 'all means are equal: no test'
    one = scored(answers_of(dict(a=('x', 3), b=('x', 4))))
    assert omnibus(one, 'load')['note'] == 'one condition: nothing to compare' and pairwise(one, ['load']).empty
    few = scored(answers_of(dict(a=('x', 3), b=('x', 4), c=('y', 2))))
    assert omnibus(few, 'load')['note'] == 'a condition with fewer than two participants'
    assert pairwise(few, ['load']).p.isna().all()


# --- the ordinal model


def odds(table, rules=Rules()):
    return odds_ratios(fit_ordinal(table, 'load', rules))


def steps(table, rules=Rules()):
    return proportional_odds(fit_ordinal(table, 'load', rules))


def test_the_ordinal_model_finds_the_effects_and_counts_participants_not_ratings(table):
    found, twice = odds(table, RULES), odds(pd.concat([table, table]), RULES)
    ratios = found[found.term == 'condition'].set_index('level').odds_ratio
    assert 1 < ratios['post_hoc'] < ratios['r1_summary'] < ratios['r1']
    assert np.allclose(np.log(twice.odds_ratio[1:4]), np.log(ratios[1:]), atol=0.01)
    width = [np.log(t.high / t.low)[1:4].mean() for t in (found, twice)]
    assert width[1] == pytest.approx(width[0], rel=0.03)  # Naive errors would shrink by the root of 2
    assert found.participants.unique().tolist() == [table.participant.nunique()]


def test_ordinal_models_that_cannot_be_fitted_state_why(table):
    assert odds(table[table.condition == 'r1'], RULES).note.tolist() == ['one condition: nothing to compare']
    equal = table.assign(**{f'scale:{name}': 3.0 for name in ('effort', 'mental_demand', 'frustration')})
    assert odds(equal, RULES).note.tolist() == ['all ratings are equal']
    few = table[table.participant.isin(table.participant.unique()[::30])]
    assert 'too few for clustered errors' in odds(few, RULES).note[0]
    first = (table.condition == 'r1') & (table.id == 'demo-1')
    separate = table[first | (table.condition == 'post_hoc') & (table.id == 'demo-2')]
    assert 'cannot be separated' in odds(separate, RULES).note[0]


def proportional_ratings(rng, effects, n=25, bend=0.0, trials=6):
    """
    Ratings with exactly proportional odds in each condition, those of a participant alike.

    `bend` is added to the last condition's log odds ratio at the fourth step, half of it at the third.
    """
    conditions, rows, items = list(effects), [], rng.normal(0, 0.3, trials)
    for p in range(n * len(effects)):
        c, own = conditions[p % len(effects)], rng.normal()
        u = norm.cdf(math.sqrt(0.5) * own + math.sqrt(0.5) * rng.normal(size=(trials, 2)))
        bent = np.array([0, 0, 0.5, 1]) * (bend if c == conditions[-1] else 0)
        cuts = np.array([-1.5, -0.5, 0.5, 1.5]) - effects[c] - bent
        values = 1.0 + (np.log(u / (1 - u))[..., None] > cuts - items[:, None, None]).sum(axis=2)
        shared = dict(participant=f'p{p}', condition=c)
        for t, (a, b) in enumerate(values):
            rows.append(shared | dict(id=f'q{t}', step=f'trial:{t}', effort=a, frustration=b))
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ('studies', 'bent_studies'), [(12, 3), pytest.param(60, 8, marks=pytest.mark.exhaustive)], ids=['few', 'many']
)
def test_proportional_odds_are_rarely_refused_and_others_are_found(studies, bent_studies):
    effects = dict(a=0.0, b=0.5, c=1.0, d=-0.5)
    p = lambda seed, bend: steps(proportional_ratings(np.random.default_rng(seed), effects, bend=bend)).p[0]
    alarms = sum(p(seed, 0.0) < 0.05 for seed in range(studies))
    assert binomtest(alarms, studies, 0.05).pvalue > 0.002, alarms
    assert sum(p(seed, 1.5) < 0.05 for seed in range(bent_studies)) >= bent_studies - 1


def test_odds_ratios_at_single_steps_are_near_the_common_one_where_odds_are_proportional():
    effects = dict(a=0.0, b=1.0)
    found = steps(proportional_ratings(np.random.default_rng(3), effects, 250))[1:]
    assert found.above.tolist() == [1, 2, 3, 4] and ((found.low < math.e) & (math.e < found.high)).all()
    assert np.abs(np.log(found.odds_ratio / found.common)).max() < 0.3
    bent = steps(proportional_ratings(np.random.default_rng(3), effects, 250, bend=1.5))[1:]
    assert np.log(bent.odds_ratio.iloc[3] / bent.odds_ratio.iloc[0]) == pytest.approx(1.5, abs=0.4)


def test_proportional_odds_that_cannot_be_tested_state_why(table):
    assert steps(table[table.condition == 'r1'], RULES).note.tolist() == ['one condition: nothing to compare']
    two = proportional_ratings(np.random.default_rng(0), dict(a=0.0, b=0.5), 12)
    two = two.assign(effort=two.effort.clip(2, 3), frustration=two.frustration.clip(2, 3))
    assert steps(two).note[0].startswith('fewer than 5 participants above or below all but one step')
    found = rating_sentences(compute(simulate_answers(STUDY, seed=3), RULES, STUDY))
    assert sum('score test clustered by participant' in s for s in found) == 2


# --- correlations


def test_correlations_hold_participant_and_condition_constant():
    "Longer traces are rated lower by everybody; conditions with long traces higher."
    rng, rows = np.random.default_rng(0), []
    for p in range(40):
        c = 'xy'[p % 2]
        for i in range(8):
            load = np.clip(round(3 - 0.3 * (i - 3.5) + (2 if c == 'y' else 0) + rng.normal(0, 0.5)), 1, 9)
            about = dict(participant=f'p{p}', condition=c, id=f'q{i}', step=f'trial:{i}')
            rows.append(about | dict(load=float(load), words=20.0 + 100 * (c == 'y') + 10 * i))
    found = correlations(pd.DataFrame(rows), ['load'], dict(words='words')).iloc[0]
    assert found.rho < -0.7 and found.high < -0.6 and found.rho_cells > 0
    assert found.p_items < 0.05 and found.participants == 40
    flat = correlations(pd.DataFrame(rows).assign(words=5.0), ['load'], dict(words='words')).iloc[0]
    assert flat.participants == 0 and flat.note.startswith('the same for all trials')


# --- recovery


def test_known_effects_are_recovered():
    effects = Effects(inattentive_rate=0.0)
    found = compute(simulate_answers(STUDY, effects, 70, seed=7), RULES, STUDY)
    true = true_means(effects, STUDY.conditions, [i.id for i in STUDY.items], 7)
    both = found.tables['means'].merge(true.rename(columns=dict(dimension='outcome', mean='true')))
    assert len(both) == 32 and (both['mean'] - both.true).abs().max() < 0.25
    pairs = found.tables['pairs'].query("outcome == 'load' and a == 'decomposition'")
    assert (pairs.p_holm < 0.001).all() and (pairs.delta < 0).all()
    flat = Effects(means={c: dict(interpretability=3.0, load=3.0) for c in PAPER_MEANS})
    assert compute(simulate_answers(STUDY, flat, 30, seed=2), RULES, STUDY).tables['tests'].p.min() > 0.001
