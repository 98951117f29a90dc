"All conditions of a grid train on the same questions, none of them a test question; also where teachers wrote traces."

import json
from dataclasses import replace

import pytest

from tracenb.core.files import read_traces, write_jsonl
from tracenb.core.records import Trace, TracenbError
from tracenb.report.page import forced_notice
from tracenb.report.results import Results
from tracenb.runs import stages
from tracenb.runs.engine import plan_grid
from tracenb.runs.grids import Grid, expand, get_grid, same_questions
from tracenb.runs.stages import build, make_run, open_run
from tracenb.tasks.babi import babi
from tracenb.tasks.task import DataConfig, get_task, load_examples, match_examples
from tracenb.traces.conditions import CONDITIONS, build_traces
from tracenb.traces.loss_mask import encode

DATA = dict(n_train=24, n_test=8, labels=['single-supporting-fact', 'counting'], max_words=40)
TEACHER = [c for c in CONDITIONS.values() if c.needs]


def wrote(kind, examples, text='{kind}: {question} Let me think.'):
    return [
        Trace(
            id=e.id,
            condition=kind,
            text=text.format(kind=kind, question=' '.join(e.context) + e.question),
            steps=None,
            source='a teacher',
        )
        for e in examples
    ]


@pytest.fixture
def study(tmp_path):
    "(files, training examples): summaries are missing for the first two examples, reasoning for the last."
    train = load_examples(babi, DataConfig(**DATA | dict(labels=tuple(DATA['labels']))), 'train')
    parts = dict(r1=train[:-1], r1_summary=train[2:], post_hoc=train)
    return [
        str(write_jsonl(tmp_path / f'{kind}.jsonl', wrote(kind, examples))) for kind, examples in parts.items()
    ], train


@pytest.mark.slow
def test_every_condition_trains_on_the_same_questions(study, tmp_path):
    files, train = study
    trained = {}
    for name in ('vanilla', 'correct', 'incorrect', *(c.name for c in TEACHER)):
        chats = build(
            open_run(make_run(dataset='babi', condition=name, data=DATA | dict(traces=files)), tmp_path / 'o')
        )
        trained[name] = [c.id for c in chats]
        if name == 'r1':
            assert all(c.completion[0]['content'].startswith('<think>r1: ') for c in chats)
    assert len(trained) == 7 and set(map(tuple, trained.values())) == {tuple(e.id for e in train[2:-1])}


def test_a_grid_in_which_no_question_is_left_says_so_at_once():
    grid = get_grid('smoke')
    short = replace(grid, runs=tuple(replace(r, train=replace(r.train, max_length=20)) for r in grid.runs))
    with pytest.raises(TracenbError, match='toy, tiny-random: each training question is too long.*\n.*max_length'):
        same_questions(short)


def test_measures_of_each_training_trace_are_stored(study, tmp_path):
    import pandas as pd

    files, train = study
    for name in ('correct', 'r1'):
        opened = open_run(make_run(dataset='babi', condition=name, data=DATA | dict(traces=files)), tmp_path / 'o')
        chats = build(opened)
        texts = pd.read_csv(opened.file('trace_texts.csv'))
        assert texts.id.tolist() == [c.id for c in chats] and texts.condition.eq(name).all()
        assert texts.recall.eq(1).all() and (
            texts.precision.eq(1).all() if name == 'correct' else texts.precision.lt(1).any()
        ), 'these r1 texts quote the whole story'
        assert json.loads(opened.file('run.json').read_text())['teachers'] == ['a teacher']


def test_the_test_questions_are_those_without_traces(study):
    files, _ = study
    of = lambda **more: load_examples(babi, DataConfig.from_json(json.dumps(DATA | more), 'x'), 'test')
    assert of(traces=files) == of()


def test_traces_of_test_questions_are_refused(study, tmp_path):
    files, train = study
    test = load_examples(babi, DataConfig(n_test=8, labels=('counting',), max_words=40), 'test')
    with pytest.raises(TracenbError, match='1 teacher traces are of test questions'):
        match_examples(train, {'r1': {t.id: t for t in wrote('r1', train + test[:1])}}, test)


def test_a_training_question_that_is_asked_under_another_id_is_left_out(study):
    _, train = study
    traces = {'r1': {t.id: t for t in wrote('r1', train)}}
    assert match_examples(train, traces, [replace(train[3], id='elsewhere', split='test')]) == [*train[:3], *train[4:]]


def test_changed_traces_never_reuse_a_folder(study, tmp_path):
    files, train = study
    run = make_run(dataset='babi', condition='r1', data=DATA | dict(traces=files))
    opened = open_run(run, tmp_path / 'o')
    opened.locked.release()
    write_jsonl(files[0], wrote('r1', train[:-1], 'Now: {question}'))
    with pytest.raises(TracenbError, match='begun with other examples or teacher traces'):
        open_run(run, tmp_path / 'o')


