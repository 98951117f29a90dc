"""The client of a chat endpoint: real requests to a real server on this machine that misbehaves on purpose."""

import asyncio
import json
import os
import signal
import sqlite3
import stat
import threading
import time
from collections import Counter

import forked
import psutil
import pytest
from faulty_server import FAULTS, FaultyServer, seeded_faults

from tracenb.core.records import TracenbError
from tracenb.teacher import client
from tracenb.teacher.client import ask, estimate_cost
from tracenb.teacher.endpoint import Endpoint, Request, request_key
from tracenb.teacher.prices import read_prices

SECRET = 'sk-do-not-tell-5f2a9c'


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(client, 'BACKOFF', 0.02)


def questions(n, **more):
    return [
        Request(id=f'q{i}', messages=({'role': 'user', 'content': f'question {i}'},), max_tokens=20, **more)
        for i in range(n)
    ]


def at(server, **more):
    return Endpoint(**dict(base_url=server.url, model='m', timeout=server.patience, concurrency=8) | more)


def put(n, server, tmp_path, endpoint=None, **more):
    return ask(questions(n), endpoint or at(server), tmp_path / 'c.sqlite', progress=False, **more)


def test_a_thousand_requests_with_faults(tmp_path, capsys):
    "Every request ends in exactly one state, none is lost or sent again after its answer arrived, memory stays flat."
    with FaultyServer(seeded_faults(0.1), patience=2.5) as server:
        endpoint = at(server, concurrency=32, retries=8)
        ask(questions(1000)[:100], endpoint, tmp_path / 'warm.sqlite', progress=False)
        for counts in (server.attempts, server.answered, server.faults):
            counts.clear()
        before, began = psutil.Process().memory_info().rss, time.monotonic()
        replies = ask(questions(1000), endpoint, tmp_path / 'c.sqlite', progress=False)
        grown, seconds = (psutil.Process().memory_info().rss - before) / 2**20, time.monotonic() - began
        assert [r.id for r in replies] == [f'q{i}' for i in range(1000)] and Counter(r.state for r in replies) == {
            'ok': 1000
        }
        assert all(
            r.text == f'about question {i}' and r.reasoning == f'hmm, question {i}' for i, r in enumerate(replies)
        )
        assert set(server.answered) == {f'question {i}' for i in range(1000)} and set(server.answered.values()) == {1}
        assert {r.id: r.attempts for r in replies} == {f'q{i}': server.attempts[f'question {i}'] for i in range(1000)}
        assert (
            set(FAULTS) <= set(server.faults)
            and sum(server.faults[f] for f in FAULTS) == sum(server.attempts.values()) - 1000
        )
        assert grown < 30
        with capsys.disabled():
            attempts = sum(server.attempts.values())
            print(f'\n1000 requests, {attempts} attempts, {seconds:.1f} s, {grown:.1f} MB: {dict(server.faults)}')
        sent = sum(server.attempts.values())
        assert (
            ask(questions(1000), endpoint, tmp_path / 'c.sqlite', progress=False) == replies
            and sum(server.attempts.values()) == sent
        )


@pytest.mark.parametrize('fault', FAULTS)
def test_each_fault_is_survived_once_and_named_when_it_stays(fault, tmp_path):
    with FaultyServer(lambda question, attempt: fault if attempt == 1 else None, patience=0.4) as server:
        [reply] = put(1, server, tmp_path)
        assert (reply.state, reply.attempts, reply.error) == ('ok', 2, None)
    with FaultyServer(lambda question, attempt: fault, patience=0.2) as server:
        [reply] = put(1, server, tmp_path, at(server, retries=1))
        assert reply.state == 'failed' and '(2 attempts)' in reply.error and reply.cost is None
        server.plan = lambda question, attempt: None
        assert put(1, server, tmp_path, at(server, retries=1))[0].state == 'ok', (
            'a failure is not kept: the same call asks again'
        )


