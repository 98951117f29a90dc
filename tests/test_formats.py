"""Rows of other tools: small files after their documentation, what `--inspect` says of them, samples, lines."""

import ast
import contextlib
import io
import json
import zipfile
from types import SimpleNamespace

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from test_rows import read

from tracenb.audit.inspection import inspect_files
from tracenb.audit.judging import clustered_share, pass_at_k, summarize
from tracenb.audit.page import audit
from tracenb.audit.published import count_problems, read_all
from tracenb.audit.tables import sentences
from tracenb.audit.variants import SCORINGS
from tracenb.core.files import write_jsonl
from tracenb.core.formats import PREDICTION_FIELDS, ROW_FORMATS, field_map, format_of, read_samples
from tracenb.core.messages import read_content, read_message, with_reasoning
from tracenb.core.records import Generation, TracenbError
from tracenb.stats.intervals import wilson
from tracenb.tasks.task import get_task

TASK = get_task('babi')
LABEL = 'single-supporting-fact'
STORIES = [
    (['Lena went to the mill.', 'Otto went to the barn.'], 'Where is Lena?', 'mill'),
    (['Ivo went to the shop.', 'Nell went to the pond.'], 'Where is Nell?', 'pond'),
    (['Ada went to the dock.', 'Rolf went to the farm.'], 'Where is Rolf?', 'farm'),
]


def fact(n):
    context, question, answer = STORIES[n]
    return next(c for c in context if question.split()[-1][:-1] in c)


def trace(n):
    return TASK.label_sentence.format(label=LABEL) + TASK.facts_sentence.format(facts=[fact(n)])


def answer(n, said=None):
    return f'<think>{trace(n)}</think> <answer>{said or STORIES[n][2]}</answer>'


def story(n, **more):
    "A row that contains its question."
    context, question, gold = STORIES[n]
    own = dict(passage=context, question=question, query_type=LABEL, answer_passage=[fact(n)], gold=gold)
    return own | more


@pytest.fixture
def data(tmp_path):
    "A folder with the three questions as test split, and one more for training."
    rows = [story(n) | dict(row_id=100 + n, passages=STORIES[n][0], answer=STORIES[n][2]) for n in range(3)]
    write_jsonl(tmp_path / 'data' / 'test.jsonl', rows)
    trained = dict(passages=['Kim is here.'], question='Where is Kim?', query_type=LABEL, row_id=7, answer='here')
    write_jsonl(tmp_path / 'data' / 'train.jsonl', [trained | dict(answer_passage=['Kim is here.'])])
    return tmp_path / 'data'


def run(*args, cwd):
    "Exit code, output and errors of the command, in this process."
    from tracenb.cli.main import main

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args])
    return SimpleNamespace(returncode=ended.value.code or 0, stdout=out.getvalue(), stderr=err.getvalue())


def figures_of(paths, tmp_path, **kw):
    paths = paths if isinstance(paths, list) else [paths]
    return audit(paths, tmp_path / 'out', **kw).set_index('scoring')


# --- files after the documentation of their tools


def message(n, said=None, **more):
    return (
        dict(role='assistant', content=f'<answer>{said or STORIES[n][2]}</answer>', reasoning_content=trace(n)) | more
    )


def lm_eval(n, samples):
    "github.com/EleutherAI/lm-evaluation-harness, `--log_samples`: `resps` has a list of texts per request."
    doc = story(n)
    about = dict(doc_id=n, doc=doc, target=doc['gold'], doc_hash='d', prompt_hash='p', target_hash='t')
    arguments = {'gen_args_0': {'arg_0': doc['question'], 'arg_1': {'until': ['\n\n']}}}
    return about | dict(
        arguments=arguments, resps=[samples], filtered_resps=samples[:1], filter='none', exact_match=1.0
    )


def inspect_sample(n, epoch, said=None):
    "inspect.aisi.org.uk/eval-logs.html: `output.choices[0].message`, reasoning as a part of its content."
    parts = [dict(type='reasoning', reasoning=trace(n)), dict(type='text', text=message(n, said)['content'])]
    choice = dict(message=dict(role='assistant', content=parts, source='generate'), stop_reason='stop')
    about = dict(id=n + 1, epoch=epoch, input=STORIES[n][1], target=STORIES[n][2], metadata=story(n))
    output = dict(model='gpt', choices=[choice], completion=message(n, said)['content'])
    return about | dict(output=output, messages=[], scores={}, events=[], attachments={})


def batch(n, **more):
    "platform.openai.com/docs/guides/batch: one line per request, joined by `custom_id`."
    body = dict(id='chatcmpl-1', object='chat.completion', model='gpt', choices=[dict(index=0, message=message(n))])
    response = dict(status_code=200, request_id='r', body=body | dict(usage=dict(total_tokens=3)))
    return dict(id=f'batch_req_{n}', custom_id=str(100 + n), response=response, error=None) | more


