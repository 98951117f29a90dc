"""A chat endpoint on this machine that misbehaves on purpose, as seeded, and counts what it answered."""

import json
import random
import threading
import time
from collections import Counter
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FAULTS = (
    '429',
    '429 with Retry-After',
    '429 with a date',
    '500',
    'slow first byte',
    'late answer',
    'dropped mid-body',
    'malformed JSON',
    'wrong content type',
    'no completion',
)


class FaultyServer(ThreadingHTTPServer):
    "`plan(question, attempt)` names the fault of an attempt, or None for an answer."

    daemon_threads, request_queue_size = True, 256

    def __init__(self, plan, delay=0.0, patience=1.0):
        super().__init__(('127.0.0.1', 0), Handler)
        self.plan, self.delay, self.patience = plan, delay, patience  # patience: the client's time-out in seconds
        self.attempts, self.answered, self.faults, self.keys, self.lock = (
            Counter(),
            Counter(),
            Counter(),
            set(),
            threading.Lock(),
        )

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs=dict(poll_interval=0.01), daemon=True).start()
        return self

    def __exit__(self, *why):
        self.shutdown()
        self.server_close()

    @property
    def url(self):
        return f'http://127.0.0.1:{self.server_port}/v1'

    def handle_error(self, request, address):
        pass  # clients that gave up


def seeded_faults(share, seed=0):
    "A share of all attempts fails, each in one of the ways above."

    def plan(question, attempt):
        rng = random.Random(f'{seed}|{question}|{attempt}')
        return rng.choice(FAULTS) if rng.random() < share else None

    return plan


class Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'

    def log_message(self, *words):
        pass

    def say(self, status, body, kind='application/json', **headers):
        self.send_response(status)
        for name, value in {'content-type': kind, 'content-length': len(body), **headers}.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        server, asked = self.server, json.loads(self.rfile.read(int(self.headers['content-length'])))
        question = asked['messages'][-1]['content']
        with server.lock:
            server.attempts[question] += 1
            server.keys.add(self.headers['authorization'])
            fault = server.plan(question, server.attempts[question])
            server.faults[fault if isinstance(fault, (str, type(None))) else 'other form'] += 1
        time.sleep(server.delay)
        body = json.dumps(
            {
                'model': asked['model'],
                'usage': {'prompt_tokens': 10, 'completion_tokens': 5},
                'choices': [
                    {
                        'finish_reason': 'stop',
                        'message': {
                            'role': 'assistant',
                            'content': f'about {question}',
                            'reasoning_content': f'hmm, {question}',
                        },
                    }
                ],
            }
        ).encode()
        self.answer(fault, question, body)

    def answer(self, fault, question, body):
        wait = {
            '429 with Retry-After': {'retry_after': '0.2'},
            '429 with a date': {'retry_after': formatdate(time.time() + 2, usegmt=True)},
        }
        echo = json.dumps({'error': {'message': f'not now, {self.headers["authorization"]}'}}).encode()
        if isinstance(fault, int):
            return self.say(429, echo, retry_after=str(fault))  # come back in so many seconds
        if fault is None:
            self.say(200, body)
            with self.server.lock:
                self.server.answered[question] += 1
        elif isinstance(fault, dict):
            self.say(200, json.dumps(json.loads(body) | fault).encode())  # an answer of another form
        elif fault.startswith('429'):
            self.say(429, echo, **wait.get(fault, {}))
        elif fault == '500':
            self.say(500, b'<h1>oops</h1>', 'text/html')
        elif fault in ('slow first byte', 'late answer'):
            time.sleep(self.server.patience * (1.3 if fault == 'late answer' else 2))
            self.say(200, body)  # nobody listens any more
        elif fault == 'dropped mid-body':
            self.send_response(200)
            self.send_header('content-type', 'application/json')
            self.send_header('content-length', str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == 'malformed JSON':
            self.say(200, body[:-3])
        elif fault == 'wrong content type':
            self.say(200, b'<html>please log in</html>', 'text/html')
        elif fault == 'no completion':
            self.say(200, b'{"choices": []}')
        elif fault == '401':
            self.say(401, echo)