def test_swapped_reasoning_is_about_another_question_of_the_label(study):
    files, train = study
    traces = read_traces(tuple(files))
    left = match_examples(train, traces, [])
    own = {t.text: i for i, t in traces['r1'].items()}
    label = {e.id: babi.decompose(e).label for e in train}
    for t in build_traces(left, babi, 'r1_swapped', 3, teacher=traces):
        assert own[t.text] != t.id and label[own[t.text]] == label[t.id] and t.source == 'a teacher'


def test_a_condition_without_its_traces_is_an_error_before_anything_runs():
    for c in TEACHER:
        with pytest.raises(TracenbError, match=f"condition '{c.name}' needs teacher traces of kind '{c.needs}'"):
            make_run(dataset='babi', condition=c.name)


@pytest.mark.parametrize(
    'text, reason',
    [('', 'the trace is empty'), ('so </think>', '</think> is inside'), ('<answer>2', '<answer> is inside')],
)
def test_unusable_traces_are_refused(tmp_path, text, reason):
    with pytest.raises(TracenbError, match=reason):
        read_traces(
            (write_jsonl(tmp_path / 't.jsonl', [Trace(id='a', condition='r1', text=text, steps=None, source='x')]),)
        )


def test_files_without_traces(tmp_path):
    (tmp_path / 't.jsonl').write_text('')
    with pytest.raises(TracenbError, match='no trace in this file'):
        read_traces((tmp_path / 't.jsonl',))
    with pytest.raises(TracenbError, match='no such file'):
        read_traces((tmp_path / 'nowhere.jsonl',))


def test_a_run_records_how_many_of_its_wrong_facts_are_forced(study, tmp_path):
    files, train = study
    opened = [
        open_run(make_run(dataset='babi', condition=c, data=DATA | dict(traces=files)), tmp_path / 'o')
        for c in ('correct', 'incorrect', 'wrong_facts', 'foreign_facts')
    ]
    for o in opened:
        build(o)
    correct, incorrect, wrong_facts, foreign = (o.record()['forced_facts'] for o in opened)
    left = train[2:-1]
    one = sum(
        len({c for i, c in enumerate(e.context) if i not in e.meta['facts']}) <= len(e.meta['facts']) for e in left
    )
    assert 0 < one < len(left), 'some are forced and some are not'
    assert incorrect == wrong_facts == dict(n=len(left), forced=one, share=one / len(left))
    assert correct == foreign == dict(n=0, forced=0, share=None)


def test_the_report_says_the_forced_share_and_reads_runs_without_it(study, tmp_path):
    files, train = study
    run = make_run(dataset='babi', condition='incorrect', data=DATA | dict(traces=files))
    opened = open_run(run, tmp_path / 'o')
    build(opened)
    results = Results(tmp_path / 'o', {opened.path: run}, *[None] * 5)
    counts = opened.record()['forced_facts']
    assert f'babi, incorrect: {100 * counts["share"]:.0f} % of {len(train) - 3}.' in forced_notice(results).data
    record = opened.record()
    del record['forced_facts']  # as of a version before
    opened.file('run.json').write_text(json.dumps(record))
    assert forced_notice(results).data == ''


# --- Rows that one condition cannot use


def long_grid(max_length, conditions=('zero_shot', 'vanilla', 'correct', 'incorrect'), **more):
    settings = dict(data=dict(n_train=24, n_test=4, max_words=60), train=dict(max_length=max_length))
    axes = dict(datasets=['cotempqa'], models=['tiny-random'], conditions=list(conditions), seeds=[1, 2])
    return axes | dict(settings=settings) | more


def encoded_lengths(run, out):
    opened = open_run(run, out)
    lengths = {c.id: len(encode(c, opened.tokenizer).input_ids) for c in build(opened)}
    opened.locked.release()
    return lengths


@pytest.mark.slow
def test_a_row_that_is_too_long_in_one_condition_is_left_out_of_all(tmp_path):
    whole = expand(long_grid(10**6), 'g')
    lengths = [encoded_lengths(r, tmp_path / 'whole') for r in whole.runs if r.condition != 'zero_shot']
    limit = sorted(lengths[0].values())[-4]  # of vanilla: three of its rows are longer
    long = [{i for i, n in each.items() if n > limit} for each in lengths]
    lost = set.union(*long)
    assert len(long[0]) == 3 and long[0] < lost < set(lengths[0]), 'other conditions lose more'
    made = same_questions(expand(long_grid(limit), 'g'))
    assert {r.leave_out for r in made.runs} == {tuple(sorted(lost))}
    for r in made.runs:
        if r.condition != 'zero_shot':
            kept = encoded_lengths(r, tmp_path / 'o')
            assert set(kept) == set(lengths[0]) - lost and max(kept.values()) <= limit
    assert set(plan_grid(made, tmp_path / 'o').left_out) == {len(lost)}
    assert same_questions(made) == made


