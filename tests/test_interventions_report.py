"The section on interventions: figures, sentences and page, on rows whose right values are known."

import json
import math
import re
import shutil
from functools import partial

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT
from papermill import inspect_notebook
from test_layout import EXPERIMENTS, cells, source

from tracenb.core.canvas import COLORS, colors
from tracenb.core.files import write_jsonl
from tracenb.core.records import TracenbError
from tracenb.interventions.running import FOLDER
from tracenb.interventions.validity import control_table, validated_summary
from tracenb.report.interventions import (
    dots_figure,
    early_figure,
    following_figure,
    intervention_findings,
    intervention_section,
    matrix_figure,
    summarize_dots,
    summarize_matrix,
)
from tracenb.report.page import make_report
from tracenb.report.seed_means import by_condition, is_control, trained_name
from tracenb.report.statements import summarize_early, summarize_following
from tracenb.report.viewer import token_gains, token_strip, token_strips
from tracenb.runs.notebook import execute, experiment
from tracenb.runs.stages import make_run
from tracenb.traces.conditions import CONDITIONS

FILLER, PATHS = (partial(dots_figure, test=t) for t in ('filler_sweep', 'knock_out'))
FIGURES = (matrix_figure, following_figure, early_figure, dots_figure, FILLER, PATHS)
TRACE = 'It is <b>.\n😀 red'
SPANS = [[0, 2], [2, 5], [6, 10], [11, 12], [13, 16]]


def rows_of(follows, condition='correct', n=20, seed=1, dataset='toy', model='m', eligible=True):
    "One model: it follows the forced wrong trace in the first `follows` of n questions, else it says gold."
    made = []
    for k in range(n):
        run = dict(dataset=dataset, model=model, seed=seed, condition=condition)
        own = dict(id=f'q{k}', label='place', variant='', eligible=eligible, why='') | run
        follow = float(k < follows)
        for name in ('correct', 'edited_facts', 'none'):
            wrong = name == 'edited_facts'
            row = own | dict(test='forced_wrong', variant=name, eligible=wrong and eligible, lp_gold=-1.0)
            row |= dict(right=1 - follow * wrong, why='' if wrong else 'no other answer is implied')
            made.append(row | (dict(follow=follow, resist=1 - follow, other=0.0, placebo=0.0) if wrong else {}))
        curve = dict(kept=[0, 5, 10], right=[False, follow == 0, True], masked_kept=[0, 4], masked_right=[0, 0])
        made.append(own | dict(test='early_answering', variant='correct', **curve))
        made += [
            own | dict(test='step_attribution', variant=v, phi_label=0.1 * k, phi_facts=follow)
            for v in ('deleted', 'wrong', 'filler')
        ]
        drops = {'filler equal': 2, 'varied equal': 2, 'shuffled': 1, 'trace': 3, 'context': 0, 'control': 0}
        tests = dict.fromkeys(drops, 'filler_sweep') | dict.fromkeys(('trace', 'context', 'control'), 'knock_out')
        made += [own | dict(test=tests[v], variant=v, lp_drop=x * follow) for v, x in drops.items()]
        made.append(own | dict(test='conflict', nie=follow, nde=1 - follow, te=1.0, reliance=follow))
        strip = dict(trace=TRACE, spans=SPANS, lp=[-4, -3, -3.5, -1, -1, -0.5], gain=3.5)
        made.append(own | dict(test='token_attribution', variant='correct', **strip))
    return made


def grid(shares, **settings):
    return pd.DataFrame([r for c, follows in shares.items() for r in rows_of(follows, c, **settings)])


FOUR = grid(dict(ignorer=0, correct=15, incorrect=5, follower=20))
NUMBERED = dict(mix='mix:0.5', few_shot='few_shot:3')
EVERY = grid({NUMBERED.get(c, c): k % 20 for k, c in enumerate(CONDITIONS)})