@pytest.mark.parametrize(
    'after, least', [('429 with Retry-After', 0.2), ('429 with a date', 0.9)]
)  # a date has whole seconds
def test_retry_after_is_honored(after, least, tmp_path):
    with FaultyServer(lambda question, attempt: after if attempt == 1 else None) as server:
        began = time.monotonic()
        assert put(1, server, tmp_path)[0].state == 'ok' and time.monotonic() - began >= least


def test_a_server_that_asks_for_a_day_is_not_waited_for(tmp_path):
    with FaultyServer(lambda question, attempt: 86400 if attempt == 1 else None) as server:
        [reply] = put(1, server, tmp_path)
        assert (
            reply.state == 'failed'
            and reply.error.endswith('the server asks to wait 86400 s')
            and reply.attempts == 1
            and reply.cost is None
        )
        assert put(1, server, tmp_path)[0].state == 'ok', 'the same call asks again'


@pytest.mark.parametrize('message', [{'role': 'user'}, {'role': 'user', 'content': ['parts']}])
def test_a_message_that_is_none_is_said(message):
    with pytest.raises(ValueError, match='request q7, message 2: .*'):
        Request(id='q7', messages=({'role': 'user', 'content': 'x'}, message))


@pytest.mark.parametrize(
    'answer, state',
    [
        ({'choices': [{'finish_reason': 'length', 'message': {'content': 'cut'}}]}, 'length'),
        ({'choices': [{'finish_reason': 'content_filter', 'message': {'content': None}}]}, 'refusal'),
        ({'choices': [{'finish_reason': 'stop', 'message': {'content': None, 'refusal': 'no'}}]}, 'refusal'),
        ({'usage': None}, 'ok'),
    ],
)
def test_other_answers_are_states_and_are_kept(answer, state, tmp_path):
    with FaultyServer(lambda question, attempt: answer) as server:
        assert put(1, server, tmp_path)[0].state == state
        assert put(1, server, tmp_path)[0].state == state and server.attempts['question 0'] == 1


def said(content, **more):
    return {'choices': [{'finish_reason': 'stop', 'message': {'role': 'assistant', 'content': content} | more}]}


PARTS = [{'type': 'thinking', 'thinking': [{'type': 'text', 'text': 'So.'}]}, {'type': 'text', 'text': 'school'}]


@pytest.mark.parametrize(
    'answer, text, reasoning',
    [
        (said(PARTS), 'school', 'So.'),
        (said([{'type': 'thinking', 'thinking': 'So.'}, {'type': 'text', 'text': 'school'}]), 'school', 'So.'),
        (said([{'type': 'text', 'text': 'sch'}, {'type': 'text', 'text': 'ool'}]), 'school', ''),
        (said('school', reasoning='So.'), 'school', 'So.'),
        (said('school', reasoning_content=[{'type': 'text', 'text': 'So.'}]), 'school', 'So.'),
        (said('school') | {'usage': {'prompt_tokens': '10', 'completion_tokens': None}}, 'school', ''),
        (said('school') | {'usage': [1]}, 'school', ''),
    ],
)
def test_parts_and_odd_forms_cost_one_request(answer, text, reasoning, tmp_path):
    "Case data/24."
    with FaultyServer(lambda question, attempt: answer) as server:
        [reply] = put(1, server, tmp_path)
        assert (reply.state, reply.text, server.attempts['question 0']) == ('ok', text, 1)
        assert reply.reasoning.startswith(reasoning)


@pytest.mark.parametrize('content', [7, [7], [{'type': 'image_url', 'image_url': 'x'}], {'a': 1}])
def test_what_cannot_be_read_is_named_after_one_request(content, tmp_path):
    with FaultyServer(lambda question, attempt: said(content, reasoning_content='')) as server:
        [reply] = put(1, server, tmp_path)
        assert reply.state == 'failed' and 'a part of the content is' in reply.error
        assert server.attempts['question 0'] == reply.attempts == 1


def test_a_permanent_error_is_not_tried_again(tmp_path):
    with FaultyServer(lambda question, attempt: '401') as server:
        [reply] = put(1, server, tmp_path)
        assert reply.state == 'failed' and reply.error.startswith('status 401') and server.attempts['question 0'] == 1


