"""The audit: the published tables to the printed digits, every file layout, every kind of bad row."""

import gzip
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from tracenb.audit.figure import variants_figure
from tracenb.audit.judging import score_variants
from tracenb.audit.page import audit
from tracenb.audit.published import group_files, name_parts, read_all
from tracenb.audit.tables import disagreements, reading_table, sentences
from tracenb.audit.variants import SCORINGS, VARIANTS, fitting_scorings
from tracenb.core.files import write_jsonl
from tracenb.core.records import TracenbError
from tracenb.tasks.task import get_task
from tracenb.traces.chat import completion_text
from tracenb.traces.conditions import build_traces

# --- METHOD.md, section 8: Qwen3-1.7B, the published generations

ANSWERS = {
    ('cotempqa', 'vanilla'): (950, 58.08, 52.4, 49.2, 55.6),
    ('cotempqa', 'correct'): (950, 54.47, 45.3, 42.1, 48.4),
    ('cotempqa', 'incorrect'): (950, 57.09, 42.1, 39.0, 45.3),
    ('babi', 'vanilla'): (376, 96.12, 97.9, None, None),
    ('babi', 'correct'): (376, 94.34, 96.5, None, None),
    ('babi', 'incorrect'): (376, 92.06, 95.5, None, None),
}
TABLES = {
    ('cotempqa', 'paper'): ((258, 201, 254, 237), 1.91, 0.045, 56.2, 51.7),
    ('cotempqa', 'own_any'): ((307, 157, 123, 363), 159.92, 0.41, 66.2, 25.3),
    ('cotempqa', 'own_exact'): ((297, 18, 133, 502), 457.12, 0.694, 94.3, 20.9),
    ('cotempqa', 'own_label'): ((310, 297, 120, 223), 22.89, 0.155, 51.1, 35.0),
    ('babi', 'paper'): ((85, 4, 278, 9), 0.38, -0.032, 95.5, 96.9),
    ('babi', 'own_any'): ((349, 8, 14, 5), 31.32, 0.289, 97.8, 73.7),
}
PUBLISHED = {'correct': 'correct', 'vanilla': 'vanilla', 'incorrect': 'perturbed'}


@pytest.fixture(scope='module')
def published(tmp_path_factory):
    "The audit of the six published files: figures, and the folder that was written."
    from conftest import SHARED

    if not SHARED.is_dir():
        pytest.skip('../shared/data is absent: research copies that are not redistributed')
    out = tmp_path_factory.mktemp('audit')
    return audit(sorted((SHARED / 'published').glob('*.jsonl.gz')), out).set_index(
        ['dataset', 'condition', 'scoring']
    ).sort_index(), out


@pytest.mark.parametrize('key', ANSWERS)
def test_published_answers(published, key):
    n, paper, ours, low, high = ANSWERS[key]
    figures = published[0].loc[key]
    assert figures.n.unique().tolist() == [n]
    assert round(100 * figures.loc['paper'].answer_accuracy_label_mean, 2) == paper
    assert round(100 * figures.loc['ours'].answer_accuracy, 1) == ours
    if low:
        assert [round(100 * x, 1) for x in figures.loc['ours'].intervals['answer_accuracy']] == [low, high]


@pytest.mark.parametrize('key', TABLES)
def test_published_tables(published, key):
    table, chi2, phi, given, otherwise = TABLES[key]
    r = published[0].loc[key[0], 'correct', key[1]]
    assert tuple(r.table) == table and round(r.chi2, 2) == chi2
    assert round(r.phi, 3 if len(str(phi)) > 3 else 2) == phi
    assert (round(100 * r.p_answer_given_trace, 1), round(100 * r.p_answer_given_no_trace, 1)) == (given, otherwise)


def test_published_steps(published):
    r = published[0].loc['cotempqa', 'correct', 'own_any']
    assert [
        round(100 * r[k], 1)
        for k in (
            'label_accuracy',
            'retrieval_any',
            'retrieval_precision',
            'retrieval_recall',
            'retrieval_exact',
            'majority_label_share',
        )
    ] == [63.9, 75.2, 69.6, 63.5, 45.6, 65.2]
    assert abs(100 * r.retrieval_f1 - 64.2) < 0.06 and r.majority_label == 'during'


