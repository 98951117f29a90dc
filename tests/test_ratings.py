"""The analysis of a human study: worked examples, known effects, tables that have no answer, and what other tools export."""

import csv
import json
import math
from itertools import combinations

import numpy as np
import pandas as pd
import pingouin
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, friedmanchisquare, kruskal, mannwhitneyu, norm, wilcoxon

from tracenb.core.records import TracenbError
from tracenb.ratings.analysis import analyze, compute, read_performance, read_source
from tracenb.ratings.contrasts import (
    Z,
    cliff,
    cliff_paired,
    correlates,
    difference,
    omnibus,
    ordinal,
    pairwise,
    proportional,
    wide_of,
)
from tracenb.ratings.figures import flow_figure, likert_figure, means_figure, power_figure, shares, tradeoff_figure
from tracenb.ratings.imports import join_prolific, read_jspsych, read_mapping, read_qualtrics
from tracenb.ratings.page import rating_page, sentences
from tracenb.ratings.scales import (
    Rules,
    alpha,
    checked,
    flow,
    mean_of,
    means,
    participants,
    reliability,
    rules_of,
    scored,
    widened,
)
from tracenb.ratings.simulated import PAPER, Effects, answers_of, save_answers, seconds_of, simulate, truth
from tracenb.runs.notebook import execute, experiment, printed
from tracenb.study import store
from tracenb.study.design import demo_study

STUDY = demo_study(trials=4, n_per_condition=14)
RULES = rules_of(STUDY)
KINDS = ['interpretability', 'load']


@pytest.fixture(scope='module')
def answers():
    return simulate(STUDY, seed=1)


@pytest.fixture(scope='module')
def table(answers):
    rows = checked(answers, RULES)
    return scored(rows, participants(rows, RULES), RULES)


def made(values, trials=2, dimensions=('understandability', 'effort'), status='complete', seconds=20.0, **more):
    "Answers of people: participant -> (condition, rating) or (condition, [a rating a trial])."
    rows = []
    for p, (condition, value) in values.items():
        each = value if isinstance(value, list) else [value] * trials
        rows += [
            dict(
                participant=p,
                status=status,
                condition=condition,
                step=f'trial:{k}',
                kind='trial',
                id=f'q{k}',
                dimension=d,
                value=v,
                seconds=seconds,
                **more,
            )
            for k, v in enumerate(each)
            for d in dimensions
        ]
    return pd.DataFrame(rows)


def trials_of(answers, rules=Rules()):
    rows = checked(answers, rules)
    return scored(rows, participants(rows, rules), rules)


# --- who counts


def test_each_participant_is_counted_once_at_the_first_reason_that_holds():
    attention = lambda p, right: pd.DataFrame(
        [
            dict(
                participant=p,
                status='complete',
                condition='r1',
                step='attention:a',
                kind='attention',
                id='a',
                dimension='',
                value=1,
                right=right,
                seconds=3.0,
            )
        ]
    )
    answers = pd.concat(
        [
            made(dict(fine=('r1', 3))),
            made(dict(fast=('r1', 3)), seconds=1.0),
            made(dict(asleep=('r1', 3)), seconds=1.0),
            attention('asleep', False),
            attention('fine', True),
            made(dict(gone=('post_hoc', 3)), status='expired', trials=1),
            made(dict(short=('post_hoc', 3)), trials=1),
            made(dict(fake=('r1', 3)), status='preview'),
            pd.DataFrame(
                [
                    dict(
                        participant='no',
                        status='declined',
                        condition='r1',
                        step='consent',
                        kind='consent',
                        id='agree',
                        dimension='',
                        value=0,
                    ),
                    dict(
                        participant='silent',
                        status='active',
                        condition='post_hoc',
                        step='enter',
                        kind='enter',
                        id='',
                        dimension='',
                        value=1,
                    ),
                ]
            ),
        ]
    )
    people = participants(checked(answers), Rules()).set_index('participant')
    assert people.reason.to_dict() == dict(
        fine='',
        fast='speed',
        asleep='attention',
        gone='unfinished',
        short='unfinished',
        fake='preview',
        no='declined',
        silent='unfinished',
    )
    assert people.also['asleep'] == 'speed'
    counted = flow(people.reset_index()).set_index('stage')
    assert counted.n.to_dict() == {
        'entered': 8,
        'was a preview': 1,
        'did not consent': 1,
        'failed the comprehension check': 0,
        'did not finish': 3,
        'missed attention checks': 1,
        'answered too fast': 1,
        'analyzed': 1,
    }
    assert (counted.r1 + counted.post_hoc == counted.n).all()
    twice = participants(
        checked(answers.assign(panel_id=answers.participant.map(dict(fine='pid', fast='pid', gone='other'))))
    ).set_index('participant')
    assert (twice.reason['fine'], twice.reason['fast'], twice.also['fast'], twice.reason['gone']) == (
        '',
        'repeated',
        'speed',
        'unfinished',
    )
    allowed = participants(checked(answers), Rules(attention_allowed=1)).set_index('participant')
    assert allowed.reason['asleep'] == 'speed'