def test_the_same_question_is_sent_once(tmp_path):
    with FaultyServer(lambda question, attempt: None, delay=0.05) as server:
        twice = questions(3) + [Request(id=f'again {r.id}', messages=r.messages, max_tokens=20) for r in questions(3)]
        replies = ask(twice, at(server), tmp_path / 'c.sqlite', progress=False)
        assert [r.id for r in replies] == [r.id for r in twice] and set(server.attempts.values()) == {1}
        other = [Request(id='q0', messages=twice[0].messages, max_tokens=20, temperature=0.5)]
        assert (
            ask(other, at(server), tmp_path / 'c.sqlite', progress=False)[0].key != replies[0].key
            and server.attempts['question 0'] == 2
        )


COLLECT = """
import sys
from tracenb.teacher import client
from tracenb.teacher.endpoint import Endpoint, Request
client.BACKOFF = .02
messages = [({'role': 'user', 'content': f'question {i}'},) for i in range(200)]
questions = [Request(id=f'q{i}', messages=m, max_tokens=20) for i, m in enumerate(messages)]
endpoint = Endpoint(base_url=sys.argv[1], model='m', timeout=1, retries=8)
client.ask(questions, endpoint, sys.argv[2], progress=False)
"""


@pytest.mark.slow
def test_killed_and_continued_pays_for_nothing_twice(tmp_path):
    "SIGKILL after some fifty answers; the second process sends only what was not stored."
    with FaultyServer(seeded_faults(0.1, seed=1), delay=0.02) as server:
        process = forked.start(COLLECT, server.url, tmp_path / 'c.sqlite')
        while sum(server.answered.values()) < 50 and process.is_alive():
            time.sleep(0.005)
        process.kill()
        process.join()
        time.sleep(0.3)
        with sqlite3.connect(tmp_path / 'c.sqlite') as db:
            stored = {json.loads(r)['messages'][0]['content'] for (r,) in db.execute('SELECT request FROM replies')}
        assert 30 <= len(stored) < 200
        before = Counter(server.attempts)
        replies = ask(questions(200), at(server, timeout=1, retries=8), tmp_path / 'c.sqlite', progress=False)
        assert {r.state for r in replies} == {'ok'} and len(replies) == 200
        assert all(server.attempts[q] == before[q] for q in stored), 'what was stored is not sent again'
        assert sum(n > 1 for n in server.answered.values()) <= 8, 'only what was under way at the kill is paid twice'


def test_a_second_process_waits_outside(tmp_path):
    from filelock import FileLock

    with FaultyServer(lambda question, attempt: None) as server, FileLock(f'{tmp_path / "c.sqlite"}.lock'):
        done = forked.script(COLLECT, server.url, tmp_path / 'c.sqlite')
        assert 'another process is using this cache' in done.stderr and not server.attempts


# --- Money and limits


def test_the_limit_is_never_passed(tmp_path):
    (tmp_path / 'p.yaml').write_text('m: {input: 1000, output: 1000}')  # an answer costs 0.015 dollars, at worst 0.047
    with FaultyServer(lambda question, attempt: None, delay=0.01) as server:
        replies = put(40, server, tmp_path, prices=tmp_path / 'p.yaml', max_cost=0.2)
        states = Counter(r.state for r in replies)
        spent = sum(r.cost or 0 for r in replies)
        assert (
            states['ok'] + states['unasked'] == 40
            and sum(server.attempts.values()) == states['ok']
            and 0.2 - 0.05 < spent <= 0.2
        )
        more = put(40, server, tmp_path, prices=tmp_path / 'p.yaml', max_cost=0.2)
        assert Counter(r.state for r in more)['ok'] == 2 * states['ok'], 'the same call goes on'


def test_lost_answers_count_at_their_worst(tmp_path):
    "Every answer is dropped, and each may have been billed: attempts end before the limit could be passed."
    (tmp_path / 'p.yaml').write_text('m: {input: 1000, output: 1000}')
    with FaultyServer(lambda question, attempt: 'dropped mid-body') as server:
        [reply] = put(1, server, tmp_path, at(server, retries=8), prices=tmp_path / 'p.yaml', max_cost=0.1)
        assert (
            reply.state == 'failed'
            and sum(server.attempts.values()) * 0.046 <= 0.1
            and server.attempts['question 0'] == 2
        )


