"""The survey's server: requests of participants, researchers and strangers, and a machine that fails."""

import asyncio
import contextlib
import json
import os
import socket
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import tracenb.study.http
from tracenb.core.records import TracenbError
from tracenb.fieldwork.load_test import UNLIMITED, LocalServer, attentive, bare_study, load_test, participate, shown_as
from tracenb.study.answers import open_answers, read_answers, read_participants
from tracenb.study.design import Panel, demo_study, read_study
from tracenb.study.http import HEADERS, LARGEST, Rates
from tracenb.study.participants import Store
from tracenb.study.server import export_token, read_page, read_private, return_url, serve, survey_app

SECRET = 'a-token-for-the-tests-of-the-export-0123456789'
STUDY = demo_study(
    trials=4,
    n_per_condition=40,
    panel=Panel(name='prolific', complete_url='https://app.prolific.com/submissions/complete'),
)
CODES = {'complete': 'CDONE', 'screened_out': 'CSCREEN', 'full': 'CFULL'}
BEARER = lambda token: {'Authorization': f'Bearer {token}'}


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "A real server; `.log` is where its lines go, `.db` its file."
    at = tmp_path_factory.mktemp('served')
    os.environ['TRACENB_STUDY_TOKEN'] = SECRET
    try:
        with LocalServer(bare_study(STUDY, at / 'study', CODES), at / 'study.sqlite', log=at / 'log') as s:
            s.db = at / 'study.sqlite'
            yield s
    finally:
        del os.environ['TRACENB_STUDY_TOKEN']


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, trust_env=False, timeout=20) as c:
        yield c


def enter(client, pid):
    return client.post('/api/enter', json={'panel': {'PROLIFIC_PID': pid, 'simulated': True}}).json()


def take_part(url, *answers, first=1):
    "A `Participation` for each function of `answers`, all at once."
    return asyncio.run(_all(participate(url, a, first + k) for k, a in enumerate(answers)))


async def _all(coroutines):
    return await asyncio.gather(*coroutines)


# --- participants


def test_codes_come_only_when_earned(server, client):
    right = attentive(STUDY)
    declines = lambda step, page, n: {'agree': False} if step == 'consent' else right(step, page, n)
    fails = lambda step, page, n: (
        {k: int(not v) for k, v in right(step, page, n).items()} if step == 'comprehension' else right(step, page, n)
    )
    leaves = lambda step, page, n: None if step == 'trial:2' else right(step, page, n)
    done, declined, failed, left = take_part(server.url, right, declines, fails, leaves)
    assert [(w.state, w.code) for w in (done, declined, failed, left)] == [
        ('complete', 'CDONE'),
        ('declined', None),
        ('screened_out', 'CSCREEN'),
        ('active', None),
    ]
    end = client.post('/api/finish', headers=BEARER(done.token)).json()
    assert (
        end['url'] == 'https://app.prolific.com/submissions/complete?cc=CDONE' and end['text'] == STUDY.texts['thanks']
    )
    for w in (declined, failed, left):
        r = client.post('/api/finish', headers=BEARER(w.token))
        assert 'CDONE' not in r.text and 'CFULL' not in r.text
        assert client.get('/api/steps/debrief', headers=BEARER(w.token)).status_code == 409
    assert read_participants(server.db).status.tolist()[:4].count('complete') == 1


def test_no_later_page_text_or_code_is_sent_early(client):
    me = enter(client, 'curious')
    mine = BEARER(me['token'])
    seen = (
        json.dumps(me) + client.get('/api/me', headers=mine).text + client.get('/api/steps/consent', headers=mine).text
    )
    for step in me['steps'][1:]:
        r = client.get(f'/api/steps/{step}', headers=mine)
        assert r.status_code == 409
        seen += r.text
    hidden = [*CODES.values(), STUDY.texts['debrief'], *(s.trace for i in STUDY.items for s in i.shown.values())]
    assert not [h for h in hidden if json.dumps(h)[1:-1] in seen]
    assert {c.prompt for c in STUDY.checks if c.prompt in seen} == set()


