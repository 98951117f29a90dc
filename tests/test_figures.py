"""Figures: what they draw is what the table says; edges are drawn, not crashed on; saving is atomic and repeatable."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from scipy.stats import norm
from scipy.stats import t as t_distribution

from tracenb.core.canvas import color_of, colors, save_figure
from tracenb.core.records import TracenbError
from tracenb.report.design_figures import (
    DESIGN,
    corruption_figure,
    cost_figure,
    dose_figure,
    effects,
    length_figure,
    quarters,
)
from tracenb.report.figures import (
    CELLS,
    MOSAICS,
    STEPS,
    accuracy_figure,
    steps_figure,
    trace_answer_figure,
    trace_answer_table,
    training_figure,
)
from tracenb.report.seed_means import RUN_KEYS, arrange, condition_name, over_seeds
from tracenb.stats.association import two_by_two
from tracenb.stats.intervals import proportions, wilson

ALL = (accuracy_figure, steps_figure, trace_answer_figure, dose_figure, corruption_figure, length_figure)


def rows(
    conditions=('incorrect', 'vanilla', 'zero_shot', 'correct'), n=40, seeds=(1,), dataset='babi', model='m', seed=0
):
    "Random scored rows; zero_shot and vanilla have no trace."
    r, made = np.random.default_rng(seed), []
    for c in conditions:
        for s in seeds:
            t = pd.DataFrame(
                dict(
                    dataset=dataset,
                    model=model,
                    condition=c,
                    seed=s,
                    id=[f'q{i}' for i in range(n)],
                    label=['a', 'b'] * (n // 2),
                    answer=['one', 'two'] * (n // 2),
                    n_tokens=r.integers(1, 50, n),
                    context_words=[5 * i for i in range(n)],
                )
            )
            for column in ('answer_exact', 'answer_contains', *STEPS):
                t[column] = r.integers(0, 2, n).astype(float)
            if c in ('zero_shot', 'vanilla'):
                t[list(STEPS)] = np.nan
            made.append(t)
    return pd.concat(made, ignore_index=True)


STUDY = rows(('vanilla', 'correct', 'mix:0.25', 'mix:0.75', *list(DESIGN)[1:], 'filler'), seeds=(1, 2), n=20)
GRID = pd.concat(
    [
        rows(
            dataset=d,
            model=m,
            seeds=(1, 2),
            n=10,
            conditions=('correct', 'incorrect', 'swapped', 'mix:0.5', 'wrong_label'),
        )
        for d in ('babi', 'toy')
        for m in 'mno'
    ]
)


def texts(fig):
    "All text of a figure."
    return ' | '.join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, 'get_text')) if t.get_text())


# --- one number for several seeds


@given(
    st.lists(st.sampled_from([0.0, 1.0, None]), min_size=1, max_size=30),
    st.lists(st.integers(0, 20).map(lambda k: k / 20), min_size=2, max_size=30),
)
def test_one_seed_is_what_stats_says(binary, shares):
    for values in (binary, shares):
        table = pd.DataFrame(
            dict(dataset='d', model='m', condition='c', seed=1, id=range(len(values)), x=pd.Series(values, dtype=float))
        )
        mine, theirs = over_seeds(table, ['x']).iloc[0], proportions(table, RUN_KEYS[:3], 'x').iloc[0]
        assert (mine.n, mine.unscored, mine.seed) == (theirs.n, theirs.unscored, 'all')
        for name in ('mean', 'low', 'high'):
            assert mine[name] == pytest.approx(theirs[name], nan_ok=True, abs=1e-9), name


def test_several_seeds_and_questions_count_as_drawn():
    table = rows(('correct', 'incorrect'), seeds=(1, 2, 3))
    mine = over_seeds(table, ['answer_exact', 'classification'])
    lines = mine[mine.seed == 'all']
    z2 = norm.isf(0.025) ** 2
    for r in lines.itertuples():
        grid = table[table.condition == r.condition].pivot(index='id', columns='seed', values=r.scorer)
        seeds = table.pivot_table(index='condition', columns='seed', values=r.scorer)
        pooled = seeds.var(axis=1).mean()  # of two conditions, 2 + 2 degrees of freedom
        own = seeds.loc[r.condition].var()
        of_questions = max(grid.mean(axis=1).var(ddof=0) / (40 - z2), z2 / (40 + z2) ** 2)
        half = t_distribution.isf(0.025, 4) * (of_questions + max(own, pooled) / 3) ** 0.5
        center = grid.mean().mean()
        assert (r.mean, r.low, r.high) == pytest.approx((center, max(0, center - half), min(1, center + half)))
        assert r.interval == 't, seeds and questions'
    assert set(mine.seed) == {'all', 1, 2, 3} and len(mine) == 2 * 2 * 4


def test_seeds_of_a_model_that_is_not_tuned_are_one_model():
    "The same answers for each seed: the interval is over questions, and does not narrow that of tuned conditions."
    table = rows(('correct', 'incorrect'), seeds=(1, 2, 3))
    same = table[table.condition == 'correct'].query('seed == 1').assign(condition='zero_shot')
    both = pd.concat([table, *(same.assign(seed=s) for s in (1, 2, 3))])
    lines = over_seeds(both, ['answer_exact']).query("seed == 'all'").set_index('condition')
    alone = over_seeds(table, ['answer_exact']).query("seed == 'all'").set_index('condition')
    assert lines.low[['correct', 'incorrect']].tolist() == alone.low[['correct', 'incorrect']].tolist()
    r, z2 = lines.loc['zero_shot'], norm.isf(0.025) ** 2
    half = (z2 * max(same.answer_exact.var(ddof=0) / (40 - z2), z2 / (40 + z2) ** 2)) ** 0.5
    assert (r.low, r.high) == pytest.approx((max(0, r['mean'] - half), min(1, r['mean'] + half)))


def test_intervals_over_seeds_cover_where_seeds_move_a_condition():
    "Four conditions whose seeds have true accuracies 4 points around 60 %: 19 of 20 intervals hold 60 %."
    rng, held, n = np.random.default_rng(5), 0, 0
    for _ in range(25):
        easy = rng.normal(0, 0.15, 150)
        parts = [
            pd.DataFrame(dict(dataset='d', model='m', condition=c, seed=s, id=range(150))).assign(
                answer_exact=(rng.random(150) < 0.6 + easy + move) * 1.0
            )
            for c in 'abcd'
            for s, move in enumerate(rng.normal(0, 0.04, 3))
        ]
        lines = over_seeds(pd.concat(parts), ['answer_exact']).query("seed == 'all'")
        held, n = held + ((lines.low <= 0.6) & (0.6 <= lines.high)).sum(), n + len(lines)
    assert held >= 0.93 * n


def test_seeds_are_not_pooled():
    table = rows(('correct',), seeds=(1, 2))
    _, data = accuracy_figure(table)
    own = data[(data.scorer == 'answer_exact') & (data.seed != 'all')]
    assert own.seed.tolist() == [1, 2] and set(own.n) == {40}
    assert data[data.seed == 'all']['mean'].iloc[0] == pytest.approx(own['mean'].mean())


# --- order, colors, names


def test_order_and_colors_do_not_depend_on_row_order():
    table = arrange(rows(('swapped', 'correct', 'filler', 'mix:0.75', 'mix:0.25', 'own_idea')))
    assert list(table.condition.unique()) == ['correct', 'mix:0.25', 'mix:0.75', 'swapped', 'filler', 'own_idea']
    shade = colors(table)
    assert len(set(shade.values())) == 6 and shade['correct'] == colors(rows(('correct',)))['correct']


def test_a_mixture_is_named_and_colored_by_its_share():
    assert condition_name('mix:0.25') == '25 % incorrect'
    assert [color_of(f'mix:{x}').upper() for x in (0, 1)] == [color_of('correct'), color_of('incorrect')]


# --- each figure draws its numbers


def test_accuracy_draws_the_numbers():
    table = rows()
    fig, data = accuracy_figure(table)
    assert list(data.condition.unique()) == ['zero_shot', 'vanilla', 'correct', 'incorrect']
    k = int(table[table.condition == 'correct'].answer_exact.sum())
    row = data[(data.condition == 'correct') & (data.scorer == 'answer_exact')].iloc[0]
    assert (row.n, row.low, row.high) == (40, *wilson(k, 40)) and row.best_guess == 1
    assert f'{100 * k / 40:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]' in texts(fig)


def test_steps_leave_runs_without_a_trace_out_and_name_them():
    fig, data = steps_figure(rows())
    assert set(data.condition) == {'correct', 'incorrect'} and set(data.scorer) == {*STEPS, 'balanced_accuracy'}
    assert 'No steps to score: zero-shot, vanilla' in texts(fig).replace('\n', ' ')
    assert (
        set(data[data.scorer == 'classification'].majority_label) == {0.5}
        and data[data.scorer == 'retrieval_any'].majority_label.isna().all()
    )


def test_trace_answer_draws_the_table():
    table = rows()
    fig, data = trace_answer_figure(table)
    part = table[table.condition == 'incorrect']
    t, row = two_by_two(part.trace_correct_any, part.answer_exact), data[data.condition == 'incorrect'].iloc[0]
    assert tuple(row[CELLS]) == t.table and row.phi == t.phi and row.p_fisher == t.p_fisher
    assert f'phi = {t.phi:.2f}' in texts(fig) and f'trace right (n = {sum(t.table[:2])})' in texts(fig)
    assert data[data.condition == 'vanilla'].unscored.tolist() == [40]


def test_over_seeds_the_mosaic_has_a_range_and_no_test():
    table = rows(('correct',), seeds=(1, 2, 3))
    row = trace_answer_table(table).iloc[0]
    each = [two_by_two(p.trace_correct_any, p.answer_exact).phi for _, p in table.groupby('seed')]
    assert (
        row.phi_low == pytest.approx(min(each))
        and row.phi_high == pytest.approx(max(each))
        and row[CELLS].sum() == 120
        and 'p_fisher' not in row
    )
    assert '(range over 3 seeds' in texts(trace_answer_figure(table)[0])


def test_many_conditions_are_points_instead_of_mosaics():
    fig, data = trace_answer_figure(GRID)
    assert len(data) > MOSAICS and 'after a wrong trace' in texts(fig) and fig.get_size_inches()[1] < 20


def test_unscored_says_so():
    for draw in (steps_figure, trace_answer_figure):
        assert 'No run has a scored trace (vanilla)' in texts(draw(rows(('vanilla',)))[0])


# --- designed comparisons


def test_dose_takes_the_ends_from_correct_and_incorrect():
    fig, data = dose_figure(STUDY)
    assert sorted(data.share_incorrect.unique()) == [0, 0.25, 0.75, 1] and 'vanilla' not in set(data.condition)
    assert dose_figure(rows(('correct', 'incorrect')))[1].empty


def test_effects_are_contrasts_of_the_four_conditions():
    found, mean = effects(STUDY).set_index('effect').difference, STUDY.groupby('condition').answer_exact.mean()
    assert found['right label'] == pytest.approx(
        (mean.correct + mean.wrong_facts - mean.wrong_label - mean.incorrect) / 2
    )
    assert found['right facts'] == pytest.approx(
        (mean.correct + mean.wrong_label - mean.wrong_facts - mean.incorrect) / 2
    )
    assert found['both beyond their sum'] == pytest.approx(
        mean.correct - mean.wrong_label - mean.wrong_facts + mean.incorrect
    )


def test_effects_find_what_was_put_in():
    "Facts matter by 60 points, the label does not."
    made = [
        pd.DataFrame(
            dict(
                dataset='d',
                model='m',
                condition=c,
                seed=s,
                id=range(100),
                answer_exact=[float(i < (80 if facts else 20)) for i in range(100)],
            )
        )
        for c, (label, facts) in DESIGN.items()
        for s in (1, 2)
    ]
    assert effects(pd.concat(made)).difference.tolist() == pytest.approx([0, 0.6, 0])


def test_a_design_that_is_not_whole_is_left_out():
    assert corruption_figure(STUDY[STUDY.condition != 'wrong_facts'])[1].empty
    assert set(corruption_figure(pd.concat([STUDY, rows(dataset='toy')]))[1].dataset) == {'babi'}


def test_length_has_both_lengths_and_quarters():
    fig, data = length_figure(STUDY)
    assert (
        set(data.length) == {'tokens written', 'words of context'}
        and data[data.length == 'words of context'].words.nunique() == 4
    )
    mean = STUDY[STUDY.condition == 'filler'].n_tokens.mean()
    assert data[(data.condition == 'filler') & (data.length == 'tokens written')].tokens.iloc[0] == pytest.approx(mean)
    assert quarters(STUDY).isna().sum() == 0


def test_cost_adds_up(tmp_path):
    costs = pd.DataFrame(
        [
            dict(
                dataset='d',
                model='m',
                condition=c,
                seed=s,
                train_seconds=t,
                generate_seconds=10,
                all_seconds=100.0,
                peak_memory_mb=1024 * s,
                tokens_generated=7,
            )
            for s in (1, 2)
            for c, t in (('zero_shot', np.nan), ('correct', 60.0))
        ]
    )
    fig, data = cost_figure(costs)
    assert (
        data.other_seconds.tolist() == [90, 30]
        and data.peak_memory_mb.tolist() == [2048, 2048]
        and '1.7 min, 2.0 GB, 7 tokens' in texts(fig)
    )
    fig, data = cost_figure(costs.assign(peak_gpu_memory_mb=np.where(costs.condition == 'correct', 5120, np.nan)))
    assert data.peak_gpu_memory_mb.max() == 5120
    assert '1.7 min, 2.0 GB, 7 tokens' in texts(fig) and '1.7 min, 2.0 GB and 5.0 GB of GPU, 7 tokens' in texts(fig)


# --- edges


@pytest.mark.parametrize('draw', ALL)
@pytest.mark.parametrize(
    'table', [rows(('correct',), n=2), rows(('vanilla',)), STUDY, GRID], ids=['n=2', 'unscored', 'study', 'grid']
)
def test_edges_are_drawn(draw, table, tmp_path):
    fig, data = draw(table)
    made = save_figure(fig, data, tmp_path / 'deep' / 'figure', dpi=30)
    assert (
        isinstance(fig, Figure)
        and [p.suffix for p in made] == ['.png', '.svg', '.csv']
        and all(p.stat().st_size for p in made)
    )
    assert len(pd.read_csv(made[2])) == len(data) and not list(tmp_path.rglob('*.tmp'))
    assert fig.get_size_inches()[0] <= 11


@pytest.mark.parametrize('draw', ALL)
def test_same_table_same_bytes(draw, tmp_path):
    first = [p.read_bytes() for p in save_figure(*draw(STUDY), tmp_path / 'a', dpi=30)]
    assert [
        p.read_bytes() for p in save_figure(*draw(STUDY.sample(frac=1, random_state=3)), tmp_path / 'b', dpi=30)
    ] == first


def test_missing_columns_and_no_rows_are_errors():
    with pytest.raises(TracenbError, match=r"no columns \['answer'\]"):
        accuracy_figure(rows().drop(columns='answer'))
    for draw in ALL:
        with pytest.raises(TracenbError, match='has no rows'):
            draw(rows()[:0])


def logs(seeds=(1,), **loss):
    return pd.concat(
        [
            pd.DataFrame(dict(dataset='d', model='m', condition=c, seed=s, step=range(1, len(v) + 1), loss=v))
            for s in seeds
            for c, v in loss.items()
        ]
    )


def test_training_curves(tmp_path):
    fig, data = training_figure(logs(correct=[3.0, 2, 1, 0.5], vanilla=[2.0, 1, None, 0.1]))
    assert data.groupby('condition').size().to_dict() == {
        'correct': 4,
        'vanilla': 3,
    } and 'loss, nats per token' in texts(fig)
    assert training_figure(logs(correct=list(np.linspace(3, 1, 60))))[1].running_mean.iloc[-1] == pytest.approx(
        np.linspace(3, 1, 60)[-4:].mean()
    )
    assert training_figure(logs((1, 2, 3), correct=[3.0, 2, 1]))[1].seeds.tolist() == [3, 3, 3]
    for odd in (logs(correct=[1.0]), logs(correct=[0.0, 0]), logs(correct=[None, None])):
        save_figure(*training_figure(odd), tmp_path / 't', dpi=40)