def test_where_all_rows_fit_names_stay_and_a_part_of_a_grid_has_the_names_of_the_whole(tmp_path):
    grid = expand(long_grid(10**6), 'g')
    assert same_questions(grid) == grid and all('leave_out' in r.to_dict() for r in grid.runs)
    (tmp_path / 'g.yaml').write_text(json.dumps(long_grid(600)))  # JSON is YAML
    names = lambda **more: {r.name for r in get_grid(str(tmp_path / 'g.yaml'), match=True, **more).runs}
    assert names(only=['condition=vanilla']) < names() and not names() & {r.name for r in grid.runs}
    assert names(limit=5) != names()


def test_a_row_without_a_trace_in_one_condition_is_left_out_of_all(study):
    _, train = study
    made = same_questions(expand(long_grid(10**6, ['correct', 'edited_facts'], seeds=[1]), 'g'))
    task = get_task('cotempqa')
    examples = load_examples(task, made.runs[0].data, 'train')
    without = {t.id for t in build_traces(examples, task, 'edited_facts', 1) if not t.text}
    assert {r.leave_out for r in made.runs} == {tuple(sorted(without))}


def test_a_run_whose_questions_cannot_be_read_leaves_the_others_alone(capsys):
    bad = make_run(dataset='babi', data=dict(source='nowhere'))
    good = expand(long_grid(10**6, ['correct']), 'g').runs
    assert same_questions(Grid(name='g', runs=(bad, *good))).runs == (bad, *good)
    assert 'are not compared' in capsys.readouterr().err


def test_a_model_without_a_tokenizer_here_leaves_its_runs_as_they_are(capsys):
    runs = tuple(replace(r, model='nobody/absent-model') for r in expand(long_grid(10**6), 'g').runs)
    assert same_questions(Grid(name='g', runs=runs)).runs == runs
    assert capsys.readouterr().err.count('are not compared') == sum(r.condition != 'zero_shot' for r in runs)


def test_a_tokenizer_that_does_not_load_is_asked_for_once_for_a_grid(monkeypatch, capsys):
    asked = []

    def fail(*how):
        asked.append(how)
        raise TracenbError('the hub is out of reach', 'go online')

    monkeypatch.setattr(stages, 'load_tokenizer', fail)
    runs = expand(long_grid(10**6), 'g').runs
    runs += tuple(replace(r, data=replace(r.data, n_train=5)) for r in runs)  # another group of the same model
    assert same_questions(Grid(name='g', runs=runs)).runs == runs
    trained = sum(r.condition != 'zero_shot' for r in runs)
    assert len(asked) == 1 and capsys.readouterr().err.count('the hub is out of reach') == trained > 2


@pytest.mark.exhaustive  # on rows as the simulators write them: `test_a_row_that_is_too_long_in_one_condition_...`
def test_the_grids_of_the_paper_lose_no_row_of_the_real_data(shared):
    [length] = {r.train.max_length for g in ('paper', 'controls') for r in get_grid(g).runs if r.dataset == 'cotempqa'}
    runs = expand(long_grid(length, ['vanilla', 'correct', 'incorrect'], seeds=[1]), 'g').runs
    data = DataConfig(source=str(shared / 'cotempqa'))
    made = same_questions(Grid(name='g', runs=tuple(replace(r, data=data, model='smollm2-135m') for r in runs)))
    assert {r.leave_out for r in made.runs} == {()}
    short = [replace(r, train=replace(r.train, max_length=1024)) for r in made.runs]
    lost = {r.leave_out for r in same_questions(Grid(name='g', runs=tuple(short))).runs}
    assert [len(x) for x in lost] == [203]  # longer: 44 rows of vanilla, 198 of correct, 191 of incorrect


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    'name, dataset, folder',
    [('paper', 'babi', 'babi'), ('controls', 'babi', 'babi'), ('paper-babi20', 'babi20', 'babi_official')],
)
def test_no_real_story_is_too_long_in_any_condition(shared, capsys, name, dataset, folder):
    about = dict(data=DataConfig(source=str(shared / folder)), model='smollm2-135m')
    first = [r for r in get_grid(name).runs if (r.dataset, r.model, r.seed) == (dataset, 'llama-3.2-1b', 1)]
    made = same_questions(Grid(name='g', runs=tuple(replace(r, **about) for r in first)))
    assert len(first) > 2 and {r.leave_out for r in made.runs} == {()} and 'not compared' not in capsys.readouterr().err
