"""A study on a panel: places follow Prolific, and people are paid, withdraw and are excluded while it is served."""

import asyncio
import contextlib
import heapq
import json
import os
import random
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import httpx
import pytest
from typer.testing import CliRunner

from tracenb.cli.main import app as command
from tracenb.core.records import TracenbError
from tracenb.fieldwork.load_test import LocalServer, attentive, bare_study, participate
from tracenb.fieldwork.monitor import add_monitor
from tracenb.fieldwork.prolific import exclude, follow_prolific, payments, read_ids, study_status, withdraw
from tracenb.fieldwork.source import read_source
from tracenb.ratings.scales import check_answers, participant_flow, participant_table, rules_of
from tracenb.study.answers import read_answers, read_participants
from tracenb.study.design import Panel, demo_study
from tracenb.study.http import PROLIFIC_ID, Rates
from tracenb.study.participants import Refused, Store, enter, finish_participation, step_page, store_answer
from tracenb.study.preregister import prolific_draft
from tracenb.study.server import read_page, read_private, survey_app

PANEL = Panel(name='prolific', complete_url='https://app.prolific.com/submissions/complete?cc=')
ID = lambda k: f'{k:024x}'


def small(n=2, **other):
    return demo_study(trials=2, n_per_condition=n, panel=PANEL, **other)


@pytest.fixture
def made(tmp_path):
    "(store, built folder, file) of a small study."
    study = small()
    built = bare_study(study, tmp_path / 'survey')
    store = Store(tmp_path / 'study.sqlite', study, read_private(built)[1])
    try:
        yield store, built, tmp_path / 'study.sqlite'
    finally:
        store.close()


def do(store, work, *args):
    return store.submit(work, store, *args).result(60)


def walk(store, pid, until=None, says=None):
    "Enter and answer all steps, or those before `until`; returns the token."
    entered, says = do(store, enter, {'PROLIFIC_PID': pid}), says or attentive(store.study)
    for step in entered['steps']:
        if step == until:
            break
        values = says(step, do(store, step_page, entered['token'], step), 1)
        do(store, store_answer, entered['token'], step, values, 20.0, 'attempt-1')
    return entered['token']


def export(path, status):
    "An export of Prolific: id -> status."
    rows = [f's{k},{pid},{said},2026-11-27' for k, (pid, said) in enumerate(status.items())]
    path.write_text('\n'.join(['Submission id,Participant id,Status,Started at', *rows]))
    return path


# --- a whole run on Prolific, simulated: 10 of 100 people return, and each is replaced at once


class Prolific:
    "The panel's side: as many people at once as there are places; whoever returns is replaced at once."

    def __init__(self, places, share_returned, seed):
        self.free, self.rng, self.came, self.status = places, random.Random(seed), 0, {}
        self.leavers = {k for k in range(1, 10 * places) if self.rng.random() < share_returned}

    def next_person(self):
        self.free, self.came = self.free - 1, self.came + 1
        self.status[ID(self.came)] = 'ACTIVE'
        return self.came

    def left(self, k, why='RETURNED'):
        self.status[ID(k)], self.free = why, self.free + 1