def write_tested(out, shares, n=4):
    "Finished runs of the toy task, tested: their rows are `rows_of`."
    from test_report import write_run

    for condition, follows in shares.items():
        at = write_run(out, condition, n=n)
        rows = pd.DataFrame(rows_of(follows, condition, n=n))
        for test, part in rows.groupby('test'):
            kept = part.drop(columns=['dataset', 'model', 'condition', 'seed'])
            lines = [
                {k: v for k, v in r.items() if isinstance(v, list) or pd.notna(v)} for r in kept.to_dict('records')
            ]
            write_jsonl(at / FOLDER / f'{test}.jsonl', lines)
        (at / FOLDER / 'summary.json').write_text('{}')
    return out


# --- groups and colors


def test_control_models_come_last_and_are_marked():
    assert [key[2] for key, _ in by_condition(FOUR)] == ['correct', 'incorrect', 'follower', 'ignorer']
    assert [trained_name(c) for c in ('follower', 'masked', 'mix:0.5')] == [
        'follower (control)',
        'masked',
        '50 % incorrect',
    ]
    assert by_condition(FOUR[:0]) == [] and not is_control('unheard of')


def test_every_condition_of_rules_has_a_color_of_its_own():
    own = [c for c, known in CONDITIONS.items() if not (known.needs or known.takes)]
    assert set(own) <= set(COLORS) and len(set(colors(pd.DataFrame(dict(condition=own))).values())) == len(own)


# --- figures


def test_the_matrix_has_a_cell_for_each_condition_and_forced_trace():
    _, data = matrix_figure(FOUR)
    cell = data.set_index(['condition', 'forced', 'measure']).estimate.to_dict()
    assert cell['correct', 'edited_facts', 'accuracy'] == 0.25 and cell['correct', 'edited_facts', 'follow'] == 0.75
    assert cell['follower', 'none', 'accuracy'] == 1
    assert ('correct', 'none', 'follow') not in cell, 'following is not defined where gold is implied'
    assert list(data.condition.unique()) == ['correct', 'incorrect', 'follower', 'ignorer']


def test_shares_of_choices_sum_to_one_and_count_eligible_questions():
    fig, data = following_figure(pd.concat([FOUR, grid(dict(masked=3), eligible=False)]))
    assert np.allclose(data.groupby('condition').estimate.sum(), 1) and 'masked' not in set(data.condition)
    assert data[data.choice == 'follow'].estimate.tolist() == [0.75, 0.25, 1, 0]
    assert '20 of 20 questions are eligible' in re.sub(r'\s', ' ', fig.get_supxlabel())


def test_seeds_are_averaged_within_a_question():
    two = pd.concat([grid(dict(correct=20)), grid(dict(correct=10), seed=2)])
    [follow] = [r for r in following_figure(two)[1].itertuples() if r.choice == 'follow']
    assert (follow.estimate, follow.n, follow.seeds) == (0.75, 20, 2)


def test_the_curve_holds_the_last_value_known_at_each_share():
    _, data = early_figure(FOUR)
    curve = data.set_index(['condition', 'trace', 'share']).accuracy.to_dict()
    assert [curve['incorrect', 'correct', round(s, 1)] for s in (0, 0.4, 0.5, 0.9, 1)] == [0, 0, 0.75, 0.75, 1]
    assert curve['incorrect', 'masked', 1] == 0


def test_a_condition_without_early_answers_is_named():
    fig, data = early_figure(pd.concat([FOUR, grid(dict(masked=3), eligible=False)]))
    assert 'masked' not in set(data.condition) and 'No question of masked' in re.sub(r'\s', ' ', fig.get_supxlabel())


def test_shapley_values_of_each_step_and_replacement():
    _, data = dots_figure(FOUR)
    value = data.set_index(['condition', 'variant', 'metric']).estimate.to_dict()
    assert math.isclose(value['correct', 'filler', 'phi_label'], 0.95)
    assert value['correct', 'wrong', 'phi_facts'] == 0.75
    assert len(value) == 4 * 3 * 2


