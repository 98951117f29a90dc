"""The survey's page in Debian's Firefox, driven by WebDriver BiDi: Playwright's own protocol is not in that build."""

import json
import re
import shutil
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace

import pytest
from test_study_kinds import OWN, PAIRS
from test_survey_page import READY, small

from tracenb.core.records import TracenbError
from tracenb.fieldwork.load_test import LocalServer
from tracenb.study.answers import read_answers
from tracenb.study.build import page_files, write_study

FIREFOX = shutil.which('firefox-esr') or shutil.which('firefox')
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(not FIREFOX, reason='no Firefox on this machine: `apt-get install firefox-esr`'),
]


class Page:
    "One tab: `evaluate` returns what JSON can hold, `click` is a real click. Errors of the console are in `errors`."

    def __init__(self, socket):
        self.socket, self.sent, self.errors = socket, 0, []
        self.command('session.new', capabilities={})
        self.command('session.subscribe', events=['log.entryAdded'])
        self.context = self.command('browsingContext.getTree')['contexts'][0]['context']

    def command(self, method, **params):
        self.sent += 1
        self.socket.send(json.dumps(dict(id=self.sent, method=method, params=params)))
        while True:
            reply = json.loads(self.socket.recv())
            if reply.get('method') == 'log.entryAdded' and reply['params']['level'] == 'error':
                self.errors.append(reply['params']['text'])
            if reply.get('id') == self.sent:
                assert reply['type'] == 'success', reply
                return reply['result']

    def goto(self, url):
        self.command('browsingContext.navigate', context=self.context, url=url, wait='complete')

    def evaluate(self, expression):
        here = dict(target=dict(context=self.context), awaitPromise=True)
        reply = self.command('script.evaluate', expression=f'JSON.stringify(({expression}) ?? null)', **here)
        assert reply['type'] == 'success', reply
        return json.loads(reply['result']['value'])

    def wait(self, expression, seconds=20):
        until = time.monotonic() + seconds
        while not self.evaluate(f'Boolean({expression})'):
            assert time.monotonic() < until, f'{expression}: {self.evaluate("document.body.innerText")}'
            time.sleep(0.05)

    def click(self, selector, k=0):
        at = f'document.querySelectorAll({json.dumps(selector)})[{k}]'
        self.evaluate(f'{at}.scrollIntoView({{block: "center"}})')
        box = self.evaluate(f'(r => [r.x + r.width / 2, r.y + r.height / 2])({at}.getBoundingClientRect())')
        steps = [dict(type='pointerMove', x=round(box[0]), y=round(box[1]))]
        steps += [dict(type='pointerDown', button=0), dict(type='pointerUp', button=0)]
        mouse = dict(type='pointer', id='mouse', actions=steps)
        self.command('input.performActions', context=self.context, actions=[mouse])


@contextmanager
def firefox(profile):
    websocket = pytest.importorskip('websocket', reason='websocket-client is not installed')
    options = ['--headless', '--no-remote', '--profile', profile, '--remote-debugging-port', '0']
    process = subprocess.Popen([FIREFOX, *options], stderr=subprocess.PIPE, text=True)
    try:
        found = (re.search(r'listening on (ws://\S+)', line) for line in process.stderr)
        address = next(match[1] for match in found if match)
        yield Page(websocket.create_connection(f'{address}/session', timeout=60, suppress_origin=True))
    finally:
        process.terminate()
        process.wait(30)


def answer(page):
    "Answer all that is asked, by the mouse: of checks the right options, else the second one; sliders in the middle."
    picks = {'comprehension': [1, 2], 'attention': [4]}
    kind = page.evaluate('document.querySelector(".jspsych-content").className.match(/kind-(\\w+)/)?.[1]')
    for g in range(page.evaluate('document.querySelectorAll("fieldset").length')):
        page.evaluate(f'document.querySelectorAll("fieldset")[{g}].setAttribute("data-g", {g})')
        here = f'fieldset[data-g="{g}"] input'
        if page.evaluate(f'document.querySelectorAll({json.dumps(here)})[0].type') == 'range':
            page.click(here)
        else:
            page.click(here, picks.get(kind, [1] * 20)[g])
    return kind


def take_part(page, reload_at='free'):
    "From consent to the end; returns the kinds of pages."
    seen = []
    page.wait(f'({READY})()')
    while not page.evaluate('document.querySelector(".closing") !== null'):
        kind = answer(page)
        if kind == reload_at and kind not in seen:  # What was stored and chosen is still there
            place = page.evaluate('document.querySelector("#place").textContent')
            page.evaluate('window.before = 1, setTimeout(() => location.reload(), 50)')
            same = f'document.querySelector("#place")?.textContent === {json.dumps(place)}'
            page.wait(f'!window.before && document.querySelector("#survey .jspsych-btn") && {same} && ({READY})()')
            answer(page)
        seen.append(kind)
        before = page.evaluate('document.querySelector("#place").textContent')
        page.click('#survey .jspsych-btn')
        moved = f'document.querySelector("#place")?.textContent !== {json.dumps(before)}'
        page.wait(f'(document.querySelector(".closing") || {moved}) && ({READY})()')
    return seen


def test_whole_participations_with_ratings_sliders_and_pairs(tmp_path):
    try:
        files = page_files()
    except TracenbError as e:
        pytest.skip(f'jsPsych is neither in the cache nor within reach: {e}')
    bare = dict(checks=(), attention_allowed=0, n_per_condition=2)
    studies = dict(ratings=small(), sliders=replace(OWN, trials=2, **bare), pairs=replace(PAIRS, trials=2, **bare))
    (tmp_path / 'profile').mkdir()
    with firefox(tmp_path / 'profile') as page:
        for name, study in studies.items():
            built, db = write_study(study, tmp_path / name, files=files), tmp_path / f'{name}.sqlite'
            with LocalServer(built, db) as server:
                page.goto(f'{server.url}/?PROLIFIC_PID=p1&STUDY_ID=s1&SESSION_ID=x1')
                seen = take_part(page)
                codes = json.loads((built / 'private.json').read_text())['codes']
                code = page.evaluate('document.querySelector("#code")?.textContent')
                assert code == codes['complete']
                back = page.evaluate('document.querySelector("#return")?.href')
                assert back == (study.panel.complete_url + code if study.panel.complete_url else None)
            rows = read_answers(db)
            asked = len(study.scales or study.comparisons)
            kind = 'pair' if study.layout == 'pairs' else 'trial'
            assert seen.count(kind) == 2 and (rows.kind == kind).sum() == 2 * asked, seen
            assert set(rows.status) == {'complete'} and page.evaluate('window.hacked') is None
            if name == 'sliders':
                assert rows[(rows.dimension == 'clear')].value.between(45, 55).all()
    assert [e for e in page.errors if 'Content-Security-Policy' not in e] == []