@pytest.mark.parametrize(
    'scoring, table, chi2',
    [
        ('only_lookup', (211, 138, 219, 382), 51.4),
        ('only_all_facts', (307, 293, 123, 227), 22.9),
        ('lookup_all_facts', (211, 248, 219, 272), 0.18),
        ('three_quirks', (245, 214, 246, 245), 1.02),
    ],
)
def test_two_definitions_together_make_independence_and_neither_alone(published, scoring, table, chi2):
    r = published[0].loc['cotempqa', 'correct', scoring]
    assert tuple(r.table) == table and r.chi2 == pytest.approx(chi2, abs=0.05)
    babi = published[0].loc['babi', 'correct', 'three_quirks']
    assert tuple(babi.table) == (85, 4, 278, 9)  # as the paper's


def test_gold_of_another_row(published):
    rows = pd.read_parquet(published[1] / 'rows.parquet')
    for dataset, share in (('cotempqa', 32.9), ('babi', 93.1)):
        part = rows[(rows.dataset == dataset) & (rows.condition == 'correct')]
        assert round(100 * (part.id != part.looked_up).mean(), 1) == share


DEFINITIONS = ('answer', 'gold', 'facts', 'reading', 'trace', 'unscored', 'normalization')


def test_every_variant_changes_one_definition():
    parts = [{k: getattr(s, k) for k in DEFINITIONS} for s in VARIANTS]
    assert [sum(a[k] != b[k] for k in a) for a, b in zip(parts, parts[1:])] == [1] * (len(VARIANTS) - 1)
    assert SCORINGS['ours'] is VARIANTS[-1] and (VARIANTS[-1].gold, VARIANTS[-1].reading, VARIANTS[-1].answer) == (
        'own',
        'parsed',
        'exact',
    )


def test_vanilla_has_no_trace(published):
    r = published[0].loc['cotempqa', 'vanilla', 'ours']
    assert r.table is None or r.table != r.table
    assert 'trace_ours' in pd.read_parquet(published[1] / 'rows.parquet')


# --- What is written


def test_the_json_file_has_every_figure(published):
    records = json.loads((published[1] / 'audit.json').read_text())
    wanted = {
        'dataset',
        'model',
        'condition',
        'scoring',
        'n',
        'answer_accuracy',
        'answer_accuracy_label_mean',
        'label_accuracy',
        'retrieval_any',
        'retrieval_precision',
        'retrieval_recall',
        'retrieval_f1',
        'retrieval_exact',
        'table',
        'chi2',
        'phi',
        'odds_ratio',
        'p_answer_given_trace',
        'p_answer_given_no_trace',
        'intervals',
        'files',
        'left_out',
        'definitions',
    }
    assert len(records) == 6 * len(SCORINGS)
    for r in records:
        assert wanted <= r.keys(), wanted - r.keys()
        if r.get('table'):
            assert sum(r['table']) + r['unscored'] == r['n']
    assert 'NaN' not in (published[1] / 'audit.json').read_text()


def test_figures_can_be_recomputed_from_the_rows(published):
    rows = pd.read_parquet(published[1] / 'rows.parquet')
    part = rows[(rows.dataset == 'cotempqa') & (rows.condition == 'correct')]
    for scoring in ('paper', 'own_any', 'ours'):
        t, a = part[f'trace_{scoring}'], part[f'answer_{scoring}']
        assert tuple(int(((t == x) & (a == y)).sum()) for x, y in ((1, 1), (1, 0), (0, 1), (0, 0))) == tuple(
            published[0].loc['cotempqa', 'correct', scoring].table
        )


