"""The survey's page in a real browser, with the real server: what may happen to a participant."""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace

import pandas as pd
import pytest

from tracenb.core.records import TracenbError
from tracenb.fieldwork.load_test import LocalServer
from tracenb.study.answers import read_answers
from tracenb.study.build import page_files, preview_copy, write_study
from tracenb.study.design import LATER, Panel, demo_study
from tracenb.study.steps import step_sequence

pytestmark = pytest.mark.slow
HOSTILE = '<img src=x onerror="window.hacked=1"></script><script>window.hacked=1</script> <b>bold</b> & "quoted"'
PANEL = Panel(name='prolific', complete_url='https://app.prolific.com/submissions/complete?cc=')


def small(conditions=('decomposition', 'r1', 'r1_summary', 'post_hoc'), **other):
    "Nine steps: two trials, one attention check. Traces, questions, contexts, answers and some wording hold markup."
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
    """
    Open the study as somebody: `visit('ann')`, under a content policy that allows nothing inline.
    Checked at the end: no request to another host, no error in the console, and no markup of the data was run.
    """
    pages = []

    def open_page(name, server=study, **kwargs):
        page = tab(**kwargs)
        page.server = server
        pages.append(page)
        reply = page.goto(f'{server.url}/?PROLIFIC_PID={name}&STUDY_ID=s1&SESSION_ID=x1')
        policy = reply.headers['content-security-policy']
        assert "default-src 'none'" in policy and 'unsafe' not in policy
        ready(page)
        return page

    yield open_page
    for page in pages:
        hosts = {url.split('/')[2] for url in page.asked if url.startswith('http')}
        assert hosts == {page.server.url.split('/')[2]}, 'a request to another host'
        assert [e for e in page.errors if 'Failed to load resource' not in e] == [], page.errors
        assert page.evaluate('window.hacked') is None


READY = """() => document.querySelector(".closing") || (document.querySelector("#heading")
    && [...document.querySelectorAll("#survey .jspsych-btn")].every(b => !b.disabled))"""


def ready(page):
    "Wait until the page can be used; returns its heading."
    page.wait_for_function(READY)
    return page.inner_text('h1')


def place(page):
    return page.inner_text('#place')


def answer_all(page, k=None):
    "Answer everything on the screen: with the right options of a check, else with the k-th option."
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


def answer_until(page, until='.closing', k=None):
    "Answer and send until the screen shows the element `until`."
    for _ in range(20):
        if page.query_selector(until):
            return page
        answer_all(page, k)
        send(page)
    raise AssertionError(f'{until} did not appear')


def stored(server, condition=None, kind='trial'):
    table = server.answers()
    return table[(table.kind == kind) & ((table.condition == condition) if condition else True)]


def mine(page, before):
    "Rows of answers of the one participant whom the test added."
    table = page.server.answers()
    new = sorted(set(table.participant) - before)
    assert len(new) == 1
    return table[table.participant == new[0]]


@pytest.fixture
def before(study):
    return set(study.answers().participant)


# --- from consent to code

# The smallest contrast of a text on its background, with the element
CONTRAST = """() => {
  const linear = x => x <= .04045 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const light = c => {
    const [r, g, b] = c.match(/[\\d.]+/g).map(x => linear(x / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/, 0\\)$|transparent/.test(c)) return c;
    }
    return 'rgb(255, 255, 255)';
  };
  const names = ['h1', 'h2', 'p', 'span', 'legend', 'summary', '.jspsych-btn', '.reasoning'];
  return [...document.querySelectorAll('#place, ' + names.map(n => '#survey ' + n).join(', '))]
    .filter(e => e.offsetParent && !e.disabled && !e.matches('.unseen'))
    .map(e => {
      const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
      return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName, e.className];
    })
    .sort((a, b) => a[0] - b[0])[0];
}"""
SMALLEST = """() => Math.min(...[...document.querySelectorAll("fieldset label, .jspsych-btn")]
    .map(e => Math.min(e.offsetWidth, e.offsetHeight)))"""


