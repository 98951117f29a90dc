"""What an analysis writes: figures, sentences and the page, for real, simulated, odd and hostile answers."""

import csv
import json
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from tracenb.core.records import TracenbError
from tracenb.ratings.analysis import analyze, compute, rating_page, read_performance
from tracenb.ratings.figures import (
    answer_shares,
    condition_styles,
    flow_figure,
    likert_figure,
    means_figure,
    tradeoff_figure,
)
from tracenb.ratings.power import power_figure
from tracenb.ratings.scales import (
    Rules,
    check_answers,
    mean_ratings,
    participant_flow,
    participant_table,
    rules_of,
    score_trials,
)
from tracenb.ratings.sentences import rating_sentences
from tracenb.ratings.simulated import simulate_answers
from tracenb.runs.notebook import execute, experiment, printed
from tracenb.study.design import demo_study

STUDY = demo_study(trials=4, n_per_condition=14)
RULES = rules_of(STUDY)
KINDS = ['interpretability', 'load']


@pytest.fixture(scope='module')
def answers():
    return simulate_answers(STUDY, seed=1)


@pytest.fixture(scope='module')
def table(answers):
    rows = check_answers(answers, RULES)
    return score_trials(rows, participant_table(rows, RULES), RULES)


@pytest.fixture(scope='module')
def written(tmp_path_factory, answers):
    out = tmp_path_factory.mktemp('analysis')
    runs = pd.DataFrame(dict(condition=['correct', 'r1'], right=[41, 62], n=100))
    return out, analyze(answers, out, STUDY, runs)


# --- what is written


def test_everything_is_labeled_as_simulated(written):
    out, found = written
    for path in [*(out / 'tables').glob('*.csv'), *(out / 'figures').glob('*.csv')]:
        simulated = pd.read_csv(path).simulated
        assert simulated.astype(float).max() >= 1 or path.stem == 'flow' and simulated[0] > 0, path.name
    assert len(list((out / 'tables').glob('*.csv'))) == len(found.tables) == 13
    for name, (fig, _) in found.figures.items():
        assert fig.get_suptitle().startswith('SIMULATED: '), name
        assert all('SIMULATED' in ax.get_title(loc='right') for ax in fig.subfigs[0].axes), name
        assert (out / 'figures' / f'{name}.png').stat().st_size > 5000
        assert (out / 'figures' / f'{name}.svg').read_text().startswith('<?xml')
    record = json.loads((out / 'analysis.json').read_text(), parse_constant=lambda c: pytest.fail(c))
    assert record['simulated'] is True and record['sentences'] == rating_sentences(found)
    assert (out / 'analysis.html').read_text().count('SIMULATED') >= 3


def test_real_answers_are_not_called_simulated(answers):
    found = compute(answers.assign(simulated=False), RULES, STUDY)
    assert 'simulated' not in rating_page(found).lower().replace('<a href', '')
    assert not any(fig.get_suptitle().startswith('SIMULATED') for fig, _ in found.figures.values())


def test_one_simulated_participant_is_enough_for_the_warning(answers):
    mixed = answers.assign(simulated=answers.participant == 'p0001')
    warning = f'1 of {answers.participant.nunique()} participants are simulated'
    assert warning in rating_page(compute(mixed, RULES, STUDY))


def test_sentences_carry_the_numbers_of_the_tables(written):
    out, found = written
    text, means, flow = ' '.join(rating_sentences(found)), found.tables['means'], found.tables['flow']
    row = means.query("outcome == 'interpretability' and condition == 'r1'").iloc[0]
    assert f'r1 {row["mean"]:.2f} [{row.low:.2f}, {row.high:.2f}] (n = {row.participants})' in text
    assert f'{flow.n.iloc[0]} people entered and {flow.n.iloc[-1]} are analyzed' in text
    assert (
        f'H(3) = {found.tables["tests"].statistic[0]:.2f}' in text
        and 'Limits</h2>' in (out / 'analysis.html').read_text()
    )


def test_use_of_the_context_is_described_where_it_was_stored(answers):
    other_tool = answers.drop(columns='context_opened')
    assert 'context' not in compute(other_tool, RULES, STUDY).tables
    rows = zip(answers.kind, answers.condition, answers.step)
    opened = [str(c == 'r1' and s == 'trial:0') if k == 'trial' else None for k, c, s in rows]
    found = compute(answers.assign(context_opened=opened), RULES, STUDY)
    shares = found.tables['context'].set_index('condition')
    assert shares.share.to_dict() == dict(decomposition=0, r1=0.25, r1_summary=0, post_hoc=0)
    assert (shares.trials == 4 * shares.participants).all()
    assert f'r1 25 % of {shares.trials["r1"]}' in ' '.join(rating_sentences(found))
    assert 'Use of the context</h2>' in rating_page(found)


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
    assert page.evaluate('window.hit') is None and page.errors == []
    assert all(u.startswith(('file:', 'data:')) for u in page.asked)
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    assert page.evaluate('[...document.images].every(i => i.naturalWidth > 0 && i.alt.length > 10)')
    for name in ('flow', 'means', 'demographics', 'pairs'):
        rows = csv.reader((tmp_path / 'tables' / f'{name}.csv').open())
        assert not any(cell.startswith('=') for row in rows for cell in row), name
    assert 'were chosen for this analysis' in page.inner_text('body') and 'SIMULATED' in page.title()