def test_rows_that_are_no_ratings_are_named(answers):
    first = answers.index[answers.kind == 'trial'][0]
    for column, value, message in (
        ('value', 6, 'p0001, trial:0, predictability: 6 is no rating'),
        ('value', 2.5, 'is no rating'),
        ('value', 'four', "'four' is no rating"),
        ('dimension', 'trust', "scale 'trust' is unknown"),
        ('dimension', 'effort', 'effort: stored twice'),
    ):
        wrong = answers.copy()
        wrong.loc[first, column] = value
        with pytest.raises(TracenbError, match=message):
            checked(wrong, RULES)
    with pytest.raises(TracenbError, match="no columns \\['status'\\]"):
        checked(answers.drop(columns='status'), RULES)
    with pytest.raises(TracenbError, match='none of them a rating'):
        checked(answers[answers.kind != 'trial'], RULES)
    with pytest.raises(TracenbError, match="nobody rated 'effort'"):
        checked(answers[answers.dimension != 'effort'], RULES)


def test_everyone_excluded_is_an_error_that_leaves_the_flow(tmp_path, answers):
    with pytest.raises(TracenbError, match='participants are excluded: .*missed attention checks'):
        analyze(answers.assign(right=answers.right.mask(answers.kind == 'attention', False)), tmp_path, STUDY)
    assert pd.read_csv(tmp_path / 'tables' / 'flow.csv').set_index('stage').n['analyzed'] == 0
    assert (
        len(pd.read_csv(tmp_path / 'tables' / 'participants.csv')) == answers.participant.nunique()
        and not (tmp_path / 'analysis.html').exists()
    )


# --- reliability


def test_alpha_is_the_documented_one():
    wide = pingouin.read_dataset('cronbach_alpha').pivot(index='Subj', columns='Items', values='Scores')
    assert [alpha(wide)[k] for k in ('alpha', 'low', 'high')] == pytest.approx([0.5917188, 0.195, 0.84], abs=1e-6)


def test_alpha_by_hand():
    scores = pd.DataFrame(dict(a=[1, 2, 3, 4], b=[2, 2, 4, 4], c=[1, 3, 3, 5.0]))
    by_hand = 3 / 2 * (1 - scores.var(ddof=1).sum() / scores.sum(axis=1).var(ddof=1))
    assert alpha(scores)['alpha'] == pytest.approx(by_hand)
    assert alpha(pd.concat([scores, pd.DataFrame(dict(a=[np.nan], b=[1.0], c=[1.0]))]))['n'] == 4


def test_alpha_that_does_not_exist_says_why():
    assert alpha(pd.DataFrame(dict(a=[1.0, 2, 3])))['note'] == 'a single scale: nothing to agree with'
    assert alpha(pd.DataFrame(dict(a=[1.0, 2], b=[1.0, 2])))['note'] == '2 participants: too few'
    assert 'no variance' in alpha(pd.DataFrame(dict(a=[3.0] * 5, b=[4.0] * 5)))['note']


def test_conditions_that_differ_do_not_make_scales_reliable():
    rng = np.random.default_rng(0)
    each, step = rng.normal(0, 0.5, (80, 2)), np.repeat([0.0, 4.0], 40)
    table = pd.DataFrame(
        dict(
            participant=range(80),
            condition=['a'] * 40 + ['b'] * 40,
            id='q',
            understandability=each[:, 0] + step,
            faithfulness=each[:, 1] + step,
        )
    )
    found = reliability(table).set_index('of').alpha
    assert found['all participants'] > 0.9 and found['within conditions'] < 0.3


# --- means


def test_a_participants_ratings_count_as_one_observation(table):
    twice = pd.concat([table, table.assign(step=table.step + '-again')])
    once, again = (means(t, KINDS).select_dtypes('number') for t in (table, twice))
    assert (again.ratings == 2 * once.ratings).all() and np.allclose(
        again.drop(columns='ratings'), once.drop(columns='ratings')
    )
    pairs = [pairwise(t, KINDS, RULES) for t in (table, twice)]
    assert np.allclose(pairs[0].select_dtypes('number'), pairs[1].select_dtypes('number'))


def test_the_order_of_rows_does_not_matter(answers):
    one, other = (compute(a, RULES, STUDY).tables for a in (answers, answers.sample(frac=1, random_state=1)))
    for name in ('tests', 'reliability'):
        assert np.allclose(one[name].select_dtypes('number'), other[name].select_dtypes('number'), equal_nan=True)
    key = ['condition', 'outcome']
    pd.testing.assert_frame_equal(
        *(t['means'].set_index(key).sort_index()[['participants', 'mean']] for t in (one, other))
    )


