"""The survey's page in a real browser, against the real server: what a participant can meet."""

import json
import re
from dataclasses import replace

import pandas as pd
import pytest

from tracenb.core.records import TracenbError
from tracenb.study.answers import read_answers
from tracenb.study.build import page_files, preview_copy, write_study
from tracenb.study.design import Panel, demo_study
from tracenb.study.load_test import LocalServer
from tracenb.study.steps import step_sequence

pytestmark = pytest.mark.slow
HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script> <b>bold</b> & "quoted"'
PANEL = Panel(name='prolific', complete_url='https://app.prolific.com/submissions/complete?cc=')


def small(conditions=('decomposition', 'r1', 'r1_summary', 'post_hoc'), **other):
    "Nine steps: two trials, one attention check. Traces, questions, contexts, answers and some wording try to be markup."
    demo = demo_study(trials=2, panel=PANEL, minutes_timeout=600)
    shown = lambda i: {
        c: replace(i.shown[c], trace=f'{c} {HOSTILE} {i.shown[c].trace}', answer=f'{HOSTILE} {i.shown[c].answer}')
        for c in conditions
    }
    items = tuple(
        replace(i, shown=shown(i), question=f'{HOSTILE} {i.question}', context=(HOSTILE, *i.context))
        for i in demo.items
    )
    checks = tuple(replace(c, options=(*c.options, HOSTILE)) for c in demo.checks if c.name != 'attention_low')
    scales = (replace(demo.scales[0], prompt=f'{demo.scales[0].prompt} {HOSTILE}', low=HOSTILE), *demo.scales[1:])
    texts = demo.texts | dict(consent=f'{demo.texts["consent"]}\n\n{HOSTILE}')
    return replace(
        demo,
        conditions=conditions,
        items=items,
        checks=checks,
        scales=scales,
        texts=texts,
        demographics=demo.demographics[:1],
        **other,
    )


@pytest.fixture(scope='module')
def files():
    try:
        return page_files()
    except TracenbError as e:
        pytest.skip(f'jsPsych is neither in the cache nor within reach: {e}')


@pytest.fixture(scope='module')
def study(files, tmp_path_factory):
    "A served study; its address, answers and codes."
    at = tmp_path_factory.mktemp('study')
    write_study(small(), at / 'built', files=files)
    with LocalServer(at / 'built', at / 'answers.sqlite') as server:
        server.built = at / 'built'
        server.codes = json.loads((at / 'built' / 'private.json').read_text())['codes']
        server.answers = lambda: read_answers(at / 'answers.sqlite')
        yield server


@pytest.fixture
def visit(study, tab):
    "Open the study as somebody: `visit('ann')`, under a content policy that allows nothing inline. At the end: nothing was asked of another host, the console has no error, nothing of the data ran."
    pages = []

    def open_page(name, server=study, **kwargs):
        page = tab(**kwargs)
        page.server = server
        pages.append(page)
        policy = page.goto(f'{server.url}/?PROLIFIC_PID={name}&STUDY_ID=s1&SESSION_ID=x1').headers[
            'content-security-policy'
        ]
        assert "default-src 'none'" in policy and 'unsafe' not in policy
        ready(page)
        return page

    yield open_page
    for page in pages:
        assert {url.split('/')[2] for url in page.asked if url.startswith('http')} == {page.server.url.split('/')[2]}, (
            'a foreign request'
        )
        assert [e for e in page.errors if 'Failed to load resource' not in e] == [], page.errors
        assert page.evaluate('window.hacked') is None


def ready(page):
    page.wait_for_function(
        '() => document.querySelector(".closing") || (document.querySelector("#heading") && [...document.querySelectorAll("#survey .jspsych-btn")].every(b => !b.disabled))'
    )
    return page.inner_text('h1')


def place(page):
    return page.inner_text('#place')


def choose(page, k=None):
    "Answer all that is on the screen: the right options where there are some, else the k-th."
    if page.query_selector('.kind-comprehension'):
        picks = [1, 2]
    elif page.query_selector('.kind-attention'):
        picks = [4]
    else:
        picks = [k if k is not None else n % 5 for n in range(len(page.query_selector_all('fieldset')))]
    for group, pick in zip(page.query_selector_all('fieldset'), picks):
        group.query_selector_all('input')[pick].check()