def fits_a_phone(page):
    for detail in page.query_selector_all('summary'):
        detail.click()
    assert page.evaluate('document.documentElement.scrollWidth') <= 375, page.inner_text('h1')
    assert page.evaluate(SMALLEST) >= 40, 'large enough for a thumb'


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
    "Five participants, at least one per condition, who differ in colors, screen and way of clicking (see WAYS)."
    for k, (way, (kwargs, check, click)) in enumerate(WAYS.items()):
        page, seen = visit(way, **kwargs), []
        background = page.evaluate('getComputedStyle(document.body).backgroundColor')
        assert (background == 'rgb(255, 255, 255)') == (way != 'dark')
        while not page.query_selector('.closing'):
            seen.append(page.inner_text('h1'))
            if check:
                check(page)
            answer_all(page, min(k + 1, 4))
            send(page, how=click)
        assert len(set(seen)) == 9, 'no step is skipped or shown twice'
        assert page.inner_text('h1') == 'Done' and page.inner_text('#code') == study.codes['complete']
        assert page.get_attribute('#return', 'href') == PANEL.complete_url + study.codes['complete']
        buttons = [b.get_attribute('id') for b in page.query_selector_all('.closing .jspsych-btn')]
        assert buttons[0] == 'return', 'the way back is the first thing to press'
    page.reload()
    ready(page)
    assert page.inner_text('#code') == study.codes['complete'], 'the code is still there after a reload'
    table = study.answers()
    table = table[~table.participant.isin(before)]
    assert set(table.condition) == set(small().conditions) and set(table.status) == {'complete'}
    assert not table.duplicated(['participant', 'step', 'id', 'dimension']).any()
    for k, (who, rows) in enumerate(table.groupby('participant', sort=True)):
        ratings = rows[rows.kind == 'trial']
        assert len(ratings) == 12
        assert set(ratings.value.astype(int)) == {min(k + 2, 5)}, 'what was clicked is what is stored'
        expected = step_sequence(small(), int(who[1:]), rows.condition.iloc[0])
        assert list(dict.fromkeys(rows.step)) == [s for s in ('enter', *expected) if s in set(rows.step)]
        assert (rows.seconds >= 0).all() and (ratings.seconds < 60).all()


def test_within_participants_each_condition_is_shown_and_a_full_study_says_so(files, tmp_path, visit):
    write_study(small(('decomposition', 'r1'), layout='within', n_per_condition=1), tmp_path / 'built', files=files)
    codes = json.loads((tmp_path / 'built' / 'private.json').read_text())['codes']
    with LocalServer(tmp_path / 'built', tmp_path / 'answers.sqlite') as server:
        page = visit('ann', server)
        seen = []
        for _ in range(9):
            if trace := page.query_selector('.reasoning'):
                seen.append(trace.inner_text().split()[0])
            answer_all(page)
            send(page)
        assert sorted(seen) == ['decomposition', 'r1'] and page.inner_text('#code') == codes['complete']
        late = visit('bob', server)
        assert late.inner_text('h1') == 'The study is full' and late.inner_text('#code') == codes['full']
        assert codes['complete'] not in late.content()


def test_no_consent_gives_no_code_and_failing_twice_gives_the_code_of_screened_out(study, visit):
    page = visit('refuses')
    assert send(page, button=1) == 'You chose not to take part'
    assert not page.query_selector('#code') and not page.query_selector('#return')
    page.goto(study.url)  # without the panel's ids
    assert 'your id is missing' in (ready(page) and page.inner_text('#survey'))
    page.goto(f'{study.url}/?PROLIFIC_PID={{{{%25PROLIFIC_PID%25}}}}')
    assert 'Researcher: PROLIFIC_PID was not filled in' in (ready(page) and page.inner_text('#survey'))
    page = answer_until(visit('hasty'), until='.kind-comprehension')
    for note in ('You have one more try', None):
        for group in page.query_selector_all('fieldset'):
            group.query_selector_all('input')[0].check()
        page.click('#survey .jspsych-btn')
        if note:
            page.wait_for_selector('.note')
            assert note in page.inner_text('.note') and ready(page) == 'About the instructions'
    page.wait_for_selector('.closing')
    assert page.inner_text('h1') == 'You cannot go on' and page.inner_text('#code') == study.codes['screened_out']


# --- nothing is lost


