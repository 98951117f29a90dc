"The report's tables and sentences, on rows whose right sentence is known; its page, on data that imitates HTML."

import base64
import gzip
import html
import json
import re

import numpy as np
import pandas as pd
import pytest
from test_stats import world

from tracenb.core.files import write_jsonl
from tracenb.core.records import Example, Generation, Steps, TracenbError
from tracenb.report.design_figures import DESIGN, corruption_figure, cost_figure, dose_figure, length_figure
from tracenb.report.figures import (
    accuracy_figure,
    steps_figure,
    trace_answer_figure,
    trace_answer_table,
    training_figure,
)
from tracenb.report.page import make_report, runs_table, samples, section, show_table, to_page
from tracenb.report.results import Case, finished, gather, load_costs, load_logs, load_runs, save_rows
from tracenb.report.statements import (
    findings,
    summarize_accuracy,
    summarize_corruption,
    summarize_cost,
    summarize_dose,
    summarize_length,
    summarize_pairs,
    summarize_steps,
    summarize_trace_answer,
    summarize_training,
)
from tracenb.report.tables import (
    baselines,
    by_label,
    chosen_pairs,
    headline,
    measured,
    pairs,
    pairs_table,
    write_headline,
)
from tracenb.report.viewer import SCRIPT, _units, chosen_rows, packed, policy, read_row, viewer_html
from tracenb.runs.stages import make_run
from tracenb.scoring.baselines import guess_scores, guesses
from tracenb.scoring.samples import PASSED, over_samples, pass_share
from tracenb.scoring.scorers import SCORERS
from tracenb.scoring.tables import score_all, tabulate
from tracenb.stats.intervals import percent
from tracenb.tasks.task import get_task
from tracenb.traces.conditions import get_condition
from tracenb.traces.display import MARK_TITLES, claim_marks
from tracenb.traces.parsing import parse


def rows(seeds=(1,), n=100, dataset='toy', model='m', **right):
    "A table of runs; `right`: condition -> right answers of n. Traces are right where answers are, except every tenth."
    parts = []
    for seed in seeds:
        for condition, k in right.items():
            exact = (np.arange(n) < k).astype(float)
            t = pd.DataFrame({s: np.nan for s in SCORERS}, index=range(n)).assign(
                dataset=dataset, model=model, condition=condition, seed=seed, id=[f'e{i}' for i in range(n)], answer='a'
            )
            t['label'], t['answer_exact'], t['answer_contains'], t['format_error'] = (
                np.where(np.arange(n) % 2, 'color', 'place'),
                exact,
                exact,
                0.0,
            )
            if condition not in ('vanilla', 'zero_shot'):
                trace = np.where(np.arange(n) % 10 == 0, 1 - exact, exact)
                for s in (
                    'classification',
                    'retrieval_any',
                    'retrieval_exact',
                    'trace_correct_any',
                    'trace_correct_exact',
                ):
                    t[s] = trace
            parts.append(t)
    return pd.concat(parts, ignore_index=True)


HOSTILE = '<img src=x onerror="window.hit=1"></script></template><script>window.hit=1</script>&amp; \U0001f600'


def write_run(out, condition='correct', seed=1, n=6, right=3, text=HOSTILE, model='tiny-random'):
    "A finished run of the toy task, without any training."
    task, run, cond = (
        get_task('toy'),
        make_run(dataset='toy', model=model, condition=condition, seed=seed, data=dict(n_train=4, n_test=n)),
        get_condition(condition),
    )
    examples = [
        Example(
            id=f'q{i}',
            dataset='toy',
            split='test',
            context=('The cup is red.', f'The hat is blue. {text}'),
            question=f'Which color is the cup? {text}',
            answers=('red',),
            meta=dict(label='color', facts=[0]),
        )
        for i in range(n)
    ]
    made = []
    for i, e in enumerate(examples):
        answer = 'red' if i < right else f'blue {text}'
        trace = (
            task.trace_text(e, Steps(label='color' if i % 2 else 'place', facts=(0, 1) if i % 3 else (1,)))
            if cond.has_steps
            else ''
        )
        made.append(
            Generation(
                id=e.id,
                text=f'<think>{trace}</think> <answer>{answer}</answer>' if trace else answer,
                n_tokens=9,
                finish_reason='stop',
            )
        )
    scores = score_all(
        [parse(g, e, task, trace=cond.has_trace, steps=cond.has_steps) for g, e in zip(made, examples)],
        examples,
        task,
        trace=cond.has_steps,
    )
    at = out / run.name
    for name, lines in dict(examples=examples, generations=made, scores=scores).items():
        write_jsonl(at / f'{name}.jsonl', lines)
    if cond.trains:
        write_jsonl(at / 'train_log.jsonl', [dict(step=k, loss=2 / k) for k in (1, 2, 3)])
    cost = dict(
        train_seconds=60.0 if cond.trains else None,
        generate_seconds=5.0,
        all_seconds=70.0,
        peak_memory_mb=900,
        tokens_generated=54,
    )
    (at / 'run.json').write_text(json.dumps(dict(settings=run.to_dict(), cost=cost, code='abc')))
    (at / 'metrics.json').write_text(json.dumps(dict(too_long=dict(train=['x'], test=[]))))
    return at


