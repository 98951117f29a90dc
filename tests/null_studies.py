"""False alarms in studies without an effect: `python tests/null_studies.py` writes nbs/data/null_studies.csv."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd

from tracenb.ratings.contrasts import overall_p, pair_p
from tracenb.ratings.effects import Effects, draw_ratings, item_effects, participant_effects
from tracenb.ratings.ordinal import fit_ordinal, odds_ratios
from tracenb.ratings.scales import Rules
from tracenb.stats.comparisons import holm_rows
from tracenb.stats.intervals import wilson

FILE = Path(__file__).parents[1] / 'nbs' / 'data' / 'null_studies.csv'
PAGE = FILE.parents[1] / 'site' / 'howto' / 'run_a_study.md'
MARKS = ('<!-- false alarms -->\n', '\n<!-- end -->')
CONDITIONS, ITEMS, STUDIES = ('decomposition', 'r1', 'r1_summary', 'post_hoc'), 8, 400
SCALES = dict(predictability='interpretability', understandability='interpretability', faithfulness='interpretability')
NULL = Effects(means={c: dict(interpretability=3.3) for c in CONDITIONS}, dimensions=SCALES)
PEOPLE = (5, 10, 15, 25)


def one_study(layout, n, seed):
    "Ratings of a study without an effect, as `score_trials` gives them; n people a condition, within subjects in all."
    rng, rows, k = np.random.default_rng([seed, n, layout == 'within']), [], len(CONDITIONS)
    items = item_effects(NULL, 1, ITEMS, rng)
    people = participant_effects(NULL, 1, n, rng) if layout == 'within' else None
    for j, c in enumerate(CONDITIONS):
        rated = draw_ratings(NULL, c, n, items, rng, people)[0]
        for person in range(n):
            seen = [i for i in range(ITEMS) if layout == 'between' or (i + person) % k == j]
            name = f'p{person}' if layout == 'within' else f'{c} {person}'
            rows += [(name, c, f'i{i}', *rated[person, i]) for i in seen]
    table = pd.DataFrame(rows, columns=['participant', 'condition', 'id', *(f'scale:{s}' for s in SCALES)])
    return table.assign(**{'kind:interpretability': table.iloc[:, 3:].mean(axis=1)})


def p_values(layout, n, seed):
    "test -> p; `any pair` is the smallest p after Holm's correction."
    table, within = one_study(layout, n, seed), layout == 'within'
    means = table.groupby(['condition', 'participant'], sort=False)['kind:interpretability'].mean().round(9)
    x = np.array([means[c].to_numpy() for c in CONDITIONS])[:, None]
    pairs = np.column_stack([pair_p(a, b, within) for a, b in combinations(x, 2)])
    found = {'Friedman' if within else 'Kruskal-Wallis': overall_p(x, within)[0]}
    found |= {'one pair': pairs[0, 0], 'any pair, Holm': holm_rows(np.nan_to_num(pairs, nan=1.0)).min()}
    rows = odds_ratios(fit_ordinal(table, 'interpretability', Rules(dimensions=SCALES, conditions=CONDITIONS)))
    if rows.note.iloc[0] == '':
        found |= {'ordinal model, all (F)': rows.p.iloc[0], 'ordinal model, one condition': rows.p.iloc[1]}
    return found


def false_alarms(layout, n, studies=STUDIES, workers=1):
    "One row per test: layout, n, test, studies, `alarms` (p < 0.05), share, low, high (Wilson)."
    with ProcessPoolExecutor(workers) as pool:
        found = pd.DataFrame(list(pool.map(partial(p_values, layout, n), range(studies), chunksize=10)))
    for test in found:
        p = found[test].dropna()
        alarms = int((p < 0.05).sum())
        low, high = wilson(alarms, len(p))
        about = dict(layout=layout, n=n, test=test, studies=len(p), alarms=alarms, share=alarms / len(p))
        yield about | dict(low=low, high=high)


def published(table):
    "The table of the how-to: percent of false alarms, one column per number of people."
    wide = (100 * table.pivot(index=['layout', 'test'], columns='n', values='share')).round(1)
    lines = [f'| layout | test | {" | ".join(f"{n} people" for n in wide)} |', '|---|---|' + '---|' * wide.shape[1]]
    cell = lambda x: '-' if np.isnan(x) else f'{x:g} %'
    rows = wide.iterrows()
    return '\n'.join(
        lines + [f'| {layout} subjects | {test} | {" | ".join(map(cell, r))} |' for (layout, test), r in rows]
    )


if __name__ == '__main__':
    made, text = [], PAGE.read_text(encoding='utf-8')
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    for layout, n in product(('within', 'between'), PEOPLE):
        made += false_alarms(layout, n, workers=2)
        table = pd.DataFrame(made).assign(simulated=True)
        table.to_csv(FILE, index=False, float_format='%.4f')
        PAGE.write_text(f'{before}{MARKS[0]}\n{published(table)}\n{MARKS[1]}{after}', encoding='utf-8')
        print(layout, n, made[-1], flush=True)