def test_a_reload_in_the_middle_keeps_what_was_chosen(visit, before):
    page = answer_until(visit('reloads'), until='.kind-trial')
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
    answer_all(other, 3)
    send(other)
    answer_all(other)
    assert send(other) == 'Question 2 of 2'
    page.bring_to_front()
    answer_all(page, 0)  # too late: the other tab's answer is stored, and this tab goes on from there
    assert send(page) == 'Question 2 of 2'
    values = set(mine(page, before).query("step == 'trial:0'").value.astype(int))
    assert values == {4}, 'as sent by the tab that was first'


def test_whether_the_context_was_opened_is_stored(visit, before):
    "Opened and closed again, before a reload, in the first of two trials."
    page = answer_until(visit('opens'), until='.kind-trial')
    for _ in range(2):
        page.click('.context summary')
    page.wait_for_function(
        '() => Object.values(JSON.parse(localStorage.getItem("tracenb-survey")).drafts).some(d => d.opened)'
    )
    page.reload()
    ready(page)
    answer_until(page)
    rows = mine(page, before)
    opened = {s: {'trial:0': True, 'trial:1': False}.get(s, pd.NA) for s in rows.step}
    assert dict(zip(rows.step, rows.context_opened)) == opened


def test_typed_text_is_kept_after_a_reload(visit):
    page = answer_until(visit('writes'), until='.kind-free')
    page.fill('textarea', 'Half a sentence')
    page.reload()
    ready(page)
    assert page.input_value('textarea') == 'Half a sentence'


def test_the_back_button_changes_nothing(visit, before):
    page = answer_until(visit('back'), until='.kind-trial')
    answer_all(page, 1)
    here = place(page)
    for _ in range(3):
        page.evaluate('history.back()')
        page.wait_for_timeout(60)
    assert place(page) == here and page.locator('input:checked').count() == 6
    assert 'nothing is lost' in page.inner_text('#status')
    answer_until(page, k=1)
    assert len(mine(page, before).query("kind == 'trial'")) == 12


def test_offline_and_back(visit, before):
    page = answer_until(visit('offline'), until='.kind-trial')
    answer_all(page, 3)
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


def test_an_answer_that_was_not_sent_survives_closing_the_tab(visit, before):
    page = answer_until(visit('closes'), until='.kind-trial')
    answer_all(page, 4)
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
    page.evaluate = again.evaluate  # for the check at the end of `visit`


def test_a_lost_reply_stores_nothing_twice(visit, before):
    page = answer_until(visit('lost'), until='.kind-trial')
    lost = []

    def lose(route):
        if lost:
            return route.continue_()
        lost.append(route.fetch().status)  # the server has it, but the page gets no reply
        route.abort()

    page.route('**/api/answers/**', lose)
    answer_all(page, 2)
    assert send(page) == 'A question in between' and lost == [200]
    assert len(mine(page, before).query("kind == 'trial'")) == 6


def test_a_request_to_a_busy_server_is_repeated(visit):
    page = answer_until(visit('busy'), until='.kind-trial')
    asked = []

    def busy(route):
        asked.append(route.request.method)
        if len(asked) < 3:
            route.fulfill(status=503, headers={'Retry-After': '1'}, json=dict(error='busy', message=''))
        else:
            route.continue_()

    page.route('**/api/answers/**', busy)
    answer_all(page)
    assert send(page) == 'A question in between' and len(asked) == 3


def test_a_missing_rating_is_named_and_nothing_is_sent(visit, before):
    page = answer_until(visit('misses'), until='.kind-trial')
    groups = page.query_selector_all('fieldset')
    for group in [*groups[:2], *groups[3:]]:
        group.query_selector_all('input')[0].check()
    page.click('#survey .jspsych-btn')
    assert page.inner_text('#said') == 'One answer is missing.'
    legend = page.evaluate('document.activeElement.closest("fieldset").querySelector("legend").textContent')
    assert legend == small().scales[2].prompt
    assert groups[2].query_selector('.wrong').inner_text() == 'Please choose an option.'
    assert not len(mine(page, before).query("kind == 'trial'"))
    groups[2].query_selector_all('input')[1].check()
    assert page.inner_text('#said') == ''
    assert send(page) == 'A question in between'