def test_a_reload_and_a_second_device_continue(client):
    first = enter(client, 'mover')
    client.put(
        '/api/answers/consent',
        json=dict(values={'agree': True}, seconds=1, attempt='attempt-1'),
        headers=BEARER(first['token']),
    )
    second = enter(client, 'mover')
    assert second['token'] != first['token'] and second['done'] == ['consent'] and second['steps'] == first['steps']
    assert client.get('/api/me', headers=BEARER(first['token'])).json()['done'] == ['consent']


def test_no_participant_sees_another(server, client):
    "Another participant tries tokens and addresses: only the export holds the text that the first one wrote."
    words = 'nobody else may read this: 7301'
    says = lambda step, page, n: (
        {q['name']: words for q in page['questions']} if step == 'free' else attentive(STUDY)(step, page, n)
    )
    (a,) = take_part(server.url, says, first=50)
    b = enter(client, 'other')
    tokens = [
        b['token'],
        a.token[:-1] + ('A' if a.token[-1] != 'A' else 'B'),
        a.token.lower(),
        'p0001',
        '1',
        '*',
        "' OR 1=1 --",
        b['token'] + a.token,
    ]
    paths = [
        p
        for step in ['consent', 'trial:0', 'free', 'debrief', '1', 'p0001', '%2e%2e', 'consent?participant=1']
        for p in (f'/api/steps/{step}', f'/api/answers/{step}')
    ] + ['/api/me', '/api/me?participant=p0001', '/api/export', '/api/participants', '/api/answers']
    for token in tokens:
        for path in paths:
            r = client.get(path, headers=BEARER(token))
            assert words not in r.text and r.status_code in (
                (200, 401, 404, 405, 409) if token == b['token'] else (401, 404, 405)
            ), (path, token)
    assert client.get('/api/me', headers=BEARER(b['token'])).json()['done'] == []
    assert (
        client.put(
            '/api/answers/consent',
            json=dict(values={'agree': True}, seconds=1, attempt='attempt-1'),
            headers=BEARER(tokens[1]),
        ).status_code
        == 401
    )
    assert words in client.get('/api/export', headers=BEARER(SECRET)).text


def test_a_panel_participant_needs_an_id(client):
    for panel in ({}, {'PROLIFIC_PID': '{{%PROLIFIC_PID%}}'}, {'PROLIFIC_PID': ''}, {'PROLIFIC_PID': 'a', 'name': 'x'}):
        assert client.post('/api/enter', json={'panel': panel}).status_code == 422


def test_a_page_is_recognized_so_that_answers_can_depend_on_the_condition(server):
    found = []

    def says(step, page, n):
        if step.startswith('trial'):
            found.append(shown_as(STUDY)[page['question'], page['answer'], page['trace']])
        return attentive(STUDY)(step, page, n)

    asyncio.run(participate(server.url, says, 60, opens=lambda step, number: step in ('trial:0', 'trial:3')))
    table = read_answers(server.db).query("kind == 'trial'")
    last = table[table.participant == table.participant.max()].drop_duplicates('step')
    assert found == list(zip(last.id, last.condition)) and last.context_opened.tolist() == [True, False, False, True]


# --- strangers


def test_every_reply_has_the_security_headers(client):
    replies = [
        client.get('/'),
        client.get('/index.html'),
        client.get('/openapi.json'),
        client.get('/healthz'),
        client.get('/api/me'),
        client.get('/nothing'),
        client.delete('/api/me'),
        client.post('/api/enter', content='{'),
        client.post('/api/enter', content=b'x' * (LARGEST + 1)),
        client.get('/', headers={'If-None-Match': client.get('/').headers['etag']}),
        client.get('/api/export', headers=BEARER(SECRET)),
        client.head('/'),
        client.options('/api/enter'),
    ]
    assert [r.status_code for r in replies] == [200, 200, 200, 200, 401, 404, 405, 422, 413, 304, 200, 200, 405]
    for r in replies:
        assert {k: r.headers.get(k) for k in HEADERS} == HEADERS
        assert 'server' not in r.headers and 'access-control-allow-origin' not in r.headers
        if r.status_code >= 400:
            assert set(r.json()) >= {'error', 'message'}
    assert (
        'unsafe' not in HEADERS['Content-Security-Policy']
        and "default-src 'none'; script-src 'self';" in HEADERS['Content-Security-Policy']
    )