@pytest.fixture
def grid(tmp_path):
    for seed in (1, 2):
        for condition, right in (('zero_shot', 0), ('vanilla', 2), ('correct', 4), ('incorrect', 1)):
            write_run(tmp_path, condition, seed, right=right)
    return tmp_path


# --- reading


def test_gather_reads_what_tabulate_gives(grid):
    found = gather(grid)
    assert len(found.runs) == 8 and len(found.rows) == 48 and len(found.cases) == 6 and not found.left_out
    path, run = next((p, r) for p, r in found.runs.items() if r.condition == 'correct')
    from tracenb.core.files import read_jsonl
    from tracenb.core.records import Score

    table = tabulate(
        read_jsonl(path / 'scores.jsonl', Score), read_jsonl(path / 'examples.jsonl', Example), get_task('toy')
    ).reset_index()
    own = found.rows[(found.rows.condition == 'correct') & (found.rows.seed == run.seed)].reset_index(drop=True)
    pd.testing.assert_frame_equal(own[list(table)], table, check_dtype=False)
    assert (
        load_runs(grid).equals(found.rows)
        and load_logs(grid).equals(found.logs)
        and load_costs(grid).equals(found.costs)
    )


@pytest.mark.parametrize(
    'damage',
    [
        lambda at: (at / 'scores.jsonl').write_text('{"id": "q0"'),
        lambda at: (at / 'scores.jsonl').write_text(''),
        lambda at: (at / 'generations.jsonl').unlink(),
        lambda at: (at / 'examples.jsonl').unlink(),
        lambda at: (at / 'metrics.json').write_text('{'),
    ],
    ids=['torn', 'empty', 'no texts', 'no questions', 'no metrics'],
)
def test_a_damaged_run_is_named_and_the_others_are_kept(tmp_path, damage):
    good, bad = write_run(tmp_path, 'correct'), write_run(tmp_path, 'incorrect')
    damage(bad)
    found = gather(tmp_path)
    assert (
        list(found.rows.condition.unique()) == ['correct']
        and len(found.left_out) == 1
        and 'incorrect' in found.left_out[0]
    )
    assert 'could not be read' in runs_table(found).data
    damage(good)
    with pytest.raises(TracenbError, match='none of 2 finished runs can be read'):
        gather(tmp_path)


def test_unfinished_runs_are_named(grid):
    at = write_run(grid, 'correct', seed=9)
    (at / 'metrics.json').unlink()
    page = runs_table(gather(grid)).data
    assert '1 runs are not finished' in page and 'seed9' in page


def test_nothing_finished_says_how_to_run(tmp_path):
    with pytest.raises(TracenbError, match='tracenb run demo'):
        finished(tmp_path)


def test_the_saved_rows_name_question_and_run(grid):
    saved = pd.read_parquet(save_rows(gather(grid), grid / 'rows.parquet'))
    assert (
        len(saved) == 48
        and all((grid / f / 'generations.jsonl').exists() for f in saved.folder.unique())
        and saved.question.str.startswith('Which').all()
    )


def test_samples_show_wrong_and_right_answers(grid):
    shown = samples(grid, 1)
    assert (
        set(shown.answer) == {'right', 'wrong'}
        and len(shown[shown.condition == 'zero_shot']) == 2
        and shown.generation.str.len().gt(0).all()
    )


# --- two runs of one condition and seed


def test_twin_runs_are_named_and_left_out(tmp_path):
    "After --limit, or an edited setting: never pooled, and the rest is reported."
    first, second = write_run(tmp_path, 'correct', n=6), write_run(tmp_path, 'correct', n=8)
    write_run(tmp_path, 'vanilla', n=8, right=5)
    found = gather(tmp_path)
    assert list(found.rows.condition.unique()) == ['vanilla'] and len(found.rows) == 8 and not found.left_out
    [twin] = found.twins
    assert all(str(p.relative_to(tmp_path)) in twin for p in (first, second))
    assert 'data.n_test: ' in twin and 'correct, seed 1' in twin and 'move the others out' in twin
    assert (
        'are not the only one of their condition and seed' in runs_table(found).data
        and first.name in runs_table(found).data
    )
    assert (
        len(load_runs(tmp_path)) == 8
        and set(load_logs(tmp_path).condition) == {'vanilla'}
        and len(load_costs(tmp_path)) == 1
    )


def test_only_twins_are_refused_before_anything_is_written(tmp_path):
    first, second = write_run(tmp_path, 'correct', n=6), write_run(tmp_path, 'correct', n=8)
    before = sorted(tmp_path.rglob('*'))
    with pytest.raises(TracenbError, match='data.n_test: ') as e:
        make_report(tmp_path)
    assert first.name in str(e.value) and second.name in str(e.value) and 'move the others out' in str(e.value)
    assert sorted(tmp_path.rglob('*')) == before


@pytest.mark.slow
def test_a_report_beside_twins_holds_no_pooled_figure(tmp_path, capsys, forked_kernels):
    write_run(tmp_path, 'correct', n=6), write_run(tmp_path, 'correct', n=8)
    write_run(tmp_path, 'vanilla', n=8, right=5), write_run(tmp_path, 'incorrect', n=8, right=5)
    make_report(tmp_path)
    assert 'left out: 2 runs of toy, tiny-random, correct, seed 1' in capsys.readouterr().err
    numbers = pd.read_csv(tmp_path / 'headline.csv')
    assert set(numbers.condition) == {'vanilla', 'incorrect'} and numbers[numbers.scorer == 'answer_exact'].n.max() == 8