def test_the_page_is_self_contained_and_has_the_main_figures(published):
    page = (published[1] / 'audit.html').read_text()
    assert not re.findall(r'(?:src|href)="https?://[^"]*"', page) and '<script' not in page and 'data:image/png' in page
    for words in (
        '159.92',
        '258/201/254/237',
        'compatible with independence',
        'not independent',
        'partly the same act',
    ):
        assert words in page, words


def test_the_figure_draws_every_variant(published):
    figures = published[0].reset_index()
    fig, data = variants_figure(figures.assign(name=figures.dataset + figures.condition))
    assert set(data.scoring) == {s.name for s in VARIANTS} and len(fig.axes) == 2


# --- Layouts


def simulated(name='cotempqa', n=24, condition='correct', **more):
    "Rows in the shape of published files, and the texts a perfect model of that condition would write."
    task = get_task(name)
    examples = task.simulate(n, 3, 'test', task.labels, None)
    rows = []
    for e, t in zip(examples, build_traces(examples, task, condition, 1)):
        common = dict(
            question=e.question,
            category=task.decompose(e).label,
            gold=task.write_answers(e.answers) if name == 'babi' else list(e.answers),
            prediction=completion_text(e, t, task),
        )
        own = (
            dict(facts=list(e.context), triple_element=e.meta['triple_element'])
            if name == 'cotempqa'
            else dict(passage=list(e.context), answer_passage=[e.context[i] for i in task.decompose(e).facts])
        )
        rows.append(dict(dataset=name, model='Tiny', condition=condition) | common | own | more)
    return rows


def figures_of(path, tmp_path, **kw):
    return audit([path], tmp_path / 'out', **kw).drop(columns=['files']).set_index('scoring')


def same(a, b):
    assert a.drop(columns=['model', 'run']).to_json() == b.drop(columns=['model', 'run']).to_json()


@pytest.mark.parametrize('name', ['cotempqa', 'babi'])
def test_plain_gzip_array_and_columns_give_the_same(name, tmp_path):
    rows = simulated(name)
    lines = ''.join(json.dumps(r) + '\n' for r in rows)
    (tmp_path / 'a.jsonl').write_text(lines)
    (tmp_path / 'b.json').write_text(json.dumps(rows, indent=1))
    (tmp_path / 'c.jsonl.gz').write_bytes(gzip.compress(lines.encode()))
    one, *others = [figures_of(tmp_path / f, tmp_path) for f in ('a.jsonl', 'b.json', 'c.jsonl.gz')]
    for other in others:
        same(one, other)
    assert one.loc['ours'].answer_accuracy == 1 and tuple(one.loc['ours'].table) == (24, 0, 0, 0)


def test_the_release_layout_one_file_per_label(tmp_path):
    rows = simulated()
    for label in get_task('cotempqa').labels:
        (tmp_path / 'r' / label).mkdir(parents=True)
        part = [
            {'input': {'text': 'prompt'}}
            | {k: r[k] for k in ('prediction', 'gold', 'triple_element', 'question', 'facts')}
            for r in rows
            if r['category'] == label
        ]
        write_jsonl(tmp_path / 'r' / label / 'Tiny-sft-adapter-reasoning-facts_default.json', part)
    write_jsonl(tmp_path / 'a.jsonl', rows)
    made, _ = read_all([tmp_path / 'r'])
    assert [(m.dataset, m.model, m.condition, len(m.cases), len(m.files)) for m in made] == [
        ('cotempqa', 'Tiny', 'correct', 24, 4)
    ]
    files = sorted((tmp_path / 'r').rglob('*.json'))
    assert len(group_files(files)) == 1  # named one by one, they still belong together
    same(figures_of(tmp_path / 'r', tmp_path).sort_index(), figures_of(tmp_path / 'a.jsonl', tmp_path).sort_index())


def test_lists_written_as_text(tmp_path):
    rows = simulated('babi')
    write_jsonl(tmp_path / 'a.jsonl', rows)
    write_jsonl(tmp_path / 'b.jsonl', [r | {k: str(r[k]) for k in ('passage', 'answer_passage')} for r in rows])
    same(figures_of(tmp_path / 'a.jsonl', tmp_path), figures_of(tmp_path / 'b.jsonl', tmp_path))