def test_losses_under_filler_and_hidden_paths():
    for figure, metric, right in ((FILLER, 'drop_filler_equal', 1.5), (PATHS, 'drop_trace', 2.25)):
        fig, data = figure(FOUR)
        value = data.set_index(['condition', 'metric']).estimate.to_dict()
        assert len(value) == 4 * 3 and (value['correct', metric], value['ignorer', metric]) == (right, 0)
        assert [t.get_text() for t in fig.axes[0].get_yticklabels()][-2:] == ['follower (control)', 'ignorer (control)']


@pytest.mark.parametrize('figure', FIGURES)
def test_a_figure_without_rows_says_so(figure):
    for rows in (FOUR[FOUR.test == 'conflict'], grid(dict(correct=3), eligible=False)):
        fig, data = figure(rows)
        assert fig is not None
        assert data.empty or figure is matrix_figure, 'exact answers are counted for all questions'


def texts(fig):
    "The boxes of all text that is shown, with what it says."
    fig.draw_without_rendering()
    found = [t for ax in fig.subfigs[0].axes for t in [*ax.texts, *ax.get_yticklabels(), ax.title, ax.xaxis.label]]
    found += [t for legend in legends(fig) for t in legend.get_texts()]
    return [(t.get_text(), t.get_window_extent()) for t in found if t.get_text() and t.get_visible()]


def legends(fig):
    return [x for x in (*fig.subfigs[0].legends, *(ax.get_legend() for ax in fig.subfigs[0].axes)) if x]


@pytest.mark.parametrize('figure', FIGURES)
@pytest.mark.parametrize('rows', [FOUR, EVERY, pd.concat([FOUR, FOUR.assign(dataset='babi')])], ids=['4', 'all', '2x'])
def test_nothing_overlaps_and_no_legend_is_long(figure, rows):
    fig, _ = figure(rows)
    every, width, height = texts(fig), fig.bbox.width, fig.bbox.height
    for k, (text, box) in enumerate(every):
        assert box.x0 >= 0 and box.x1 <= width + 1 and box.y0 >= 0 and box.y1 <= height + 1, f'{text} is cut off'
        hit = [t for t, b in every[k + 1 :] if b.shrunk(0.9, 0.9).overlaps(box.shrunk(0.9, 0.9))]
        assert hit == [], f'{text} overlaps {hit}'
    assert max((len(x.get_texts()) for x in legends(fig)), default=0) <= 12
    for ax in fig.subfigs[0].axes:
        inside = ax.get_window_extent()
        assert not any(x.get_window_extent().shrunk(0.95, 0.95).overlaps(inside) for x in legends(fig))


def test_control_models_have_panels_and_lines_apart():
    fig, _ = early_figure(FOUR)
    titles = [ax.get_title(loc='left') for ax in fig.subfigs[0].axes]
    assert titles == ['toy, m', 'toy, m, control models']
    fig, _ = following_figure(FOUR)
    [ax] = fig.subfigs[0].axes
    assert 1.5 in [line.get_ydata()[0] for line in ax.lines if list(line.get_xdata()) == [0, 1]], (
        'a line below incorrect'
    )


# --- sentences


def test_sentences_name_controls_after_the_conditions():
    told = summarize_following(following_figure(FOUR)[1])[0].partition('tuned on: ')[2]
    assert told == 'correct 75 %, incorrect 25 %; control models: follower 100 %, ignorer 0 %.'
    assert 'correct 0 to 100 %' in summarize_early(early_figure(FOUR)[1])[0]


