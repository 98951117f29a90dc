"""Statistics against published worked examples, independent implementations, and tables that have no answer."""
import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, strategies as st
from scipy.stats import binomtest, pearsonr

from tracenb.core import TracenbError
from tracenb.stats import (Paired, TwoByTwo, balanced_accuracy, compare_conditions, holm, independence, majority_answer, majority_baseline, paired, proportions,
                           two_by_two, wilson)

bits = st.sampled_from([0, 1])
cell = st.integers(0, 40)


@pytest.fixture(autouse=True)
def no_warnings():
    "Degenerate tables may not even warn."
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield


@pytest.mark.parametrize('k, n, low, high', [(81, 263, .2553, .3662), (15, 148, .0624, .1605), (0, 20, 0, .1611), (1, 29, .0061, .1718)])
def test_wilson_newcombe_1998(k, n, low, high): assert wilson(k, n) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize('k, low, high', [(498, 49.2, 55.6), (430, 42.1, 48.4), (400, 39.0, 45.3)])
def test_wilson_published_accuracies(k, low, high): assert tuple(round(100 * x, 1) for x in wilson(k, 950)) == (low, high)


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_agrees_with_scipy(k, n):
    k = min(k, n)
    ci = binomtest(k, n).proportion_ci(method='wilson')
    low, high = wilson(k, n)
    assert (low, high) == pytest.approx((ci.low, ci.high), abs=1e-9) and 0 <= low <= k / n + 1e-12 and k / n - 1e-12 <= high <= 1


def test_wilson_edges():
    assert all(map(math.isnan, wilson(0, 0)))
    for k, n in ((3, 2), (-1, 2)):
        with pytest.raises(TracenbError, match='counts must satisfy'): wilson(k, n)


# Two by two: the published generations of METHOD.md section 8
PUBLISHED = [((258, 201, 254, 237), 1.91, .045, 56.2, 51.7), ((307, 157, 123, 363), 159.92, .410, 66.2, 25.3), ((297, 18, 133, 502), 457.12, .694, 94.3, 20.9),
             ((310, 297, 120, 223), 22.89, .155, 51.1, 35.0), ((85, 4, 278, 9), .38, -.032, 95.5, 96.9), ((349, 8, 14, 5), 31.32, .289, 97.8, 73.7)]


@pytest.mark.parametrize('table, chi2, phi, given_right, given_wrong', PUBLISHED)
def test_published_tables(table, chi2, phi, given_right, given_wrong):
    t = independence(table)
    assert (round(t.chi2, 2), round(t.phi, 3)) == (chi2, phi)
    assert (round(100 * t.p_answer_given_trace, 1), round(100 * t.p_answer_given_no_trace, 1)) == (given_right, given_wrong)


def test_lady_tasting_tea(): assert independence((3, 1, 1, 3)).p_fisher == pytest.approx(.485714, abs=1e-6)


def test_aspirin_odds_ratio():
    t = independence((189, 10845, 104, 10933))  # Agresti, An Introduction to Categorical Data Analysis, section 2.3
    assert (round(t.odds_ratio, 2), *[round(x, 2) for x in t.odds_interval]) == (1.83, 1.44, 2.33)


@given(cell, cell, cell, cell)
@example(5, 0, 1, 4)
@example(0, 5, 4, 1)
@example(5, 0, 0, 4)
def test_any_table(a, b, c, d):
    "Every number is in its range or None with a note; phi is Pearson's correlation; the record survives JSON."
    t = independence((a, b, c, d))
    degenerate = 0 in (a + b, c + d, a + c, b + d)
    assert (t.chi2 is None) == (t.phi is None) == (t.p_fisher is None) == (t.odds_ratio is None) == degenerate and bool(t.notes) >= degenerate
    assert TwoByTwo.from_json(t.to_json()) == t and t.n == a + b + c + d
    if degenerate: return
    x, y = [1] * (a + b) + [0] * (c + d), [1] * a + [0] * b + [1] * c + [0] * d
    assert t.phi == pytest.approx(pearsonr(x, y).statistic, abs=1e-9)
    assert t.chi2 == pytest.approx(t.n * t.phi ** 2, abs=1e-7) and 0 <= t.p_chi2 <= 1 and 0 <= t.p_fisher <= 1 + 1e-12
    half = .5 if 0 in (a, b, c, d) else 0
    assert t.odds_ratio == pytest.approx((a + half) * (d + half) / (b + half) / (c + half))
    assert 0 < t.odds_interval[0] <= t.odds_ratio <= t.odds_interval[1] < math.inf
    assert any('0.5 added' in n for n in t.notes) == (half > 0)
    log_sd = math.sqrt(sum(1 / (v + half) for v in (a, b, c, d)))
    assert t.odds_interval[1] == pytest.approx(t.odds_ratio * math.exp(1.959963985 * log_sd), rel=1e-6)