def requests(n, samples):
    "docs.vllm.ai, RequestOutput: `outputs` holds CompletionOutput objects, `prompt` the text after the chat template."
    context = '\n'.join(STORIES[n][0])
    prompt = f'<|im_start|>user\nContext:\n{context}\nQ: {STORIES[n][1]}<|im_end|>\n<|im_start|>assistant\n'
    outputs = [dict(index=k, text=t, token_ids=[1], finish_reason='stop') for k, t in enumerate(samples)]
    return dict(request_id=str(n), prompt=prompt, prompt_token_ids=[1], outputs=outputs, finished=True)


def write_log(path, samples):
    "A `.eval` archive: header.json, and one file per sample and epoch."
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as log:
        header = dict(version=2, status='success', eval=dict(task='babi', model='openai/gpt'))
        log.writestr('header.json', json.dumps(header))
        log.writestr('summaries.json', '[]')
        for s in samples:
            log.writestr(f'samples/{s["id"]}_epoch_{s["epoch"]}.json', json.dumps(s))
    return path


def test_lm_eval_samples(tmp_path):
    rows = [lm_eval(n, [answer(n), answer(n, 'no')]) for n in range(3)]
    strict = [r | dict(filter='strict', filtered_resps=['x']) for r in rows]  # a second filter repeats the same texts
    write_jsonl(tmp_path / 'samples_babi_2026-01-01T00-00-00.jsonl', rows + strict)
    (tmp_path / 'results_2026-01-01T00-00-00.json').write_text('{"results": {"babi": {"exact_match,none": 0.5}}}')
    figures = figures_of(tmp_path, tmp_path).loc['ours']
    assert (figures.n, figures.predictions, figures.k) == (3, 6, 2) and figures.answer_accuracy == 0.5
    assert figures.pass_at_k == 1 and figures.left_out == 0
    assert figures.row_notes == ('6 rows repeat a numbered sample, text for text, and are counted once',)
    [report] = inspect_files([tmp_path / 'samples_babi_2026-01-01T00-00-00.jsonl'])
    assert set(report.formats) == {'lm-eval'} and report.mapping['prediction'] == 'resps'


def test_lm_eval_log_likelihoods_are_refused_by_name(tmp_path):
    write_jsonl(tmp_path / 'a.jsonl', [lm_eval(0, []) | dict(resps=[[[-1.5, False]]], filtered_resps=[[-1.5, False]])])
    with pytest.raises(TracenbError, match='its responses hold no text'):
        audit([tmp_path / 'a.jsonl'], tmp_path / 'out')


@pytest.mark.parametrize('form', ['eval', 'json'])
def test_inspect_logs(tmp_path, form):
    samples = [inspect_sample(n, epoch, None if epoch == 1 else 'no') for n in range(3) for epoch in (1, 2)]
    path = tmp_path / f'log.{form}'
    if form == 'eval':
        write_log(path, samples)
    else:
        path.write_text(json.dumps(dict(version=2, eval=dict(model='openai/gpt'), samples=samples), indent=1))
    figures = figures_of(path, tmp_path).loc['ours']
    assert (figures.n, figures.predictions, figures.model) == (3, 6, 'openai/gpt') and figures.left_out == 0
    assert figures.answer_accuracy == 0.5 and figures.label_accuracy == 1  # the reasoning part is the trace
    assert inspect_files([path])[0].samples == {2: 3}


def test_a_damaged_sample_of_a_log_is_named_and_the_others_read(tmp_path):
    write_log(tmp_path / 'a.eval', [inspect_sample(n, 1) for n in range(2)])
    with zipfile.ZipFile(tmp_path / 'a.eval', 'a') as log:
        log.writestr('samples/3_epoch_1.json', b'{"id": 3, \xff')
    rows, problems = read(tmp_path / 'a.eval')
    assert len(rows) == 2 and len(problems) == 1 and 'a.eval!samples/3_epoch_1.json: cannot be read' in problems[0]
    with pytest.raises(TracenbError, match='not a log of inspect'):
        read(tmp_path / 'b.eval', b'PK not really')
    error = inspect_sample(2, 1) | dict(output=dict(choices=[]), error=dict(message='sandbox died'))
    write_log(tmp_path / 'c.eval', [inspect_sample(0, 1), error])
    [made], _ = read_all([tmp_path / 'c.eval'])
    assert len(made.cases) == 1 and 'sandbox died' in made.problems[0].what
    error['output'] |= dict(completion='')  # as inspect writes it
    write_log(tmp_path / 'c.eval', [inspect_sample(0, 1), error])
    [report] = inspect_files([tmp_path / 'c.eval'])
    assert (report.predictions, report.empty) == (1, 0) and 'left out: 1 row: ' in str(report)
    assert 'sandbox died' in str(report)
    write_log(tmp_path / 'd.eval', [inspect_sample(0, 1), error | dict(error=None)])
    assert inspect_files([tmp_path / 'd.eval'])[0].empty == 1


def test_openai_batch_output(tmp_path, data):
    failed = batch(2, response=None, error=dict(code='batch_expired', message='too late'))
    write_jsonl(tmp_path / 'a.jsonl', [batch(0), batch(1), failed])
    figures = figures_of(tmp_path / 'a.jsonl', tmp_path, dataset='babi', source=data).loc['ours']
    assert (figures.n, figures.left_out, figures.unanswered) == (2, 1, 1) and figures.answer_accuracy == 1
    assert figures.label_accuracy == 1 and 'the request failed: too late' in figures.left_out_reasons[0]
    parts = [dict(type='output_text', text='<answer>mill</answer>')]
    items = [
        dict(type='reasoning', summary=[dict(type='summary_text', text='So.')]),
        dict(type='message', content=parts),
    ]
    responses = batch(0, response=dict(status_code=200, body=dict(object='response', model='o', output=items)))
    assert read_samples(responses)[0]['prediction'] == '<think>So.</think><answer>mill</answer>'