def send(page, button=0, how='click'):
    before = place(page)
    at = page.query_selector_all('#survey .jspsych-btn')[button]
    at.evaluate('b => { b.click(); b.click(); }') if how == 'twice' else getattr(at, how)()
    page.wait_for_function(
        'b => document.querySelector(".closing") || document.querySelector("#place").textContent !== b', arg=before
    )
    return ready(page)


def walk(page, until='.closing', k=None):
    "Answer and send until something is on the screen."
    for _ in range(20):
        if page.query_selector(until):
            return page
        choose(page, k)
        send(page)
    raise AssertionError(f'{until} never came')


def stored(server, condition=None, kind='trial'):
    table = server.answers()
    return table[(table.kind == kind) & ((table.condition == condition) if condition else True)]


def mine(page, before):
    "Rows of the participant that a test added."
    table = page.server.answers()
    new = sorted(set(table.participant) - before)
    assert len(new) == 1
    return table[table.participant == new[0]]


@pytest.fixture
def before(study):
    return set(study.answers().participant)


# --- from consent to code

CONTRAST = """() => {
  const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(x => { x /= 255; return x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; }); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
  return [...document.querySelectorAll('#place, #survey h1, #survey h2, #survey p, #survey span, #survey legend, #survey summary, #survey .jspsych-btn, #survey .reasoning')].filter(e => e.offsetParent && !e.disabled && !e.matches('.unseen'))
    .map(e => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))]; return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName, e.className]; }).sort((a, b) => a[0] - b[0])[0];
}"""


def fits_a_phone(page):
    for detail in page.query_selector_all('summary'):
        detail.click()
    assert page.evaluate('document.documentElement.scrollWidth') <= 375, page.inner_text('h1')
    assert (
        page.evaluate(
            'Math.min(...[...document.querySelectorAll("fieldset label, .jspsych-btn")].map(e => Math.min(e.offsetWidth, e.offsetHeight)))'
        )
        >= 40
    ), 'large enough for a thumb'


def is_legible(page):
    assert page.evaluate(CONTRAST)[0] >= 4.5, page.evaluate(CONTRAST)


WAYS = {
    'light': ({}, is_legible, 'click'),
    'dark': (dict(dark=True), is_legible, 'click'),
    'phone': (dict(width=375, height=700, is_mobile=True, has_touch=True), fits_a_phone, 'tap'),
    'double': ({}, None, 'dblclick'),
    'twice': ({}, None, 'twice'),
}


def test_a_whole_participation_in_each_condition(study, visit, before):
    "Five people, at least one a condition: by day, by night, on a phone, double-clicking, and with two clicks in the same instant."
    for k, (way, (kwargs, check, click)) in enumerate(WAYS.items()):
        page, seen = visit(way, **kwargs), []
        assert (page.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(255, 255, 255)') == (
            way != 'dark'
        )
        while not page.query_selector('.closing'):
            seen.append(page.inner_text('h1'))
            if check:
                check(page)
            choose(page, min(k + 1, 4))
            send(page, how=click)
        assert len(set(seen)) == 9, 'no step is skipped or shown twice'
        assert page.inner_text('h1') == 'Done' and page.inner_text('#code') == study.codes['complete']
        assert (
            page.get_attribute('#return', 'href')
            == f'https://app.prolific.com/submissions/complete?cc={study.codes["complete"]}'
        )
    page.reload()
    ready(page)
    assert page.inner_text('#code') == study.codes['complete'], 'the code is still there after a reload'
    table = study.answers()
    table = table[~table.participant.isin(before)]
    assert set(table.condition) == set(small().conditions) and set(table.status) == {'complete'}
    assert not table.duplicated(['participant', 'step', 'id', 'dimension']).any()
    for k, (who, rows) in enumerate(table.groupby('participant', sort=True)):
        ratings = rows[rows.kind == 'trial']
        assert len(ratings) == 12 and set(ratings.value.astype(int)) == {min(k + 2, 5)}, (
            'what was clicked is what is stored'
        )
        walked = step_sequence(small(), int(who[1:]), rows.condition.iloc[0])
        assert list(dict.fromkeys(rows.step)) == [s for s in ('enter', *walked) if s in set(rows.step)]
        assert (rows.seconds >= 0).all() and (ratings.seconds < 60).all()