@pytest.mark.parametrize(
    ('n', 'share', 'surplus', 'every'),
    [
        (5, 0.1, 4, 5),
        (25, 0.1, 6, 5),  # 100 places
        pytest.param(25, 0.3, 16, 10, marks=pytest.mark.exhaustive),
    ],
)
def test_all_places_end_completed_and_nobody_is_turned_away(tmp_path, n, share, surplus, every):
    study, now = small(n), [1e9]
    built, db = bare_study(study, tmp_path / 'survey'), tmp_path / 'study.sqlite'
    store = Store(db, study, read_private(built)[1], clock=lambda: now[0], surplus=surplus)
    panel, says, events, counts = Prolific(4 * n, share, seed=n), attentive(study), [], Counter()
    plan = lambda minutes, *what: heapq.heappush(events, (now[0] + 60 * minutes, len(events) + counts['events'], what))
    for minutes in range(0, 600, every):
        plan(minutes, 'export')
    plan(0, 'arrive')
    with closing(store):
        while events and sum(s == 'AWAITING REVIEW' for s in panel.status.values()) < 4 * n:
            now[0], _, (what, *about) = heapq.heappop(events)
            counts['events'] += 1
            if what == 'export':
                follow_prolific(db, built, export(tmp_path / 'p.csv', panel.status))
            elif what == 'arrive':
                if panel.free:
                    k = panel.next_person()
                    came = do(store, enter, {'PROLIFIC_PID': ID(k)})
                    counts[came['state']] += 1
                    steps = came['steps']
                    if k in panel.leavers:  # Some before the consent
                        steps = steps[: panel.rng.randrange(len(steps))]
                    for i, step in enumerate(steps, 1):
                        plan(12 * i / len(came['steps']), 'step', k, came['token'], step)
                    plan(12.1 if k not in panel.leavers else 12 * (len(steps) + 0.5) / len(came['steps']), 'end', k)
                plan(panel.rng.expovariate(1), 'arrive')
            elif what == 'step':
                k, token, step = about
                values = says(step, do(store, step_page, token, step), k)
                do(store, store_answer, token, step, values, 20.0, f'attempt-{k}-{step}'.replace(':', '-'))
            elif about[0] in panel.leavers:
                panel.left(about[0])
                counts['returned'] += 1
            else:
                panel.status[ID(about[0])] = 'AWAITING REVIEW'
        follow_prolific(db, built, export(tmp_path / 'p.csv', panel.status))
    assert counts['full'] == 0 and counts['returned'] > 0, counts
    people = read_participants(db)
    done = people[people.status == 'complete']
    assert len(done) == 4 * n and done.PROLIFIC_PID.is_unique
    assert max(done.condition.value_counts()) <= n + surplus
    status = study_status(db)
    assert status['done'] == status['places_in_all'] == 4 * n
    assert status['returned'] == (people.status == 'returned').sum() > 0


def test_without_surplus_and_export_a_replacement_is_turned_away_and_with_the_export_not(tmp_path, made):
    store, built, db = made
    for k in range(8):
        walk(store, ID(k), until='trial:1')
    assert do(store, enter, {'PROLIFIC_PID': ID(9)}) == {'state': 'full'}
    said = follow_prolific(
        db, built, export(tmp_path / 'p.csv', {ID(k): 'ACTIVE' for k in range(7)} | {ID(7): 'RETURNED'})
    )
    assert said == dict(submissions=8, given_back=1, finished=0, resumed=0, unknown=0)
    assert do(store, enter, {'PROLIFIC_PID': ID(9)})['state'] == 'active'
    store.surplus = 1
    assert do(store, enter, {'PROLIFIC_PID': ID(10)})['state'] == 'active'
    assert do(store, enter, {'PROLIFIC_PID': ID(11)}) == {'state': 'full'}


def test_a_real_server_takes_over_what_another_process_reads_from_the_export(tmp_path):
    built, db = bare_study(small(1), tmp_path / 'survey'), tmp_path / 'study.sqlite'
    with LocalServer(built, db) as server, httpx.Client(base_url=server.url, trust_env=False) as client:
        come = lambda k: client.post('/api/enter', json={'panel': {'PROLIFIC_PID': ID(k)}}).json()
        first = [come(k) for k in range(4)]  # Nobody has consented: only the server knows who they are
        assert come(4)['state'] == 'full' and come(4)['code']
        follow_prolific(db, built, export(tmp_path / 'p.csv', {ID(k): 'RETURNED' for k in (0, 1)}))
        assert [come(k)['state'] for k in (4, 5, 6)] == ['active', 'active', 'full']
        me = client.get('/api/me', headers={'Authorization': f'Bearer {first[0]["token"]}'}).json()
        assert me['state'] == 'full' and me['code']
        with closing(sqlite3.connect(db)) as file:  # The hashes of people who did not consent are gone
            assert not file.execute("SELECT 1 FROM meta WHERE name = 'returned'").fetchall()
        done = asyncio.run(participate(server.url, attentive(small(1)), 7))
        assert done.state == 'full'