def test_interval_of_a_mean_is_nearly_students():
    rng = np.random.default_rng(2)
    table = pd.DataFrame(dict(participant=range(12), condition='a', load=rng.normal(3, 0.6, 12)))
    found = mean_of(table, 'load', draws=20_000)
    half = 2.200985 * table.load.std() / math.sqrt(12)
    assert (found['high'] - found['low']) / 2 == pytest.approx(half, rel=0.06)
    assert widened(12) < 0.025 and widened(10**6) == pytest.approx(0.025, abs=1e-5)


def test_means_without_interval_say_why():
    found = means(trials_of(made(dict(a=('x', 3), b=('x', 3), c=('y', 2)))), ['load']).set_index('condition')
    assert (
        found.note['x'] == 'all participants have the same mean: no interval'
        and found.note['y'] == 'one participant: no interval'
        and found.low.isna().all()
    )


# --- tests


def test_cliff_by_hand():
    assert cliff([1, 2, 3], [2, 3, 4])[0] == pytest.approx(-5 / 9)
    assert cliff([4, 4], [1, 2])[0] == 1 and cliff([1, 1], [1, 1])[0] == 0
    assert all(map(math.isnan, cliff([1], [2, 3])))
    assert cliff_paired([3, 3, 1, 5], [1, 3, 2, 2])[0] == pytest.approx(0.25)


scores = st.lists(st.integers(1, 5), min_size=2, max_size=12)


@given(scores, scores)
def test_cliffs_interval_is_what_its_equation_says(a, b):
    delta, low, high = cliff(a, b)
    assert -1 <= low <= delta + 1e-9 and delta - 1e-9 <= high <= 1
    assert cliff(b, a) == pytest.approx((-delta, -high, -low), abs=1e-6)
    theta, size = (delta + 1) / 2, (len(a) + len(b)) / 2 - 1
    for end in (low, high):
        q = (end + 1) / 2
        variance = q * (1 - q) * (1 + size * (1 - q) / (2 - q) + size * q / (1 + q)) / len(a) / len(b)
        if 0 < q < 1:
            assert abs(theta - q) == pytest.approx(Z * math.sqrt(variance), abs=1e-5)


def test_tests_are_scipys_on_the_means_of_participants():
    values = dict(a=('x', [1, 2]), b=('x', [2, 3]), c=('y', [3, 4]), d=('y', [4, 4]), e=('z', [5, 5]), f=('z', [2, 5]))
    table = trials_of(made(values))
    groups = [[1.5, 2.5], [3.5, 4.0], [5.0, 3.5]]
    found = omnibus(table, 'load')
    assert (found['statistic'], found['p']) == pytest.approx(tuple(kruskal(*groups)))
    assert found['size'] == pytest.approx(found['statistic'] / 5) and found['n'] == 6
    pairs = pairwise(table, ['load'])
    assert pairs.p.tolist() == pytest.approx(
        [mannwhitneyu(groups[i], groups[j], method='asymptotic').pvalue for i, j in ((0, 1), (0, 2), (1, 2))]
    )


def test_within_subjects_the_tests_are_friedmans_and_wilcoxons():
    study = demo_study(layout='within')
    rules = rules_of(study)
    table = trials_of(
        simulate(
            study, Effects(means={c: dict(interpretability=3.0 + k / 4, load=3.0) for k, c in enumerate(PAPER)}), 30, 5
        ),
        rules,
    )
    wide = wide_of(table, 'load', rules)
    found = omnibus(table, 'load', rules)
    assert found['test'] == 'Friedman' and (found['statistic'], found['p']) == pytest.approx(
        tuple(friedmanchisquare(*wide.to_numpy().T))
    )
    pairs = pairwise(table, ['load'], rules)
    assert pairs.test.unique().tolist() == ['Wilcoxon'] and pairs.p[0] == pytest.approx(
        wilcoxon(wide.iloc[:, 0], wide.iloc[:, 1], method='asymptotic').pvalue
    )
    assert pairs.delta[0] == pytest.approx(np.sign(wide.iloc[:, 0] - wide.iloc[:, 1]).mean())
    going = correlates(
        trials_of(
            simulate(
                study,
                Effects(means={c: dict(interpretability=2.0 + k / 2, load=3.0) for k, c in enumerate(PAPER)}),
                30,
                5,
            ),
            rules,
        ).astype(dict(trace_words=float)),
        ['interpretability'],
        dict(trace_words='words'),
    ).iloc[0]
    assert going.rho_cells > 0.4 and abs(going.rho) < 0.3 and going.note == "the conditions' means are taken out"
    paired, apart = (difference(wide.iloc[:, 0].to_numpy(), wide.iloc[:, 1].to_numpy(), p) for p in (True, False))
    assert paired[0] == pytest.approx(apart[0]) and paired[2] - paired[1] < apart[2] - apart[1]
    assert any(
        'saw several kinds' in s for s in sentences(compute(simulate(study, seed=1, n_per_condition=12), rules, study))
    )