def test_everybody_sees_every_kind_within_and_a_full_study_says_so(files, tmp_path, visit):
    write_study(small(('decomposition', 'r1'), layout='within', n_per_condition=1), tmp_path / 'built', files=files)
    codes = json.loads((tmp_path / 'built' / 'private.json').read_text())['codes']
    with LocalServer(tmp_path / 'built', tmp_path / 'answers.sqlite') as server:
        page = visit('ann', server)
        seen = []
        for _ in range(9):
            if trace := page.query_selector('.reasoning'):
                seen.append(trace.inner_text().split()[0])
            choose(page)
            send(page)
        assert sorted(seen) == ['decomposition', 'r1'] and page.inner_text('#code') == codes['complete']
        late = visit('bob', server)
        assert (
            late.inner_text('h1') == 'The study is full'
            and late.inner_text('#code') == codes['full']
            and codes['complete'] not in late.content()
        )


def test_refusing_gives_no_code_and_failing_twice_the_other_one(study, visit):
    page = visit('refuses')
    assert send(page, button=1) == 'You chose not to take part'
    assert not page.query_selector('#code') and not page.query_selector('#return')
    page.goto(study.url)  # without the panel's ids
    assert 'your id is missing' in (ready(page) and page.inner_text('#survey'))
    page = walk(visit('hasty'), until='.kind-comprehension')
    for said in ('You have one more try', None):
        for group in page.query_selector_all('fieldset'):
            group.query_selector_all('input')[0].check()
        page.click('#survey .jspsych-btn')
        if said:
            page.wait_for_selector('.note')
            assert said in page.inner_text('.note') and ready(page) == 'About the instructions'
    page.wait_for_selector('.closing')
    assert page.inner_text('h1') == 'You cannot go on' and page.inner_text('#code') == study.codes['screened_out']


# --- nothing is lost


def test_a_reload_in_the_middle_keeps_what_was_chosen(visit, before):
    page = walk(visit('reloads'), until='.kind-trial')
    for group in page.query_selector_all('fieldset')[:4]:
        group.query_selector_all('input')[2].check()
    here = place(page)
    page.reload()
    ready(page)
    assert place(page) == here and page.locator('input:checked').count() == 4
    other = page.context.new_page()  # and in another tab of the same browser
    other.goto(page.url)
    ready(other)
    assert place(other) == here and other.locator('input:checked').count() == 4
    choose(other, 3)
    send(other)
    choose(other)
    assert send(other) == 'Question 2 of 2'
    page.bring_to_front()
    choose(page, 0)  # the first tab is behind now: its answer is not taken, and it goes on from where the other one is
    assert send(page) == 'Question 2 of 2'
    assert set(mine(page, before).query("step == 'trial:0'").value.astype(int)) == {4}, (
        'as sent by the tab that was first'
    )


def test_whether_the_context_was_opened_is_stored(visit, before):
    "Opened and closed again, before a reload, in the first of two trials."
    page = walk(visit('opens'), until='.kind-trial')
    for _ in range(2):
        page.click('.context summary')
    page.wait_for_function(
        '() => Object.values(JSON.parse(localStorage.getItem("tracenb-survey")).drafts).some(d => d.opened)'
    )
    page.reload()
    ready(page)
    walk(page)
    rows = mine(page, before)
    assert dict(zip(rows.step, rows.context_opened)) == {
        s: {'trial:0': True, 'trial:1': False}.get(s, pd.NA) for s in rows.step
    }


def test_text_that_was_typed_is_there_after_a_reload(visit):
    page = walk(visit('writes'), until='.kind-free')
    page.fill('textarea', 'Half a sentence')
    page.reload()
    ready(page)
    assert page.input_value('textarea') == 'Half a sentence'


def test_the_back_button_changes_nothing(visit, before):
    page = walk(visit('back'), until='.kind-trial')
    choose(page, 1)
    here = place(page)
    for _ in range(3):
        page.evaluate('history.back()')
        page.wait_for_timeout(60)
    assert place(page) == here and page.locator('input:checked').count() == 6
    assert 'nothing is lost' in page.inner_text('#status')
    walk(page, k=1)
    assert len(mine(page, before).query("kind == 'trial'")) == 12


def test_offline_and_back(visit, before):
    page = walk(visit('offline'), until='.kind-trial')
    choose(page, 3)
    page.context.set_offline(True)
    page.click('#survey .jspsych-btn')
    page.wait_for_function('() => document.querySelector("#said").textContent.startsWith("Not saved yet")')
    assert page.is_visible('#retry') and 'it goes on where you were' in page.inner_text('#survey')
    assert not len(mine(page, before).query("kind == 'trial'"))
    page.context.set_offline(False)
    page.wait_for_selector('.kind-attention', timeout=15000)
    assert page.inner_text('#said') == ''
    rows = mine(page, before).query("kind == 'trial'")
    assert len(rows) == 6 and set(rows.value.astype(int)) == {4}


