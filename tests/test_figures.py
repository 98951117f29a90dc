"""Figures: what they draw is what the table says; edges are drawn, not crashed on; saving is atomic and repeatable."""
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tracenb.core import TracenbError
from tracenb.figures import STEPS, accuracy_figure, arrange, save_figure, steps_figure, trace_answer_figure, training_figure
from tracenb.stats import two_by_two, wilson

ALL = (accuracy_figure, steps_figure, trace_answer_figure)


def rows(conditions=('incorrect', 'vanilla', 'zero_shot', 'correct'), n=40, seeds=(1,), dataset='babi', model='m', seed=0):
    "Random scored rows; zero_shot and vanilla have no trace."
    r, made = np.random.default_rng(seed), []
    for c in conditions:
        for s in seeds:
            t = pd.DataFrame(dict(dataset=dataset, model=model, condition=c, seed=s, id=[f'q{i}' for i in range(n)], label=['a', 'b'] * (n // 2), answer=['one', 'two'] * (n // 2)))
            for column in ('answer_exact', 'answer_contains', *STEPS): t[column] = r.integers(0, 2, n).astype(float)
            if c in ('zero_shot', 'vanilla'): t[list(STEPS)] = np.nan
            made.append(t)
    return pd.concat(made, ignore_index=True)


def texts(fig):
    "All text of a figure."
    return ' | '.join(t.get_text() for t in fig.findobj(lambda a: hasattr(a, 'get_text')) if t.get_text())


def test_accuracy_draws_the_numbers():
    table = rows()
    fig, data = accuracy_figure(table)
    assert list(data.run.unique()) == ['zero-shot', 'vanilla', 'correct', 'incorrect']
    k = int(table[table.condition == 'correct'].answer_exact.sum())
    row = data[(data.condition == 'correct') & (data.scorer == 'answer_exact')].iloc[0]
    assert (row.k, row.n, row.low, row.high) == (k, 40, *wilson(k, 40)) and row.majority_answer == 1
    assert f'{100 * k / 40:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]' in texts(fig)


def test_steps_leave_runs_without_a_trace_out_and_name_them():
    fig, data = steps_figure(rows())
    assert set(data.condition) == {'correct', 'incorrect'} and set(data.scorer) == {*STEPS, 'balanced_accuracy'}
    assert 'Without a trace: zero-shot, vanilla' in texts(fig).replace('\n', ' ')
    assert set(data[data.scorer == 'classification'].majority_label) == {.5} and data[data.scorer == 'retrieval_any'].majority_label.isna().all()


def test_trace_answer_draws_the_table():
    table = rows()
    fig, data = trace_answer_figure(table)
    part = table[table.condition == 'incorrect']
    t, row = two_by_two(part.trace_correct_any, part.answer_exact), data[data.condition == 'incorrect'].iloc[0]
    assert (row.both_right, row.trace_only, row.answer_only, row.neither) == t.table and row.phi == t.phi
    assert f'phi = {t.phi:.2f}' in texts(fig) and f'trace right (n = {sum(t.table[:2])})' in texts(fig)
    assert data[data.condition == 'vanilla'].unscored.tolist() == [40]


@pytest.mark.parametrize('draw', ALL)
@pytest.mark.parametrize('table', [rows(('correct',), n=2), rows(('vanilla',)), rows(seeds=(1, 2, 3)), rows(('correct', 'wrong_label', 'mix:0.5', 'swapped', 'filler', 'shuffled')),
                                   pd.concat([rows(), rows(dataset='toy', model='n', conditions=('correct',))])], ids=['n=2', 'unscored', 'seeds', 'others', 'grid'])
def test_edges_are_drawn(draw, table, tmp_path):
    fig, data = draw(table)
    made = save_figure(fig, data, tmp_path/'deep'/'figure', dpi=40)
    assert isinstance(fig, Figure) and [p.suffix for p in made] == ['.png', '.svg', '.csv'] and all(p.stat().st_size for p in made)
    assert len(pd.read_csv(made[2])) == len(data) > 0 and not list(tmp_path.rglob('*.tmp'))


def test_unscored_says_so():
    for draw in (steps_figure, trace_answer_figure): assert 'No run has a scored trace (vanilla)' in texts(draw(rows(('vanilla',)))[0])


@pytest.mark.parametrize('draw', ALL)
def test_same_table_same_bytes(draw, tmp_path):
    table = rows()
    first = [p.read_bytes() for p in save_figure(*draw(table), tmp_path/'a', dpi=50)]
    assert [p.read_bytes() for p in save_figure(*draw(table.sample(frac=1, random_state=3)), tmp_path/'b', dpi=50)] == first


def test_seeds_are_not_pooled():
    _, data = accuracy_figure(rows(('correct',), seeds=(1, 2)))
    assert list(data.run.unique()) == ['correct, seed 1', 'correct, seed 2'] and set(data.n) == {40}


def test_order_and_colours_do_not_depend_on_row_order():
    table = arrange(rows(('swapped', 'correct', 'filler')))
    assert list(table.condition.unique()) == ['correct', 'swapped', 'filler'] and table.groupby('condition').colour.nunique().eq(1).all() and table.colour.nunique() == 3


def test_missing_columns_and_no_rows_are_errors():
    with pytest.raises(TracenbError, match=r"no columns \['answer'\]"): accuracy_figure(rows().drop(columns='answer'))
    for draw in ALL:
        with pytest.raises(TracenbError, match='has no rows'): draw(rows()[:0])


def logs(**loss): return pd.concat([pd.DataFrame(dict(dataset='d', model='m', condition=c, seed=1, step=range(1, len(v) + 1), loss=v)) for c, v in loss.items()])


def test_training_curves(tmp_path):
    fig, data = training_figure(logs(correct=[3., 2, 1, .5], vanilla=[2., 1, None, .1]))
    assert data.groupby('condition').size().to_dict() == {'correct': 4, 'vanilla': 3} and 'loss, nats a token' in texts(fig)
    assert training_figure(logs(correct=list(np.linspace(3, 1, 60))))[1].running_mean.iloc[-1] == pytest.approx(np.linspace(3, 1, 60)[-4:].mean())
    for odd in (logs(correct=[1.]), logs(correct=[0., 0]), logs(correct=[None, None])): save_figure(*training_figure(odd), tmp_path/'t', dpi=40)