def test_open_r1_and_distilabel_rows(tmp_path, data):
    problem = TASK.prompt_text.format(context='\n'.join(STORIES[0][0]), question=STORIES[0][1])
    r1 = dict(
        problem=problem, solution='x', generations=[answer(0), answer(0, 'no')], finish_reasons=['stop', 'length']
    )
    r1 |= dict(correctness_math_verify=[True, False], is_reasoning_complete=[True, True], messages=[])
    stepped = dict(
        instruction=STORIES[1][1], generation=answer(1), model_name='teacher', distilabel_metadata={'raw': 1}
    )
    grouped = dict(instruction=STORIES[2][1], generation=[answer(2), answer(2)], model_name=['teacher', 'teacher'])
    for name, rows, n, k in (
        ('r1', [r1], 1, 2),
        ('step', [stepped], 1, 1),
        ('grouped', [grouped | dict(distilabel_metadata={})], 1, 2),
    ):
        write_jsonl(tmp_path / f'{name}.jsonl', rows)
        figures = figures_of(tmp_path / f'{name}.jsonl', tmp_path, dataset='babi', source=data).loc['ours']
        assert (figures.n, figures.predictions) == (n, k), name
    assert figures.model == 'teacher' and figures.answer_accuracy == 1


@pytest.mark.parametrize('form', ['requests', 'texts', 'plain'])
def test_vllm_dumps(tmp_path, data, form):
    rows = [requests(n, [answer(n), answer(n, 'no')]) for n in range(3)]
    if form == 'texts':
        rows = [r | dict(outputs=[o['text'] for o in r['outputs']]) for r in rows]
    if form == 'plain':
        rows = [dict(prompt=r['prompt'], generated_text=o['text']) for r in rows for o in r['outputs']]
    write_jsonl(tmp_path / 'a.jsonl', rows)
    figures = figures_of(tmp_path / 'a.jsonl', tmp_path, dataset='babi', source=data).loc['ours']
    assert (figures.n, figures.predictions, figures.answer_accuracy, figures.pass_at_k) == (3, 6, 0.5, 1)


def test_results_by_id_of_any_form_keep_the_others(tmp_path):
    "A null is an id without an answer; a field `response` does not make a row one of the batch interface."
    texts = {'q1': answer(0), 'q2': None, 'q3': answer(2)}
    for name, results in dict(texts=texts, rows={k: dict(response=v, time=1.5) for k, v in texts.items()}).items():
        (tmp_path / f'{name}.json').write_text(json.dumps(results))
        [report] = inspect_files([tmp_path / f'{name}.json'])
        assert (report.rows, report.predictions, len(report.problems)) == (3, 2, 1), name
        assert 'OpenAI batch' not in report.formats and f'{name}.json[q2]' in str(report)
    (tmp_path / 'none.json').write_text(json.dumps(dict(q1=None, q2=None)))
    assert not inspect_files([tmp_path / 'none.json'])[0].used_all
    failed = dict(id='batch_req_1', custom_id='q1', response=None, error=dict(message='expired'))
    assert format_of(failed) == format_of(failed | dict(response=dict(status_code=500))) == 'OpenAI batch'


@pytest.mark.parametrize('form', ['text', 'row', 'question'])
def test_results_by_id(tmp_path, data, form):
    results = {str(100 + n): answer(n) for n in range(3)}
    if form == 'row':
        results = {key: dict(prediction=text, label=LABEL) for key, text in results.items()}
    if form == 'question':
        results = {STORIES[n][1]: answer(n) for n in range(3)}
    (tmp_path / 'a.json').write_text(json.dumps(results, indent=1))
    figures = figures_of(tmp_path / 'a.json', tmp_path, dataset='babi', source=data).loc['ours']
    assert (figures.n, figures.answer_accuracy, figures.left_out) == (3, 1, 0)


@pytest.mark.parametrize('suffix', ['.csv', '.tsv', '.csv.zst', '.jsonl.zst', '.parquet'])
def test_tables_and_packed_files_give_the_same(tmp_path, suffix):
    rows = [story(n, prediction=answer(n) + '\u2028\x0b "quoted", and\na line') for n in range(3)]
    path = tmp_path / f'a{suffix}'
    if suffix == '.parquet':
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        table = pd.DataFrame(rows)
        text = table.to_csv(index=False, sep='\t' if suffix == '.tsv' else ',')
        text = text if 'sv' in suffix else ''.join(json.dumps(r) + '\n' for r in rows)
        packed = pyarrow.Codec('zstd').compress(text.encode(), asbytes=True)
        path.write_bytes(packed if suffix.endswith('zst') else text.encode())
    [made], _ = read_all([path])
    assert [c.text for c in made.cases] == [r['prediction'] for r in rows] and not made.problems
    assert [c.example.context for c in made.cases] == [tuple(r['passage']) for r in rows]


