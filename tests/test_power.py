"""Simulated participants, power and coverage, against exact values, formulas and their own promises."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from scipy.stats import binomtest, kruskal, norm

from tracenb.core.records import TracenbError
from tracenb.ratings.contrasts import pairwise
from tracenb.ratings.effects import (
    PAPER_MEANS,
    Effects,
    analyzed_share,
    draw_ratings,
    item_effects,
    location,
    mean_rating,
    participant_effects,
    rate,
    true_means,
)
from tracenb.ratings.power import (
    BATCH_STUDIES,
    PowerPlan,
    count_significant,
    coverage,
    participants_needed,
    power_figure,
    power_table,
    read_power_plan,
    significant_in_batch,
)
from tracenb.ratings.scales import check_answers, mean_ratings, participant_table, rules_of, score_trials
from tracenb.ratings.simulated import answers_of, draw_choices, draw_means, participant_rows, simulate_answers
from tracenb.stats.bradley_terry import bradley_terry
from tracenb.stats.comparisons import holm_rows
from tracenb.stats.rank_tests import kruskal_p
from tracenb.study.design import demo_study
from tracenb.study.steps import page_of, step_sequence, value_problems

FLAT = Effects(means={c: dict(interpretability=3.0, load=3.0) for c in PAPER_MEANS})


def scored(study, effects, n, seed):
    "The trials of a simulated study."
    rules = rules_of(study)
    rows = check_answers(simulate_answers(study, effects, n, seed), rules)
    return score_trials(rows, participant_table(rows, rules), rules)


# --- simulated participants


@pytest.mark.parametrize('judgment, sd, points', [(3.0, 1.0, 5), (5.8, 1.1, 5), (0.2, 0.6, 5), (4.0, 2.0, 7)])
def test_mean_rating_is_the_mean_of_rounded_and_clipped_judgments(judgment, sd, points):
    drawn = np.clip(np.rint(np.random.default_rng(1).normal(judgment, sd, 200_000)), 1, points)
    error = drawn.std() / math.sqrt(200_000)
    assert float(mean_rating(judgment, sd, points)) == pytest.approx(drawn.mean(), abs=5 * error)


@pytest.mark.parametrize('mean', [1.02, 2.5, 3.39, 4.59, 4.86, 4.99])
def test_location_gives_the_stated_mean(mean):
    assert float(mean_rating(location(mean, 1.1), 1.1)) == pytest.approx(mean, abs=1e-8)


def test_true_means_are_the_means_of_many_participants():
    effects, items = Effects(), ['q1', 'q2', 'q3']
    known = true_means(effects, ['r1'], items, seed=4).set_index('dimension')['mean']
    rated = pd.DataFrame([rate(effects, 'r1', i, n, 4) for i in items for n in range(1500)]).mean()
    for d in rated.index:
        assert rated[d] == pytest.approx(known[d], abs=0.07)
    assert known['load'] == pytest.approx(known[['mental_demand', 'effort', 'frustration']].mean())


def test_one_and_many_ratings_are_the_same_model():
    effects, rng = Effects(), np.random.default_rng(0)
    one = [list(rate(effects, 'r1_summary', f'i{k}', n).values()) for n in range(400) for k in range(6)]
    many = draw_ratings(effects, 'r1_summary', 400, item_effects(effects, 20, 6, rng), rng)

    def summary(x):
        correlations = np.corrcoef(x.mean(axis=1).T)
        return np.array([x.mean(), x.mean(axis=(1, 2)).std(), correlations[0, 1], correlations[0, 4]])

    difference = summary(np.array(one).reshape(400, 6, 6)) - np.mean([summary(x) for x in many], axis=0)
    assert np.abs(difference).max() < 0.15
    assert participant_effects(effects, 2, 3, rng).shape == (2, 3, 6)


def test_rates_of_exclusion_are_those_stated():
    rates = dict(inattentive_rate=0.5, attention_miss_rate=1.0, dropout=0.1, declined=0.1, check_failure_rate=0.1)
    study = demo_study()
    table = simulate_answers(study, Effects(**rates), 40, seed=3)
    participants = participant_table(check_answers(table, rules_of(study)), rules_of(study))
    share = participants.reason.value_counts() / len(participants)
    assert share['declined'] == pytest.approx(0.1, abs=0.05)
    assert share['screened_out'] == pytest.approx(0.09, abs=0.05)
    assert share['unfinished'] == pytest.approx(0.08, abs=0.05)
    assert (participants[participants.reason == ''].seconds > study.min_seconds).all()
    inattentive = participants.reason.isin(['attention', 'speed']).sum()
    assert inattentive / (participants.status == 'complete').sum() == pytest.approx(0.5, abs=0.12)
    assert table.simulated.all()


def test_participants_answer_what_the_server_accepts():
    study = demo_study(layout='within')
    answer = answers_of(study, Effects(dropout=0.0), 1)
    for number in (1, 2, 9):
        for step in step_sequence(study, number, 'within'):
            assert value_problems(study, step, answer(step, page_of(study, number, 'within', step), number)) == []
    rows = participant_rows(study, Effects(dropout=0.0), answer, 1, 'within', 1)
    assert {r['condition'] for r in rows if r['kind'] == 'trial'} == set(study.conditions)


def test_impossible_effects_are_refused():
    with pytest.raises(ValueError, match='between 1 and 5'):
        Effects(means=dict(r1=dict(load=0.0)))
    with pytest.raises(ValueError, match='0 or more'):
        Effects(noise_sd=-1.0)
    with pytest.raises(ValueError, match='from 0 to 1'):
        Effects(inattentive_rate=2.0)
    with pytest.raises(TracenbError, match='unknown condition of the stated effects'):
        simulate_answers(demo_study(), Effects(means=dict(r1=dict(load=2.0, interpretability=3.0))))
    with pytest.raises(TracenbError, match='simulated participants finished'):
        simulate_answers(demo_study(), Effects(declined=1.0), 2)


# --- power


def test_without_effects_the_share_of_significant_tests_is_alpha():
    found = count_significant(PowerPlan(effects=FLAT), 25, 2000, seed=5)
    for outcome in ('interpretability', 'load'):
        assert binomtest(found[outcome, 'Kruskal-Wallis', '', ''], 2000, 0.05).pvalue > 1e-4
        pairs = [n for (o, test, a, b), n in found.items() if o == outcome and a]
        assert max(pairs) / 2000 < 0.05  # Holm keeps each pair, and all of them together, below alpha


def test_large_effects_are_always_found_and_small_ones_as_often_as_the_formula_says():
    found = count_significant(PowerPlan(), 30, 200)
    assert found['interpretability', 'Mann-Whitney, Holm', 'decomposition', 'r1'] == 200
    means, only_people = dict(x=dict(load=20.0), y=dict(load=20.6)), dict(person_sd=1.0, item_sd=0.0, noise_sd=0.0)
    fine = Effects(means=means, dimensions=dict(effort='load'), points=40, **only_people)
    found = count_significant(PowerPlan(effects=fine, conditions=('x', 'y'), trials=1), 60, 2000)
    formula = norm.cdf(0.6 / math.sqrt(1 + 1 / 12) * math.sqrt(30 * 3 / math.pi) - norm.ppf(0.975))
    assert found['load', 'Mann-Whitney', 'x', 'y'] / 2000 == pytest.approx(formula, abs=0.04)


@pytest.mark.parametrize('n', [5, 12])
def test_a_batch_tests_what_the_analysis_tests(n):
    power_plan = PowerPlan()
    x = draw_means(power_plan, n, BATCH_STUDIES, np.random.default_rng([0, n, 0]))['load']
    test = lambda study: kruskal_p(list(study), 999)[1] if n < 11 else kruskal(*study).pvalue
    hits = sum(test(study) < 0.05 for study in np.swapaxes(x, 0, 1))
    assert significant_in_batch(power_plan, n, 0)['load', 'Kruskal-Wallis', '', ''] == hits


def pairs_plan(difference, conditions=('a', 'b', 'c'), trials=6):
    "A plan of pairs whose first condition is better by so much, with other noise than the default."
    means = {c: dict(preference=3 + difference * (k == 0)) for k, c in enumerate(conditions)}
    effects = Effects(means=means, dimensions=dict(better='preference'), noise_sd=0.9)
    return PowerPlan(effects, conditions, trials, 'pairs')


@pytest.mark.parametrize('n', [9, 14])
def test_a_batch_of_pairs_tests_what_the_analysis_tests(n):
    plan = pairs_plan(0.5)
    sides, chosen = draw_choices(plan, n, 100, np.random.default_rng([0, n, 0]))
    names, hits = np.array(plan.conditions), Counter()
    first, second = names[sides[..., 0]].ravel(), names[sides[..., 1]].ravel()
    about = pd.DataFrame(dict(participant=np.repeat(range(n), 6), first=first, second=second))
    for own in chosen['better'][:20]:
        table, tests = bradley_terry(about.assign(chosen=np.where(own.ravel(), first, second)), list(names))
        hits['F'] += tests.get('all', {}).get('p', 1) < 0.05
        hits['t'] += table.p[2] < 0.05
    found = significant_in_batch(plan, n, 0, studies=20)
    sides, again = draw_choices(plan, n, 20, np.random.default_rng([0, n, 0]))
    assert (again['better'] == chosen['better'][:20]).all()
    assert found['better', 'Bradley-Terry, F', '', ''] == hits['F']
    assert found['better', 'Bradley-Terry, t', 'a', 'c'] == hits['t']
    assert (hits['F'] > 2) == (n > 9)  # With fewer than ten people there is no model


def test_power_for_pairs_is_alpha_without_a_difference_and_the_formula_with_one():
    null = count_significant(pairs_plan(0), 30, 1000, seed=2)
    assert binomtest(null['better', 'Bradley-Terry, F', '', ''], 1000, 0.05).pvalue > 1e-4
    two = pairs_plan(0.4, ('a', 'b'))
    share = norm.cdf(0.4 / 0.9 / math.sqrt(2))  # That a is chosen; without a side its log odds are the strength
    strength, error = math.log(share / (1 - share)), (40 * 6 * share * (1 - share)) ** -0.5
    formula = norm.cdf(strength / error - norm.ppf(0.975))
    found = count_significant(two, 40, 500, seed=2)
    assert [*found] == [('better', 'Bradley-Terry, t', 'a', 'b')] and 0.5 < formula < 0.999
    assert found['better', 'Bradley-Terry, t', 'a', 'b'] / 500 == pytest.approx(formula, abs=0.05)


def test_the_same_numbers_by_any_number_of_workers():
    one, two = (count_significant(PowerPlan(), 12, 300, 3, workers=workers) for workers in (1, 2))
    assert two == one != count_significant(PowerPlan(), 12, 300, 4)


def test_within_subjects_takes_fewer_people():
    pair = ('post_hoc', 'r1_summary')
    found = {layout: count_significant(PowerPlan(layout=layout), 16, 300) for layout in ('within', 'between')}
    between = found['between'][('load', 'Mann-Whitney, Holm', *pair)]
    assert found['within'][('load', 'Wilcoxon, Holm', *pair)] > between + 30


def test_the_table_and_the_n_that_is_needed_agree():
    close = PowerPlan(conditions=('post_hoc', 'r1_summary'))
    needed = participants_needed(close, largest=128, sims=400, progress=False).set_index(['outcome', 'target'])
    row = needed.loc[('load', 0.8)]
    powers = power_table(close, (int(row.n) - 1, int(row.n)), sims=400, progress=False)
    below, reached = powers[powers.outcome == 'load'].power
    assert below < 0.8 <= reached and row.n_low <= row.n <= row.n_high
    assert row.recruit == math.ceil(row.n / analyzed_share(close.effects))
    assert needed.loc[('load', 0.9)].n > row.n and powers.simulated.all() and needed.simulated.all()
    none = participants_needed(PowerPlan(effects=FLAT), (0.8,), largest=12, sims=100, progress=False)
    assert none.n.isna().all()


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (dict(conditions=('r1',)), 'at least two'),
        (dict(layout='across'), "'between', 'within' or 'pairs'"),
        (dict(layout='within', trials=6), 'use a multiple'),
        (dict(conditions=('r1', 'r2')), "did you mean 'r1'"),
    ],
)
def test_impossible_plans_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        PowerPlan(**wrong)


def test_a_number_of_studies_that_is_not_a_multiple_of_a_batch_is_refused():
    with pytest.raises(TracenbError, match='multiple of 100'):
        power_table(sims=50)


def test_holm_by_hand():
    p = np.array([[0.01, 0.04, 0.03], [0.5, 0.01, 0.02]])
    assert np.allclose(holm_rows(p), [[0.03, 0.06, 0.06], [0.5, 0.03, 0.04]])
    found = holm_rows(np.array([[0.03, np.nan, 0.02]]))[0]
    assert found[[0, 2]].tolist() == pytest.approx([0.04, 0.04]) and np.isnan(found[1])


def test_the_figure_states_what_n_counts():
    labels = []
    for layout in ('between', 'within'):
        fig, _ = power_figure(power_table(PowerPlan(layout=layout), (5, 10), sims=100, progress=False))
        labels.append(fig.subfigs[0].axes[0].get_xlabel())
    fig, data = power_figure(power_table(pairs_plan(0.6), (10, 20), sims=100, progress=False))
    labels.append(fig.subfigs[0].axes[0].get_xlabel())
    assert labels == ['participants analyzed, a condition', *['participants analyzed, in all'] * 2]
    assert data.outcome.unique() == ['better'] and 'Holm' not in ''.join(t.get_text() for t in fig.findobj(Text))


# --- coverage


@pytest.mark.parametrize(
    ('layout', 'studies'),
    [
        ('between', 6),
        pytest.param('between', 25, marks=pytest.mark.exhaustive),
        ('within', 25),
    ],
)
def test_intervals_contain_the_truth_at_the_nominal_rate(layout, studies):
    found = coverage(studies, n=16, study=demo_study(layout=layout), draws=600, seed=100, progress=False)
    held = found.groupby('estimate')[['held', 'studies']].sum()
    for estimate in ('mean', 'difference', "Cliff's delta"):
        k, n = held.loc[estimate]
        assert k / n > 0.9, (estimate, k, n)
        assert binomtest(int(k), int(n), 0.95, alternative='less').pvalue > 0.001, (estimate, k, n)
    assert held.loc['mean', 'held'] < held.loc['mean', 'studies'], 'intervals that always contain it are too wide'
    assert found.bias.abs().max() < 0.15 * math.sqrt(25 / studies) and found.simulated.all()


def test_intervals_that_count_ratings_as_participants_are_too_narrow():
    "So the test above can fail."
    study, effects, held = demo_study(), Effects(inattentive_rate=0.0), []
    for seed in range(8):
        table = scored(study, effects, 16, seed)
        true = true_means(effects, study.conditions, [i.id for i in study.items], seed)
        true = true.set_index(['condition', 'dimension'])['mean']
        naive = mean_ratings(table.assign(participant=range(len(table))), ['interpretability', 'load'], 300)
        held += [r.low <= true[r.condition, r.outcome] <= r.high for r in naive.itertuples()]
    assert binomtest(sum(held), len(held), 0.95, alternative='less').pvalue < 0.001


def test_within_subjects_intervals_without_the_pairing_are_too_wide():
    "A difference between two conditions is one person's: unpaired, its interval includes the spread between people."
    study, rules = demo_study(layout='within'), rules_of(demo_study(layout='within'))
    for seed in range(4):
        table = scored(study, Effects(inattentive_rate=0.0), 16, seed)
        unpaired = table.assign(participant=table.participant + table.condition)
        found = [pairwise(t, ['load'], rules, 300) for t in (table, unpaired)]
        widths = [(pairs.high - pairs.low).mean() for pairs in found]
        assert widths[0] < 0.8 * widths[1]


def test_coverage_requires_a_study_whose_truth_is_known():
    with pytest.raises(TracenbError, match='4 trials of 8 items'):
        coverage(1, study=replace(demo_study(), trials=4), progress=False)


def test_effects_files_of_version_0_1_are_read(tmp_path):
    means = '{r1: {interpretability: 3.4, load: 4.6}, post_hoc: {interpretability: 4, load: 3}}'
    new, old = tmp_path / 'new.yaml', tmp_path / 'old.yaml'
    new.write_text(f'means: {means}\ninattentive_rate: 0.1\n')
    old.write_text(new.read_text().replace('inattentive_rate', ''.join(('care', 'less'))))
    assert read_power_plan(effects=old) == read_power_plan(effects=new)