# --- guesses that do not read


def test_guesses_stand_beside_every_headline_figure(grid):
    rows, table = gather(grid).rows, headline(gather(grid).rows)
    assert {'guess_commonest', 'guess_commonest_of_label', 'guess_first', 'guess_last'} <= set(rows) | {
        'guess_first',
        'guess_last',
    }
    assert rows.guess_commonest.isin([0, 1]).all() and rows.guess_commonest.mean() == 1  # every answer is 'red'
    assert set(table['best guess without reading']) == {'100 (commonest answer)'}
    assert set(table['always the commonest label']) == {'100', '-'}
    said = ' '.join(findings(rows))
    assert 'exact answers of guesses that do not read the context: commonest answer 100 %' in said
    (grid / 'x').mkdir()
    write_headline(rows, grid / 'x')
    assert 'best guess without reading' in (grid / 'x' / 'headline.md').read_text()


def guess_examples():
    "Six questions about places; the fifth is answered by a word that answers no other question."

    def one(i, answer, *context):
        return Example(
            id=f'g{i}',
            dataset='toy',
            split='test',
            context=context,
            question='Where?',
            answers=(answer,),
            meta=dict(label='place', facts=[0]),
        )

    return [
        one(0, 'hall', 'Ann went to the hall.', 'Ann went to the barn.'),
        one(1, 'hall', 'Ann went to the barn.', 'Ann went to the hall.'),
        one(2, 'barn', 'Ann went to the barn.', 'Ann was in a barnyard.'),
        one(3, 'barn', 'Ann slept.'),
        one(4, 'quay', 'Ann went to the quay.', 'Ann went to the hall.'),
        one(5, 'hall', 'Ann went to the barn.', 'Bob went to the hall.', 'Ann went to the barn.'),
    ]


def test_guesses_by_hand():
    found = guess_scores(guess_examples(), get_task('toy'))
    assert found.guess_commonest.tolist() == [1, 1, 0, 0, 0, 1] and found.guess_commonest.equals(
        found.guess_commonest_of_label
    )
    assert found.guess_first.tolist() == [1, 0, 1, 0, 0, 0]  # 'quay' answers its own question alone
    assert found.guess_last.tolist() == [0, 1, 1, 0, 0, 0]
    assert not {'guess_nearest', 'guess_no_answer'} & set(found)
    assert guesses([], get_task('toy')) == {} and guess_scores([], get_task('toy')).empty


def test_guesses_on_real_rows(shared):
    task = get_task('cotempqa')
    found = guess_scores(task.load(shared / 'cotempqa', 'test'), task)
    assert len(found) == 950 and round(100 * found.guess_first.mean(), 1) == 6.9
    assert round(100 * found.guess_nearest.mean(), 1) == 30.3 and round(100 * found.guess_commonest.mean(), 1) == 3.7
    task = get_task('babi')
    found = guess_scores(task.load(shared / 'babi', 'test'), task)
    assert (
        round(100 * found.guess_commonest_of_label.mean(), 1) == 34.6
        and round(100 * found.guess_first.mean(), 1) == 40.7
    )


def test_the_constant_no_answer(tmp_path):
    task = get_task('msmarco')
    examples = task.simulate(n=60, seed=1, split='test')
    found, share = guess_scores(examples, task), sum('No Answer Present.' in e.answers for e in examples) / 60
    assert 0 < share < 1 and found.guess_no_answer.mean() == pytest.approx(share)


# --- tables


def test_percent():
    assert (percent(0.724, 0.63, 0.801), percent(1.0), percent(float('nan'))) == ('72 [63, 80]', '100', '-')


def test_headline_has_a_row_a_condition_and_dashes_where_unscored():
    t = headline(rows(vanilla=71, correct=72))
    assert list(t.index.get_level_values('condition')) == ['vanilla', 'correct']
    assert t['answer exact'].tolist() == ['71 [61, 79]', '72 [63, 80]']
    assert t.label.tolist()[0] == '-' and t.n.tolist() == [100, 100] and t.seeds.tolist() == [1, 1]


def test_headline_sums_seeds_up():
    t = headline(pd.concat([rows(correct=60), rows(seeds=(2,), correct=80)]))
    assert len(t) == 1 and t.seeds.tolist() == [2] and t['answer exact'].iloc[0].startswith('70 [')


def test_headline_files_hold_every_seed_and_are_escaped(tmp_path):
    table = rows(seeds=(1, 2), model='a_b & c', vanilla=50, correct=60)
    write_headline(table, tmp_path)
    numbers = pd.read_csv(tmp_path / 'headline.csv')
    assert set(numbers.seed) == {'all', '1', '2'} and len(numbers) == len(measured(table))
    assert (
        r'a\_b \& c' in (tmp_path / 'headline.tex').read_text()
        and '| a_b & c |' in (tmp_path / 'headline.md').read_text()
    )