@pytest.mark.parametrize(
    ('status', 'before', 'state', 'held', 'analyzed'),
    [
        ('RETURNED', 'trial:1', 'returned', 0, ''),
        ('RETURNED', None, 'returned', 0, 'returned'),
        ('Timed-Out', 'trial:1', 'expired', 0, ''),
        ('TIMED_OUT', None, 'complete', 0, 'yes'),
        ('REJECTED', None, 'returned', 0, 'returned'),
        ('AWAITING REVIEW', None, 'complete', 1, 'yes'),
        ('ACTIVE', 'trial:1', 'active', 1, ''),
        ('APPROVED', None, 'complete', 1, 'yes'),
    ],
)
def test_what_each_status_at_prolific_does(tmp_path, made, status, before, state, held, analyzed):
    store, built, db = made
    walk(store, ID(1), until=before)
    follow_prolific(db, built, export(tmp_path / 'p.csv', {ID(1): status}))
    assert read_participants(db).status.tolist() == [state] and sum(store.held().values()) == held
    if analyzed:
        table = participant_table(check_answers(read_answers(db), rules_of(store.study)), rules_of(store.study))
        assert table.reason.tolist() == ['' if analyzed == 'yes' else analyzed]
    follow_prolific(db, built, export(tmp_path / 'p.csv', {ID(1): 'APPROVED'}))  # As if it had been an error
    assert read_participants(db).status[0] == ('complete' if before is None else 'active' if held else 'expired')


def test_of_two_submissions_the_accepted_one_counts_and_another_file_is_refused(tmp_path, made):
    store, built, db = made
    walk(store, ID(1))
    path = tmp_path / 'p.csv'
    path.write_text(
        f'Submission id;Participant_ID;Status\ns1;{ID(1)};RETURNED\ns2;{ID(1)};approved\n', encoding='utf-16'
    )
    assert follow_prolific(db, built, path)['given_back'] == 0
    path.write_text(f'Submission id,Participant id\ns1,{ID(1)}\n')
    with pytest.raises(TracenbError, match="no column 'Status'"):
        follow_prolific(db, built, path)
    other = bare_study(small(), tmp_path / 'other')
    with pytest.raises(TracenbError, match='another key'):
        follow_prolific(db, other, export(path, {ID(1): 'RETURNED'}))


# --- ids


@pytest.mark.parametrize(
    ('pid', 'form', 'word'),
    [
        ('{{%PROLIFIC_PID%}}', '', 'not filled in'),
        ('ann@example.org', '', ''),
        ('undefined', '', ''),
        ('5e1f00aa00bb00cc00dd00ee', PROLIFIC_ID, None),
        ('5e1f', PROLIFIC_ID, ''),
        ('5E1F00AA00BB00CC00DD00EE', PROLIFIC_ID, ''),
        ('5e1f', '', None),
        (None, '', ''),
    ],
)
def test_ids_have_the_panels_form_and_unfilled_ones_are_named_to_the_researcher(tmp_path, caplog, pid, form, word):
    study = small()
    built = bare_study(study, tmp_path / 'survey')
    codes, key = read_private(built)
    store = Store(tmp_path / 'study.sqlite', study, key)
    app = survey_app(store, read_page(built), codes, None, Rates(), form)

    async def come():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://study') as client:
            return await client.post('/api/enter', json={'panel': {'PROLIFIC_PID': pid} if pid else {}})

    with closing(store):
        reply = asyncio.run(come())
    assert reply.status_code == (200 if word is None else 422)
    if word is not None:
        assert reply.json()['error'] == 'panel' and read_participants(tmp_path / 'study.sqlite').empty
    if word:
        assert word in reply.json()['problems'][0] and 'URL parameters' in caplog.text


# --- withdrawal, exclusion, pay