# --- accessibility

FOCUS = """() => ({
  radio: document.activeElement.type === "radio",
  legend: document.activeElement.closest("fieldset")?.querySelector("legend").textContent,
  send: document.activeElement.matches("#survey .jspsych-btn"),
  kind: document.querySelector(".jspsych-content").className,
})"""
UNNAMED = """() => [...document.querySelectorAll("input, textarea, button, progress")]
    .filter(e => e.offsetParent && !(e.labels?.length || e.textContent.trim() || e.value)).length"""


def test_keyboard_only(visit, study):
    page = visit('keys')
    press = page.keyboard.press
    tabs = []
    while not page.query_selector('.closing') and len(tabs) < 200:
        press('Tab')
        tabs.append(page.evaluate('document.activeElement.tagName + (document.activeElement.type || "")'))
        at = page.evaluate(FOCUS)
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


def test_screen_readers_get_names_and_roles(visit):
    page = visit('hears')
    assert page.evaluate('document.activeElement.id') == 'heading', 'each page begins at its heading'
    assert page.get_by_role('progressbar', name='Page 1 of 9').count() == 1
    page = answer_until(page, until='.kind-trial')
    assert page.evaluate('document.activeElement.id') == 'heading'
    scale = small().scales[3]
    group = page.get_by_role('group', name=scale.prompt)
    assert group.get_by_role('radio').count() == 5
    for name in (f'1 {scale.low}', f'5 {scale.high}'):
        assert group.get_by_role('radio', name=name).count() == 1
    assert page.get_by_role('region', name='Its reasoning').count() == 1
    assert page.evaluate(UNNAMED) == 0
    page = answer_until(page, until='.kind-free')
    assert page.get_by_role('textbox', name='What made a reasoning easy or hard to follow?').count() == 1


def assert_accessible(page, axe):
    "axe-core finds nothing on this page, in light and dark colors and at two widths, with all details open."
    for detail in page.query_selector_all('details:not([open]) > summary'):
        detail.click()
    assert (found := axe(page)) == [], '\n'.join(found)


def assert_axe_finds_low_contrast(page, axe):
    "A violation made on purpose is found."
    page.evaluate('document.querySelector("h1").style.color = "#999"')
    assert {f.split(': ')[1] for f in axe(page)} == {'color-contrast'}


def test_a_trial_is_accessible(visit, axe):
    "One page of the survey that stands for the others; the next test checks all of them."
    page = answer_until(visit('adam'), until='.kind-trial')
    assert_accessible(page, axe)
    assert_axe_finds_low_contrast(page, axe)


@pytest.mark.exhaustive
def test_every_page_is_accessible(visit, axe):
    "Every step, answers missing and wrong, no connection, and the ending."
    page = visit('eve')
    seen = set()
    while not page.query_selector('.closing'):
        kind = page.evaluate('document.querySelector(".jspsych-content").className')
        if kind not in seen:
            seen.add(kind)
            assert_accessible(page, axe)
            if page.query_selector('form [required]'):
                page.click('#survey .jspsych-btn')  # nothing is chosen
                assert_accessible(page, axe)
            if 'comprehension' in kind:
                for group in page.query_selector_all('fieldset'):
                    group.query_selector_all('input')[0].check()
                page.click('#survey .jspsych-btn')
                page.wait_for_selector('.note')
                ready(page)
                assert_accessible(page, axe)
        answer_all(page)
        if 'attention' in kind:
            page.context.set_offline(True)
            page.click('#survey .jspsych-btn')
            page.wait_for_selector('#retry:visible')
            assert_accessible(page, axe)
            page.context.set_offline(False)
            page.wait_for_selector('.kind-trial', timeout=15000)
            ready(page)
        else:
            send(page)
    assert_accessible(page, axe)
    assert len(seen) == 8, seen
    page.goto(page.server.url)  # the id is missing
    ready(page)
    assert_accessible(page, axe)
    assert_axe_finds_low_contrast(page, axe)


# --- a study in another language

RINGED = str.maketrans({chr(ord(a) + k): chr(o + k) for a, o in (('A', 0x24B6), ('a', 0x24D0)) for k in range(26)})