def test_baselines_and_labels():
    t = rows(seeds=(1, 2), vanilla=50)
    assert baselines(t).share.iloc[-1] == 1.0  # every answer is 'a'
    assert by_label(t).vanilla.tolist() == ['50', '50']
    t.loc[(t.seed == 1) & (t.label == 'place'), 'answer_exact'] = 0
    assert by_label(t).vanilla.tolist() == ['50', '25 (0-50)']


def test_pairs_are_the_ones_worth_asking():
    assert chosen_pairs(['zero_shot', 'vanilla', 'correct', 'filler']) == [
        ('vanilla', 'correct'),
        ('correct', 'filler'),
    ]
    assert chosen_pairs(['zero_shot']) == [] and chosen_pairs(['swapped', 'filler']) == [('swapped', 'filler')]


def test_pairs_use_mcnemar_for_one_seed_and_take_several_seeds_as_drawn():
    one, two = pairs(rows(vanilla=30, correct=90)), pairs(rows(seeds=(1, 2), vanilla=30, correct=90))
    assert (
        one.test.tolist() == ['McNemar, exact']
        and two.test.tolist() == ['t, seeds and questions']
        and one.difference[0] == two.difference[0] == pytest.approx(-0.6)
    )
    assert two.low[0] <= -0.6 <= two.high[0] and one.p_holm[0] < 0.001 and two.p_holm[0] < 0.01
    assert pairs_table(one).points.iloc[0].startswith('-60 [')


def test_pairs_compare_shared_questions_only():
    t = rows(vanilla=50, correct=50)
    assert pairs(t[~((t.condition == 'correct') & (t.id == 'e3'))]).n.tolist() == [99]


# --- sentences


def test_no_difference_is_called_absence_of_evidence():
    said = ' '.join(findings(rows(vanilla=71, correct=72, incorrect=70)))
    assert 'No significant difference' in said and 'absence of evidence' in said and 'One seed' in said
    assert 'differ by' not in said


def test_a_large_difference_is_said_with_its_test():
    said = findings(rows(vanilla=30, correct=90))
    assert any(re.search(r'vanilla and correct differ by -60 points .*p < 0.001', s) for s in said)


def test_two_seeds_need_no_seed_caution():
    assert not any('One seed' in s for s in findings(rows(seeds=(1, 2), vanilla=50, correct=55)))


def test_trace_and_answer_are_reported_under_both_definitions():
    said = ' '.join(findings(rows(correct=60)))
    assert 'any gold fact quoted' in said and 'exactly the gold facts quoted' in said and 'phi = ' in said


def test_the_untuned_model_is_reported_with_both_measures():
    assert any('contain the answer' in s for s in findings(rows(zero_shot=0, vanilla=50)))


def test_several_places_are_one_sentence_a_pair():
    table = pd.concat([rows(dataset=d, vanilla=30, correct=k) for d, k in (('babi', 90), ('cotempqa', 31))])
    said = [s for s in findings(table) if s.startswith('vanilla minus correct')]
    assert len(said) == 1 and '-60 to -1 points' in said[0] and '0 for vanilla and 1 for correct' in said[0]


def test_every_figure_has_its_sentence():
    table = rows(
        seeds=(1, 2),
        n=40,
        vanilla=20,
        correct=32,
        incorrect=8,
        wrong_label=32,
        wrong_facts=8,
        filler=20,
        **{'mix:0.5': 20},
    ).assign(n_tokens=30, context_words=np.tile(np.arange(40), 14))
    table.loc[table.condition == 'vanilla', 'n_tokens'] = 3
    dose, two, length = dose_figure(table)[1], corruption_figure(table)[1], length_figure(table)[1]
    assert '80 % to 20 %: -6.0 points' in summarize_dose(dose)[0]
    assert 'right label +0 [+0, +0]; right facts +60' in summarize_corruption(two)[0]
    assert 'rank correlation' in summarize_length(length)[0]
    assert summarize_accuracy(accuracy_figure(table)[1])[0].startswith('Exactly right answers: correct 80 %')
    assert 'the right label in 80 %' in re.sub(r'7\d %', '80 %', summarize_steps(steps_figure(table)[1])[0])
    assert (
        'label step alone'
        in summarize_trace_answer(trace_answer_figure(table)[1], trace_answer_table(table, 'classification'))[0]
    )
    costs = pd.DataFrame(
        [
            dict(
                dataset='d',
                model='m',
                condition='correct',
                seed=1,
                train_seconds=1,
                generate_seconds=1,
                all_seconds=7200,
                peak_memory_mb=1,
                tokens_generated=1,
            )
        ]
    )
    assert summarize_cost(cost_figure(costs)[1])[0].startswith('The 1 runs took 2.0 hours')
    logs = pd.DataFrame(dict(dataset='d', model='m', condition='correct', seed=1, step=[1, 2], loss=[2.0, 1.0]))
    assert 'correct 1.00' in summarize_training(training_figure(logs)[1])[0]
    for absent in (
        summarize_dose(dose[:0]),
        summarize_corruption(corruption_figure(table[table.condition == 'correct'])[1]),
        summarize_training(pd.DataFrame()),
    ):
        assert absent is None


# --- degenerate inputs: every sentence is true