def test_whoever_withdraws_is_deleted_and_counted(tmp_path, made):
    store, built, db = made
    words = 'words of somebody who withdraws: 4711'
    says = attentive(store.study)
    free = lambda step, page, n: (
        {q['name']: words for q in page['questions']} if step == 'free' else says(step, page, n)
    )
    walk(store, ID(1), says=free)
    walk(store, ID(2))
    assert words.encode() in b''.join(p.read_bytes() for p in tmp_path.glob('study.sqlite*'))
    who, n = withdraw(db, built, ID(1))
    assert who == 'p0001' and n > 5 and sum(store.held().values()) == 1
    do(store, enter, {'PROLIFIC_PID': ID(3)})
    assert words.encode() not in b''.join(p.read_bytes() for p in tmp_path.glob('study.sqlite*'))
    people = read_participants(db)
    assert people.status.tolist() == ['withdrawn', 'complete', 'active']
    assert people.entered_at[0].endswith('T00:00:00.000+00:00') and people.PROLIFIC_PID.isna()[0]
    rules = rules_of(store.study)
    table = participant_table(check_answers(read_answers(db), rules), rules)
    flow = participant_flow(table, rules).set_index('stage').n
    assert (flow['entered'], flow['withdrew afterwards'], flow['analyzed']) == (3, 1, 1)
    with pytest.raises(TracenbError, match='not a participant'):
        withdraw(db, built, ID(1))


def test_exclusions_are_in_every_analysis_and_can_be_taken_back(tmp_path, made):
    store, built, db = made
    for k in (1, 2, 3):
        walk(store, ID(k))
    assert exclude(db, built, ID(2), 'took part in the pilot') == 'p0002'
    rules = rules_of(store.study)
    reasons = lambda rows: participant_table(check_answers(rows, rules), rules).reason.tolist()
    assert reasons(read_answers(db)) == reasons(read_source(db)[0]) == ['', 'excluded', '']
    assert study_status(db)['excluded'] == 1 and sum(store.held().values()) == 2
    follow_prolific(db, built, export(tmp_path / 'p.csv', {ID(2): 'APPROVED'}))
    assert reasons(read_answers(db)) == ['', 'excluded', '']
    exclude(db, built, 'p0002')
    assert reasons(read_answers(db)) == ['', '', ''] and sum(store.held().values()) == 3


def test_pay_names_an_action_and_a_reason_for_each_id_and_stores_no_id(tmp_path, made):
    store, built, db = made
    right = attentive(store.study)
    asleep = lambda step, page, n: (
        {k: int(not v) for k, v in right(step, page, n).items()}
        if step.startswith('attention')
        else right(step, page, n)
    )
    walk(store, ID(1))
    walk(store, ID(2), says=asleep)
    walk(store, ID(3), until='trial:1')
    exclude(db, built, ID(1), 'knew the questions')
    table = payments(db, built, read_ids(f'{ID(1)}, {ID(2)}\n{ID(3)};{ID(9)} {ID(1)}'))
    assert table.action.tolist() == ['approve', 'reject', 'return', 'look']
    assert 'attention checks' in table.reason[1] and 'pages' in table.reason[2]
    listed = export(tmp_path / 'p.csv', {ID(1): 'AWAITING REVIEW', ID(2): 'APPROVED', ID(3): 'ACTIVE'})
    assert read_ids(listed) == [ID(1)]
    content = b''.join(p.read_bytes() for p in tmp_path.glob('study.sqlite*'))
    assert ID(1).encode() not in content


def test_the_verbs_say_what_they_did(tmp_path, made):
    store, built, db = made
    for k in (1, 2, 3):
        walk(store, ID(k))
    walk(store, ID(4), until='trial:0')

    def say(*args, code=0, text=''):
        done = CliRunner().invoke(command, ['study', *map(str, args)], input=text)
        assert done.exit_code == code, done.output
        return done.output or str(done.exception)

    here = '--db', db, '--study', built
    said = say('status', '--db', db)
    assert '4 entered, 4 consented, 3 of 8 done' in said and 'free places: ' in said and 'pay due: ' in said
    assert '1 places given back' in say('places', export(tmp_path / 'p.csv', {ID(4): 'RETURNED'}), *here)
    assert 'answers deleted' in say('withdraw', ID(3), *here)
    assert 'p0002: excluded: twice' in say('exclude', ID(2), '--reason', 'twice', *here)
    say('exclude', ID(2), *here, code=1)
    said = say('pay', *here, '--bonus', '0.5', '--out', tmp_path / 'pay', text=f'{ID(1)}\n{ID(2)}\n{ID(3)}\n')
    assert '# approve (2)' in said and '# look at (1)' in said and f'{ID(1)},0.50' in said
    assert (tmp_path / 'pay' / 'approve.txt').read_text().split() == [ID(1), ID(2)]