def test_only_the_files_of_the_page_are_served(server):
    at = httpx.URL(server.url)
    for path in (
        '/study.json',
        '/private.json',
        '/page/',
        '/page',
        '/../private.json',
        '/%2e%2e/private.json',
        '/..%2fprivate.json',
        '/index.html/',
        '//etc/passwd',
        '/manifest.json',
        '/.',
        '/page/..%5cprivate.json',
        '/study.sqlite',
        '/docs',
        '/redoc',
    ):
        with socket.create_connection((at.host, at.port)) as s:  # as it is written, which clients do not send
            s.sendall(f'GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n'.encode())
            said = b''.join(iter(lambda: s.recv(65536), b''))
        assert b' 404 ' in said.split(b'\r\n')[0] and not any(c.encode() in said for c in CODES.values()), path


def test_bodies_have_a_largest_size(server, client):
    big = json.dumps({'panel': {}, 'x': 'y' * LARGEST})
    assert client.post('/api/enter', content=big, headers={'Content-Type': 'application/json'}).status_code == 413
    r = client.post(
        '/api/enter',
        content=(big[i : i + 10000].encode() for i in range(0, len(big), 10000)),
        headers={'Content-Type': 'application/json'},
    )  # in pieces, without Content-Length
    assert (r.status_code, r.json()['error']) == (413, 'large')
    at = httpx.URL(server.url)
    with socket.create_connection((at.host, at.port), timeout=10) as s:  # Content-Length alone is enough
        s.sendall(
            b'POST /api/enter HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n'
            b'Content-Length: 900000000\r\n\r\n'
        )
        assert b' 413 ' in s.recv(65536).split(b'\r\n')[0]


@pytest.mark.parametrize(
    'body',
    [
        '',
        'null',
        '[]',
        '{"panel": null}',
        '{"panel": []}',
        '[' * 100_000,
        '{"panel": {"\\ud800": 1}}',
        '{"panel": {"PROLIFIC_PID": "\\ud800"}}',
        '9' * 10_000,
        '{"panel": {"simulated": "yes"}}',
        '\x00',
        '{"panel": {"PROLIFIC_PID": "a\\u0000"}}',
    ],
)
def test_invalid_bodies_are_refused(client, body):
    assert client.post('/api/enter', content=body, headers={'Content-Type': 'application/json'}).status_code in (
        400,
        422,
    )


@pytest.mark.parametrize(
    'change',
    [
        {'seconds': 1e400},
        {'seconds': -1},
        {'seconds': None},
        {'attempt': 'short'},
        {'attempt': 5},
        {'values': []},
        {'values': {'agree': 'true'}},
        {'values': {'agree': 1}},
        {'values': {'agree': None}},
        {'values': {'agree': {}}},
        {'values': {'agree': True, 'more': 1}},
        {'values': {'\ud800': 1}},
        {'values': {'agree': '\ud800'}},
        {'values': {'agree': float('nan')}},
        {'values': {f'k{k}': 1 for k in range(200)}},
        {'extra': 1},
        {'context_opened': True},
        {'context_opened': 'yes'},
        {'context_opened': 1},
    ],
)
def test_invalid_answers_are_refused_and_not_stored(client, change):
    me = enter(client, 'odd')
    body = json.dumps(dict(values={'agree': True}, seconds=1, attempt='attempt-1') | change)
    r = client.put(
        '/api/answers/consent', content=body, headers=BEARER(me['token']) | {'Content-Type': 'application/json'}
    )
    assert r.status_code == 422 and r.json()['problems']
    assert enter(client, 'odd')['done'] == []