def test_a_server_that_names_no_tokens_is_counted_at_its_worst(tmp_path):
    (tmp_path / 'p.yaml').write_text('m: {input: 1000, output: 1000}')
    with FaultyServer(lambda question, attempt: {'usage': None}) as server:
        replies = put(20, server, tmp_path, prices=tmp_path / 'p.yaml', max_cost=0.2)
        assert Counter((r.state, r.cost) for r in replies) == {('ok', None): 4, ('unasked', None): 16}


def test_a_limit_needs_a_price_and_an_end(tmp_path):
    with FaultyServer(lambda question, attempt: None) as server:
        with pytest.raises(TracenbError, match="no price is known for 'm'"):
            put(1, server, tmp_path, max_cost=1)
        endless = [Request(id='q', messages=({'role': 'user', 'content': 'x'},))]
        with pytest.raises(TracenbError, match='needs a limit of tokens'):
            ask(endless, at(server, model='gpt-4o-mini'), tmp_path / 'c.sqlite', max_cost=1, progress=False)
        assert not server.attempts


def test_the_estimate_knows_the_cache(tmp_path):
    (tmp_path / 'p.yaml').write_text('m: {input: 1, output: 10}')
    with FaultyServer(lambda question, attempt: None) as server:
        put(3, server, tmp_path)
        assert estimate_cost(questions(5), at(server), tmp_path / 'c.sqlite', tmp_path / 'p.yaml') == dict(
            requests=5,
            cached=3,
            calls=2,
            prompt_tokens=6,
            completion_tokens_at_most=40,
            cost_at_most=pytest.approx(406e-6),
        )
        assert (
            estimate_cost(questions(5), at(server), tmp_path / 'none.sqlite')['calls'] == 5
            and not (tmp_path / 'none.sqlite').exists()
        )


@pytest.mark.parametrize('text', ['m: 3', '[1]', 'm: {input: 1}', 'm: {input: -1, output: 2}', 'm: {'])
def test_bad_price_tables(text, tmp_path):
    (tmp_path / 'p.yaml').write_text(text)
    with pytest.raises(TracenbError, match='p.yaml'):
        read_prices(tmp_path / 'p.yaml')


def test_at_most_so_many_requests_a_minute(tmp_path):
    with FaultyServer(lambda question, attempt: None) as server:
        began = time.monotonic()
        put(62, server, tmp_path, at(server, requests_per_minute=60, concurrency=62))
        assert time.monotonic() - began >= 1.5, '60 at once, then one a second'


def test_from_a_notebook_whose_loop_is_running(tmp_path):
    with FaultyServer(lambda question, attempt: None) as server:

        async def cell():
            return put(2, server, tmp_path)

        assert [r.state for r in asyncio.run(cell())] == ['ok', 'ok']


# --- The key


def test_the_key_reaches_nothing(tmp_path, monkeypatch, capfd):
    "The server echoes the Authorization header in errors and in an answer."
    monkeypatch.setenv('TEACHER_API_KEY', SECRET)
    echo = {
        'choices': [
            {'finish_reason': 'stop', 'message': {'content': f'you are {SECRET}', 'reasoning_content': SECRET}}
        ],
        'model': SECRET,
    }
    plan = {'question 0': '401', 'question 1': '429', 'question 2': echo}
    with FaultyServer(lambda question, attempt: plan[question]) as server:
        replies = put(3, server, tmp_path, at(server, retries=1))
        assert server.keys == {f'Bearer {SECRET}'}, 'the server did get it'
    assert (
        [r.state for r in replies] == ['failed', 'failed', 'ok']
        and replies[2].text == 'you are [key]'
        and '[key]' in replies[0].error
    )
    said = capfd.readouterr()
    assert SECRET not in said.out + said.err + repr(replies) + ''.join(r.to_json() for r in replies)
    for path in tmp_path.rglob('*'):
        assert SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize('key', ['sk-with/slash+5f2a9c', SECRET])