def test_an_answer_that_was_never_sent_survives_the_closing_of_the_tab(visit, before):
    page = walk(visit('closes'), until='.kind-trial')
    choose(page, 4)
    page.context.set_offline(True)
    page.click('#survey .jspsych-btn')
    page.wait_for_function('() => document.querySelector("#said").textContent.startsWith("Not saved yet")')
    page.close(run_before_unload=False)
    page.context.set_offline(False)
    again = page.context.new_page()
    again.goto(f'{page.server.url}/?PROLIFIC_PID=closes&STUDY_ID=s1&SESSION_ID=x1')
    assert ready(again) == 'A question in between'
    rows = mine(page, before).query("kind == 'trial'")
    assert len(rows) == 6 and set(rows.value.astype(int)) == {5}
    page.evaluate = again.evaluate  # for the check at the end


def test_a_lost_acknowledgement_stores_nothing_twice(visit, before):
    page = walk(visit('lost'), until='.kind-trial')
    lost = []

    def lose(route):
        if lost:
            return route.continue_()
        lost.append(route.fetch().status)  # the server has it, the page does not hear of it
        route.abort()

    page.route('**/api/answers/**', lose)
    choose(page, 2)
    assert send(page) == 'A question in between' and lost == [200]
    assert len(mine(page, before).query("kind == 'trial'")) == 6


def test_a_busy_server_is_asked_again(visit):
    page = walk(visit('busy'), until='.kind-trial')
    asked = []

    def busy(route):
        asked.append(route.request.method)
        route.fulfill(status=503, headers={'Retry-After': '1'}, json=dict(error='busy', message='')) if len(
            asked
        ) < 3 else route.continue_()

    page.route('**/api/answers/**', busy)
    choose(page)
    assert send(page) == 'A question in between' and len(asked) == 3


def test_a_missing_rating_is_named_and_nothing_is_sent(visit, before):
    page = walk(visit('misses'), until='.kind-trial')
    groups = page.query_selector_all('fieldset')
    for group in [*groups[:2], *groups[3:]]:
        group.query_selector_all('input')[0].check()
    page.click('#survey .jspsych-btn')
    assert page.inner_text('#said') == 'One answer is missing.'
    assert (
        page.evaluate('document.activeElement.closest("fieldset").querySelector("legend").textContent')
        == small().scales[2].prompt
    )
    assert groups[2].query_selector('.wrong').inner_text() == 'Please choose an option.'
    assert not len(mine(page, before).query("kind == 'trial'"))
    groups[2].query_selector_all('input')[1].check()
    assert page.inner_text('#said') == ''
    assert send(page) == 'A question in between'


# --- for everybody


def test_keyboard_only(visit, study):
    page = visit('keys')
    press = page.keyboard.press
    tabs = []
    while not page.query_selector('.closing') and len(tabs) < 200:
        press('Tab')
        tabs.append(page.evaluate('document.activeElement.tagName + (document.activeElement.type || "")'))
        at = page.evaluate(
            '({radio: document.activeElement.type === "radio", legend: document.activeElement.closest("fieldset")?.querySelector("legend").textContent, send: document.activeElement.matches("#survey .jspsych-btn"), kind: document.querySelector(".jspsych-content").className})'
        )
        if at['radio']:
            press('Space')
            for _ in range(4 if 'attention' in at['kind'] else 2 if 'wrong' in at['legend'] else 1):
                press('ArrowDown')
        elif at['send']:
            press('Enter')
            page.wait_for_function(
                '() => !document.activeElement.matches("#survey .jspsych-btn") || document.querySelector(".closing")'
            )
            ready(page)
    assert page.inner_text('#code') == study.codes['complete']
    assert len(tabs) < 60, 'each group of options is one stop'


def test_screen_readers_hear_what_is_asked(visit):
    page = visit('hears')
    assert page.evaluate('document.activeElement.id') == 'heading', 'each page begins at its heading'
    assert page.get_by_role('progressbar', name='Page 1 of 9').count() == 1
    page = walk(page, until='.kind-trial')
    assert page.evaluate('document.activeElement.id') == 'heading'
    scale = small().scales[3]
    group = page.get_by_role('group', name=scale.prompt)
    assert group.get_by_role('radio').count() == 5
    assert (
        group.get_by_role('radio', name=f'1 {scale.low}').count() == 1
        and group.get_by_role('radio', name=f'5 {scale.high}').count() == 1
    )
    assert page.get_by_role('region', name='Its reasoning').count() == 1
    unnamed = page.evaluate(
        '[...document.querySelectorAll("input, textarea, button, progress")].filter(e => e.offsetParent && !(e.labels?.length || e.textContent.trim() || e.value)).length'
    )
    assert unnamed == 0
    page = walk(page, until='.kind-free')
    assert page.get_by_role('textbox', name='What made a reasoning easy or hard to follow?').count() == 1