@given(st.lists(st.tuples(bits, bits), min_size=1, max_size=40), st.randoms())
def test_rows_make_the_table_in_any_order(pairs, r):
    shuffled = list(pairs)
    r.shuffle(shuffled)
    t = two_by_two(*zip(*pairs))
    assert two_by_two(*zip(*shuffled)) == t == independence([pairs.count(x) for x in ((1, 1), (1, 0), (0, 1), (0, 0))])


@pytest.mark.parametrize('table, why', [((0, 0, 0, 0), 'no scored rows'), ((3, 2, 0, 0), 'no trace is wrong'), ((0, 0, 3, 2), 'no trace is right'),
                                        ((3, 0, 2, 0), 'no answer is wrong'), ((0, 3, 0, 2), 'no answer is right')])
def test_empty_margins_say_why(table, why):
    t = independence(table)
    assert t.notes[0].startswith(why) and (t.chi2, t.phi, t.odds_interval) == (None, None, None)


def test_unscored_pairs_are_counted():
    t = two_by_two([1, None, 0, float('nan'), 1], [1, 1, None, 0, 0])
    assert t.table == (1, 1, 0, 0) and t.unscored == 3 and t.p_answer_given_no_trace is None
    with pytest.raises(TracenbError, match='values other than 0 and 1'): two_by_two([.5], [1])
    with pytest.raises(TracenbError, match='1 traces and 2 answers'): two_by_two([1], [1, 0])
    with pytest.raises(TracenbError, match='no two-by-two table'): independence((1, 2, -3, 4))


def test_small_counts_point_to_fisher():
    assert any('read Fisher' in n for n in independence((3, 1, 1, 3)).notes) and not independence((30, 10, 10, 30)).notes


def test_proportions():
    df = pd.DataFrame(dict(condition=['b'] * 3 + ['a'] * 4, seed=1, right=[1, 0, None, 1, 1, 1, 0], f1=[.5, 1, .25, .5, .5, .5, .5]))
    t = proportions(df, ['condition', 'seed'], ['right', 'f1']).set_index(['scorer', 'condition'])
    assert list(t.loc['right'].index) == ['b', 'a']  # Order of appearance
    assert tuple(t.loc[('right', 'b'), ['n', 'k', 'unscored', 'mean']]) == (2, 1, 1, .5)
    assert tuple(t.loc[('right', 'a'), ['low', 'high']]) == wilson(3, 4)
    assert pd.isna(t.loc[('f1', 'a'), 'k']) and math.isnan(t.loc[('f1', 'a'), 'low']) and t.loc[('f1', 'b'), 'interval'] == 't'
    x = np.array([.5, 1, .25])
    assert t.loc[('f1', 'b'), 'low'] == pytest.approx(max(0, x.mean() - 4.302653 * x.std(ddof=1) / 3 ** .5), abs=1e-5)  # t quantile, 2 degrees of freedom
    with pytest.raises(TracenbError, match=r"no columns \['model'\]"): proportions(df, 'model', 'right')


def test_all_unscored_is_a_row_not_a_crash():
    t = proportions(pd.DataFrame(dict(c=['a', 'a'], v=[None, None])), 'c', 'v').iloc[0]
    assert t.n == 0 and t.unscored == 2 and math.isnan(t['mean']) and math.isnan(t.low)


def test_majority_label_of_cotempqa():
    labels = ['during'] * 619 + ['overlap'] * 131 + ['mix'] * 113 + ['equal'] * 87
    assert majority_baseline(labels) == ('during', 619 / 950)
    assert balanced_accuracy(labels, [x == 'during' for x in labels]) == pytest.approx(.25)
    assert majority_baseline(['b', 'a']) == ('a', .5) and majority_baseline([]) is None


