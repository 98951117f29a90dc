"""Simulated people, power and coverage, against exact values, formulas and their own promises."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binomtest, kruskal, norm

from tracenb.core.records import TracenbError
from tracenb.ratings.contrasts import pairwise
from tracenb.ratings.power import BATCH, Plan, batch, counts, coverage, kept, needed, power_table
from tracenb.ratings.scales import checked, means, participants, rules_of, scored
from tracenb.ratings.simulated import (
    PAPER,
    Effects,
    answers_of,
    item_effects,
    leanings,
    location,
    mean_rating,
    rate,
    ratings_of,
    simulate,
    truth,
    walk,
)
from tracenb.stats.comparisons import holm_rows
from tracenb.study.design import demo_study, page_of

FLAT = Effects(means={c: dict(interpretability=3.0, load=3.0) for c in PAPER})


# --- people


@pytest.mark.parametrize('at, sd, points', [(3.0, 1.0, 5), (5.8, 1.1, 5), (0.2, 0.6, 5), (4.0, 2.0, 7)])
def test_mean_rating_is_the_mean_of_rounded_and_clipped_judgments(at, sd, points):
    drawn = np.clip(np.rint(np.random.default_rng(1).normal(at, sd, 200_000)), 1, points)
    assert float(mean_rating(at, sd, points)) == pytest.approx(drawn.mean(), abs=5 * drawn.std() / math.sqrt(200_000))


@pytest.mark.parametrize('mean', [1.02, 2.5, 3.39, 4.59, 4.86, 4.99])
def test_location_gives_the_stated_mean(mean):
    assert float(mean_rating(location(mean, 1.1), 1.1)) == pytest.approx(mean, abs=1e-8)


def test_truth_is_what_many_people_say():
    effects, items = Effects(), ['q1', 'q2', 'q3']
    known = truth(effects, ['r1'], items, seed=4).set_index('dimension')['mean']
    said = pd.DataFrame([rate(effects, 'r1', i, n, 4) for i in items for n in range(1500)]).mean()
    for d in said.index:
        assert said[d] == pytest.approx(known[d], abs=0.07)
    assert known['load'] == pytest.approx(known[['mental_demand', 'effort', 'frustration']].mean())


def test_one_and_many_ratings_are_the_same_model():
    effects, rng = Effects(), np.random.default_rng(0)
    one = np.array(
        [list(rate(effects, 'r1_summary', f'i{k}', n).values()) for n in range(400) for k in range(6)]
    ).reshape(400, 6, 6)
    many = ratings_of(effects, 'r1_summary', 400, item_effects(effects, 20, 6, rng), rng)
    spread = lambda x: np.array(
        [x.mean(), x.mean(axis=(1, 2)).std(), np.corrcoef(x.mean(axis=1).T)[0, 1], np.corrcoef(x.mean(axis=1).T)[0, 4]]
    )
    assert np.abs(spread(one) - np.mean([spread(x) for x in many], axis=0)).max() < 0.15
    assert leanings(effects, 2, 3, rng).shape == (2, 3, 6)


def test_the_study_holds_what_was_stated_about_the_careless():
    study, effects = demo_study(), Effects(careless=0.5, heedless=1.0, dropout=0.1, declined=0.1, confused=0.1)
    table = simulate(study, effects, 40, seed=3)
    people = participants(checked(table, rules_of(study)), rules_of(study))
    share = people.reason.value_counts() / len(people)
    assert (
        share['declined'] == pytest.approx(0.1, abs=0.05)
        and share['screened_out'] == pytest.approx(0.09, abs=0.05)
        and share['unfinished'] == pytest.approx(0.08, abs=0.05)
    )
    assert (people[people.reason == ''].seconds > study.min_seconds).all() and len(
        people[people.reason.isin(['attention', 'speed'])]
    ) / (people.status == 'complete').sum() == pytest.approx(0.5, abs=0.12)
    assert table.simulated.all()


def test_people_answer_what_the_server_accepts():
    from tracenb.study.design import plan, problems

    study = demo_study(layout='within')
    answer = answers_of(study, Effects(dropout=0.0), 1)
    for number in (1, 2, 9):
        for step in plan(study, number, 'within'):
            assert problems(study, step, answer(step, page_of(study, number, 'within', step), number)) == []
    rows = walk(study, Effects(dropout=0.0), answer, 1, 'within', 1)
    assert {r['condition'] for r in rows if r['kind'] == 'trial'} == set(study.conditions)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match='between 1 and 5'):
        Effects(means=dict(r1=dict(load=0.0)))
    with pytest.raises(ValueError, match='0 or more'):
        Effects(noise_sd=-1.0)
    with pytest.raises(ValueError, match='from 0 to 1'):
        Effects(careless=2.0)
    with pytest.raises(TracenbError, match='unknown condition of the stated effects'):
        simulate(demo_study(), Effects(means=dict(r1=dict(load=2.0, interpretability=3.0))))
    with pytest.raises(TracenbError, match='simulated people finished'):
        simulate(demo_study(), Effects(declined=1.0), 2)


# --- power


def test_without_effects_the_share_of_significant_tests_is_alpha():
    found = counts(Plan(effects=FLAT), 25, 2000, seed=5)
    for outcome in ('interpretability', 'load'):
        assert binomtest(found[outcome, 'Kruskal-Wallis', '', ''], 2000, 0.05).pvalue > 1e-4
        pairs = [n for (o, test, a, b), n in found.items() if o == outcome and a]
        assert max(pairs) / 2000 < 0.05  # Holm keeps each pair, and all of them together, below alpha


def test_large_effects_are_always_found_and_small_ones_like_the_formula_says():
    assert counts(Plan(), 30, 200)['interpretability', 'Mann-Whitney, Holm', 'decomposition', 'r1'] == 200
    fine = Effects(
        means=dict(x=dict(load=20.0), y=dict(load=20.6)),
        dimensions=dict(effort='load'),
        points=40,
        person_sd=1.0,
        item_sd=0.0,
        noise_sd=0.0,
    )
    share = (
        counts(Plan(effects=fine, conditions=('x', 'y'), trials=1), 60, 2000)['load', 'Mann-Whitney', 'x', 'y'] / 2000
    )
    formula = norm.cdf(0.6 / math.sqrt(1 + 1 / 12) * math.sqrt(30 * 3 / math.pi) - norm.ppf(0.975))
    assert share == pytest.approx(formula, abs=0.04)


def test_a_batch_tests_what_scipy_tests():
    plan, n, hits = Plan(), 9, Counter()
    from tracenb.ratings.power import _means

    x = _means(plan, n, BATCH, np.random.default_rng([0, n, 0]))['load']
    hits = sum(kruskal(*study).pvalue < 0.05 for study in np.swapaxes(x, 0, 1))
    assert batch(plan, n, 0)['load', 'Kruskal-Wallis', '', ''] == hits


def test_the_same_numbers_by_any_number_of_workers():
    assert counts(Plan(), 12, 300, 3, workers=2) == counts(Plan(), 12, 300, 3) != counts(Plan(), 12, 300, 4)


def test_within_subjects_takes_fewer_people():
    at = lambda layout, test: counts(Plan(layout=layout), 16, 300)['load', test, 'post_hoc', 'r1_summary']
    assert at('within', 'Wilcoxon, Holm') > at('between', 'Mann-Whitney, Holm') + 30


def test_the_table_and_the_n_that_is_needed_agree():
    plan = Plan(conditions=('post_hoc', 'r1_summary'))
    found = needed(plan, largest=128, sims=400, progress=False).set_index(['outcome', 'target'])
    row = found.loc[('load', 0.8)]
    powers = power_table(plan, (int(row.n) - 1, int(row.n)), sims=400, progress=False)
    below, at = powers[powers.outcome == 'load'].power
    assert (
        below < 0.8 <= at and row.n_low <= row.n <= row.n_high and row.recruit == math.ceil(row.n / kept(plan.effects))
    )
    assert found.loc[('load', 0.9)].n > row.n and powers.simulated.all() and found.simulated.all()
    assert needed(Plan(effects=FLAT), (0.8,), largest=12, sims=100, progress=False).n.isna().all()


def test_plans_that_cannot_be_are_refused():
    for wrong, message in (
        (dict(conditions=('r1',)), 'at least two'),
        (dict(layout='across'), "'between' or 'within'"),
        (dict(layout='within', trials=6), 'use a multiple'),
        (dict(conditions=('r1', 'r2')), "did you mean 'r1'"),
    ):
        with pytest.raises(ValueError, match=message):
            Plan(**wrong)
    with pytest.raises(TracenbError, match='multiple of 100'):
        power_table(sims=50)


def test_holm_by_hand():
    assert np.allclose(
        holm_rows(np.array([[0.01, 0.04, 0.03], [0.5, 0.01, 0.02]])), [[0.03, 0.06, 0.06], [0.5, 0.03, 0.04]]
    )
    found = holm_rows(np.array([[0.03, np.nan, 0.02]]))[0]
    assert found[[0, 2]].tolist() == pytest.approx([0.04, 0.04]) and np.isnan(found[1])


# --- coverage


@pytest.mark.parametrize('layout', ['between', 'within'])
def test_intervals_hold_the_truth_at_the_nominal_rate(layout):
    found = coverage(studies=25, n=16, study=demo_study(layout=layout), draws=600, seed=100, progress=False)
    held = found.groupby('estimate')[['held', 'studies']].sum()
    for estimate in ('mean', 'difference', "Cliff's delta"):
        k, n = held.loc[estimate]
        assert k / n > 0.9 and binomtest(int(k), int(n), 0.95, alternative='less').pvalue > 0.001, (estimate, k, n)
    assert held.loc['mean', 'held'] < held.loc['mean', 'studies'], 'intervals that always hold the truth are too wide'
    assert found.bias.abs().max() < 0.15 and found.simulated.all()


def test_intervals_that_take_ratings_for_people_do_not():
    study, effects, held = demo_study(), Effects(careless=0.0), []
    for seed in range(8):
        rules = rules_of(study)
        rows = checked(simulate(study, effects, 16, seed), rules)
        table = scored(rows, participants(rows, rules), rules)
        true = truth(effects, study.conditions, [i.id for i in study.items], seed).set_index(
            ['condition', 'dimension']
        )['mean']
        naive = means(table.assign(participant=range(len(table))), ['interpretability', 'load'], 300)
        held += [r.low <= true[r.condition, r.outcome] <= r.high for r in naive.itertuples()]
    assert binomtest(sum(held), len(held), 0.95, alternative='less').pvalue < 0.001  # so the check above can fail


def test_people_who_are_taken_for_several_make_intervals_too_wide():
    "Within subjects, differences between two conditions are one person's: without the pairing the interval has the people's spread in it."
    study, wide = demo_study(layout='within'), []
    for seed in range(4):
        rows = checked(simulate(study, Effects(careless=0.0), 16, seed), rules_of(study))
        table = scored(rows, participants(rows, rules_of(study)), rules_of(study))
        apart = table.assign(participant=table.participant + table.condition)
        wide.append(
            [(lambda t: (t.high - t.low).mean())(pairwise(t, ['load'], rules_of(study), 300)) for t in (table, apart)]
        )
    assert all(paired < 0.8 * apart for paired, apart in wide)


def test_coverage_wants_a_study_whose_truth_is_known():
    with pytest.raises(TracenbError, match='4 trials of 8 items'):
        coverage(1, study=replace(demo_study(), trials=4), progress=False)


def test_the_figure_says_what_n_counts():
    from tracenb.ratings.figures import power_figure

    label = lambda layout: (
        power_figure(power_table(Plan(layout=layout), (5, 10), sims=100, progress=False))[0]
        .subfigs[0]
        .axes[0]
        .get_xlabel()
    )
    assert [label('between'), label('within')] == [
        'participants analyzed, a condition',
        'participants analyzed, in all',
    ]