def test_a_body_that_does_not_arrive_in_time_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tracenb.study.http, 'PATIENCE', 0.1)

    async def slowly():
        yield b'{"panel": '
        await asyncio.sleep(60)

    async def straight(c):  # ASGITransport would gather the body first
        parts, sent = slowly(), []

        async def receive():
            return dict(type='http.request', body=await anext(parts), more_body=True)

        async def send(message):
            sent.append(message)

        await app(
            dict(
                type='http',
                method='POST',
                path='/api/enter',
                raw_path=b'/api/enter',
                query_string=b'',
                root_path='',
                scheme='http',
                http_version='1.1',
                headers=[(b'content-type', b'application/json')],
                client=('192.0.2.1', 1),
                server=('here', 80),
            ),
            receive,
            send,
        )
        return sent

    store, app = app_of(tmp_path)
    with closing(store):
        sent = talk(app, straight)
    assert (sent[0]['status'], json.loads(sent[1]['body'])['error']) == (408, 'slow')


@pytest.fixture
def limited(tmp_path):
    "Check the statuses of six requests with made-up X-Forwarded-For, on a server with 5 requests an hour."

    def check(proxy, expected):
        folder, rates = bare_study(STUDY, tmp_path / f'study{proxy}'), UNLIMITED | dict(client='5/hour')
        with LocalServer(folder, tmp_path / f'{proxy}.sqlite', rates=rates, proxy=proxy) as s:
            replies = [  # the first of the five requests was made by `LocalServer.start`
                httpx.get(f'{s.url}/healthz', headers={'X-Forwarded-For': f'198.51.100.{k}'}, trust_env=False)
                for k in range(6)
            ]
        assert [r.status_code for r in replies] == expected, proxy
        if 429 in expected:
            assert int(replies[-1].headers['retry-after']) > 0
            assert {k: replies[-1].headers[k] for k in HEADERS} == HEADERS

    return check


def test_rate_limits_count_clients_and_trust_only_the_named_proxy(limited):
    "Three servers, started at the same time, because importing is most of their work."
    cases = {'': [200] * 4 + [429] * 2, '127.0.0.1': [200] * 6, '192.0.2.7': [200] * 4 + [429] * 2}
    with ThreadPoolExecutor(len(cases)) as threads:
        assert len(list(threads.map(limited, cases.keys(), cases.values()))) == 3


def test_the_log_holds_no_personal_data(server, client):
    secrets = ['logged-person', 'words of the person', enter(client, 'logged-person')['token']]
    client.get('/', params={'PROLIFIC_PID': secrets[0]})
    client.get(f'/{secrets[1]}')
    client.put(
        '/api/answers/consent',
        json=dict(values={'comment': secrets[1]}, seconds=1, attempt='attempt-1'),
        headers=BEARER(secrets[2]),
    )
    client.get(f'/api/steps/{secrets[1]}', headers=BEARER(secrets[2]))
    log = open(server.log).read()
    assert '/api/answers/{step} 422' in log and '/api/steps/{step} 404' in log
    assert not [s for s in [*secrets, SECRET, *CODES.values(), '127.0.0.1:'] if s in log.replace(server.url, '')]


# --- researchers


def test_the_export_is_the_table(server, client, tmp_path):
    says = lambda step, page, n: (
        {q['name']: '=HYPERLINK("http://x")\r\n"a";b' for q in page['questions']}
        if step == 'free'
        else attentive(STUDY)(step, page, n)
    )
    take_part(server.url, says, first=70)
    for form in ('csv', 'jsonl'):
        r = client.get(f'/api/export?form={form}', headers=BEARER(SECRET))
        (tmp_path / f'a.{form}').write_bytes(r.content)
        assert r.headers['content-disposition'] == f'attachment; filename="demo.{form}"'
        pd.testing.assert_frame_equal(read_answers(tmp_path / f'a.{form}'), read_answers(server.db))
    assert '"\'=HYPERLINK' in (tmp_path / 'a.csv').read_text()
    for token in (SECRET[:-1], SECRET + 'x', SECRET.upper(), 'é' * 40):
        assert client.get('/api/export', headers={'Authorization': f'Bearer {token}'.encode()}).status_code == 401
    assert client.get('/api/export').status_code == 401
    assert client.get('/api/export?form=xlsx', headers=BEARER(SECRET)).status_code == 422