def ringed(text):
    "The text in circled letters, which no language uses; placeholders stay as they are."
    return ''.join(part if part[:1] == '{' else part.translate(RINGED) for part in re.split(r'(\{\w+\})', text))


def translated(**other):
    "A study in which every text that this package ships is replaced: titles, texts, words, questions, items."
    demo, marked = small(('r1',)), lambda text: f'{HOSTILE}{ringed(text)}'

    def ringed_rows(rows, *keys):
        ring = lambda v: tuple(map(ringed, v)) if isinstance(v, tuple) else ringed(v)
        return tuple(replace(row, **{k: ring(getattr(row, k)) for k in keys}) for row in rows)

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
        scales=ringed_rows(demo_study().scales, 'prompt', 'low', 'high'),
        checks=ringed_rows([c for c in demo_study().checks if c.name != 'attention_low'], 'prompt', 'options'),
        free=(replace(demo.free[0], prompt=ringed(demo.free[0].prompt)),),
        demographics=ringed_rows(demo.demographics, 'prompt', 'options'),
        **other,
    )


# Every text of the page: visible, in attributes, and for browsers without scripts
ALL_TEXT = """() => {
  const attributes = ['aria-label', 'title', 'placeholder', 'alt'];
  const inAttributes = e =>
    [...attributes.map(a => e.getAttribute(a)), e.matches('input[type=submit]') ? e.value : null];
  const parsed = e => new DOMParser().parseFromString(e.textContent, 'text/html').body.textContent;
  return [
    document.title,
    document.body.innerText,
    ...[...document.querySelectorAll('*')].flatMap(inAttributes),
    ...[...document.querySelectorAll('noscript')].map(parsed),
  ].filter(Boolean).join('\\n');
}"""


def assert_translated(page, texts, *known):
    "No text on the page is one that this package ships; the text of the page is added to `texts`."
    assert page.locator('html').get_attribute('lang') == 'he'
    assert page.evaluate('getComputedStyle(document.body).direction') == 'rtl'
    for detail in page.query_selector_all('details:not([open]) > summary'):
        detail.click()
    text = page.evaluate(ALL_TEXT)
    texts.append(text)
    for part in (HOSTILE, re.sub('<[^>]*>', '', HOSTILE), *known):
        text = text.replace(part, '')
    assert not re.search('[A-Za-z]', text), re.findall('.*[A-Za-z].*', text)
    assert page.locator('#survey img, #survey script, #survey b, #preview img, #status img').count() == 0


def test_a_study_in_another_language_shows_no_text_of_the_package(files, tmp_path, visit):
    "Every ending, and the messages when answers are missing or wrong, the connection is cut or the id is missing."
    write_study(translated(n_per_condition=1), tmp_path / 'built', files=files)
    codes, texts = json.loads((tmp_path / 'built' / 'private.json').read_text())['codes'], []
    with LocalServer(tmp_path / 'built', tmp_path / 'answers.sqlite') as server:
        page = visit('refuses', server)
        assert_translated(page, texts)
        send(page, button=1)
        assert_translated(page, texts)
        page = visit('hasty', server)
        for _ in range(2):
            send(page)
        for _ in range(2):
            for group in page.query_selector_all('fieldset'):
                group.query_selector_all('input')[0].check()
            page.click('#survey .jspsych-btn')
            page.wait_for_selector('.note, .closing')
            assert_translated(page, texts, *codes.values())
            ready(page)
        page.wait_for_selector('.closing')
        assert_translated(page, texts, *codes.values())
        page = visit('ann', server)
        while not page.query_selector('.closing'):
            assert_translated(page, texts)
            if page.query_selector('.kind-trial'):
                page.click('#survey .jspsych-btn')  # nothing is chosen
                assert_translated(page, texts)
                page.evaluate('history.back()')
                page.wait_for_function(
                    'n => document.querySelector("#said").textContent.includes(n)', arg=translated().words['no_back']
                )
                assert_translated(page, texts)
            answer_all(page)
            if page.query_selector('.kind-attention'):
                page.context.set_offline(True)
                page.click('#survey .jspsych-btn')
                page.wait_for_selector('#retry:visible')
                assert_translated(page, texts)
                page.context.set_offline(False)
                page.wait_for_selector('.kind-trial', timeout=15000)
                ready(page)
            else:
                send(page)
        assert_translated(page, texts, *codes.values())
        assert_translated(visit('late', server), texts, *codes.values())  # full
        page.goto(server.url)
        ready(page)
        assert_translated(page, texts)
    texts = ' '.join(' '.join(texts).split())
    plain = lambda text: re.compile(
        r'\d+'.join(re.escape(re.sub(r'\s+', ' ', part)) for part in re.split(r'\{\w+\}', text))
    )
    unseen = {k for k, text in translated().words.items() if not plain(text).search(texts)}
    assert unseen == {
        *LATER,  # Without storage, with a busy server, after a place was lost, for a second person
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
    }, unseen  # shown only in a preview or for a moment; the last four are in a consent text