def test_no_step_breaks_the_rules_of_accessibility(visit, axe):
    "By axe-core, with what can be opened open: every step, answers missing and wrong, no connection, every kind of ending."

    def heeds(page):
        for detail in page.query_selector_all('details:not([open]) > summary'):
            detail.click()
        assert (found := axe(page)) == [], '\n'.join(found)

    page = visit('eve')
    seen = set()
    while not page.query_selector('.closing'):
        kind = page.evaluate('document.querySelector(".jspsych-content").className')
        if kind not in seen:
            seen.add(kind)
            heeds(page)
            if page.query_selector('form [required]'):
                page.click('#survey .jspsych-btn')  # nothing is chosen
                heeds(page)
            if 'comprehension' in kind:
                for group in page.query_selector_all('fieldset'):
                    group.query_selector_all('input')[0].check()
                page.click('#survey .jspsych-btn')
                page.wait_for_selector('.note')
                ready(page)
                heeds(page)
        choose(page)
        if 'attention' in kind:
            page.context.set_offline(True)
            page.click('#survey .jspsych-btn')
            page.wait_for_selector('#retry:visible')
            heeds(page)
            page.context.set_offline(False)
            page.wait_for_selector('.kind-trial', timeout=15000)
            ready(page)
        else:
            send(page)
    heeds(page)
    assert len(seen) == 8, seen
    page.goto(page.server.url)  # the id is missing
    ready(page)
    heeds(page)
    page.evaluate('document.querySelector("h1").style.color = "#999"')  # it would have been found
    assert {f.split(': ')[1] for f in axe(page)} == {'color-contrast'}


# --- in other words

RINGED = str.maketrans({chr(ord(a) + k): chr(o + k) for a, o in (('A', 0x24B6), ('a', 0x24D0)) for k in range(26)})


def ringed(text):
    "The text in letters that no alphabet has, placeholders apart, with markup that must stay text."
    return ''.join(part if part[:1] == '{' else part.translate(RINGED) for part in re.split(r'(\{\w+\})', text))


def translated(**other):
    "A study of which no word is left as it ships: titles, texts, words, questions, items."
    demo, marked = small(('r1',)), lambda text: f'{HOSTILE}{ringed(text)}'
    said = lambda rows, *keys: tuple(
        replace(
            row, **{k: tuple(map(ringed, v)) if isinstance(v := getattr(row, k), tuple) else ringed(v) for k in keys}
        )
        for row in rows
    )
    items = tuple(
        replace(
            i,
            question=ringed(i.question),
            context=tuple(map(ringed, i.context)),
            shown={c: replace(x, answer=ringed(x.answer), trace=ringed(x.trace)) for c, x in i.shown.items()},
        )
        for i in demo_study(trials=2).items
    )
    items = tuple(replace(i, shown={c: i.shown[c] for c in demo.conditions}) for i in items)
    return replace(
        demo,
        language='he',
        title=ringed(demo.title),
        texts={k: ringed(t) for k, t in demo_study().texts.items()},
        words={k: marked(t) for k, t in demo.words.items()},
        items=items,
        scales=said(demo_study().scales, 'prompt', 'low', 'high'),
        checks=said(tuple(c for c in demo_study().checks if c.name != 'attention_low'), 'prompt', 'options'),
        free=(replace(demo.free[0], prompt=ringed(demo.free[0].prompt)),),
        demographics=said(demo.demographics, 'prompt', 'options'),
        **other,
    )


SAID = """() => [document.title, document.body.innerText, ...[...document.querySelectorAll('*')].flatMap(e => [...['aria-label', 'title', 'placeholder', 'alt'].map(a => e.getAttribute(a)), e.matches('input[type=submit]') ? e.value : null]),
          ...[...document.querySelectorAll('noscript')].map(e => new DOMParser().parseFromString(e.textContent, 'text/html').body.textContent)].filter(Boolean).join('\\n')"""