def degenerate():
    "name -> (rows, what must be said, what must not be said)."
    three = dict(vanilla=10, correct=12, incorrect=11)
    unscored = rows(n=20, **three)
    unscored.loc[unscored.condition == 'vanilla', 'answer_exact'] = np.nan
    missing = rows(n=20, **three)
    missing = missing[~((missing.condition == 'correct') & missing.id.isin([f'e{i}' for i in range(15)]))]
    other = pd.concat([rows(n=20, vanilla=10, incorrect=11), rows(n=20, correct=12).assign(id=lambda t: t.id + 'x')])
    nothing = rows(n=20, zero_shot=3, vanilla=5)
    nothing[['answer_exact', 'answer_contains']] = np.nan
    cells = rows(seeds=(1, 2, 3), n=200, vanilla=100, correct=100)
    cells.loc[(cells.seed == 2) & (cells.condition == 'correct') & (cells.id < 'e5'), 'answer_exact'] = np.nan
    one_label = rows(n=30, correct=15).assign(label='place')
    part_label = rows(n=40, correct=20)
    part_label.loc[part_label.label == 'place', ['classification', 'trace_correct_any', 'trace_correct_exact']] = np.nan
    no = 'No significant difference'
    return {
        'unscored': (
            unscored,
            ['vanilla and correct are not compared: no question is scored in both', f'{no}.*n = 20'],
            ['n = 0'],
        ),
        'missing': (
            missing,
            [
                'vanilla v correct .*n = 5, .*could be found; 15 questions were asked in one condition only',
                'vanilla 50 % of 20, correct 0 % of 5, incorrect 55 % of 20',
                'vanilla v incorrect .*n = 20',
            ],
            [],
        ),
        'other questions': (
            other,
            [
                'vanilla and correct are not compared: they were asked different questions',
                'vanilla v incorrect .*n = 20',
            ],
            [],
        ),
        'one seed v three': (
            pd.concat([rows(n=40, vanilla=10), rows(seeds=(1, 2, 3), n=40, correct=36)]),
            ['Of these trained models, vanilla and correct differ', 'One seed was run of vanilla,'],
            [],
        ),
        'all right': (
            rows(n=20, zero_shot=20, vanilla=20),
            ['100 % exact answers and 100 % that contain the answer[.]'],
            ['understated', 'equal within'],
        ),
        'all wrong': (rows(n=20, vanilla=0, correct=0), [no, 'n = 20, p = 1.000; '], ['differ by', 'equal within']),
        'all right, many': (
            rows(seeds=(1, 2, 3), n=2000, vanilla=2000, correct=2000),
            ['vanilla and correct are equal within 3 points'],
            [no],
        ),
        'nothing scored': (nothing, ['no answer is scored', 'vanilla unscored'], ['differ by', no]),
        'n = 1': (
            rows(n=1, vanilla=1, correct=0),
            [no, 'n = 1, p = 1.000; no difference could be found'],
            ['differ by'],
        ),
        'n = 2': (
            rows(n=2, vanilla=2, correct=0),
            [no, 'n = 2, p = 0.500; no difference could be found'],
            ['differ by'],
        ),
        'n = 5': (rows(n=5, vanilla=5, correct=0), [no, 'no difference could be found'], ['differ by']),
        'n = 2, three seeds': (rows(seeds=(1, 2, 3), n=2, vanilla=2, correct=2), [no], ['equal within', 'differ by']),
        'missing cells': (cells, [no], ['differ by']),
        'one label': (
            one_label,
            ['within labels: one label: nothing to compare within labels'],
            ['across labels, not within'],
        ),
        'a label without scores': (
            part_label,
            ['beside 100 %, which always saying "color" would score', 'No trace is scored for the label place[.]'],
            ['beside 50 %'],
        ),
        'one condition': (rows(n=10, correct=5), ['Exact answers: correct 50 %'], ['differ', no]),
        'no trace is right': (
            rows(n=20, correct=10).assign(trace_correct_any=0.0, trace_correct_exact=0.0),
            ['no trace is right: no test of independence'],
            ['phi'],
        ),
    }


@pytest.mark.parametrize('name', list(degenerate()))
def test_sentences_of_degenerate_inputs(name):
    table, must, never = degenerate()[name]
    said = findings(table)
    text = ' | '.join(said)
    assert not re.search(r'\bnan\b|\binf\b|n = 0|- %|None', text), text
    for words in must:
        assert re.search(words, text), text
    for words in never:
        assert not re.search(words, text), text
    shown = pairs_table(pairs(table))
    assert not shown.astype(str).map(lambda v: 'nan' in v).any(axis=None)
    assert not re.search(r'\bnan\b', headline(table).to_string())
    finding, _ = summarize_accuracy(accuracy_figure(table)[1])
    assert not re.search(r'nan|: [.]|over 0', finding), finding


def test_the_verdict_is_the_same_in_table_sentence_and_file():
    for table in (rows(vanilla=30, correct=90), rows(seeds=(1, 2), n=200, vanilla=60, correct=180)):
        found = pairs(table)
        assert found.verdict.tolist() == ['differ'] and not found.low[0] <= 0 <= found.high[0]
        assert 'differ' in pairs_table(found).verdict[0] and any(' differ by ' in s for s in findings(table))
        for column in ('p_questions', 'p_seeds', 'low', 'high', 'p_holm', 'detectable', 'p_equal'):
            assert column in found
        assert pd.notna(found.p_questions[0]) and pd.isna(found.p_seeds[0]) == (found.seeds_a[0] == 1)
        assert ('these models' in pairs_table(found).verdict[0]) == (found.seeds_a[0] == 1)