@pytest.mark.parametrize(
    'name, parts',
    [
        ('Qwen3-1.7B-sft-adapter_default.json', ('Qwen3-1.7B', 'vanilla', '')),
        ('Qwen3-1.7B-sft-adapter-122_default.json', ('Qwen3-1.7B', 'vanilla', '122')),
        (
            'Llama-3.2-1B-Instruct-sft-adapter-reasoning-facts-perturbed-121_default.json',
            ('Llama-3.2-1B-Instruct', 'incorrect', '121'),
        ),
        ('Qwen3-8B-sft-adapter-reasoning-r1-traces_default.json', ('Qwen3-8B', 'r1', '')),
        ('rows.jsonl', ('', '', '')),
    ],
)
def test_names_of_released_files(name, parts):
    assert tuple(name_parts(Path(name)).values())[:3] == parts


# --- Joining to a data set


def write_cotempqa(folder, rows):
    "A data set folder of these rows, all of them test rows."
    folder.mkdir()
    for label in get_task('cotempqa').labels:
        write_jsonl(
            folder / f'{label}.jsonl',
            [
                dict(
                    question=r['question'],
                    facts=r['facts'],
                    answer=r['gold'],
                    triple_element=r['triple_element'],
                    split='test',
                    index=k,
                )
                for k, r in enumerate(r for r in rows if r['category'] == label)
            ],
        )
    return folder


def test_rows_without_context_are_joined_by_question_or_id(tmp_path):
    rows = simulated()
    data = write_cotempqa(tmp_path / 'data', rows)
    examples = {e.question: e for e in get_task('cotempqa').load(data, 'test')}
    bare = [{k: r[k] for k in ('dataset', 'model', 'condition', 'question', 'prediction')} for r in rows]
    write_jsonl(tmp_path / 'q.jsonl', bare)
    write_jsonl(
        tmp_path / 'i.jsonl',
        [{'id': examples[r['question']].id, **{k: r[k] for k in r if k != 'question'}} for r in bare],
    )
    write_jsonl(tmp_path / 'a.jsonl', rows)
    whole = figures_of(tmp_path / 'a.jsonl', tmp_path)
    for f in ('q.jsonl', 'i.jsonl'):
        same(figures_of(tmp_path / f, tmp_path, dataset='cotempqa', source=data), whole)
    with pytest.raises(TracenbError, match='no usable row'):
        audit([tmp_path / 'q.jsonl'], tmp_path / 'out')


def test_unknown_and_ambiguous_questions_are_counted_and_named(tmp_path):
    rows = simulated()
    rows[1]['question'] = rows[0]['question']
    data = write_cotempqa(tmp_path / 'data', rows)
    bare = [{k: r[k] for k in ('dataset', 'model', 'condition', 'question', 'prediction')} for r in rows]
    bare[5]['question'] = 'Who?'
    write_jsonl(tmp_path / 'q.jsonl', bare)
    unknown = r"1 fit no example, the first: .*q.jsonl:6 \('Who\?'\); "
    with pytest.raises(TracenbError, match=unknown + '2 fit several examples, the first: .*q.jsonl:1 .*q.jsonl:2'):
        audit([tmp_path / 'q.jsonl'], tmp_path / 'out', dataset='cotempqa', source=data)
    with pytest.raises(TracenbError, match='both or neither'):
        audit([tmp_path / 'q.jsonl'], tmp_path / 'out', dataset='cotempqa')


# --- Bad rows: named, counted, the rest kept