def test_bad_lines_of_a_table_are_named_and_the_others_kept(tmp_path):
    text = b'question,prediction\nWho?,Ann\nWho?,caf\xe9\nWho?,a,b\nWho?\nWhere?,"two\nlines"\n'
    rows, problems = read(tmp_path / 'a.csv', text)
    said = [dict(question='Who?', prediction='Ann'), dict(question='Who?')]  # an absent cell is not an empty text
    assert rows == [*said, dict(question='Where?', prediction='two\nlines')]
    places = [p.split(': ')[0].removeprefix(f'{tmp_path}/') for p in problems]
    assert places == ['a.csv:3', 'a.csv:4'] and 'not UTF-8' in problems[0] and '3 cells in a table of 2' in problems[1]
    assert 'two columns have one name' in read(tmp_path / 'b.csv', 'a,a\n1,2\n')[1][0]


def test_a_damaged_zstd_archive_gives_the_rows_before_the_damage(tmp_path):
    lines = ''.join(json.dumps(dict(n=n, text=str(hash((n, 'x'))))) + '\n' for n in range(20_000))
    packed = pyarrow.Codec('zstd').compress(lines.encode(), asbytes=True)
    rows, problems = read(tmp_path / 'a.jsonl.zst', packed[: len(packed) // 2])
    assert 0 < len(rows) < 20_000 and any('the zstd archive is damaged' in p for p in problems)


# --- messages, and reasoning in a field of its own


@pytest.mark.parametrize(
    'content, text, reasoning',
    [
        ('mill', 'mill', ''),
        (None, '', ''),
        ([], '', ''),
        ([dict(type='text', text='mi'), dict(type='text', text='ll')], 'mill', ''),
        (['mi', 'll'], 'mill', ''),
        ([dict(type='thinking', thinking=[dict(type='text', text='So.')]), dict(type='text', text='x')], 'x', 'So.'),
        ([dict(type='thinking', thinking='So.', signature='s'), dict(type='text', text='x')], 'x', 'So.'),
        ([dict(type='reasoning', summary=[dict(type='summary_text', text='So.')])], '', 'So.'),
        ([dict(type='redacted_thinking', data='0'), dict(type='reference', reference_ids=[1])], '', ''),
    ],
)
def test_content_of_messages(content, text, reasoning):
    assert read_content(content) == (text, reasoning)


@pytest.mark.parametrize('content', [7, True, [7], [dict(type='image_url')], [dict(type='text')], dict(a=1)])
def test_content_of_another_kind_is_named(content):
    with pytest.raises(TracenbError, match='a part of the content is'):
        read_content(content)


@pytest.mark.parametrize('name', ['reasoning', 'reasoning_content', 'thinking'])
def test_reasoning_in_a_field_of_its_own_is_audited(tmp_path, name):
    rows = [story(n, prediction=STORIES[n][2]) | {name: trace(n)} for n in range(3)]
    write_jsonl(tmp_path / 'a.jsonl', rows)
    figures = figures_of(tmp_path / 'a.jsonl', tmp_path).loc['ours']
    assert (figures.answer_accuracy, figures.label_accuracy, figures.table) == (1, 1, (3, 0, 0, 0))
    assert read_message({'content': 'x', name: 'So.'}) == ('x', 'So.')


def test_reasoning_is_not_written_twice():
    assert with_reasoning('<think>So.</think> mill', 'So.') == '<think>So.</think> mill'
    assert with_reasoning('mill', '<think>So.</think>') == '<think>So.</think>mill'
    assert with_reasoning('mill', ' ') == 'mill' and with_reasoning('So. mill', 'So.') == '<think>So.</think>So. mill'


@pytest.mark.parametrize('value', [True, False, None, 3, ''])
def test_a_setting_is_not_a_reasoning(value):
    assert read_samples(dict(prediction='mill', thinking=value))[0]['prediction'] == 'mill'


def test_conversations_and_rows_in_an_object(tmp_path, data):
    turns = [('human', STORIES[0][1]), ('gpt', answer(0))]
    shared_gpt = dict(conversations=[{'from': who, 'value': said} for who, said in turns])
    openai = dict(messages=[dict(role='user', content=STORIES[1][1]), message(1)], id='of-the-server')
    inside = dict(model='inside', results=[dict(question=STORIES[2][1], response=answer(2))])
    for n, row in enumerate((shared_gpt, openai, inside)):
        (tmp_path / 'a.json').write_text(json.dumps(row))
        figures = figures_of(tmp_path / 'a.json', tmp_path, dataset='babi', source=data).loc['ours']
        assert (figures.n, figures.answer_accuracy, figures.label_accuracy) == (1, 1, 1), n
    assert figures.model == 'inside'


def test_samples_of_an_own_run(tmp_path):
    (tmp_path / 'run').mkdir()
    settings = dict(dataset='babi', model='tiny', condition='correct', seed=2)
    (tmp_path / 'run' / 'run.json').write_text(json.dumps(dict(settings=settings)))
    examples = TASK.simulate(4, 0, 'test', (LABEL,), None)
    write_jsonl(tmp_path / 'run' / 'examples.jsonl', examples)
    made = [
        Generation(e.id, f'<answer>{e.answers[0] if k else "no"}</answer>', 9, 'length' if k else 'stop', sample=k)
        for e in examples
        for k in range(2)
    ]
    write_jsonl(tmp_path / 'run' / 'generations.jsonl', made)
    ours = figures_of(tmp_path / 'run', tmp_path).loc['ours']
    assert (ours.n, ours.predictions, ours.answer_accuracy, ours.pass_at_k) == (4, 8, 0.5, 1)
    rows = pd.read_parquet(tmp_path / 'out' / 'rows.parquet')
    assert rows['sample'].tolist() == [0, 1] * 4 and rows.error[1].startswith('cut off after 9 tokens')
    old = Generation.from_json('{"id": "a", "text": "b", "n_tokens": 1, "finish_reason": "stop"}')
    assert old.sample == 0  # files of before


# --- fields and tags by name


def test_the_fields_that_the_how_to_names(tmp_path):
    for name in PREDICTION_FIELDS:
        write_jsonl(tmp_path / 'a.jsonl', [story(n, **{name: answer(n)}) for n in range(3)])
        assert figures_of(tmp_path / 'a.jsonl', tmp_path).loc['ours'].answer_accuracy == 1, name
    how_to = (ROOT / 'nbs' / 'site' / 'howto' / 'audit_a_release.md').read_text()
    assert all(f'`{name}`' in how_to for name in PREDICTION_FIELDS)  # what is promised is read, and the other way round
    write_jsonl(tmp_path / 'a.jsonl', [story(n, response=answer(n), text='a story') for n in range(3)])
    with pytest.raises(TracenbError, match='several fields could be the prediction: text, response'):
        audit([tmp_path / 'a.jsonl'], tmp_path / 'out')
    how = field_map(['prediction=response'])
    assert figures_of(tmp_path / 'a.jsonl', tmp_path, how=how).loc['ours'].answer_accuracy == 1


def test_map_and_tags(tmp_path, data):
    rows = [
        dict(nr=str(100 + n), out=dict(said=answer(n).replace('think>', 'THOUGHT>').replace('answer>', 'final>')))
        for n in range(3)
    ]
    write_jsonl(tmp_path / 'a.jsonl', rows)
    how = field_map(['prediction=out.said,id=nr'], ['think=thought', 'answer=final'])
    figures = figures_of(tmp_path / 'a.jsonl', tmp_path, dataset='babi', source=data, how=how).loc['ours']
    assert (figures.answer_accuracy, figures.label_accuracy) == (1, 1)
    with pytest.raises(TracenbError, match="no field 'reply', which --map names"):
        audit([tmp_path / 'a.jsonl'], tmp_path / 'out', 'babi', data, how=field_map(['prediction=reply']))
    for options in (dict(fields=['prediction']), dict(tags=['thinking']), dict(tags=['thought=x'])):
        with pytest.raises(TracenbError, match='not a pair|unknown tag'):
            field_map(**options)
    magistral = field_map([], ['think=[THINK]..[/THINK]'])
    assert magistral.retag('[THINK]So.[/THINK]mill') == '<think>So.</think>mill'


def test_a_list_is_no_text(tmp_path):
    write_jsonl(tmp_path / 'a.jsonl', [story(n, prediction=[answer(n), answer(n, 'no')]) for n in range(3)])
    with pytest.raises(TracenbError, match='the prediction is a list of 2, not a text'):
        audit([tmp_path / 'a.jsonl'], tmp_path / 'out')
    how = field_map(['samples=prediction'])
    figures = figures_of(tmp_path / 'a.jsonl', tmp_path, how=how).loc['ours']
    assert (figures.n, figures.k, figures.answer_accuracy) == (3, 2, 0.5)


def test_absent_null_and_empty_differ(tmp_path):
    absent = {k: v for k, v in story(0).items()}
    rows = [absent, story(1, prediction=None), story(2, prediction=''), story(2, prediction=None)]
    write_jsonl(tmp_path / 'a.jsonl', rows)
    [made], _ = read_all([tmp_path / 'a.jsonl'])
    assert [c.text for c in made.cases] == ['']  # an empty answer was given: it is wrong
    assert [line[:2] for line in count_problems(made.problems)] == ['2:', '1:']
    assert 'the prediction is null' in count_problems(made.problems)[0]
    [report] = inspect_files([tmp_path / 'a.jsonl'])
    assert report.empty == 1 and 'empty predictions: 1' in str(report)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(['role', 'content', 'type', 'text', 'message']), inner, max_size=3)
    ),
    max_leaves=8,
)
FIELDS = 'doc_id doc resps arguments epoch input output messages eval samples custom_id response choices generation '
FIELDS += 'generations distilabel_metadata outputs prompt prediction text reasoning finish_reasons model_name id'