@pytest.mark.parametrize(
    ('column', 'value', 'sentence'),
    [
        ('condition', 'r1', 'one condition: nothing to compare'),
        ('dimension', 'effort', 'a single scale'),
        ('id', 'demo-3', 'the same 1 item'),
    ],
    ids=['one condition', 'one scale', 'one item'],
)
def test_a_small_study_is_analyzed_as_far_as_possible(answers, column, value, sentence):
    keep = answers[column] == value
    design = (RULES, STUDY) if column == 'condition' else ()
    found = compute(answers[keep if design else keep | (answers.kind != 'trial')], *design)
    assert any(sentence in s for s in rating_sentences(found)) and rating_page(found)
    assert found.tables['pairs'].empty == (column == 'condition')
    assert (found.facts['kinds'] == ['load']) == (column == 'dimension')
    assert (found.facts['items'] == 1) == (column == 'id')


# --- figures


def test_shares_add_up_and_scales_of_other_points_are_drawn(table):
    data = answer_shares(table, RULES)
    assert np.allclose(data.groupby(['scale', 'condition']).share.sum(), 1) and data.n.sum() == len(table) * 6
    fig, _ = likert_figure(table, Rules(points=7, dimensions=RULES.dimensions))
    assert len(fig.subfigs[0].legends[0].get_texts()) == 7


def all_figures(table, names):
    "Every figure of a study whose conditions have these names."
    one = table[table.condition == 'r1'].head(60)
    some = pd.concat([one.assign(condition=name.format(k)) for k, name in enumerate(names)])
    means = mean_ratings(some, KINDS, 50)
    runs = pd.DataFrame(dict(condition=[*dict.fromkeys(some.condition)], mean=0.5, low=0.4, high=0.6))
    participants = some.drop_duplicates(['participant', 'condition']).assign(reason='', status='complete')
    power, shared = [], dict(test='Mann-Whitney, Holm', power=0.5, low=0.4, high=0.6, sims=100)
    for o in KINDS:
        for a, b in combinations(means.condition.unique()[:6], 2):
            power += [shared | dict(outcome=o, a=a, b=b, n=n) for n in (10, 30)]
    yield likert_figure(some, RULES)[0]
    yield means_figure(some, means, RULES)[0]
    yield tradeoff_figure(means, runs, simulated=True)[0]
    yield flow_figure(participant_flow(participants))[0]
    if power:
        yield power_figure(pd.DataFrame(power))[0]


@pytest.mark.parametrize(
    'names',
    [12 * ['kind {} of a trace with a rather long name'], ['r1'], 3 * ['{}' + 90 * 'x' + ' $y$']],
    ids=['many', 'one', 'long'],
)
def test_figures_are_legible_for_many_and_long_names(table, names):
    "All text lies inside the figure and tick labels do not overlap; panels keep a third of the width."
    for fig in all_figures(table, names):
        FigureCanvasAgg(fig).draw()
        whole, axes, title = fig.bbox, fig.subfigs[0].axes, fig.get_suptitle()
        legends = [t for legend in fig.subfigs[0].legends for t in legend.get_texts()]
        for ax in axes:
            ticks = [t for t in ax.get_yticklabels() if ax.axison and t.get_text()]
            boxes = [t.get_window_extent() for t in (*legends, *ticks, *ax.texts) if t.get_text()]
            assert all(whole.x0 - 1 <= b.x0 and b.x1 <= whole.x1 + 1 for b in boxes), title
            boxes = [t.get_window_extent() for t in ticks]
            assert not any(a.overlaps(b) for k, a in enumerate(boxes) for b in boxes[:k]), title
        across = len({round(ax.get_position().x0, 2) for ax in axes})
        assert all(ax.get_window_extent().width * across > whole.width / 3 for ax in axes), title


def test_tradeoff_reads_runs_and_refuses_percent(tmp_path, table):
    from test_report import write_run

    for condition, right in (('correct', 4), ('incorrect', 1)):
        write_run(tmp_path, condition, right=right)
    runs = read_performance(tmp_path, list(STUDY.conditions))
    assert runs.set_index('condition')['mean'].round(3).to_dict() == {'decomposition': 0.667, 'incorrect': 0.167}
    _, data = tradeoff_figure(mean_ratings(table, KINDS), runs)
    assert data.condition.tolist() == ['decomposition'] and data.dataset.tolist() == ['toy']
    with pytest.raises(TracenbError, match='not percent'):
        read_performance(pd.DataFrame(dict(condition=['r1'], mean=[41.0])), [])
    with pytest.raises(TracenbError, match='no such file or folder'):
        read_performance(tmp_path / 'none', [])


def test_conditions_differ_by_color_and_by_marker():
    styles = condition_styles(list(STUDY.conditions))
    assert len({marker for _, marker in styles.values()}) == 4 and len({color for color, _ in styles.values()}) == 4


# --- the notebook


@pytest.mark.slow
def test_the_notebook_runs(tmp_path, forked_kernels):
    parameters = dict(out=str(tmp_path / 'out'), n_per_condition=6, sims=100, ns=[25])
    done = execute(experiment('study'), tmp_path / 'study.ipynb', parameters)
    assert 'of them simulated' in printed(done) and (tmp_path / 'out' / 'analysis.html').exists()