def test_balanced_accuracy():
    true, pred = [0, 1, 0, 0, 1, 0], [0, 1, 0, 0, 0, 1]  # The example of scikit-learn's balanced_accuracy_score
    assert balanced_accuracy(true, [a == b for a, b in zip(true, pred)]) == pytest.approx(.625)
    assert balanced_accuracy(['a', 'a', 'b'], [1, None, 0]) == .5 and balanced_accuracy(['a'], [None]) is None


def test_majority_answer_counts_each_question_once():
    df = pd.DataFrame(dict(id=range(10), label=['counting'] * 5 + ['place'] * 5, answer=['one'] * 4 + ['two'] + ['park', 'shop', 'shop', 'pub', 'pub']))
    t = majority_answer(pd.concat([df, df, df])).set_index('label')
    assert tuple(t.loc['counting', ['n', 'answer', 'k', 'share']]) == (5, 'one', 4, .8)
    assert t.loc['place', 'answer'] == 'pub' and tuple(t.loc['(all)', ['n', 'k', 'share']]) == (10, 6, .6)  # Of two equally common ones the first in the alphabet


def pair(both, only_a, only_b, neither):
    a = pd.Series([1] * both + [1] * only_a + [0] * only_b + [0] * neither, dtype=float)
    b = pd.Series([1] * both + [0] * only_a + [1] * only_b + [0] * neither, dtype=float)
    return a, b


@given(cell, cell, cell, cell)
def test_mcnemar_is_the_binomial_test(both, only_a, only_b, neither):
    p = paired(*pair(both, only_a, only_b, neither))
    n = both + only_a + only_b + neither
    assert (p.n, p.both, p.only_a, p.only_b, p.neither) == (n, both, only_a, only_b, neither)
    if not n: assert p.p is None and p.difference is None
    else:
        assert p.p == pytest.approx(binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1)
        assert p.difference == pytest.approx((only_a - only_b) / n)
        assert paired(*reversed(pair(both, only_a, only_b, neither))).p == pytest.approx(p.p)
    assert Paired.from_json(p.to_json()) == p


def test_mcnemar_by_hand(): assert paired(*pair(40, 10, 2, 8)).p == pytest.approx(2 * 79 / 4096)  # Twice P(at most 2 heads in 12)


def test_paired_joins_by_id():
    a, b = pair(5, 3, 1, 2)
    a.index = b.index = list('abcdefghijk')
    assert paired(a, b[::-1]) == paired(a, b) and paired(a, b).only_a == 3
    with pytest.raises(TracenbError, match="1 ids are in one run only, e.g. 'a'"): paired(a, b[1:])
    with pytest.raises(TracenbError, match="id 'a' stands twice"): paired(pd.concat([a, a[:1]]), b)
    b['a'] = None
    assert paired(a, b).unscored == 1


def test_eight_points_apart_on_a_hundred_questions_is_not_significant(): assert paired(*pair(53, 19, 11, 17)).p > .15


def test_holm():
    assert holm([.01, .04, .03, .005]) == pytest.approx([.03, .06, .06, .02])
    assert holm([None, .04, float('nan'), .01]) == [None, pytest.approx(.04), None, pytest.approx(.02)]
    assert holm([]) == [] and holm([None]) == [None]


def test_compare_conditions():
    a, b = pair(40, 10, 2, 8)
    run = lambda c, v, seed: pd.DataFrame(dict(dataset='d', model='m', seed=seed, condition=c, id=range(60), answer_exact=v))
    t = compare_conditions(pd.concat([run('correct', a, 1), run('incorrect', b, 1), run('vanilla', a, 1), run('correct', a, 2)]))
    assert list(zip(t.a, t.b)) == [('correct', 'incorrect'), ('correct', 'vanilla'), ('incorrect', 'vanilla')] and set(t.seed) == {1}
    assert t.p_holm.tolist() == pytest.approx([3 * 2 * 79 / 4096, 1, 3 * 2 * 79 / 4096])
    assert compare_conditions(run('correct', a, 1)).empty
