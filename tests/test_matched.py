"Teacher traces: all conditions of a study that names them train on the same questions, none of them a test question."

import json

import pytest

from tracenb.core.files import read_traces, write_jsonl
from tracenb.core.records import Trace, TracenbError
from tracenb.report.page import forced_notice
from tracenb.report.results import Results
from tracenb.runs.stages import build, make_run, open_run
from tracenb.tasks.babi import babi
from tracenb.tasks.task import DataConfig, load_examples, match_examples
from tracenb.traces.conditions import CONDITIONS, build_traces

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
    from dataclasses import replace

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
