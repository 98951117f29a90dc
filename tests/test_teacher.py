"""Teacher traces: a real local server with prepared answers, the committed cache, foreign files, the command."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import forked
import pytest
from conftest import ROOT

from tracenb.cli.teacher import demo_settings
from tracenb.core.files import read_jsonl, write_jsonl
from tracenb.core.records import Generation, Trace, TracenbError
from tracenb.tasks import babi
from tracenb.tasks.task import DataConfig, load_examples, toy
from tracenb.teacher.collection import Collection, plan_requests, run_collection
from tracenb.teacher.endpoint import Endpoint
from tracenb.teacher.importing import import_traces, index_examples, run_import
from tracenb.teacher.judging import judge_reply
from tracenb.teacher.prompts import (
    RIGHT_STATES,
    STATES,
    TRACE_KINDS,
    describe_outcomes,
    read_outcomes,
    tally,
    why_not_english,
)
from tracenb.traces.chat import render
from tracenb.traces.parsing import parse

DATA = DataConfig(labels=('single-supporting-fact', 'counting'), n_train=10)
EXAMPLES = load_examples(babi.babi, DATA, 'train')
DEMO = ROOT / 'nbs' / 'data' / 'teacher_demo'
KEY = 'sk-test-0123456789abcdef'


@pytest.fixture
def serve():
    "Start servers that answer by a function (messages, headers) -> (status, message, finish_reason), and record calls."
    started = []

    def start(answer):
        asked = []

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args):
                pass

            def do_POST(self):
                sent = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
                asked.append(sent)
                status, message, finish = answer(sent['messages'], self.headers)
                body = (
                    {'error': {'message': message}}
                    if status != 200
                    else {
                        'id': '1',
                        'object': 'chat.completion',
                        'created': 1,
                        'model': 'prepared-1',
                        'usage': {'prompt_tokens': 10, 'completion_tokens': 5, 'total_tokens': 15},
                        'choices': [{'index': 0, 'finish_reason': finish, 'message': {'role': 'assistant'} | message}],
                    }
                )
                data = json.dumps(body).encode()
                self.send_response(status)
                self.send_header('Content-Type', 'application/json')
                self.send_header('Content-Length', str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return f'http://127.0.0.1:{server.server_port}/v1', asked

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def example_in(messages):
    return next(e for e in EXAMPLES if babi.babi.prompt(e) in messages[0]['content'])


def right(messages, headers):
    e = example_in(messages)
    return (
        200,
        {'content': ','.join(e.answers), 'reasoning_content': f'The text is about {e.question} and so on.'},
        'stop',
    )


def endpoint(url, **more):
    return Endpoint(base_url=url, model='prepared', retries=0, timeout=10.0, **more)


def collection(url, kind='r1', **more):
    return Collection(task='babi', kind=kind, data=DATA, endpoint=endpoint(url), **more)


# --- the committed cache


def test_replay_of_the_committed_cache_gives_the_committed_outcomes(tmp_path):
    for kind, settings in demo_settings().items():
        shutil.copy(DEMO / f'{kind}.cache.sqlite', tmp_path)
        run_collection(
            settings, tmp_path / f'{kind}.jsonl', None if kind == 'r1' else tmp_path / 'r1.jsonl', progress=False
        )
    for kind in TRACE_KINDS:
        for name in (f'{kind}.jsonl', f'{kind}.outcomes.jsonl', f'{kind}.json'):
            assert (tmp_path / name).read_bytes() == (DEMO / name).read_bytes(), name
    assert {'kept', 'wrong_answer'} <= {o.state for o in read_outcomes(DEMO / 'r1.jsonl')}


def test_kept_traces_render_and_parse_back():
    examples = {e.id: e for e in load_examples(babi.babi, demo_settings()['r1'].data, 'train')}
    kept = [t for kind in TRACE_KINDS for t in read_jsonl(DEMO / f'{kind}.jsonl', Trace)]
    for t in kept:
        chat = render(examples[t.id], t, babi.babi)
        said = parse(
            Generation(id=t.id, text=chat.completion[0]['content'], n_tokens=1, finish_reason='stop'),
            examples[t.id],
            babi.babi,
            steps=False,
        )
        assert said.error is None and said.answers == examples[t.id].answers


# --- every state, over HTTP

ANSWERS = {
    'kept': ({'reasoning_content': 'It says so in the text, I think.'}, 'stop'),
    'wrong_answer': ({'content': 'moon', 'reasoning_content': 'It is the moon.'}, 'stop'),
    'length': ({'content': '', 'reasoning_content': 'It goes on and'}, 'length'),
    'refusal': ({'content': None, 'refusal': 'I would rather not.'}, 'stop'),
    'empty': ({}, 'stop'),
    'format': ({'content': '<think>Where is the end'}, 'stop'),
    'not_english': ({'reasoning_content': 'Она пошла в сад, там она и есть.'}, 'stop'),
}


def test_every_state_is_reached_and_recorded(serve, tmp_path):
    wanted = dict(zip((e.id for e in EXAMPLES), [*ANSWERS, 'failed', 'kept', 'kept']))

    def answer(messages, headers):
        e = example_in(messages)
        if wanted[e.id] == 'failed':
            return 400, 'no such thing', ''
        message, finish = ANSWERS[wanted[e.id]]
        return 200, {'content': ','.join(e.answers)} | message, finish

    url, asked = serve(answer)
    r1 = run_collection(collection(url), tmp_path / 'r1.jsonl', progress=False)
    assert {o.id: o.state for o in r1} == wanted and len(asked) == len(EXAMPLES)
    assert all(o.reason for o in r1 if o.state != 'kept')
    assert [t.id for t in read_jsonl(tmp_path / 'r1.jsonl', Trace)] == [i for i, s in wanted.items() if s == 'kept']
    summary = json.loads((tmp_path / 'r1.json').read_text())
    assert summary['states'] == {s: sum(w == s for w in wanted.values()) for s in STATES} and not summary['finished']
    row = tally(r1).loc[('r1', 'all')]
    assert (row.asked, row.right, row.wrong, row.unread) == (10, 5, 1, 4)
    # the other kinds ask only where the answer was right, and carry the r1 state of the rest
    for kind, may in (('r1_summary', ('kept',)), ('post_hoc', RIGHT_STATES)):
        asked.clear()
        plan = plan_requests(EXAMPLES, babi.babi, kind, r1)
        assert {i for i, s in wanted.items() if s in may} == set(plan.requests)
        if kind == 'r1_summary':
            assert {r.temperature for r in plan.requests.values()} == {0.0}


def test_the_cost_limit_leaves_the_rest_unasked(serve, tmp_path):
    url, asked = serve(right)
    prices = tmp_path / 'prices.yml'
    prices.write_text('prepared: {input: 0, output: 1000}\n')  # an answer of 5 tokens costs 0.005, at worst 0.01
    outcomes = run_collection(
        collection(url, max_tokens=10), tmp_path / 'r1.jsonl', prices=prices, max_cost=0.03, progress=False
    )
    states = [o.state for o in outcomes]
    assert set(states) == {'kept', 'unasked'} and states.count('kept') == len(asked)
    assert 0 < describe_outcomes(outcomes)['cost'] <= 0.03


def test_the_same_command_goes_on_and_asks_only_what_is_missing(serve, tmp_path):
    down = {'yes'}

    def answer(messages, headers):
        return (400, 'not now', '') if down and example_in(messages).id < EXAMPLES[5].id else right(messages, headers)

    url, asked = serve(answer)
    first = run_collection(collection(url), tmp_path / 'r1.jsonl', progress=False)
    failed = sum(o.state == 'failed' for o in first)
    assert 0 < failed < len(EXAMPLES)
    down.clear(), asked.clear()
    second = run_collection(collection(url), tmp_path / 'r1.jsonl', progress=False)
    assert {o.state for o in second} == {'kept'} and len(asked) == failed
    asked.clear()
    assert run_collection(collection(url), tmp_path / 'r1.jsonl', progress=False) == second and not asked


def test_the_conversation_of_each_kind(serve, tmp_path):
    url, asked = serve(
        lambda m, h: (
            right(m, h)
            if len(m) == 1 and 'Below is' not in m[0]['content']
            else (200, {'content': 'In short: the text says so.'}, 'stop')
        )
    )
    run_collection(collection(url), tmp_path / 'r1.jsonl', progress=False)
    for kind in ('r1_summary', 'post_hoc'):
        asked.clear()
        outcomes = run_collection(
            collection(url, kind), tmp_path / f'{kind}.jsonl', tmp_path / 'r1.jsonl', progress=False
        )
        assert [o.text for o in outcomes] == ['In short: the text says so.'] * 10
        assert {len(a['messages']) for a in asked} == {1 if kind == 'r1_summary' else 3}
    assert all(a['messages'][1]['content'] == ','.join(example_in(a['messages']).answers) for a in asked), (
        'explained is the answer that was given'
    )


# --- refusals


def test_refusals_name_the_remedy(serve, tmp_path):
    url, asked = serve(right)
    out = tmp_path / 'r1.jsonl'
    with pytest.raises(TracenbError, match='must not train'):
        run_collection(collection(url, split='test'), out)
    with pytest.raises(TracenbError, match="did you mean 'post_hoc'"):
        run_collection(collection(url, 'posthoc'), out)
    with pytest.raises(TracenbError, match='have no r1 outcome'):
        run_collection(collection(url, 'post_hoc'), out)
    assert not asked and not list(tmp_path.iterdir())
    run_collection(collection(url), out, progress=False)
    asked.clear()
    for change, says in (
        (dict(max_tokens=5), 'max_tokens'),
        (dict(data=replace(DATA, seed=1)), 'data'),
        (dict(endpoint=replace(endpoint(url), model='other')), 'endpoint'),
        (dict(think_tags=True), 'think_tags'),
    ):
        with pytest.raises(TracenbError, match=f'other settings: .*{says}'):
            run_collection(replace(collection(url), **change), out)
    assert not asked
    run_collection(
        replace(collection(url), endpoint=endpoint(url, concurrency=1)), out, progress=False
    )  # pace may change


# --- answers


@pytest.mark.parametrize(
    'text, is_right',
    [
        ('park', True),
        ('Park.', True),
        ('Ann is there.\n\npark', True),
        ('thinking aloud</think>\npark', True),
        ('The answer is: park', True),
        ('**Answer:** park', True),
        ('park\nshop', False),
        ('She is in the park.', False),
        ('', False),
    ],
)
def test_a_chat_answer_is_judged_by_the_scorer(text, is_right):
    example = next(e for e in load_examples(toy, DataConfig(source='built-in'), 'train') if e.answers == ('park',))
    assert judge_reply(text, example, toy)[1] is is_right


def test_several_answers_may_stand_in_any_plain_form():
    from tracenb.tasks import cotempqa

    several = [e for e in load_examples(cotempqa.cotempqa, DataConfig(n_train=30), 'train') if len(e.answers) > 1]
    assert several
    for e in several:
        a = list(e.answers)
        assert all(
            judge_reply(t, e, cotempqa.cotempqa)[1]
            for t in (
                repr(a),
                '\n'.join(a),
                '\n'.join(f'- {x}' for x in a),
                ', '.join(reversed(a)),
                'They are these:\n\n' + ', '.join(a),
            )
        )
        assert not any(
            judge_reply(t, e, cotempqa.cotempqa)[1] for t in (a[0], '\n'.join(a[1:]), ', '.join([*a, 'Nobody']))
        )


def test_language_rule_passes_every_rule_made_trace():
    assert not [e.id for e in EXAMPLES if why_not_english(babi.babi.trace_text(e, babi.babi.decompose(e)))]


# --- foreign files


def test_import_joins_judges_and_counts(tmp_path):
    a, b, c = EXAMPLES[:3]
    rows = [
        dict(id=a.id, prediction=a.answers[0], r1_trace='So it is.', r1_trace_summary='So.', r1_exp_ans='Because.'),
        dict(input=babi.babi.prompt(b), prediction='moon', r1_trace='The moon.'),
        dict(
            question=c.question,
            facts=str(list(c.context)),
            gold=str(list(c.answers)),
            prediction=','.join(c.answers),
            r1_trace='So <answer> it is',
        ),
        dict(id=a.id, r1_trace='Twice.'),
        dict(id=EXAMPLES[3].id, question='Who?', r1_trace='Other.'),
        dict(r1_trace='Of what?'),
    ]
    found, left_out = run_import(
        write_jsonl(tmp_path / 'f.jsonl', rows), tmp_path / 'o.jsonl', babi.babi, DATA, 'theirs'
    )
    assert [(o.kind, o.state) for o in found] == [
        ('r1', 'kept'),
        ('r1', 'wrong_answer'),
        ('r1', 'format'),
        ('r1_summary', 'kept'),
        ('post_hoc', 'kept'),
    ]
    assert found[0].reason == 'sample 1 of 2' and found[0].text == 'So it is.'  # 'Twice.' is a second sample
    assert len(left_out) == len(json.loads((tmp_path / 'o.json').read_text())['left_out']) == 2
    assert {t.source for t in read_jsonl(tmp_path / 'o.jsonl', Trace)} == {'theirs'}
    write_jsonl(tmp_path / 'f.jsonl', rows[:1])
    with pytest.raises(TracenbError, match='other settings: file_digest'):
        run_import(tmp_path / 'f.jsonl', tmp_path / 'o.jsonl', babi.babi, DATA, 'theirs')
    with pytest.raises(TracenbError, match='no usable row'):
        import_traces(write_jsonl(tmp_path / 'g.jsonl', rows[-1:]), index_examples(EXAMPLES, babi.babi))


def test_import_refuses_questions_of_the_test_split(tmp_path):
    test = load_examples(babi.babi, DataConfig(labels=DATA.labels, n_test=4), 'test')
    rows = [dict(input=babi.babi.prompt(e), r1_trace='So.') for e in (EXAMPLES[0], *test)]
    found, left_out = import_traces(write_jsonl(tmp_path / 'f.jsonl', rows), index_examples(EXAMPLES, babi.babi, test))
    assert (
        [o.id for o in found] == [EXAMPLES[0].id]
        and all('of the test split' in p.what for p in left_out)
        and len(left_out) == 4
    )


THOUGHT = 'Let me look at what the text says about this, so that I know where they are.'


def imported(tmp_path, rows):
    "(outcomes, problems) of an import of rows."
    return import_traces(write_jsonl(tmp_path / 'f.jsonl', rows), index_examples(EXAMPLES, babi.babi), 'theirs')


def test_a_teacher_without_an_answer_is_not_right(tmp_path):
    "Case data/14: empty, blank, null and absent answers are read apart, and none is kept."
    rows = [dict(id=EXAMPLES[k].id, prediction=p, r1_trace=THOUGHT) for k, p in enumerate(('', ' \n', None))]
    rows.append(dict(id=EXAMPLES[3].id, r1_trace=THOUGHT))
    found, left_out = imported(tmp_path, rows)
    assert [o.state for o in found] == ['no_answer'] * 4 and not left_out
    assert [o.reason.partition(':')[0] for o in found] == ['the prediction is empty'] * 2 + [
        'there is no prediction'
    ] * 2
    counts = tally(found).loc[('r1', 'all')]
    assert (counts.asked, counts.right, counts.wrong, counts.unread, counts.no_answer) == (4, 0, 0, 4, 4)


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(r1_trace=[THOUGHT, THOUGHT]), 'r1_trace is a list of 2, prediction is a text'),
        (dict(r1_trace=[THOUGHT]), 'r1_trace is a list of 1, prediction is a text'),
        (dict(r1_trace={'text': THOUGHT}), 'r1_trace is .*, not a text'),
        (dict(prediction=7), 'the prediction is .*, not a text'),
        (dict(prediction=['a', 'b']), 'r1_trace is a text, prediction is a list of 2'),
        (dict(question=['Where?']), 'question is .*, not a text'),
    ],
)
def test_what_is_not_a_text_is_refused(change, says, tmp_path):
    "Case data/15: the text taught is never the repr of a list."
    row = dict(id=EXAMPLES[0].id, prediction=','.join(EXAMPLES[0].answers), r1_trace=THOUGHT)
    with pytest.raises(TracenbError, match=says):
        imported(tmp_path, [row | change])


def test_of_several_answers_the_first_that_can_be_kept_is_taken(tmp_path):
    e = EXAMPLES[0]
    right, row = ','.join(e.answers), dict(id=e.id, r1_trace=THOUGHT)
    lists = dict(id=e.id, prediction=['moon', '', right, right], r1_trace=[f'{k} {THOUGHT}' for k in range(4)])
    texts = [f'<think>{k} {THOUGHT}</think> {a}' for k, a in enumerate(('moon', right))]
    for rows, reason, text in (
        ([lists], 'sample 3 of 4', f'2 {THOUGHT}'),
        ([row | dict(prediction='moon'), row | dict(prediction=right)], 'sample 2 of 2', THOUGHT),
        ([dict(problem=babi.babi.prompt(e), generations=texts)], 'sample 2 of 2', f'1 {THOUGHT}'),
        (
            [dict(custom_id=e.id, response=dict(body=dict(choices=[dict(message=dict(content=texts[1]))])))],
            '',
            f'1 {THOUGHT}',
        ),
        ([dict(question=e.question, facts=list(e.context), reasoning=THOUGHT, response=right)], '', THOUGHT),
    ):
        [outcome], left_out = imported(tmp_path, rows)
        assert (outcome.id, outcome.state, outcome.reason, outcome.text) == (
            e.id,
            'kept',
            reason,
            text,
        ) and not left_out
    [wrong], _ = imported(tmp_path, [row | dict(prediction='moon'), row | dict(prediction='')])
    assert wrong.state == 'wrong_answer' and wrong.reason.startswith('sample 1 of 2: ')
    with pytest.raises(TracenbError, match='no trace in it'):
        imported(tmp_path, [dict(id=e.id, prediction=right)])


def test_official_ids_join_an_import(tmp_path):
    e = EXAMPLES[0]
    own = e.id.removeprefix('babi-')
    [outcome], _ = imported(tmp_path, [dict(row_id=own, prediction=','.join(e.answers), r1_trace=THOUGHT)])
    assert (outcome.id, outcome.state) == (e.id, 'kept')


# --- the command


def test_the_import_tells_by_its_exit_code(tmp_path, call):
    rows = [dict(id=EXAMPLES[0].id, prediction=','.join(EXAMPLES[0].answers), r1_trace=THOUGHT)]
    args = ['import', 'f.jsonl', '--task', 'babi', '--labels', ','.join(DATA.labels), '--n', '10', '--out']
    for more, code in (([], 0), ([dict(id='nobody', r1_trace=THOUGHT)], 3)):
        write_jsonl(tmp_path / 'f.jsonl', rows + more)
        out, _ = call('teacher', *args, f'r{code}.jsonl', cwd=tmp_path, code=code)
        assert ('1 rows left out' in out) == bool(code)


def command(*args, cwd, **env):
    code = 'from tracenb.cli.teacher import teacher; teacher()'
    return forked.script(code, *args, cwd=cwd, env=os.environ | env, timeout=300)


def test_the_key_is_nowhere_in_output_or_files(serve, tmp_path):
    def echo(messages, headers):
        said = f'Your key is {headers["Authorization"]}'
        e = example_in(messages)
        if e.id == EXAMPLES[0].id:
            return 401, said, ''
        return 200, {'content': ','.join(e.answers), 'reasoning_content': said}, 'stop'

    url, asked = serve(echo)
    args = (
        'collect',
        '--task',
        'babi',
        '--n',
        10,
        '--labels',
        ','.join(DATA.labels),
        '--base-url',
        url,
        '--model',
        'prepared',
        '--timeout',
        10,
        '--out',
        'r1.jsonl',
    )
    dry = command(*args, '--dry-run', cwd=tmp_path, TEACHER_API_KEY=KEY)
    assert dry.returncode == 0 and 'examples: 10' in dry.stdout and not asked and not (tmp_path / 'r1.jsonl').exists()
    done = command(*args, cwd=tmp_path, TEACHER_API_KEY=KEY)
    assert done.returncode == 1 and '1 without an answer' in done.stdout, done.stderr[-2000:]
    assert len(asked) == 10
    for name, text in dict(out=done.stdout, err=done.stderr, dry=dry.stdout + dry.stderr).items():
        assert KEY not in text, name
    for p in tmp_path.rglob('*'):
        assert KEY.encode() not in p.read_bytes(), p.name
    assert len(read_outcomes(tmp_path / 'r1.jsonl')) == 10


def test_the_small_comparison_asks_about_what_the_demo_collects():
    from tracenb.runs.grids import get_grid

    collected = demo_settings()['r1'].data
    for run in get_grid('demo-interpretability').runs:
        assert (run.dataset, run.data.labels, run.data.max_words, run.data.seed) == (
            'babi',
            collected.labels,
            collected.max_words,
            collected.seed,
        )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='elsewhere nothing ends a server whose parent was killed')
@pytest.mark.parametrize('when', ['starting', pytest.param('up', marks=pytest.mark.exhaustive)])
def test_no_server_outlives_a_killed_demo(when):
    import psutil

    code = (
        'from tracenb.teacher.serve import serve_embedded\n'
        "with serve_embedded(port=8655): print('up', flush=True); input()"
    )
    process = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    below = []
    while not any('run_server' in ' '.join(p.cmdline()) for p in below):
        assert process.poll() is None
        time.sleep(0.02)
        below = psutil.Process(process.pid).children(recursive=True)
    if when == 'up':
        assert process.stdout.readline().strip() == 'up'
        below = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    assert below and not psutil.wait_procs(below, timeout=10)[1]


@pytest.mark.slow
@pytest.mark.parametrize('n', [1, pytest.param(3, marks=pytest.mark.exhaustive)])
def test_the_demo_collects_from_a_real_server(n, tmp_path):
    done = command('demo', '--n', n, '--out', 'demo', cwd=tmp_path)
    assert done.returncode == 0 and 'the mechanics, not a finding' in done.stdout, done.stderr[-2000:]
    outcomes = read_outcomes(tmp_path / 'demo' / 'r1.jsonl')
    known = {'kept', 'wrong_answer', 'length', 'format', 'empty'}
    assert len(outcomes) == n and not [(o.state, o.reason) for o in outcomes if o.state not in known]