@given(row=st.dictionaries(st.sampled_from(FIELDS.split()), JSON, max_size=5))
def test_any_row_gives_plain_rows_or_an_error(row):
    try:
        made = read_samples(row)
    except TracenbError:
        return
    assert all(isinstance(plain, dict) for plain in made) and format_of(row) in {'rows', *ROW_FORMATS}


@given(
    seed=st.sampled_from(['lines', 'table', 'by id', 'log', 'zstd']),
    cuts=st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 9)), max_size=3),
    suffix=st.sampled_from(['.jsonl', '.json', '.csv', '.tsv.gz', '.jsonl.zst', '.parquet', '.eval']),
)
def test_any_damage_gives_rows_or_an_error(tmp_path_factory, seed, cuts, suffix):
    lines = b'{"question": "Who?", "prediction": "Ann"}\n' * 3
    log = tmp_path_factory.mktemp('damage') / 'a.eval'
    data = dict(
        lines=lines,
        table=b'question,prediction\n"Who?","Ann"\nWho?,\n',
        log=write_log(log, [inspect_sample(0, 1)]).read_bytes(),
        zstd=pyarrow.Codec('zstd').compress(lines, asbytes=True),
    ) | {'by id': json.dumps({'1': 'Ann', '2': ['Bo', 'Cy']}).encode()}
    found = data[seed]
    for where, put, gone in cuts:
        at = int(where * len(found))
        found = found[:at] + put + found[at + gone :]
    path = log.with_name(f'b{suffix}')
    path.write_bytes(found)
    try:
        assert str(inspect_files([path])[0])
    except TracenbError:
        pass


