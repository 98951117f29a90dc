"""The report's tables and sentences, on rows made so that the right sentence is known."""
import re

import numpy as np
import pandas as pd
import pytest

from tracenb.core import TracenbError
from tracenb.report import baselines, by_label, findings, finished, headline, percent, to_page, write_readme
from tracenb.score import SCORERS


def rows(seeds=(1,), n=100, **right):
    "A table of runs: `right` gives, for each condition, how many of n answers are right; traces are right where answers are, but for every tenth."
    parts = []
    for seed in seeds:
        for condition, k in right.items():
            exact = (np.arange(n) < k).astype(float)
            t = pd.DataFrame({s: np.nan for s in SCORERS}, index=range(n)).assign(dataset='toy', model='m', condition=condition, seed=seed, id=[f'e{i}' for i in range(n)], answer='a')
            t['label'], t['answer_exact'], t['answer_contains'], t['format_error'] = np.where(np.arange(n) % 2, 'colour', 'place'), exact, exact, 0.
            if condition in ('correct', 'incorrect'):
                trace = np.where(np.arange(n) % 10 == 0, 1 - exact, exact)
                for s in ('classification', 'retrieval_any', 'retrieval_exact', 'trace_correct_any', 'trace_correct_exact'): t[s] = trace
            parts.append(t)
    return pd.concat(parts, ignore_index=True)


def test_percent(): assert (percent(.724, .63, .801), percent(1.), percent(float('nan'))) == ('72 [63, 80]', '100', '-')


def test_headline_has_a_row_a_run_and_dashes_where_unscored():
    t = headline(rows(vanilla=71, correct=72))
    assert list(t.index.get_level_values('condition')) == ['vanilla', 'correct']
    assert t['answer exact'].tolist() == ['71 [61, 79]', '72 [63, 80]']
    assert t.label.tolist()[0] == '-' and t.n.tolist() == [100, 100]


def test_no_difference_is_called_absence_of_evidence():
    said = ' '.join(findings(rows(vanilla=71, correct=72, incorrect=70)))
    assert 'No significant difference' in said and 'absence of evidence' in said and 'One seed' in said
    assert 'differ by' not in said


def test_a_large_difference_is_said_with_its_test():
    said = findings(rows(vanilla=30, correct=90))
    assert any(re.search(r'vanilla and correct differ by -60 points .*p < 0.001', s) for s in said)


def test_two_seeds_need_no_seed_caution(): assert not any('One seed' in s for s in findings(rows(seeds=(1, 2), vanilla=50, correct=55)))


def test_trace_and_answer_are_reported_under_both_definitions():
    said = ' '.join(findings(rows(correct=60)))
    assert 'any gold fact quoted' in said and 'exactly the gold facts quoted' in said and 'phi = ' in said


def test_the_untuned_model_is_reported_with_both_measures():
    assert any('contain the answer' in s for s in findings(rows(zero_shot=0, vanilla=50)))


def test_baselines_and_labels():
    t = rows(vanilla=50)
    assert baselines(t).share.iloc[-1] == 1.0  # every answer is 'a'
    assert by_label(t)[('vanilla', 1)].tolist() == ['50', '50']


def test_nothing_finished_says_how_to_run(tmp_path):
    with pytest.raises(TracenbError, match='tracenb run demo'): finished(tmp_path)


def test_the_page_stands_alone_and_escapes_data(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
    out = new_output('stream', text='<script>alert(1)</script>')
    nbformat.write(new_notebook(cells=[new_markdown_cell('# Title'), new_code_cell('secret_code()', outputs=[out])]), tmp_path/'n.ipynb')
    page = to_page(tmp_path/'n.ipynb', tmp_path/'p.html').read_text()
    assert 'Title' in page and 'secret_code' not in page and '<script' not in page and not re.search(r'(src|href)="https?:', page)


def test_readme_links_work_from_the_top(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
    nbformat.write(new_notebook(cells=[new_markdown_cell('[a](00_core.ipynb) ![b](images/b.png) [c](https://x.org) [d](#e) [o](../outputs/README.md)'), new_code_cell('#| hide\nx')]), tmp_path/'i.ipynb')
    text = write_readme(tmp_path/'i.ipynb', tmp_path/'R.md').read_text()
    assert '(nbs/00_core.ipynb)' in text and '(nbs/images/b.png)' in text and '(https://x.org)' in text and '(#e)' in text and '(outputs/README.md)' in text and '#| hide' not in text