def foreign(page, heard, *known):
    "Nothing on the page is in the words that ship; what is said is added to `heard`."
    assert (
        page.locator('html').get_attribute('lang') == 'he'
        and page.evaluate('getComputedStyle(document.body).direction') == 'rtl'
    )
    for detail in page.query_selector_all('details:not([open]) > summary'):
        detail.click()
    said = page.evaluate(SAID)
    heard.append(said)
    for text in (HOSTILE, re.sub('<[^>]*>', '', HOSTILE), *known):
        said = said.replace(text, '')
    assert not re.search('[A-Za-z]', said), re.findall('.*[A-Za-z].*', said)
    assert page.locator('#survey img, #survey script, #survey b, #preview img, #status img').count() == 0


def test_no_word_is_left_of_a_study_in_other_words(files, tmp_path, visit):
    "Every ending, and what is said on the way when answers are missing or wrong, the line is cut or the id is lost."
    write_study(translated(n_per_condition=1), tmp_path / 'built', files=files)
    codes, heard = json.loads((tmp_path / 'built' / 'private.json').read_text())['codes'], []
    with LocalServer(tmp_path / 'built', tmp_path / 'answers.sqlite') as server:
        page = visit('refuses', server)
        foreign(page, heard)
        send(page, button=1)
        foreign(page, heard)
        page = visit('hasty', server)
        for _ in range(2):
            send(page)
        for _ in range(2):
            for group in page.query_selector_all('fieldset'):
                group.query_selector_all('input')[0].check()
            page.click('#survey .jspsych-btn')
            page.wait_for_selector('.note, .closing')
            foreign(page, heard, *codes.values())
            ready(page)
        page.wait_for_selector('.closing')
        foreign(page, heard, *codes.values())
        page = visit('ann', server)
        while not page.query_selector('.closing'):
            foreign(page, heard)
            if page.query_selector('.kind-trial'):
                page.click('#survey .jspsych-btn')  # nothing is chosen
                foreign(page, heard)
                page.evaluate('history.back()')
                page.wait_for_function(
                    'n => document.querySelector("#said").textContent.includes(n)', arg=translated().words['no_back']
                )
                foreign(page, heard)
            choose(page)
            if page.query_selector('.kind-attention'):
                page.context.set_offline(True)
                page.click('#survey .jspsych-btn')
                page.wait_for_selector('#retry:visible')
                foreign(page, heard)
                page.context.set_offline(False)
                page.wait_for_selector('.kind-trial', timeout=15000)
                ready(page)
            else:
                send(page)
        foreign(page, heard, *codes.values())
        foreign(visit('late', server), heard, *codes.values())  # full
        page.goto(server.url)
        ready(page)
        foreign(page, heard)
    heard = ' '.join(' '.join(heard).split())
    plain = lambda text: re.compile(
        r'\d+'.join(re.escape(re.sub(r'\s+', ' ', part)) for part in re.split(r'\{\w+\}', text))
    )
    unheard = {k for k, text in translated().words.items() if not plain(text).search(heard)}
    assert unheard == {
        'preview',
        'start_again',
        'copied',
        'saving',
        'loading',
        'offline',
        'missing_one',
        'missing_text',
        'wrong_many',
        'not_taken',
        'stale',
        'trouble',
        'ids_none',
        'ids_kept',
        'ids_hashed',
        'paid',
    }, unheard  # these need a preview or a moment, the last four stand in a consent text


# --- nothing of the data runs


def test_markup_in_the_data_is_text(visit):
    page = visit('markup')
    assert HOSTILE in page.inner_text('#survey')
    page = walk(page, until='.kind-trial')
    page.click('summary')
    for selector in ('.reasoning', '.question > p', '.answer > p', '.context .sheet', 'legend'):
        assert HOSTILE in page.inner_text(selector), selector
    assert page.locator('#survey img, #survey script, #survey b').count() == 0


def test_a_preview_says_so(study, files, tmp_path, tab):
    copy = preview_copy(study.built, tmp_path / 'copy')
    with LocalServer(copy, tmp_path / 'answers.sqlite') as server:
        page = tab()
        page.goto(server.url)
        ready(page)
        assert 'Preview: nothing is kept' in page.inner_text('#preview')
        send(page)
        page.click('#again')
        page.wait_for_function('() => document.querySelector("#place")?.textContent === "Page 1 of 9"')
        assert json.loads((copy / 'private.json').read_text())['codes']['complete'] == 'PREVIEW' and page.errors == []