def test_tests_without_an_answer_say_why():
    tied = trials_of(made(dict(a=('x', 3), b=('x', 3), c=('y', 3), d=('y', 3))))
    assert omnibus(tied, 'load')['note'] == pairwise(tied, ['load']).note[0] == 'all means are equal: no test'
    one = trials_of(made(dict(a=('x', 3), b=('x', 4))))
    assert omnibus(one, 'load')['note'] == 'one condition: nothing to compare' and pairwise(one, ['load']).empty
    few = trials_of(made(dict(a=('x', 3), b=('x', 4), c=('y', 2))))
    assert (
        omnibus(few, 'load')['note'] == 'a condition with fewer than two participants'
        and pairwise(few, ['load']).p.isna().all()
    )


# --- the ordinal model and correlations


def test_ordinal_model_finds_what_is_there_and_counts_people_not_ratings(table):
    found = ordinal(table, 'load', RULES)
    odds = found[found.term == 'condition'].set_index('level').odds_ratio
    assert 1 < odds['post_hoc'] < odds['r1_summary'] < odds['r1']
    twice = ordinal(pd.concat([table, table]), 'load', RULES)
    assert np.allclose(np.log(twice.odds_ratio[1:4]), np.log(odds[1:]), atol=0.01)
    width = [np.log(t.high / t.low)[1:4].mean() for t in (found, twice)]
    assert width[1] == pytest.approx(width[0], rel=0.03)  # naive errors would shrink by the root of 2
    assert found.participants.unique().tolist() == [table.participant.nunique()]


def test_ordinal_models_that_cannot_be_fitted_say_why(table):
    assert ordinal(table[table.condition == 'r1'], 'load', RULES).note.tolist() == ['one condition: nothing to compare']
    assert ordinal(table.assign(effort=3.0, mental_demand=3.0, frustration=3.0), 'load', RULES).note.tolist() == [
        'all ratings are equal'
    ]
    assert (
        'too few for clustered errors'
        in ordinal(table[table.participant.isin(table.participant.unique()[::30])], 'load', RULES).note[0]
    )
    apart = table[
        (table.condition == 'r1') & (table.id == 'demo-1') | (table.condition == 'post_hoc') & (table.id == 'demo-2')
    ]
    assert 'cannot be told apart' in ordinal(apart, 'load', RULES).note[0]


def people_who(rng, effects, n=25, bend=0.0, trials=6):
    "Ratings with exactly proportional odds in each condition, those of a person alike; `bend` is added to the last condition's log odds ratio at the fourth step, half of it at the third."
    conditions, rows, items = list(effects), [], rng.normal(0, 0.3, trials)
    for p in range(n * len(effects)):
        c, own = conditions[p % len(effects)], rng.normal()
        u = norm.cdf(math.sqrt(0.5) * own + math.sqrt(0.5) * rng.normal(size=(trials, 2)))
        cuts = (
            np.array([-1.5, -0.5, 0.5, 1.5])
            - effects[c]
            - np.array([0, 0, 0.5, 1]) * (bend if c == conditions[-1] else 0)
        )
        values = 1.0 + (np.log(u / (1 - u))[..., None] > cuts - items[:, None, None]).sum(axis=2)
        rows += [
            dict(participant=f'p{p}', condition=c, id=f'q{t}', step=f'trial:{t}', effort=a, frustration=b)
            for t, (a, b) in enumerate(values)
        ]
    return pd.DataFrame(rows)


def test_odds_that_are_proportional_are_called_so_and_others_are_found():
    p = lambda seed, bend: proportional(
        people_who(np.random.default_rng(seed), dict(a=0.0, b=0.5, c=1.0, d=-0.5), bend=bend), 'load'
    ).p[0]
    alarms = sum(p(seed, 0.0) < 0.05 for seed in range(60))
    assert binomtest(alarms, 60, 0.05).pvalue > 0.002, alarms
    assert sum(p(seed, 1.5) < 0.05 for seed in range(8)) >= 7


def test_odds_ratios_at_single_steps_are_near_the_common_one_where_odds_are_proportional():
    effects = dict(a=0.0, b=1.0)
    found = proportional(people_who(np.random.default_rng(3), effects, 250), 'load')[1:]
    assert found.above.tolist() == [1, 2, 3, 4] and ((found.low < math.e) & (math.e < found.high)).all()
    assert np.abs(np.log(found.odds_ratio / found.common)).max() < 0.3
    bent = proportional(people_who(np.random.default_rng(3), effects, 250, bend=1.5), 'load')[1:]
    assert np.log(bent.odds_ratio.iloc[3] / bent.odds_ratio.iloc[0]) == pytest.approx(1.5, abs=0.4)


def test_proportional_odds_that_cannot_be_tested_say_why(table):
    assert proportional(table[table.condition == 'r1'], 'load', RULES).note.tolist() == [
        'one condition: nothing to compare'
    ]
    two = people_who(np.random.default_rng(0), dict(a=0.0, b=0.5), 12)
    assert (
        proportional(two.assign(effort=two.effort.clip(2, 3), frustration=two.frustration.clip(2, 3)), 'load')
        .note[0]
        .startswith('fewer than 5 participants above or below all but one step')
    )
    said = sentences(compute(simulate(STUDY, seed=3), RULES, STUDY))
    assert sum('score test clustered by participant' in s for s in said) == 2