def test_few_claims_in_a_world_without_differences():
    "Case numbers/01: two conditions that are the same method; seeds move them by about 4 points."
    made = [world(np.random.default_rng(b), seeds=3) for b in range(40)]
    claims = [any(' differ by ' in s for s in summarize_pairs(d)) for d in made]
    assert sum(claims) <= 2
    for d in made[:10]:
        r = pairs(d).iloc[0]
        assert (r.verdict == 'differ') == (r.p_holm < 0.05) == (not r.low <= 0 <= r.high)


def test_132_pairs_can_be_significant():
    "Case numbers/04: 3 data sets x 4 models, two seeds; `correct` answers everything, every other condition nothing."
    names = ['vanilla', 'correct', 'incorrect', 'wrong_label', 'wrong_facts', 'swapped', 'shuffled', 'filler']
    names += ['mix:0.25', 'mix:0.5', 'mix:0.75']
    table = pd.DataFrame(
        [
            dict(dataset=d, model=f'm{m}', condition=c, seed=s, id=str(i), answer_exact=float(c == 'correct'))
            for d in ('babi', 'cotempqa', 'msmarco')
            for m in range(4)
            for c in names
            for s in (1, 2)
            for i in range(40)
        ]
    )
    found = pairs(table)
    apart = found[found.difference.abs() > 0.5]
    assert (
        len(found) == 132 and len(apart) == 120 and (apart.p_holm < 0.001).all() and (apart.verdict == 'differ').all()
    )
    said = summarize_pairs(table, found)
    assert any(s.startswith('vanilla minus correct') and '0 for vanilla and 12 for correct' in s for s in said)


def test_linked_across_labels_not_within_is_said():
    easy = np.arange(400) < 200
    right = lambda x: np.where(easy, np.arange(400) % x != 0, np.arange(400) % x == 0).astype(float)
    table = rows(n=400, correct=200).assign(label=np.where(easy, 'easy', 'hard'), answer_exact=right(5))
    for s in ('classification', 'trace_correct_any', 'trace_correct_exact'):
        table[s] = right(7)
    said = ' '.join(findings(table))
    assert 'linked across labels, not within: odds ratio within labels' in said
    claim = summarize_trace_answer(trace_answer_figure(table)[1], trace_answer_table(table, 'classification'))[0]
    assert 'linked across labels, not within: correct' in claim and 'odds ratio within labels' in claim
    assert headline(table)['odds ratio within labels'].iloc[0] != '-'


def test_links_of_a_report_are_corrected_over_its_conditions():
    "Three conditions whose phi has p = 0.046 each: no link is shown, and sentence and table say by which correction."
    order = np.arange(100)
    traced = dict.fromkeys(('trace_correct_any', 'trace_correct_exact', 'classification'), (order % 100 < 50) * 1.0)
    exact = (
        np.where(order < 50, order < 30, order < 70) * 1.0
    )  # 30 both right, 20 trace only, 20 answer only, 30 neither
    parts = [rows(**{c: 50}).assign(**traced, answer_exact=exact) for c in ('correct', 'incorrect', 'swapped')]
    one, three = parts[0], pd.concat(parts, ignore_index=True)
    assert 'chi-square p = 0.046: linked' in ' '.join(findings(one))
    assert headline(one)['phi, corrected'].tolist() == ['p = 0.046']
    said = ' '.join(findings(three))
    assert 'chi-square p = 0.046, Holm-corrected over 3 conditions p = 0.137: no link is shown' in said
    assert headline(three)['phi, corrected'].tolist() == ['p = 0.137'] * 3
    figure, table = trace_answer_figure(three)
    assert table.link.tolist() == ['open'] * 3 and table.p_phi_holm.tolist() == pytest.approx(
        [3 * 0.0455] * 3, rel=1e-2
    )
    assert 'over these 3 tests a link is shown for none of them' in summarize_trace_answer(table, table)[0]


# --- several samples of a question


def sampled(k=4, n=50, seeds=(1,)):
    "Random answers: `k` samples of each question."
    rng = np.random.default_rng(3)
    table = [rows(seeds=seeds, n=n, vanilla=20, correct=30).assign(sample=j) for j in range(k)]
    table = pd.concat(table, ignore_index=True)
    easy = table.id.map(dict(zip(table.id.unique(), rng.random(n))))
    exact = (rng.random(len(table)) < easy) * 1.0
    return table.assign(answer_exact=exact, answer_contains=exact)


def test_samples_are_averaged_and_questions_counted():
    table = sampled()
    shown, plain = headline(table), headline(table[table['sample'] == 0])
    assert shown.n.tolist() == [50, 50] and 'answer exact' in plain and 'pass@1' not in plain
    each = table.groupby(['condition', 'id'], sort=False).answer_exact.agg(['mean', 'max'])
    for c in ('vanilla', 'correct'):
        mean, best = each.loc[c].mean()
        key = ('toy', 'm', c)
        assert shown['answer exact, mean@4'][key].startswith(f'{100 * mean:.0f} [')
        assert shown['pass@4'][key].startswith(f'{100 * best:.0f} [')
        line = measured(table).query('condition == @c and scorer == "answer_exact"').iloc[0]
        spread = each.loc[c]['mean'].std() / 50**0.5
        assert line.n == 50 and line.high - line.low == pytest.approx(2 * 2.0096 * spread, rel=1e-3)  # t, 49 df
    found = pairs(table).iloc[0]
    assert found.n == 50 and found.test == 'permutation, exact'
    said = ' '.join(findings(table))
    assert 'Each question has 4 samples' in said and '50 questions' in said and 'Fisher' not in said
    assert trace_answer_table(table).notes.iloc[-1] == 'several samples: no test'