# --- the draft, and the monitor


@pytest.mark.parametrize('language', ['en', 'de'])
def test_the_draft_is_in_the_studys_language_with_a_code_for_each_end(tmp_path, language):
    from tracenb.study.build import wording

    study = small(texts=wording(language)['texts'])
    codes = dict(complete='AAA', screened_out='BBB', full='CCC', declined='DDD')
    draft = prolific_draft(study, 'https://study.example.org/', codes)
    kinds = {c['code']: (c['code_type'], c['actions'][0]['action']) for c in draft['completion_codes']}
    assert kinds == {
        'AAA': ('COMPLETED', 'MANUALLY_REVIEW'),
        'BBB': ('FAILED_ATTENTION_CHECK', 'REQUEST_RETURN'),
        'CCC': ('OTHER', 'REQUEST_RETURN'),
        'DDD': ('NO_CONSENT', 'REQUEST_RETURN'),
    }
    words = json.dumps(draft, ensure_ascii=False)
    assert ('Wir laden Sie' in words and 'You ' not in words) if language == 'de' else 'You are invited' in words


def test_a_decliner_goes_back_with_the_code_of_declined(tmp_path):
    codes = dict(complete='AAA', screened_out='BBB', full='CCC', declined='DDD')
    built = bare_study(small(1), tmp_path / 'survey', codes)
    with LocalServer(built, tmp_path / 'study.sqlite') as server:
        no = asyncio.run(participate(server.url, lambda step, page, n: {'agree': False}, 1))
        assert (no.state, no.code) == ('declined', 'DDD')
        reply = httpx.post(f'{server.url}/api/finish', headers={'Authorization': f'Bearer {no.token}'}).json()
    assert reply['url'] == PANEL.complete_url + 'DDD'


def test_the_monitor_needs_the_token_and_shows_the_numbers_of_status(tmp_path, made):
    store, built, db = made
    walk(store, ID(1))
    secret = 's' * 40
    app = survey_app(store, read_page(built), read_private(built)[0], secret, extend=add_monitor)

    async def get(path, token=None):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://study') as client:
            return await client.get(path, headers={'Authorization': f'Bearer {token}'} if token else {})

    assert [asyncio.run(get('/api/status', t)).status_code for t in (None, 'x', secret)] == [401, 401, 200]
    assert asyncio.run(get('/api/status', secret)).json() == json.loads(json.dumps(study_status(db)))
    page = asyncio.run(get('/monitor'))
    assert "default-src 'none'" in page.headers['content-security-policy'] and 'study' not in page.headers
    assert 'http' not in page.text.replace('http-equiv', '') and ID(1) not in page.text


def test_a_participation_that_returned_gets_no_code_of_complete(tmp_path, made):
    store, built, db = made
    token = walk(store, ID(1), until='debrief')
    follow_prolific(db, built, export(tmp_path / 'p.csv', {ID(1): 'RETURNED'}))
    with pytest.raises(Refused) as e:
        do(store, store_answer, token, 'debrief', {}, 1.0, 'attempt-x')
    assert e.value.status == 409 and do(store, finish_participation, token) == 'full'


# --- in a browser


SECRET = 'a-token-for-the-monitor-of-the-tests-0123456789'


@pytest.fixture
def served(tmp_path, monkeypatch):
    "The address of a study that the command itself serves, with ids of Prolific's form; `served.db` is its file."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    built, db = bare_study(small(), tmp_path / 'survey'), tmp_path / 'study.sqlite'
    call = [
        Path(sys.executable).parent / 'tracenb',
        'study',
        'serve',
        built,
        '--db',
        db,
        '--port',
        port,
        '--surplus',
        1,
    ]
    env = os.environ | dict(TRACENB_STUDY_TOKEN=SECRET)
    process = subprocess.Popen([*map(str, call)], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    url = f'http://127.0.0.1:{port}'
    try:
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f'{url}/healthz', timeout=5, trust_env=False).status_code == 200:
                    break
            time.sleep(0.1)
        yield SimpleNamespace(url=url, db=db, process=process)
    finally:
        process.terminate()
        said = process.communicate(timeout=30)[0]
    assert '1 people are admitted beyond the places' in said and '/monitor' in said