def test_use_of_the_context_is_described_where_it_was_stored(answers):
    assert 'context' not in compute(answers.drop(columns='context_opened'), RULES, STUDY).tables  # of another tool
    opened = answers.assign(
        context_opened=[
            None if k != 'trial' else str(c == 'r1' and s == 'trial:0')
            for k, c, s in zip(answers.kind, answers.condition, answers.step)
        ]
    )
    found = compute(opened, RULES, STUDY)
    shares_ = found.tables['context'].set_index('condition')
    assert (
        shares_.share.to_dict() == dict(decomposition=0, r1=0.25, r1_summary=0, post_hoc=0)
        and (shares_.trials == 4 * shares_.participants).all()
    )
    assert f'r1 25 % of {shares_.trials["r1"]}' in ' '.join(
        sentences(found)
    ) and 'Use of the context</h2>' in rating_page(found)


def test_correlations_hold_person_and_condition_constant():
    rng, rows = np.random.default_rng(0), []
    words = {(c, i): 20 + 100 * k + 10 * i for k, c in enumerate(('x', 'y')) for i in range(8)}
    for p in range(40):
        c = 'xy'[p % 2]
        for i in range(8):
            rows.append(
                dict(
                    participant=f'p{p}',
                    condition=c,
                    id=f'q{i}',
                    step=f'trial:{i}',
                    load=float(np.clip(round(3 - 0.3 * (i - 3.5) + (2 if c == 'y' else 0) + rng.normal(0, 0.5)), 1, 9)),
                    words=float(words[c, i]),
                )
            )
    found = correlates(pd.DataFrame(rows), ['load'], dict(words='words')).iloc[0]
    assert (
        found.rho < -0.7 and found.high < -0.6 and found.rho_cells > 0
    )  # longer traces are rated lower by everybody; conditions with long traces higher
    assert found.p_items < 0.05 and found.participants == 40
    flat = correlates(pd.DataFrame(rows).assign(words=5.0), ['load'], dict(words='words')).iloc[0]
    assert flat.participants == 0 and flat.note.startswith('the same for all trials')


# --- recovery


def test_known_effects_are_recovered():
    effects = Effects(careless=0.0)
    found = compute(simulate(STUDY, effects, 70, seed=7), RULES, STUDY)
    true = truth(effects, STUDY.conditions, [i.id for i in STUDY.items], 7).rename(
        columns=dict(dimension='outcome', mean='true')
    )
    both = found.tables['means'].merge(true)
    assert len(both) == 32 and (both['mean'] - both.true).abs().max() < 0.25
    pairs = found.tables['pairs'].query("outcome == 'load' and a == 'decomposition'")
    assert (pairs.p_holm < 0.001).all() and (pairs.delta < 0).all()
    flat = Effects(means={c: dict(interpretability=3.0, load=3.0) for c in PAPER})
    assert compute(simulate(STUDY, flat, 30, seed=2), RULES, STUDY).tables['tests'].p.min() > 0.001


# --- other tools' files


def wide_file(answers, path):
    "The same answers as Qualtrics would export them; returns the mapping."
    rated, cases = answers[answers.kind == 'trial'], {}
    for k, (item, condition) in enumerate(rated[['id', 'condition']].drop_duplicates().itertuples(index=False)):
        cases[item, condition] = f'Q{k}'
    mapping = {
        f'{q}_{d}': dict(item=i, condition=c, dimension=d) for (i, c), q in cases.items() for d in RULES.dimensions
    } | {f'{q}_time': dict(role='seconds', item=i, condition=c) for (i, c), q in cases.items()}
    mapping |= {
        c.name: dict(role='attention', right=str(c.right)) for c in STUDY.checks if c.kind == 'attention'
    } | dict(arm=dict(role='condition'))
    header = ['Status', 'Finished', 'ResponseId', *mapping]
    lines = [header, header, [json.dumps(dict(ImportId=h)) for h in header]]
    for p, part in answers.groupby('participant', sort=False):
        row = dict.fromkeys(header, '') | dict(
            Status='IP Address',
            Finished=str(part.status.iloc[0] == 'complete'),
            ResponseId=p,
            arm=part.condition.iloc[0],
        )
        for r in part.itertuples():
            if r.kind == 'trial':
                row |= {
                    f'{cases[r.id, r.condition]}_{r.dimension}': r.value,
                    f'{cases[r.id, r.condition]}_time': r.seconds,
                }
            elif r.kind == 'attention':
                row[r.id] = r.value
        lines.append([row[h] for h in header])
    with open(path, 'w', newline='', encoding='utf-8') as f:
        csv.writer(f).writerows(lines)
    return mapping