# --- markup in the data is not run


def test_markup_in_the_data_is_text(visit):
    page = visit('markup')
    assert HOSTILE in page.inner_text('#survey')
    page = answer_until(page, until='.kind-trial')
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


# --- without storage, with a place lost, for a second person


def test_blocked_storage_is_said_and_a_reload_goes_on(study, visit):
    page = visit('blocked')
    page.context.add_init_script(
        "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('denied', 'SecurityError') }})"
    )
    page.reload()
    ready(page)
    send(page)
    place = page.inner_text('#place')
    page.reload()
    ready(page)
    assert page.inner_text('#place') == place
    assert 'does not let the page keep anything' in page.inner_text('#said')


def test_null_characters_of_a_comment_are_left_out_and_the_study_goes_on(visit):
    page = answer_until(visit('nul'), until='.kind-free')
    page.evaluate(
        "() => { const f = document.querySelector('textarea');"
        " f.value = 'good' + String.fromCharCode(0, 0xd83d) + 'bye';"
        " f.dispatchEvent(new Event('input', {bubbles: true})) }"
    )
    with page.expect_request('**/api/answers/free') as sent:
        page.click('#survey .jspsych-btn')
    assert json.loads(sent.value.post_data)['values'] == dict(comment='goodbye')


@pytest.mark.exhaustive
def test_the_next_person_at_the_same_computer_takes_part_anew(files, tmp_path, tab):
    write_study(small(panel=Panel()), tmp_path / 'built', files=files)
    with LocalServer(tmp_path / 'built', tmp_path / 'answers.sqlite') as server:
        page = tab()
        page.goto(server.url)
        ready(page)
        assert answer_until(page).inner_text('h1') == 'Done'
        page.goto(server.url)
        assert ready(page) == 'Done', 'the same person sees the same end'
        page.click('#next-person')
        page.wait_for_selector('.kind-consent')
        ready(page)
        send(page)
    assert read_answers(tmp_path / 'answers.sqlite').participant.nunique() == 2


@pytest.mark.exhaustive
def test_who_loses_the_place_while_idle_is_told_what_is_saved(files, tmp_path, tab):
    one = replace(small(('r1',)), n_per_condition=1)
    write_study(one, tmp_path / 'built', files=files)
    with LocalServer(tmp_path / 'built', tmp_path / 'answers.sqlite') as server:
        page, other = tab(), tab()
        page.goto(f'{server.url}/?PROLIFIC_PID=idle')
        ready(page)
        answer_until(page, until='.kind-trial')
        with closing(sqlite3.connect(tmp_path / 'answers.sqlite', timeout=10)) as db, db:
            db.execute('UPDATE participants SET seen = seen - 100000')
        other.goto(f'{server.url}/?PROLIFIC_PID=next')
        assert ready(other) != 'The study is full'
        answer_all(page)
        page.click('#survey .jspsych-btn')
        page.wait_for_selector('.closing')
        assert one.words['place_lost'] in page.inner_text('#survey')
        page.click('.closing button')
        page.wait_for_function('() => document.querySelector("h1")?.textContent === "The study is full"')
    rows = read_answers(tmp_path / 'answers.sqlite')
    assert set(rows[rows.participant == 'p0001'].kind) == {'enter', 'consent', 'comprehension'}