def test_an_absent_sample_is_sample_0_and_repeats_change_nothing():
    one = rows(vanilla=30, correct=60)
    pd.testing.assert_frame_equal(headline(one.assign(sample=0)), headline(one))
    again = pd.concat([one.assign(sample=k) for k in range(3)], ignore_index=True)  # the same answers three times
    a, b = pairs(one).iloc[0], pairs(again).iloc[0]
    assert (a.n, a.difference, a.low, a.high, a.p) == pytest.approx((b.n, b.difference, b.low, b.high, b.p))
    assert headline(again)['answer exact, mean@3'].tolist() == headline(one)['answer exact'].tolist()
    twice = pd.concat([one.assign(sample=0)] * 2)
    with pytest.raises(TracenbError, match='two rows of one question and sample'):
        headline(twice)


def test_pass_at_k_is_the_chance_among_all_draws():
    from itertools import combinations

    for right in range(6):
        for k in range(1, 6):
            drawn = list(combinations([1] * right + [0] * (5 - right), k))
            assert pass_share(right, 5, k) == pytest.approx(sum(map(max, drawn)) / len(drawn))
    uneven = pd.DataFrame(
        dict(
            dataset='d',
            model='m',
            condition='c',
            seed=1,
            id=list('aaabb'),
            sample=[0, 1, 2, 0, 1],
            answer_exact=[1.0, 0, 0, 0, 1],
        )
    )
    assert over_samples(uneven)[PASSED].tolist() == pytest.approx([2 / 3, 1])  # k = 2


def test_run_folders_with_samples_are_read(tmp_path):
    at = write_run(tmp_path, 'vanilla', n=6, right=3)
    for name in ('generations', 'scores'):
        lines = [json.loads(x) for x in (at / f'{name}.jsonl').read_text().splitlines()]
        both = lines + [
            x | dict(sample=1) | (dict(value=1.0 - x['value']) if x.get('scorer') == 'answer_exact' else {})
            for x in lines
        ]
        (at / f'{name}.jsonl').write_text(''.join(json.dumps(x) + '\n' for x in both))
    found = gather(tmp_path)
    assert len(found.rows) == 12 and found.rows['sample'].tolist() == [0, 1] * 6 and not found.left_out
    assert headline(found.rows)['answer exact, mean@2'].iloc[0].startswith('50') and headline(found.rows).n.iloc[0] == 6
    assert headline(found.rows)['pass@2'].iloc[0].startswith('100')


# --- the page


def test_a_figure_without_its_conditions_is_left_out(tmp_path):
    table = rows(vanilla=3, correct=5)
    fig, data = dose_figure(table)
    assert section(tmp_path, 'dose', 'Dose', fig, data, summarize_dose(data)).data == '' and not list(
        tmp_path.iterdir()
    )
    fig, data = corruption_figure(table[table.condition.isin(DESIGN)])
    assert section(tmp_path, 'x', 'X', fig, data, summarize_corruption(data)).data == ''


def test_tables_are_escaped_and_link_their_numbers():
    shown = show_table(headline(rows(model=HOSTILE, vanilla=3, correct=5)), 'headline.csv').data
    assert '<img' not in shown and '<script' not in shown and 'href="headline.csv"' in shown