def test_the_same_ratings_from_qualtrics_and_jspsych_give_the_same_means(tmp_path, answers):
    own = compute(answers, RULES).tables
    mapping = wide_file(answers, tmp_path / 'wide.csv')
    trials = [
        dict(
            trial_type='survey-likert',
            participant=p,
            item=i,
            condition=c,
            rt=1000 * part.seconds.iloc[0],
            response={d: v - 1 for d, v in zip(part.dimension, part.value)},
            finished=part.status.iloc[0] == 'complete',
        )
        for (p, _, i, c), part in answers[answers.kind == 'trial'].groupby(
            ['participant', 'step', 'id', 'condition'], sort=False
        )
    ]
    trials += [
        dict(
            participant=r.participant,
            check=r.id,
            correct=bool(r.right),
            condition=r.condition,
            response=r.value,
            rt=1.0,
        )
        for r in answers[answers.kind == 'attention'].itertuples()
    ]
    (tmp_path / 'data.json').write_text(json.dumps(trials))
    for found in (
        compute(read_qualtrics(tmp_path / 'wide.csv', mapping), RULES).tables,
        compute(read_source(tmp_path / 'data.json')[0], RULES).tables,
    ):
        key = ['outcome', 'condition']
        pd.testing.assert_frame_equal(
            found['means'].set_index(key).sort_index()[['participants', 'mean']],
            own['means'].set_index(key).sort_index()[['participants', 'mean']],
        )
        assert found['tests'].set_index('outcome').p['load'] == pytest.approx(
            own['tests'].set_index('outcome').p['load']
        )


def test_foreign_files_that_do_not_fit_are_refused_with_their_place(tmp_path, answers):
    mapping = wide_file(answers, tmp_path / 'wide.csv')
    with pytest.raises(TracenbError, match='needs a mapping'):
        read_source(tmp_path / 'wide.csv')
    with pytest.raises(TracenbError, match="no column 'Q99'"):
        read_qualtrics(tmp_path / 'wide.csv', mapping | dict(Q99=dict(item='q', dimension='effort')))
    text = (tmp_path / 'wide.csv').read_text().split('\n')
    (tmp_path / 'two.csv').write_text('\n'.join(text[:2] + text[3:]))
    with pytest.raises(TracenbError, match='line 3 holds no import ids'):
        read_qualtrics(tmp_path / 'two.csv', mapping)
    (tmp_path / 'text.csv').write_text('ResponseId,Finished,Q1\nw,w,w\n"{""ImportId"":""a""}",b,c\nR1,True,Agree\n')
    with pytest.raises(TracenbError, match="Q1, line 4: 'Agree' is no number"):
        read_qualtrics(tmp_path / 'text.csv', dict(Q1=dict(item='q1', condition='r1', dimension='effort')))
    assert read_qualtrics(
        tmp_path / 'text.csv', dict(Q1=dict(item='q1', condition='r1', dimension='effort')), dict(Agree=4)
    ).query("kind == 'trial'").value.tolist() == [4]
    with pytest.raises(TracenbError, match='a rating without a condition'):
        read_qualtrics(tmp_path / 'text.csv', dict(Q1=dict(item='q1', dimension='effort')), dict(Agree=4))
    with pytest.raises(TracenbError, match='no dimension'):
        read_mapping(dict(Q1=dict(item='q1')))
    (tmp_path / 'a.json').write_text('[{"response": {"effort": 1}, "item": "q", "condition": "r1"}]')
    with pytest.raises(TracenbError, match='trial 0: no participant'):
        read_jspsych(tmp_path / 'a.json')
    (tmp_path / 'b.json').write_text('{')
    with pytest.raises(TracenbError, match='not JSON'):
        read_jspsych(tmp_path / 'b.json')


def test_prolific_joins_only_where_ids_were_kept(tmp_path, answers):
    path = tmp_path / 'prolific.csv'
    path.write_text(
        'Submission id,Participant id,Status,Age,Sex\ns1,pid1,APPROVED,34,Female\ns2,pid2,APPROVED,DATA_EXPIRED,Male\ns3,pid3,APPROVED,40,Male\n'
    )
    _, none = join_prolific(answers, path)
    assert none == dict(rows=3, joined=0, unjoinable=3, without=answers.participant.nunique())
    joined, some = join_prolific(answers, path, dict(p0001='pid1', p0002='pid2'))
    assert some['joined'] == 2 and some['unjoinable'] == 1 and len(joined) == len(answers) + 3
    assert joined.simulated.all() and joined[joined.step == 'prolific'].status.tolist() == ['complete'] * 3
    (tmp_path / 'no.csv').write_text('a\n1\n')
    with pytest.raises(TracenbError, match="no column 'Participant id'"):
        join_prolific(answers, tmp_path / 'no.csv')