# --- samples


def test_samples_are_counted_the_same_with_and_without_ids(tmp_path):
    "Case data/18: k samples of a question, the mean over samples, the interval over questions."
    rows = [story(n, prediction=answer(n, None if k == 0 else 'no')) for n in range(2) for k in range(4)]
    made = {}
    for name, more in (('bare', {}), ('row_id', {'row_id': 0})):
        write_jsonl(tmp_path / f'{name}.jsonl', [r | {k: n // 4 for k in more} for n, r in enumerate(rows)])
        made[name] = figures_of(tmp_path / f'{name}.jsonl', tmp_path)
    for figures in made.values():
        ours = figures.loc['ours']
        assert (ours.n, ours.predictions, ours.k, ours.most_samples) == (2, 8, 4, 4)
        assert (ours.answer_accuracy, ours.pass_at_k) == (0.25, 1)
        low, high = ours.intervals['answer_accuracy']
        assert low < wilson(2, 8)[0] and high > 0.75  # two questions, not eight
        said = ' '.join(sentences(figures.reset_index()))
        assert '2 questions with 4 samples each: 25.0 [' in said and '(pass@4)' in said
    assert made['bare'].loc['ours'].intervals == made['row_id'].loc['ours'].intervals


def test_byte_identical_repeats_count_the_same_with_and_without_ids(tmp_path):
    rows = [story(n, prediction=answer(n, 'no' if n else None)) for n in range(3)]
    for name, more in (('bare', {}), ('row_id', {'row_id': 0})):
        numbered = [r | {k: n for k in more} for n, r in enumerate(rows)]
        write_jsonl(tmp_path / f'{name}.jsonl', [*numbered, numbered[0], numbered[0]])
        ours = figures_of(tmp_path / f'{name}.jsonl', tmp_path).loc['ours']
        assert (ours.n, ours.predictions, ours.k, ours.most_samples, ours.left_out) == (3, 5, 1, 3, 0)
        assert round(ours.answer_accuracy, 6) == round(1 / 3, 6)  # a question that is repeated has no more weight
        assert ours.row_notes[0].startswith('2 predictions have the same text as another one of their question')


def test_numbered_samples_that_contradict_each_other_are_named(tmp_path):
    rows = [story(0, prediction=answer(0), sample=1), story(0, prediction=answer(0, 'no'), sample=1)]
    write_jsonl(tmp_path / 'a.jsonl', rows)
    [made], _ = read_all([tmp_path / 'a.jsonl'])
    assert len(made.cases) == 1 and 'sample 1 of ' in made.problems[0].what and 'another text' in made.problems[0].what


def test_intervals_of_samples_hold_what_they_promise():
    "Coverage of the mean over questions, and the level of the test of trace and answer, in a world without a link."
    import numpy as np

    from tracenb.audit.judging import _clustered_link
    from tracenb.stats.association import two_by_two

    rng, covered, rejected = np.random.default_rng(1), 0, 0
    for _ in range(200):
        chances = [rng.beta(0.6, 0.6, size=(40, 1)) for _ in range(2)]
        trace_right, right = ((rng.random((40, 4)) < p).astype(float).ravel() for p in chances)
        table = pd.DataFrame(dict(trace=trace_right, answer=right), index=np.repeat(np.arange(40), 4))
        low, high = clustered_share(table.answer)[1]
        covered += low <= 0.5 <= high
        rejected += _clustered_link(table, two_by_two(table.trace, table.answer))['p_chi2'] < 0.05
    assert covered / 200 >= 0.92 and rejected / 200 <= 0.09


@pytest.mark.parametrize('questions, k', [(1, 4), (2, 3), (8, 2)])
@pytest.mark.parametrize('kind', ['all right', 'all wrong', 'mixed', 'within'])
def test_degenerate_samples_give_figures_that_can_be_written(questions, k, kind, tmp_path):
    "One question, all right, all wrong, samples that differ within a question only: numbers or None, never NaN."
    said = {
        'all right': lambda n, s: answer(n % 3),
        'all wrong': lambda n, s: answer(n % 3, 'no'),
        'mixed': lambda n, s: answer(n % 3) if n % 2 else f'<think>So.</think> <answer>{STORIES[n % 3][2]}</answer>',
        'within': lambda n, s: answer(n % 3) if s else '<think>So.</think> <answer>no</answer>',
    }[kind]
    rows = [
        story(n % 3, row_id=n, prediction=said(n, s), condition='correct') for n in range(questions) for s in range(k)
    ]
    write_jsonl(tmp_path / 'a.jsonl', rows)
    ours = figures_of(tmp_path / 'a.jsonl', tmp_path).loc['ours']
    assert (ours.n, ours.k) == (questions, k)
    written = (tmp_path / 'out' / 'audit.json').read_text()
    assert 'NaN' not in written and 'Infinity' not in written
    for low, high in filter(None, ours.intervals.values()):
        assert 0 <= low <= high


def test_one_sample_per_question_has_the_plain_figures():
    answers = pd.Series([1, 0, 1, 1, 0], index=list('abcde'))
    assert clustered_share(answers) == (0.6, wilson(3, 5)) and pass_at_k(answers, 1).tolist() == answers.tolist()
    with pytest.raises(TracenbError, match='pass@2'):
        pass_at_k(answers, 2)
    table = pd.DataFrame(dict(label='x', answer=answers.astype(float)))
    assert summarize(table, SCORINGS['ours'])['intervals']['pass_at_k'] == wilson(3, 5)


@given(counts=st.lists(st.lists(st.sampled_from([0, 1]), min_size=1, max_size=5), min_size=1, max_size=6))
def test_shares_of_any_samples_are_shares(counts):
    answers = pd.Series([v for c in counts for v in c], index=[k for k, c in enumerate(counts) for _ in c])
    for pooled in (False, True):
        mean, (low, high) = clustered_share(answers, pooled)
        assert 0 <= low <= mean + 1e-9 and mean - 1e-9 <= high <= 1
    k = min(map(len, counts))
    assert pass_at_k(answers, k).between(0, 1).all()


# --- joining


def test_official_ids_and_the_question_join(tmp_path):
    "Case data/19."
    rows = [
        dict(
            query_id=5000 + n,
            query=f'how tall is tower {n}',
            query_type='NUMERIC',
            answers=[f'{40 + n} metres'],
            passages=dict(passage_text=[f'Tower {n} is {40 + n} metres tall.', 'Goats eat grass.'], is_selected=[1, 0]),
        )
        for n in range(3)
    ]
    write_jsonl(tmp_path / 'data' / 'dev.jsonl', rows)
    bare = [dict(prediction=r['answers'][0]) for r in rows]
    for name, more in (
        ('both', lambda r: dict(query_id=r['query_id'], query=r['query'])),
        ('query_id', lambda r: dict(query_id=r['query_id'])),
        ('float', lambda r: dict(query_id=float(r['query_id']))),  # as pandas writes ids of a column with gaps
        ('id', lambda r: dict(id=r['query_id'])),
        ('query', lambda r: dict(query=r['query'])),
        ('question', lambda r: dict(id=0, question=r['query'].upper())),  # an id that counts the rows of a file
    ):
        write_jsonl(tmp_path / 'a.jsonl', [b | more(r) for b, r in zip(bare, rows)])
        figures = figures_of(tmp_path / 'a.jsonl', tmp_path, dataset='msmarco', source=tmp_path / 'data').loc['ours']
        assert (figures.n, figures.answer_accuracy, figures.unanswered) == (3, 1, 0), name
    write_jsonl(tmp_path / 'a.jsonl', [dict(query_id=5000, query=rows[1]['query'], prediction='x')])
    with pytest.raises(TracenbError, match='1 contradict themselves'):
        audit([tmp_path / 'a.jsonl'], tmp_path / 'out', 'msmarco', tmp_path / 'data')
    write_jsonl(tmp_path / 'a.jsonl', [dict(query_id=1, query='what?', prediction='x')])
    with pytest.raises(TracenbError, match=r"1 fit no example, the first: .*a.jsonl:1 \('1'\)"):
        audit([tmp_path / 'a.jsonl'], tmp_path / 'out', 'msmarco', tmp_path / 'data')


def test_rows_of_the_training_split_are_said(tmp_path, data):
    rows = [dict(row_id=100 + n, prediction=answer(n)) for n in range(3)]
    write_jsonl(tmp_path / 'a.jsonl', [*rows, dict(row_id=7, question='Where is Kim?', prediction='here')])
    figures = figures_of(tmp_path / 'a.jsonl', tmp_path, dataset='babi', source=data).loc['ours']
    assert (figures.n, figures.left_out) == (3, 1) and 'a row of the training split' in figures.left_out_reasons[0]
    write_jsonl(data / 'train.jsonl', [json.loads((data / 'test.jsonl').read_text().split('\n')[0])])
    write_jsonl(tmp_path / 'a.jsonl', rows)
    figures = figures_of(tmp_path / 'a.jsonl', tmp_path, dataset='babi', source=data).loc['ours']
    assert figures.row_notes == ('1 questions stand in the training split, too, with the same context',)
    write_jsonl(tmp_path / 'b.jsonl', [story(n, prediction=answer(n), split='train') for n in range(2)])
    assert figures_of(tmp_path / 'b.jsonl', tmp_path).loc['ours'].row_notes[0].startswith('2 rows say that they are of')


# --- what is said of a model


@pytest.mark.parametrize(
    'condition, says',
    [
        ('vanilla', "This model was not taught to write traces (condition 'vanilla')."),
        ('r1', "those of the condition 'r1' need not name label and facts"),
        (
            'mystery',
            '0 of 3 responses name a label, fewer than half. Whether the model was taught to write traces is not',
        ),
        (None, "is not recorded (condition 'unknown')"),
    ],
)
def test_what_is_not_recorded_is_not_said(tmp_path, condition, says):
    rows = [story(n, prediction=STORIES[n][2]) | ({'condition': condition} if condition else {}) for n in range(3)]
    write_jsonl(tmp_path / 'a.jsonl', rows)
    said = ' '.join(sentences(figures_of(tmp_path / 'a.jsonl', tmp_path).reset_index()))
    assert says in said and ('was not taught' in said) == (condition == 'vanilla')


# --- the command


def test_the_command_tells_by_its_exit_code(tmp_path):
    good = [story(n, response=answer(n)) for n in range(3)]
    write_jsonl(tmp_path / 'good.jsonl', good)
    write_jsonl(tmp_path / 'some.jsonl', [*good, story(0, response=None), story(1, response=None)])
    (tmp_path / 'broken.jsonl').write_text('{"a": \n')
    done = run('audit', 'good.jsonl', '--out', 'o', cwd=tmp_path)
    assert done.returncode == 0 and '3 predictions of 3 questions' in done.stdout, done.stderr
    done = run('audit', 'some.jsonl', '--out', 'o', cwd=tmp_path)
    assert done.returncode == 3 and ': 2 rows left out' in done.stdout, done.stderr
    assert '2: the prediction is null, not a text (the first: some.jsonl:4)' in done.stdout
    done = run('audit', 'good.jsonl', 'broken.jsonl', '--out', 'o', cwd=tmp_path)
    assert done.returncode == 3 and '1 sources could not be used' in done.stdout
    assert run('audit', 'broken.jsonl', '--out', 'o', cwd=tmp_path).returncode == 1
    done = run('audit', '--inspect', 'good.jsonl', 'some.jsonl', cwd=tmp_path)
    assert done.returncode == 3 and 'mapping: prediction=response, question=question' in done.stdout
    done = run(
        'audit', 'good.jsonl', '--map', 'prediction=gold', '--tags', 'think=thinking', '--out', 'o', cwd=tmp_path
    )
    assert done.returncode == 0 and 'is not recorded' not in done.stdout
    help_text = run('audit', '--help', cwd=tmp_path).stdout
    assert 'Exit code 0: every row was used. 3: some were left out' in ' '.join(help_text.split())


def test_inspect_names_tags_and_end_tokens(tmp_path):
    texts = [
        f'<thinking>{trace(n)}</thinking> <ANSWER>{STORIES[n][2]}</ANSWER><|im_end|>' if n else 'mill</s>'
        for n in range(3)
    ]
    write_jsonl(tmp_path / 'a.jsonl', [story(n, output=t) for n, t in enumerate(texts)])
    said = str(inspect_files([tmp_path / 'a.jsonl'])[0])
    for words in (
        'end tokens in the text: <|im_end|> 2, </s> 1',
        '<thinking> 2',
        'with an answer tag: 67 %',
        'try: --tags think=thinking',
        'samples per question: 1 (3 questions)',
        'mapping: prediction=output, question=question, context=passage, gold=gold, label=query_type',
    ):
        assert words in said, said
    thought = '<|begin_of_thought|>So.<|end_of_thought|><|begin_of_solution|>x<|end_of_solution|>'
    write_jsonl(tmp_path / 'b.jsonl', [story(n, output=thought) for n in range(3)])
    said = str(inspect_files([tmp_path / 'b.jsonl'])[0])
    assert 'think=<|begin_of_thought|>..<|end_of_thought|>' in said and 'end tokens in the text: none' in said


# --- lines

DISPLAY = {  # Modules where a text is split for display, or a message of a program is shortened: no data are read
    'core.records': 2,
    'core.rows': 1,
    'traces.display': 1,
    'traces.overview': 1,
    'models.adapters': 1,
    'teacher.serve': 1,
}


def test_no_data_are_split_at_other_characters_than_newlines():
    "`str.splitlines` also splits at U+2028, \\x0b, \\x0c, \\x85, which may stand inside a text."
    for path in sorted((ROOT / 'tracenb').rglob('*.py')):
        name = '.'.join(path.relative_to(ROOT / 'tracenb').with_suffix('').parts)
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if getattr(n, 'attr', '') == 'splitlines']
        assert len(calls) <= DISPLAY.get(name, 0), f'{name}: split data at newlines, with split'