def app_of(tmp_path, study=STUDY, secret=None):
    folder = bare_study(study, tmp_path / 'study', CODES)
    codes, key = read_private(folder)
    store = Store(tmp_path / 'study.sqlite', read_study(folder), key)
    return store, survey_app(store, read_page(folder), codes, secret, Rates(**UNLIMITED))


def talk(app, work):
    "`await work(client)` against an app in this process."

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://here') as c:
            return await work(c)

    return asyncio.run(run())


def test_the_export_is_off_without_a_token(tmp_path, monkeypatch):
    store, app = app_of(tmp_path)
    with closing(store):
        assert talk(app, lambda c: c.get('/api/export', headers=BEARER(''))).status_code in (401, 403)
        assert talk(app, lambda c: c.get('/api/export', headers=BEARER('None'))).status_code == 403
    monkeypatch.setenv('TRACENB_STUDY_TOKEN', 'short')
    with pytest.raises(TracenbError, match='is short'):
        export_token()


def test_serve_checks_everything_before_it_starts(tmp_path, monkeypatch):
    folder, db = bare_study(STUDY, tmp_path / 'study', CODES), tmp_path / 'study.sqlite'

    def refuses(match, **kwargs):
        with pytest.raises(TracenbError, match=match):
            serve(folder, db, **dict(port=0) | kwargs)
        assert not db.exists()

    with socket.socket() as s:
        s.bind(('127.0.0.1', 0)), s.listen()
        refuses('cannot be used', port=s.getsockname()[1])
    monkeypatch.setenv('TRACENB_STUDY_TOKEN', 'short')
    refuses('is short')
    monkeypatch.delenv('TRACENB_STUDY_TOKEN')
    for name, harm, match in (
        ('private.json', lambda p: p.chmod(0o640), 'can be read by others: mode 640'),
        ('private.json', lambda p: p.write_text('{"codes": {"complete": "x"}}'), 'KeyError'),
        ('private.json', lambda p: p.unlink(), 'nobody could be paid'),
        ('page/index.html', lambda p: p.write_text('x'), 'not as it was built'),
        ('page/index.html', lambda p: p.unlink(), 'is missing'),
        ('page/manifest.json', lambda p: p.unlink(), 'no manifest'),
        ('study.json', lambda p: p.unlink(), 'no study.json'),
    ):
        harm(folder / name)
        refuses(match)
        bare_study(STUDY, tmp_path / 'study', CODES)
    codes, key = read_private(folder)
    Store(db, demo_study(trials=4, n_per_condition=3), key).close()
    with pytest.raises(TracenbError, match='another study'):
        serve(folder, db, port=0)


def test_the_return_address_is_that_of_the_panel():
    at = lambda url, code: return_url(demo_study(panel=Panel(complete_url=url)), code)
    assert (
        at('https://p.example/c', 'A B') == 'https://p.example/c?cc=A%20B'
        and at('https://p.example/c?cc=', 'A') == 'https://p.example/c?cc=A'
        and at('https://p.example/c?x=1', 'A') == 'https://p.example/c?x=1&cc=A'
    )
    assert at('', 'A') is None and at('https://p.example/c', None) is None


# --- a failing machine


def test_a_locked_file_and_a_full_disk_are_reported_and_lose_nothing(tmp_path):
    store, app = app_of(tmp_path)

    async def work(c):
        me = (await c.post('/api/enter', json={'panel': {'PROLIFIC_PID': 'a'}})).json()
        put = lambda: c.put(
            '/api/answers/consent',
            json=dict(values={'agree': True}, seconds=1, attempt='attempt-1'),
            headers=BEARER(me['token']),
        )
        store.db.execute('PRAGMA busy_timeout = 50')
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute('BEGIN IMMEDIATE')
            replies = [await put(), await c.get('/healthz'), await c.get('/api/me', headers=BEARER(me['token']))]
            other.execute('ROLLBACK')
        (pages,) = store.db.execute('PRAGMA page_count').fetchone()
        store.db.execute(f'PRAGMA max_page_count = {pages}')
        for k in range(200):
            r = await c.post('/api/enter', json={'panel': {'PROLIFIC_PID': f'p{k}'}})
            if r.status_code != 200:
                break
        replies.append(r)
        store.db.execute('PRAGMA max_page_count = 100000')
        return replies, await put()

    with closing(store):
        busy, after = talk(app, work)
    assert [r.status_code for r in busy] == [503] * 4
    for r in busy:
        assert (
            int(r.headers['retry-after']) > 0 and r.json()['error'] == 'busy' and r.headers['x-frame-options'] == 'DENY'
        )
    assert after.status_code == 200
    assert read_answers(tmp_path / 'study.sqlite').query("kind != 'enter'").participant.tolist() == ['p0001']