def test_a_database_and_its_export_are_analysed_alike(tmp_path):
    study, people = (
        demo_study(trials=4, n_per_condition=3),
        store.Store(tmp_path / 'study.sqlite', demo_study(trials=4, n_per_condition=3), b'k' * 32),
    )
    answer, seconds = (
        answers_of(study, Effects(careless=0.0, dropout=0.0, declined=0.0, confused=0.0), 1),
        seconds_of(Effects(careless=0.0), 1),
    )
    try:
        for number in range(1, 13):
            here = store.enter(people, dict(PROLIFIC_PID=f'x{number}', simulated=True))
            for step in here['steps'] if number < 13 else ():
                store.answer(
                    people,
                    here['token'],
                    step,
                    answer(step, store.page(people, here['token'], step), number),
                    seconds(step, number),
                    f'{number}-{step}',
                )
    finally:
        people.close()
    table, own, ids = read_source(tmp_path / 'study.sqlite')
    assert own == study and len(ids) == 12
    one = compute(table, rules_of(own), own)
    exported, design, _ = read_source(save_answers(table, tmp_path / 'responses.csv'), study)
    other = compute(exported, rules_of(design), design)
    for name in one.tables:
        pd.testing.assert_frame_equal(one.tables[name], other.tables[name])
    assert one.facts['simulated'] == 12 and one.facts['analyzed'] == 12


# --- what is written


@pytest.fixture(scope='module')
def written(tmp_path_factory, answers):
    out = tmp_path_factory.mktemp('analysis')
    runs = pd.DataFrame(dict(condition=['correct', 'r1'], right=[41, 62], n=100))
    return out, analyze(answers, out, STUDY, runs)


def test_everything_says_that_it_is_simulated(written):
    out, found = written
    for path in [*(out / 'tables').glob('*.csv'), *(out / 'figures').glob('*.csv')]:
        simulated = pd.read_csv(path).simulated
        assert simulated.astype(float).max() >= 1 or path.stem == 'flow' and simulated[0] > 0, path.name
    assert len(list((out / 'tables').glob('*.csv'))) == len(found.tables) == 12
    for name, (fig, _) in found.figures.items():
        assert fig.get_suptitle().startswith('SIMULATED: '), name
        assert all('SIMULATED' in ax.get_title(loc='right') for ax in fig.subfigs[0].axes), name
        assert (out / 'figures' / f'{name}.png').stat().st_size > 5000 and (
            out / 'figures' / f'{name}.svg'
        ).read_text().startswith('<?xml')
    record = json.loads((out / 'analysis.json').read_text(), parse_constant=lambda c: pytest.fail(c))
    assert record['simulated'] is True and record['sentences'] == sentences(found)
    assert (out / 'analysis.html').read_text().count('SIMULATED') >= 3


def test_real_answers_are_not_called_simulated(answers):
    found = compute(answers.assign(simulated=False), RULES, STUDY)
    assert 'simulated' not in rating_page(found).lower().replace('<a href', '')
    assert not any(fig.get_suptitle().startswith('SIMULATED') for fig, _ in found.figures.values())
    mixed = answers.assign(simulated=answers.participant == 'p0001')
    assert f'1 of {answers.participant.nunique()} participants are simulated' in rating_page(
        compute(mixed, RULES, STUDY)
    )


def test_sentences_carry_the_numbers_of_the_tables(written):
    _, found = written
    text, means_, flow_ = ' '.join(sentences(found)), found.tables['means'], found.tables['flow']
    row = means_.query("outcome == 'interpretability' and condition == 'r1'").iloc[0]
    assert f'r1 {row["mean"]:.2f} [{row.low:.2f}, {row.high:.2f}] (n = {row.participants})' in text
    assert f'{flow_.n.iloc[0]} people entered and {flow_.n.iloc[-1]} are analyzed' in text
    assert f'H(3) = {found.tables["tests"].statistic[0]:.2f}' in text and 'What cannot be said' in rating_page(found)


@pytest.mark.slow
def test_the_page_stands_alone_and_runs_nothing(tmp_path, tab, answers):
    hostile = '=<img src=http://127.0.0.1:9/x onerror="window.hit=1"> $x$ $'
    bad = answers.assign(
        condition=answers.condition.replace('r1', hostile),
        id=answers.id.replace('demo-1', hostile),
        value=answers.value.mask(answers.id == 'age', '=1+1'),
    )
    analyze(bad, tmp_path, rules=Rules(dimensions=RULES.dimensions))
    page = tab(width=390)
    page.goto((tmp_path / 'analysis.html').as_uri())
    assert (
        page.evaluate('window.hit') is None
        and page.errors == []
        and all(u.startswith(('file:', 'data:')) for u in page.asked)
    )
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    assert page.evaluate('[...document.images].every(i => i.naturalWidth > 0 && i.alt.length > 10)')
    for name in ('flow', 'means', 'demographics', 'pairs'):
        assert not any(
            cell.startswith('=') for row in csv.reader((tmp_path / 'tables' / f'{name}.csv').open()) for cell in row
        ), name
    assert 'were chosen for this analysis' in page.inner_text('body') and 'SIMULATED' in page.title()