def test_the_served_study_takes_ids_of_prolifics_form_only(served):
    reply = lambda pid: httpx.post(f'{served.url}/api/enter', json={'panel': {'PROLIFIC_PID': pid}}, trust_env=False)
    assert [reply(pid).status_code for pid in ('ann', '{{%PROLIFIC_PID%}}', ID(1))] == [422, 422, 200]
    assert [reply(ID(k)).json()['state'] for k in range(2, 11)] == ['active'] * 8 + ['full']  # 8 places and a surplus


def test_the_monitor_shows_live_numbers_asks_nobody_else_and_is_accessible(served, tab, axe):
    page = tab()
    page.goto(f'{served.url}/monitor')
    assert (found := axe(page)) == [], '\n'.join(found)
    page.fill('#token', 'wrong')
    page.click('#ask button')
    page.wait_for_function("() => document.querySelector('#said').textContent.includes('not the token')")
    page.fill('#token', SECRET)
    page.click('#ask button')
    page.wait_for_selector('#counts tr')
    assert page.inner_text('#counts tr:first-child td') == '0'
    httpx.post(f'{served.url}/api/enter', json={'panel': {'PROLIFIC_PID': ID(1)}}, trust_env=False)
    page.wait_for_function("() => document.querySelector('#counts td').textContent === '1'", timeout=30_000)
    assert (found := axe(page)) == [], '\n'.join(found)
    page.evaluate('document.querySelector("h1").style.color = "#999"')
    assert any('color-contrast' in f for f in axe(page))  # A violation made on purpose is found
    assert {urlsplit(url).netloc for url in page.asked if url.startswith('http')} == {urlsplit(served.url).netloc}
    assert SECRET not in ' '.join(page.asked)
    page.click('#forget')
    page.wait_for_selector('#token', state='visible')


def test_a_build_for_a_panel_draws_four_codes_and_keeps_them(tmp_path):
    from tracenb.study import build

    build.study_template(tmp_path / 'own')
    config = tmp_path / 'own' / 'study.yaml'
    config.write_text(config.read_text().replace('panel: {name: none}', 'panel: {name: prolific}'))
    before, build.page_files = build.page_files, lambda: {'index.html': '<body>'}
    try:
        codes = [json.loads((build.build_study(config, tmp_path / 's') / 'private.json').read_text()) for _ in range(2)]
    finally:
        build.page_files = before
    assert codes[0] == codes[1] and len(set(codes[0]['codes'].values())) == 4
    kinds = [c['code_type'] for c in prolific_draft(tmp_path / 's', 'https://study.example.org/')['completion_codes']]
    assert kinds == ['COMPLETED', 'FAILED_ATTENTION_CHECK', 'OTHER', 'NO_CONSENT']


@pytest.mark.slow
def test_a_picture_of_every_page_of_a_study_of_ones_own(tmp_path, chromium):
    from tracenb.fieldwork.screenshots import screenshots
    from tracenb.study.build import build_study, study_template

    study_template(tmp_path / 'own', 'de')
    try:
        built = build_study(tmp_path / 'own' / 'study.yaml', tmp_path / 'built')
    except TracenbError as e:
        pytest.skip(f'jsPsych is neither in the cache nor within reach: {e}')
    files = [p.name for p in screenshots(built, tmp_path / 'pictures')]
    trials = [f'{c}-{k:02}-trial-{n}.png' for c in ('short', 'long') for n, k in ((1, 4), (2, 6), (3, 8), (4, 9))]
    assert set(trials) < set(files) and len(files) == len(set(files)) == len(trials) + 9
    assert all((tmp_path / 'pictures' / name).read_bytes().startswith(b'\x89PNG') for name in files)


def test_without_playwright_the_pictures_say_what_is_missing(tmp_path, monkeypatch):
    import tracenb.fieldwork.screenshots as module

    monkeypatch.setattr(module, 'find_spec', lambda name: None)
    with pytest.raises(TracenbError, match='screenshots need Playwright'):
        module.screenshots(bare_study(small(), tmp_path / 'survey'), tmp_path / 'pictures')