def test_sentences_on_losses_name_what_was_changed():
    steps, filler, paths = (summarize_dots(figure(FOUR)[1])[0] for figure in (dots_figure, FILLER, PATHS))
    assert 'The label step: correct +0.95' in steps and 'The facts step: correct +0.75' in steps
    assert 'One word repeated: correct +1.50' in filler and 'Shuffled words: correct +0.75' in filler
    assert 'The trace hidden: correct +2.25' in paths and 'Other facts hidden: correct +0.00' in paths


def test_the_sentence_on_the_matrix_names_only_differences_that_a_test_found():
    said = summarize_matrix(matrix_figure(FOUR)[1], FOUR)[0]
    assert said.endswith(
        'correct (edited facts -75), incorrect (none shown); '
        'control models: follower (edited facts -100), ignorer (none shown).'
    )


def test_sentences_keep_data_sets_apart():
    both = pd.concat([grid(dict(correct=20)), grid(dict(correct=0), dataset='babi')])
    said = summarize_following(following_figure(both)[1])[0]
    assert 'babi, m: correct 0 %' in said and 'toy, m: correct 100 %' in said


def test_validity_is_said_beside_each_metric():
    table = validated_summary(FOUR).set_index(['condition', 'test', 'variant', 'metric'])
    row = table.loc['correct', 'forced_wrong', 'edited_facts', 'net_follow']
    assert (row.d, row.validated) == (1, 'validated')
    assert table.loc['correct', 'step_attribution', 'wrong', 'phi_label'].validated == 'not validated here'
    assert table.loc['correct', 'conflict', '', 'te'].validated == 'not asked'


@pytest.mark.parametrize('shares', [dict(follower=12, ignorer=0), dict(follower=20, ignorer=9)])
def test_models_that_are_not_certified_validate_nothing(shares):
    rows = grid(dict(correct=15) | shares)
    assert set(control_table(rows).verdict) == {'control models not certified'}
    said = '\n'.join(intervention_findings(rows))
    assert 'not certified' in said and ': validated' not in said


def test_a_data_set_without_its_own_control_models_is_not_validated_by_those_of_another():
    rows = pd.concat([FOUR, grid(dict(correct=15, follower=20), dataset='babi')])
    table = validated_summary(rows)
    assert set(table[table.dataset == 'babi'].validated) == {'no control models'}
    assert 'babi, m: follower and ignorer were not both tested' in '\n'.join(intervention_findings(rows))
    assert 'toy, m: follower and ignorer were not both' not in '\n'.join(intervention_findings(rows))


def test_without_control_models_that_is_said():
    rows = grid(dict(correct=15, incorrect=5))
    said = intervention_findings(rows)
    assert said[-1] == 'toy, m: follower and ignorer were not both tested: the measures are not validated here.'
    assert 'D ' not in ''.join(said) and set(validated_summary(rows).validated) == {'no control models'}


# --- tokens


def test_a_strip_colors_each_token_and_stays_text():
    strip = token_strip(TRACE, SPANS, [-4, -3, -3.5, -1, -1, -0.5])
    assert re.findall(r'rgba\((.*?)\)" title="(.*?) nats">(.*?)</span>', strip) == [
        ('213, 94, 0, 0.20', '+1.00', 'It'),
        ('0, 114, 178, 0.10', '-0.50', ' is'),
        ('213, 94, 0, 0.50', '+2.50', '&lt;b&gt;.'),
        ('0, 114, 178, 0.00', '+0.00', '😀'),
        ('213, 94, 0, 0.10', '+0.50', 'red'),
    ]
    assert token_strip('', [], [-1]) == ''


def test_strips_are_of_the_same_questions_in_every_condition():
    page = token_strips(FOUR, n=2).data
    assert page.count('<p><b>') == 8 and page.index('incorrect, seed 1, q1') < page.index(
        'follower (control), seed 1, q0'
    )
    assert token_strips(FOUR[FOUR.test == 'conflict']).data == token_strips(FOUR[:0]).data == ''


# --- the page


def test_a_grid_without_interventions_has_no_section(tmp_path):
    assert intervention_section(tmp_path).data == '' and list(tmp_path.iterdir()) == []