def test_kill_9_loses_nothing_and_doubles_nothing(tmp_path):
    study = demo_study(trials=4, n_per_condition=6)
    leaves = lambda step, page, n: None if n % 8 == 0 and step == 'trial:1' else attentive(study)(step, page, n)
    figures = asyncio.run(
        load_test(bare_study(study, tmp_path / 'study'), n=24, kills=2, answer=leaves, db=tmp_path / 'study.sqlite')
    )
    assert (figures['lost'], figures['doubled'], figures['apart']) == (0, 0, 0)
    assert figures['states'] == {'complete': 21, 'active': 3} and figures['retries'] > 0
    table = read_answers(tmp_path / 'study.sqlite')
    assert not table.duplicated(['participant', 'step', 'id', 'dimension']).any()


def test_sigterm_finishes_the_requests_in_progress(tmp_path):
    study = demo_study(trials=4, n_per_condition=10)
    with LocalServer(bare_study(study, tmp_path / 'study'), tmp_path / 'study.sqlite') as s:
        told = []

        def talk():
            with httpx.Client(base_url=s.url, trust_env=False) as c:
                for k in range(10_000):
                    try:
                        r = c.post('/api/enter', json={'panel': {'PROLIFIC_PID': f'p{k}'}})
                    except httpx.TransportError:
                        return
                    if r.is_success and 'token' in r.json():
                        told.append(r.json()['token'])

        threads = [threading.Thread(target=talk) for _ in range(4)]
        for t in threads:
            t.start()
        while len(told) < 20:
            time.sleep(0.01)
        s.process.terminate()
        s.process.wait(20)
        for t in threads:
            t.join()
    assert not list(tmp_path.glob('study.sqlite-*'))  # one file is left
    with closing(open_answers(tmp_path / 'study.sqlite')) as db:
        assert db.execute('SELECT count(*) FROM tokens').fetchone()[0] >= len(told)


# --- everything that the description allows