def test_the_page_stands_alone_and_escapes_data(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

    out = new_output('stream', text='<script>alert(1)</script>')
    nbformat.write(
        new_notebook(cells=[new_markdown_cell('# Title'), new_code_cell('secret_code()', outputs=[out])]),
        tmp_path / 'n.ipynb',
    )
    page = to_page(tmp_path / 'n.ipynb', tmp_path / 'p.html').read_text()
    assert (
        'Title' in page
        and 'secret_code' not in page
        and '<script' not in page
        and not re.search(r'(src|href)="https?:', page)
    )
    assert "default-src 'none'" in page and "script-src 'none'" in page


# --- the viewer


def unpack(text):
    return json.loads(
        gzip.decompress(base64.b64decode(re.search(r'<template id="tv-data">(.*?)</template>', text, re.S)[1]))
    )


def test_the_viewer_holds_every_row_as_it_is(grid):
    found = gather(grid)
    text = viewer_html(found)
    data = unpack(text)
    assert data['rows']['text'] == found.rows.text.tolist() and len(data['cases']) == 6 and len(data['runs']) == 8
    assert [data['runs'][r][2] for r in data['rows']['run']] == found.rows.condition.tolist()
    assert [data['cases'][c]['id'] for c in data['rows']['case']] == found.rows.id.tolist()
    assert [float('nan') if v == -1 else v for v in data['rows']['label']] == pytest.approx(
        found.rows.classification.tolist(), nan_ok=True
    )
    assert all((grid / r[4] / 'generations.jsonl').exists() for r in data['runs'])
    assert 'onerror' not in text and text.count('<script>') == 1 and 'innerHTML' not in SCRIPT


def test_marks_lie_on_what_they_mark(grid):
    data = unpack(viewer_html(gather(grid)))
    seen = set()
    for text, flat in zip(data['rows']['text'], data['rows']['marks']):
        units, ends = text.encode('utf-16-le'), [-1]
        for a, b, kind in zip(flat[::3], flat[1::3], flat[2::3]):
            marked = units[2 * a : 2 * b].decode('utf-16-le')
            seen.add(MARK_TITLES[kind])
            assert a >= ends[-1] and b > a
            ends.append(b)
            if 'label' in MARK_TITLES[kind]:
                assert marked == ('color' if MARK_TITLES[kind] == 'right label' else 'place')
            if MARK_TITLES[kind] == 'gold fact':
                assert marked == 'The cup is red.'
            if 'answer' in MARK_TITLES[kind]:
                assert (marked == 'red') == (MARK_TITLES[kind] == 'right answer')
    assert seen >= {'right label', 'wrong label', 'gold fact', 'other fact', 'right answer', 'wrong answer'}


@pytest.mark.parametrize(
    'text',
    [
        '',
        '<think>',
        '<answer>',
        '<think></think><answer></answer>',
        'a</think>b</think><answer>x',
        '<answer>x</answer><think>y',
        'The category of the question asked is: ',
    ],
)
def test_marks_take_any_text(text):
    case = Case(
        Example(
            id='e',
            dataset='toy',
            split='test',
            context=('a', '', 'a'),
            question='q',
            answers=('x',),
            meta=dict(label='color', facts=[0]),
        ),
        Steps(label='color', facts=(0,)),
        'x',
        2,
    )
    response = read_row(text, case, get_task('toy'))
    for a, b, kind in claim_marks(response, case.example, case.gold, 0.0, 1.0):
        assert 0 <= a < b <= len(text) and kind in range(len(MARK_TITLES))


def test_large_grids_show_the_same_questions_of_every_run(grid):
    found = gather(grid)
    data, n = packed(found, most=20)
    assert n == 16 and set(chosen_rows(found.rows, 20).groupby(['condition', 'seed']).id.agg(tuple)) == {('q0', 'q1')}
    assert 'This page holds 16 of 48 rows' in viewer_html(found, 20) and _units('\U0001f600a', [(1, 2, 0)]) == [2, 3, 0]


@pytest.fixture(scope='module')
def page(tmp_path_factory, forked_kernels):
    "A report of runs whose every text is hostile."
    out = tmp_path_factory.mktemp('report')
    for seed in (1, 2):
        for k, condition in enumerate(
            ('zero_shot', 'vanilla', 'correct', 'mix:0.5', 'incorrect', 'wrong_label', 'wrong_facts')
        ):
            write_run(out, condition, seed, right=k)
    return make_report(out)


@pytest.mark.slow
def test_report_from_run_folders_to_page(page):
    text = page.read_text()
    assert (
        "default-src 'none'" in text
        and policy(text) in text
        and text.count('<script>') == 1
        and '<img src=x' not in text
    )
    assert not re.findall(r'(?:src|href)="(?:https?:)?//[^"]*"', text)
    links = {html.unescape(x) for x in re.findall(r'href="([^"#]+)"', text)}
    assert links and all((page.parent / x).exists() for x in links), links
    assert {
        'rows.parquet',
        'headline.csv',
        'headline.tex',
        'runs.csv',
        'pairs.csv',
        'figures/dose.csv',
        'figures/corruption.csv',
    } <= links
    for heading in (
        'What was run',
        'Headline',
        'What can be said',
        'Answers',
        'Dose and response',
        'Which step has to be right?',
        'Length',
        'Training',
        'Cost',
        'What the models wrote',
    ):
        assert heading in text
    assert text.count('data:image/png') == 8 and len(pd.read_csv(page.parent / 'runs.csv')) == 14


@pytest.mark.slow
def test_the_viewer_in_a_browser(page, tab):
    from playwright.sync_api import expect

    v = tab(width=400, height=800)
    v.goto(page.as_uri())
    v.wait_for_selector('.tv-line')
    assert v.inner_text('#tv-count').startswith('84 of 84 rows') and v.evaluate('window.hit') is None and not v.errors
    assert [u for u in v.asked if not u.startswith(('file:', 'data:'))] == []
    assert v.evaluate('document.documentElement.scrollWidth') <= 400
    choose = lambda name, value: (
        v.locator('#tv-filters label', has_text=name).first.locator('select').select_option(value)
    )
    choose('condition', 'correct')
    choose('label step', 'wrong')
    assert v.inner_text('#tv-count').startswith('6 of 84 rows')
    v.fill('#tv-filters input', 'no such words')
    expect(v.locator('#tv-count')).to_have_text(re.compile('^0 of 84 rows'))
    v.fill('#tv-filters input', '')
    expect(v.locator('#tv-count')).to_have_text(re.compile('^6 of 84 rows'))
    v.locator('.tv-line').nth(1).click()
    assert 'onerror' in v.inner_text('.tv-text') and v.locator('.tv-k1').count() and v.locator('.tv-gold').count() == 1