BAD = [
    (lambda r: r | dict(prediction=None), 'the prediction is null, not a text'),
    (lambda r: {k: v for k, v in r.items() if k != 'prediction'}, 'the row has no prediction'),
    (lambda r: r | dict(category='durin'), 'durin'),
    (lambda r: r | dict(facts=[]), 'facts'),
    (lambda r: {k: v for k, v in r.items() if k != 'facts'}, 'facts'),
    (lambda r: r | dict(gold=[]), ''),
    (lambda r: r | dict(gold=['Nobody at all']), 'Nobody at all'),
    (lambda r: r | dict(model='Other'), 'write one file per model'),
    (lambda r: r | dict(dataset='babbi'), "did you mean 'babi'"),
    (
        lambda r: (
            r
            | dict(
                facts=[r['facts'][0].rsplit(' in ')[0].rsplit(' from ')[0] + ' in February 31, 2001.', *r['facts'][1:]]
            )
        ),
        '31',
    ),
    (lambda r: r | dict(question=7), 'question'),
]


@pytest.mark.parametrize('change, problem', BAD)
def test_bad_rows_are_named_and_left_out(change, problem, tmp_path):
    rows = simulated()
    rows[4] = change(rows[4])
    write_jsonl(tmp_path / 'a.jsonl', rows)
    [made], _ = read_all([tmp_path / 'a.jsonl'])
    assert len(made.cases) == 23 and len(made.problems) == 1
    assert 'a.jsonl:5: ' in str(made.problems[0]) and problem in str(made.problems[0])
    figures = audit([tmp_path / 'a.jsonl'], tmp_path / 'out')
    assert figures.left_out.unique() == [1] and figures.n.unique() == [23]
    assert (
        '1 rows left out' in (tmp_path / 'out' / 'audit.html').read_text()
        and len((tmp_path / 'out' / 'left_out.jsonl').read_text().splitlines()) == 1
    )