def test_a_study_of_one_condition_one_scale_or_one_item_is_analysed_as_far_as_it_goes(answers):
    one = compute(answers[answers.condition == 'r1'], RULES, STUDY)
    assert any('one condition: nothing to compare' in s for s in sentences(one)) and one.tables['pairs'].empty
    single = compute(answers[(answers.kind != 'trial') | (answers.dimension == 'effort')])
    assert single.facts['kinds'] == ['load'] and any('a single scale' in s for s in sentences(single))
    item = compute(answers[(answers.kind != 'trial') | (answers.id == 'demo-3')])
    assert item.facts['items'] == 1 and any('the same 1 item' in s for s in sentences(item))
    for found in (one, single, item):
        assert rating_page(found)


# --- figures


def test_shares_add_up_and_scales_of_other_points_are_drawn(table):
    data = shares(table, RULES)
    assert np.allclose(data.groupby(['scale', 'condition']).share.sum(), 1) and data.n.sum() == len(table) * 6
    fig, _ = likert_figure(table, Rules(points=7, dimensions=RULES.dimensions))
    assert len(fig.subfigs[0].legends[0].get_texts()) == 7


@pytest.mark.parametrize(
    'names',
    [12 * ['kind {} of a trace with a rather long name'], ['r1'], 3 * ['{}' + 90 * 'x' + ' $y$']],
    ids=['many', 'one', 'long'],
)
def test_figures_are_legible_for_many_and_long_names(table, names):
    "What is written lies inside the figure and not on other writing; the panels keep a third of its width."
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    some = pd.concat(
        [table[table.condition == 'r1'].head(60).assign(condition=name.format(k)) for k, name in enumerate(names)]
    )
    found = means(some, KINDS, 50)
    runs = pd.DataFrame(dict(condition=[*dict.fromkeys(some.condition)], mean=0.5, low=0.4, high=0.6))
    people = some.drop_duplicates(['participant', 'condition']).assign(reason='', status='complete')
    pairs = pd.DataFrame(
        [
            dict(outcome=o, test='Mann-Whitney, Holm', a=a, b=b, n=n, power=0.5, low=0.4, high=0.6, sims=100)
            for o in KINDS
            for a, b in combinations(found.condition.unique()[:6], 2)
            for n in (10, 30)
        ]
    )
    powers = [power_figure(pairs)] if len(pairs) else []
    for fig, _ in (
        likert_figure(some, RULES),
        means_figure(some, found, RULES),
        tradeoff_figure(found, runs, simulated=True),
        flow_figure(flow(people)),
        *powers,
    ):
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        whole, axes = fig.bbox, fig.subfigs[0].axes
        for ax in axes:
            legends = [t for legend in fig.subfigs[0].legends for t in legend.get_texts()]
            labels = [
                t.get_window_extent()
                for t in (*legends, *(ax.get_yticklabels() if ax.axison else ()), *ax.texts)
                if t.get_text()
            ]
            assert all(whole.x0 - 1 <= b.x0 and b.x1 <= whole.x1 + 1 for b in labels), fig.get_suptitle()
            ticks = [t.get_window_extent() for t in ax.get_yticklabels() if ax.axison and t.get_text()]
            assert not any(a.overlaps(b) for k, a in enumerate(ticks) for b in ticks[:k]), fig.get_suptitle()
        across = len({round(ax.get_position().x0, 2) for ax in axes})
        assert all(ax.get_window_extent().width * across > whole.width / 3 for ax in axes), fig.get_suptitle()


def test_tradeoff_takes_runs_and_refuses_percent(tmp_path, table):
    from test_report import write_run

    for condition, right in (('correct', 4), ('incorrect', 1)):
        write_run(tmp_path, condition, right=right)
    runs = read_performance(tmp_path, list(STUDY.conditions))
    assert runs.set_index('condition')['mean'].round(3).to_dict() == {'decomposition': 0.667, 'incorrect': 0.167}
    _, data = tradeoff_figure(means(table, KINDS), runs)
    assert data.condition.tolist() == ['decomposition'] and data.dataset.tolist() == ['toy']
    with pytest.raises(TracenbError, match='not percent'):
        read_performance(pd.DataFrame(dict(condition=['r1'], mean=[41.0])), [])
    with pytest.raises(TracenbError, match='no such file or folder'):
        read_performance(tmp_path / 'none', [])


def test_colors_differ_in_grey_or_in_marker():
    from tracenb.ratings.figures import looks

    look = looks(list(STUDY.conditions))
    assert len({marker for _, marker in look.values()}) == 4 and len({color for color, _ in look.values()}) == 4


# --- the notebook


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    done = execute(
        experiment('study'),
        tmp_path / 'study.ipynb',
        dict(out=str(tmp_path / 'out'), n_per_condition=6, sims=100, ns=[25]),
    )
    assert 'of them simulated' in printed(done) and (tmp_path / 'out' / 'analysis.html').exists()