def test_no_part_of_an_echoed_key_is_left(key, tmp_path, monkeypatch):
    "Escaped as JSON may, and across the place where a long message is cut."
    monkeypatch.setenv('TEACHER_API_KEY', key)
    import faulty_server

    def answer(self, fault, question, body):
        if fault == 'long':
            self.say(401, json.dumps({'error': {'message': 'x' * (300 - int(question.split()[1]) * 4) + key}}).encode())
        else:
            self.say(
                200,
                json.dumps({'choices': [{'finish_reason': 'stop', 'message': {'content': f'you are {key}'}}]})
                .replace('/', '\\/')
                .encode(),
            )

    monkeypatch.setattr(faulty_server.Handler, 'answer', answer)
    with FaultyServer(lambda question, attempt: 'long') as server:
        for r in put(30, server, tmp_path):
            assert key[:6] not in r.error and key[-6:] not in r.error, r.error
        server.plan = lambda question, attempt: 'escaped'
        assert {r.text for r in put(3, server, tmp_path)} == {'you are [key]'}
    for path in tmp_path.rglob('*'):
        assert key.encode() not in path.read_bytes() and key.replace('/', '\\/').encode() not in path.read_bytes()


def test_an_error_carries_no_key(tmp_path, monkeypatch):
    import traceback

    monkeypatch.setenv('TEACHER_API_KEY', SECRET)
    for url, says in (
        (f'https://me:{SECRET}@example.org/v1', 'holds a password'),
        ('ftp://example.org', 'not an http address'),
    ):
        with pytest.raises(TracenbError, match=says) as e:
            ask(questions(1), Endpoint(base_url=url, model='m'), tmp_path / 'c.sqlite', progress=False)
        assert SECRET not in ''.join(traceback.format_exception(e.value, chain=True)).replace(f"'{url}'", '')
    monkeypatch.delenv('TEACHER_API_KEY')
    with pytest.raises(TracenbError, match='TEACHER_API_KEY is not set'):
        ask(questions(1), Endpoint(base_url='https://example.org/v1', model='m'), tmp_path / 'c.sqlite', progress=False)


def test_the_cache_is_its_owners(tmp_path):
    with FaultyServer(lambda question, attempt: None) as server:
        put(1, server, tmp_path)
    assert stat.S_IMODE(os.stat(tmp_path / 'c.sqlite').st_mode) == 0o600
    (tmp_path / 'text.sqlite').write_text('not a database, but long enough to be read as one' * 100)
    with pytest.raises(TracenbError, match='text.sqlite: not a cache of replies'):
        estimate_cost(questions(1), Endpoint(base_url='http://localhost/v1', model='m'), tmp_path / 'text.sqlite')


def test_the_key_of_a_request_covers_all_that_matters():
    base, e = questions(1)[0], Endpoint(base_url='http://localhost/v1', model='m')
    others = [
        request_key(questions(1, temperature=0.0)[0], e),
        request_key(questions(2)[1], e),
        request_key(base, Endpoint(base_url='http://localhost/v1', model='n')),
        request_key(base, Endpoint(base_url='http://localhost/v2', model='m')),
    ]
    assert len({request_key(base, e), *others}) == 5 and request_key(
        base, Endpoint(base_url='http://localhost/v1', model='m', concurrency=1, timeout=1.0)
    ) == request_key(base, e)


@pytest.mark.parametrize('interrupts', (1, 2, 20))
def test_an_interrupt_in_a_notebook_returns_when_the_requests_have_ended(interrupts):
    "The cache is closed next: a request that still wrote to it crashed the kernel."
    steps = []

    async def work():
        steps.append('begun')
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGINT]).start()
        try:
            await asyncio.sleep(60)
        finally:
            for _ in range(interrupts - 1):
                os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)
            steps.append('ended')

    async def cell():
        client._run(work())

    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(cell())
    assert steps == ['begun', 'ended']