def test_a_broken_line_and_a_truncated_archive(tmp_path):
    lines = ''.join(json.dumps(r) + '\n' for r in simulated())
    (tmp_path / 'a.jsonl').write_text(lines.replace('{', '{{', 1))
    [made], _ = read_all([tmp_path / 'a.jsonl'])
    assert len(made.cases) == 23 and 'a.jsonl:1: not JSON' in str(made.problems[0])
    whole = gzip.compress(lines.encode())
    (tmp_path / 'b.jsonl.gz').write_bytes(whole[: len(whole) // 2])
    [made], _ = read_all([tmp_path / 'b.jsonl.gz'])
    assert 0 < len(made.cases) < 24 and any('the gzip archive is damaged' in str(p) for p in made.problems)


def test_duplicate_ids_and_repeats_without_ids(tmp_path):
    rows = simulated()
    write_jsonl(tmp_path / 'a.jsonl', [r | dict(row_id=None, id=None) for r in rows] + [rows[0]])
    [made], _ = read_all([tmp_path / 'a.jsonl'])
    assert len(made.cases) == 25 and len({c.example.id for c in made.cases}) == 24  # the same question: another sample
    assert made.cases[-1].sample == 1 and 'the same text as another one of their question' in made.notes[0]
    write_jsonl(tmp_path / 'b.jsonl', [r | dict(index=k % 6) for k, r in enumerate(rows[:20])])
    [made], _ = read_all([tmp_path / 'b.jsonl'])
    assert (
        all('was used before, at' in str(p) and 'for another question' in str(p) for p in made.problems)
        and len(made.cases) + len(made.problems) == 20
        and made.problems
    )


def test_nothing_usable(tmp_path):
    (tmp_path / 'empty.jsonl').write_text('')
    with pytest.raises(TracenbError, match='no usable row'):
        audit([tmp_path / 'empty.jsonl'], tmp_path / 'out')
    with pytest.raises(TracenbError, match='no such file or folder'):
        audit([tmp_path / 'nowhere.jsonl'], tmp_path / 'out')
    (tmp_path / 'd').mkdir()
    with pytest.raises(TracenbError, match='no file of generations'):
        audit([tmp_path / 'd'], tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    write_jsonl(tmp_path / 'a.jsonl', simulated())
    (tmp_path / 'taken').write_text('a file')
    with pytest.raises(TracenbError, match='cannot be written'):
        audit([tmp_path / 'a.jsonl'], tmp_path / 'taken')


def test_text_of_models_is_escaped(tmp_path):
    rows = simulated()
    rows[0]['prediction'] = '<script>alert(1)</script>' + rows[0]['prediction']
    write_jsonl(tmp_path / 'a.jsonl', rows)
    audit([tmp_path / 'a.jsonl'], tmp_path / 'out')
    assert '<script' not in (tmp_path / 'out' / 'audit.html').read_text()


def test_one_unusable_file_does_not_stop_the_others(tmp_path):
    write_jsonl(tmp_path / 'd' / 'a.jsonl', simulated())
    (tmp_path / 'd' / 'b.jsonl').write_text('')
    figures = audit([tmp_path / 'd'], tmp_path / 'd' / 'audit')
    assert (
        figures.n.unique() == [24]
        and '1 sources could not be used' in (tmp_path / 'd' / 'audit' / 'audit.html').read_text()
    )
    assert len(audit([tmp_path / 'd'], tmp_path / 'd' / 'audit')) == len(figures)  # what an audit wrote is not audited
    (tmp_path / 'd' / 'a.jsonl').write_text('')
    with pytest.raises(TracenbError, match='none of 2 sources can be used'):
        audit([tmp_path / 'd'], tmp_path / 'out')


def test_predictions_of_one_name_stay_apart(tmp_path):
    for folder, n in (('x', 24), ('y', 12)):
        write_jsonl(tmp_path / folder / 'rows.jsonl', simulated()[:n])
    figures = audit([tmp_path / 'x' / 'rows.jsonl', tmp_path / 'y' / 'rows.jsonl'], tmp_path / 'out')
    assert figures.groupby('run').n.first().to_dict() == {'x/rows.jsonl': 24, 'y/rows.jsonl': 12}
    assert figures.run.map(lambda r: f'Tiny correct {r}' in (tmp_path / 'out' / 'audit.html').read_text()).all()


def test_examples_without_a_prediction_are_counted(tmp_path):
    rows = simulated()
    data = write_cotempqa(tmp_path / 'data', rows)
    write_jsonl(tmp_path / 'a.jsonl', rows[:20])
    figures = audit([tmp_path / 'a.jsonl'], tmp_path / 'out', dataset='cotempqa', source=data)
    assert (
        figures.unanswered.unique() == [4]
        and '4 examples of the data set have no prediction' in (tmp_path / 'out' / 'audit.html').read_text()
    )


def test_msmarco_is_audited_with_its_own_measures(tmp_path):
    task = get_task('msmarco')
    examples = task.simulate(20, 3, 'test', task.labels, 120)
    write_jsonl(
        tmp_path / 'a.jsonl',
        [
            dict(
                dataset='msmarco',
                model='Tiny',
                condition='correct',
                question=e.question,
                passages=list(e.context),
                answers=list(e.answers),
                query_type=task.decompose(e).label,
                query_id=k,
                is_selected=[int(i in task.decompose(e).facts) for i in range(len(e.context))],
                prediction=completion_text(e, t, task),
            )
            for k, (e, t) in enumerate(zip(examples, build_traces(examples, task, 'correct')))
        ],
    )
    figures = audit([tmp_path / 'a.jsonl'], tmp_path / 'out').set_index('scoring')
    assert (
        figures.loc['ours'].answer_accuracy == 1
        and figures.rouge_l.unique() == pytest.approx([1])
        and not {'paper', 'only_lookup'} & set(figures.index)
    )


# --- Known cases under each scoring


def test_a_model_that_never_writes_a_trace(tmp_path):
    write_jsonl(tmp_path / 'a.jsonl', [r | dict(condition='somebody', prediction=str(r['gold'])) for r in simulated()])
    [made], _ = read_all([tmp_path / 'a.jsonl'])
    assert not made.has_steps
    figures = score_variants(made.cases)[0].set_index('scoring')
    assert figures.loc['ours'].answer_accuracy == 1 and figures.loc['ours'].table is None


def test_disagreements_are_found_and_explained(tmp_path):
    rows = simulated()
    rows[2]['prediction'] = rows[2]['prediction'].replace(']</answer>', ", 'the moon']</answer>")
    write_jsonl(tmp_path / 'a.jsonl', rows)
    audit([tmp_path / 'a.jsonl'], tmp_path / 'out')
    found = disagreements(pd.read_parquet(tmp_path / 'out' / 'rows.parquet'))
    assert [k for k in found.kind if 'answer' in k] == ["answer right by 'paper', wrong by 'ours'"]


def test_sentences_state_the_joint_share_and_the_caution(published):
    figures = published[0].reset_index()
    said = ' '.join(sentences(figures[(figures.dataset == 'cotempqa') & (figures.condition == 'correct')]))
    assert 'Both are right in 32.3 % of rows' in said and '66.2 % of answers are right' in said and 'Caution' in said


def test_data_sets_without_known_paper_scorer_have_ours_only():
    assert {s.name for s in fitting_scorings(get_task('toy'))} >= {'own_any', 'own_exact', 'ours', 'own_label'}
    assert not {'paper', 'only_lookup'} & {s.name for s in fitting_scorings(get_task('msmarco'))}


def test_own_runs_can_be_audited(tmp_path):
    from tracenb.core.records import Generation

    task, folder = get_task('babi'), tmp_path / 'run'
    examples = task.simulate(11, 0, 'test', task.labels, None)
    folder.mkdir()
    (folder / 'run.json').write_text(
        json.dumps(dict(settings=dict(dataset='babi', model='tiny', condition='correct', seed=2)))
    )
    write_jsonl(folder / 'examples.jsonl', examples)
    write_jsonl(
        folder / 'generations.jsonl',
        [
            Generation(id=e.id, text=completion_text(e, t, task), n_tokens=1, finish_reason='stop')
            for e, t in zip(examples, build_traces(examples, task, 'correct'))
        ],
    )
    figures = audit([folder], tmp_path / 'out')
    assert figures.set_index('scoring').loc['ours'].answer_accuracy == 1 and figures.run.unique() == ['seed 2']
    write_jsonl(folder / 'generations.jsonl', [])
    with pytest.raises(TracenbError, match='11 examples without a generation'):
        audit([folder], tmp_path / 'out')


def test_the_package_is_called_like_its_main_function(tmp_path):
    import pydoc

    import tracenb

    write_jsonl(tmp_path / 'a.jsonl', simulated())
    figures = tracenb.audit([tmp_path / 'a.jsonl'], tmp_path / 'out')
    assert figures.set_index('scoring').loc['ours'].answer_accuracy == 1 and (tmp_path / 'out' / 'audit.html').exists()
    assert tracenb.audit.audit is audit
    described = pydoc.render_doc(tracenb.audit)  # what `help(audit)` shows
    assert all(word in described for word in ('paths', 'out', 'dataset', 'source', 'audit.json'))


def test_the_link_within_labels_and_the_guesses_stand_beside_phi(shared, tmp_path):
    "METHOD.md section 8: the class step's odds ratio is 1.94 over all labels and 1.44 within them."
    source = shared / 'published' / 'cotempqa_Qwen3-1.7B_correct.jsonl.gz'
    figures = audit([source], tmp_path)
    r = figures[figures.scoring == 'own_label'].iloc[0]
    assert [round(x, 2) for x in (r.odds_ratio, r.odds_ratio_within, r.within_low, r.within_high)] == [
        1.94,
        1.44,
        1.03,
        2.03,
    ]
    assert r.link == 'differ' and not r.only_across_labels
    assert round(100 * r.guesses['first candidate'], 1) == 6.9 and 'odds ratio within labels' in reading_table(figures)
    said = ' '.join(sentences(figures))
    assert 'odds ratio within labels 1.44 [1.03, 2.03]' in said and 'guesses that do not read the context' in said
    assert 'smaller than 0.1 of phi' in said  # of the paper's own scoring: phi 0.04
    page = (tmp_path / 'audit.html').read_text()
    assert 'odds ratio within labels, label step' in page and 'best guess without reading' in page