def test_every_reply_is_one_that_openapi_describes(tmp_path):
    """
    Requests that the description allows, and requests that it forbids, with and (by schemathesis itself) without a
    token: no reply is a 5xx, and every reply is described. 60 examples per route, or 200 in `make test-all`.
    """
    import schemathesis
    from schemathesis.specs.openapi.checks import positive_data_acceptance

    store, app = app_of(tmp_path, demo_study(trials=1, n_per_condition=500), SECRET)
    checked = Counter()

    def check(operation):
        @settings(
            max_examples=max(60, settings().max_examples),  # with fewer some described reply may not occur
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(
            st.one_of(operation.as_strategy(generation_mode=mode) for mode in schemathesis.GenerationMode),
            st.booleans(),
            st.booleans(),
        )
        def run(case, due, fitting):
            token = SECRET
            if operation.path != '/api/export':
                token = talk(app, lambda c: c.post('/api/enter', json={'panel': {}})).json()['token']
            if due and 'step' in case.path_parameters:
                case.path_parameters['step'] = 'consent'
            if fitting and isinstance(case.body, dict) and 'values' in case.body:
                case.body['values'] = {'agree': True}
                if isinstance(case.body.get('context_opened'), bool):
                    case.body['context_opened'] = None  # consent has no context
            # an invalid header, which must be sent as it is
            parts = case.meta.components.items()
            broken = any(str(where) == 'header' and part.mode.is_negative for where, part in parts)
            # the description does not say which values fit a step
            own = [positive_data_acceptance] if operation.method == 'put' else []
            reply = case.call_and_validate(excluded_checks=own, headers={} if broken else BEARER(token))
            checked[operation.method, operation.path, reply.status_code] += 1

        run()

    with closing(store):
        for result in schemathesis.openapi.from_asgi('/openapi.json', app).get_all_operations():
            check(result.ok())
    assert {path for _, path, _ in checked} == {
        '/api/enter',
        '/api/me',
        '/api/steps/{step}',
        '/api/answers/{step}',
        '/api/finish',
        '/api/export',
        '/healthz',
    }
    assert {
        ('post', '/api/enter', 200),
        ('get', '/api/steps/{step}', 200),
        ('put', '/api/answers/{step}', 200),
        ('get', '/api/export', 200),
    } <= set(checked), checked


# --- who is simulated, what is stored, connections


def test_a_client_cannot_mark_a_live_study_as_simulated_and_no_panel_means_no_ids(tmp_path):
    study, pid = demo_study(trials=1, n_per_condition=5), '5e1f00aa00bb00cc00dd00ee'
    with LocalServer(bare_study(study, tmp_path / 's'), tmp_path / 'a.sqlite') as s:
        panel = {'PROLIFIC_PID': pid, 'simulated': True}
        token = httpx.post(f'{s.url}/api/enter', json={'panel': panel}).json()['token']
        body = dict(values={'agree': True}, seconds=1, attempt='attempt-1', panel=panel)
        httpx.put(f'{s.url}/api/answers/consent', json=body, headers=BEARER(token)).raise_for_status()
        [row] = read_participants(tmp_path / 'a.sqlite').itertuples()
        assert not row.simulated and not hasattr(row, 'PROLIFIC_PID')
        health = httpx.get(f'{s.url}/healthz')
        assert health.json() == {'status': 'ok'}
        os.rename(tmp_path / 'a.sqlite', tmp_path / 'b.sqlite')
        health = httpx.get(f'{s.url}/healthz')
        assert health.status_code == 503 and 'a.sqlite was moved or deleted' in health.json()['message']
        assert httpx.post(f'{s.url}/api/finish', headers=BEARER(token)).status_code == 503


def test_ipv4_written_as_ipv6_is_the_same_client():
    network = tracenb.study.http.client_network
    assert network('::ffff:192.0.2.7') == network('192.0.2.7') == '192.0.2.7'
    assert network('::ffff:192.0.2.8') != '192.0.2.7' and network('2001:db8:1:2::5') == '2001:db8:1:2::/64'


def test_headers_that_never_end_and_too_many_connections_are_closed(tmp_path, monkeypatch):
    "In this process, with shorter limits."
    import uvicorn

    async def app(scope, receive, send):
        await send({'type': 'http.response.start', 'status': 200, 'headers': []})
        await send({'type': 'http.response.body', 'body': b'ok'})

    monkeypatch.setattr(tracenb.study.http, 'HEADER_SECONDS', 1.0)
    monkeypatch.setattr(tracenb.study.http, 'MOST', 20)
    sock = tracenb.study.http.listening_socket('127.0.0.1', 0)
    config = uvicorn.Config(app, http=tracenb.study.http.PatientProtocol, log_level='critical', lifespan='off')
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs=dict(sockets=[sock]), daemon=True)
    thread.start()
    address = sock.getsockname()
    while not server.started:
        time.sleep(0.05)
    try:
        slow = [socket.create_connection(address, timeout=5) for _ in range(30)]
        for s in slow:
            with contextlib.suppress(OSError):
                s.sendall(b'GET / HTTP/1.1\r\nHost: x\r\nX-a: b\r\n')
        with httpx.Client(base_url=f'http://127.0.0.1:{address[1]}', trust_env=False, timeout=10) as c:
            assert c.get('/').text == 'ok'  # The oldest of too many was closed
            time.sleep(2.5)
            assert c.get('/').text == 'ok'
        closed = 0
        for s in slow:
            with contextlib.suppress(ConnectionError):
                closed -= len(s.recv(1))
            closed += 1
        assert closed == 30
    finally:
        server.should_exit = True
        thread.join(10)