def test_the_section_shows_figures_table_and_strips(tmp_path):
    page = intervention_section(write_tested(tmp_path, dict(correct=3, incorrect=1))).data
    ids = re.findall(r'<h2 id="(\w+)"', page)
    assert ids == [
        'interventions',
        'forced_matrix',
        'following',
        'early_answering',
        'step_attribution',
        'filler',
        'paths',
    ]
    assert (
        page.count('data:image/png') == 6 and 'not validated here' in page and '<h3>What each token adds</h3>' in page
    )
    table = pd.read_csv(tmp_path / 'interventions.csv')
    assert {'d', 'validated', 'sentence'} <= set(table) and set(table.condition) == {'correct', 'incorrect'}
    assert (tmp_path / 'figures' / 'following.svg').exists()


def test_strips_of_the_viewer_count_as_javascript_does(tmp_path):
    write_tested(tmp_path, dict(correct=1))
    [path] = tmp_path.rglob(f'{FOLDER}/token_attribution.jsonl')
    text, flat = token_gains(path.parents[1])['q0']
    assert text == TRACE and flat[-3:] == [14, 17, 50] and flat[:3] == [0, 2, 100]


@pytest.fixture(scope='module')
def page(tmp_path_factory, forked_kernels):
    return make_report(write_tested(tmp_path_factory.mktemp('tested'), dict(correct=3, incorrect=1), n=4))


@pytest.mark.slow
def test_the_page_shows_the_section_and_fetches_nothing(page, tab):
    for width in (1200, 500):
        shown = tab(width=width)
        shown.goto(page.as_uri())
        shown.wait_for_selector('.tv-line')
        heads = shown.locator('h2').all_inner_texts()
        assert heads.index('Does the model use its trace?') > 0 and 'Forced traces' in heads
        strip = shown.locator('#tv-one details').first
        strip.locator('summary').click()
        assert strip.locator('.tv-text').inner_text().startswith('It is <b>.')
        assert strip.locator('.tv-text span').count() == len(SPANS)
        assert shown.evaluate('document.documentElement.scrollWidth') <= width
        assert shown.errors == [] and [u for u in shown.asked if not u.startswith((page.as_uri(), 'data:'))] == []


# --- the notebooks


@pytest.mark.parametrize('path', EXPERIMENTS, ids=lambda p: p.stem)
def test_papermill_reads_every_parameter(path):
    [cell] = [c for c in cells(path) if 'parameters' in c['metadata'].get('tags', [])]
    wanted = re.findall(r'^(\w+) = ', source(cell), re.M)
    assert wanted and list(inspect_notebook(str(path))) == wanted


@pytest.mark.slow
@pytest.mark.parametrize('found', ['nothing', 'not finished'])
def test_the_notebook_says_that_a_folder_is_no_finished_run(tmp_path, found, forked_kernels):
    at = tmp_path / 'run'
    at.mkdir()
    if found == 'not finished':
        (at / 'run.json').write_text(json.dumps(dict(settings=make_run().to_dict())))
    with pytest.raises(TracenbError, match='not a finished run'):
        execute(experiment('intervene'), tmp_path / 'made.ipynb', dict(run=str(at)))
    with pytest.raises(TracenbError, match='no such folder'):
        execute(experiment('intervene'), tmp_path / 'made.ipynb', dict(run=str(tmp_path / 'lost')))
    shutil.rmtree(at)


def test_the_site_shows_the_figures_of_real_rows():
    text = (ROOT / 'nbs' / 'site' / 'explanation' / 'interventions.md').read_text()
    shown = re.findall(r'!\[[^\]]+\]\(\.\./\.\./images/(interventions-\w+\.png)\)', text)
    assert len(shown) >= 4
    for name in shown:
        assert (ROOT / 'nbs' / 'images' / name).stat().st_size < 120_000
