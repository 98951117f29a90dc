"""
JupyterLab as a user meets it.

Records display themselves in both themes, the explorer reacts, tutorials run, and work resumes after a stopped cell.
"""

import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import ROOT, new_page
from faulty_server import FaultyServer
from lab_driver import Kernel, Lab, environment

# Each in the browser: the first in every run, the others in `make test-all`; test_tutorials.py runs those always.
IN_BROWSER = ['start.ipynb']
TUTORIALS = [
    path if path in IN_BROWSER else pytest.param(path, marks=pytest.mark.exhaustive)
    for path in ['start.ipynb', *sorted(f'tutorials/{p.name}' for p in (ROOT / 'nbs').glob('tutorials/*.ipynb'))]
]


@pytest.fixture(scope='session')
def lab(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp('lab'))
    yield lab
    lab.close()


def asks_no_other_host(page, lab):
    own = (lab.url, lab.url.replace('http', 'ws'), 'data:', 'blob:')
    return [u for u in page.asked if not u.startswith(own)] == []


def ran(prompts):
    return all(re.fullmatch(r'\[\d+\]:', p) for p in prompts)


def test_make_lab_opens_the_start_page(lab):
    assert '/lab/tree/nbs/start.ipynb?token=' in lab.log.read_text()


def test_run_all_sees_an_error(lab, tab):
    prompts, errors = lab.run_all(tab(), lab.write('failing.ipynb', '1 + 1', 'raise ValueError("no")', '2'))
    assert not ran(prompts) and 'ValueError: no' in errors[0]


# --- displays and the explorer

HOSTILE = """
from tracenb.core.records import Example, Response
from tracenb.traces.display import show_response, show_trace
from tracenb.tasks.task import toy
from tracenb.traces.conditions import build_traces
context = ('<script>hacked = 1</script>', '<img src=x onerror="hacked = 1">', 'Zoë 😀 שלום')
meta = {'label': 'color', 'facts': [1]}
e = Example(
    id='<i>', dataset='toy', split='test', context=context, question='</table><b>?', answers=('a',), meta=meta
)
e"""
# Contrast of each text that a record shows with what is behind it, lowest first
CONTRASTS = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
  const over = ([r, g, b, a = 1], under) => [r, g, b].map((x, i) => a * x + (1 - a) * under[i]);
  const linear = x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  const luminance = c => { const [r, g, b] = c.map(linear); return .2126 * r + .7152 * g + .0722 * b; };
  const ratios = [];
  for (const e of document.querySelectorAll('.jp-OutputArea-output .tnb *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    const ancestors = [];
    for (let p = e; p; p = p.parentElement) ancestors.unshift(p);
    let ground = [255, 255, 255], opacity = 1;
    for (const p of ancestors) {
      const s = getComputedStyle(p);
      ground = over(parse(s.backgroundColor), ground);
      opacity *= s.opacity;
    }
    const [r, g, b, a = 1] = parse(getComputedStyle(e).color);
    const [l1, l2] = [luminance(over([r, g, b, a * opacity], ground)), luminance(ground)];
    const ratio = (Math.max(l1, l2) + .05) / (Math.min(l1, l2) + .05);
    ratios.push([ratio, e.className + ' ' + e.textContent.slice(0, 30)]);
  }
  return ratios.sort((x, y) => x[0] - y[0]);
}"""


def contrasts(page, folder, name):
    "The contrasts of a notebook's records in both themes, lowest first; a picture of it where one is below 4.5."
    heights = "[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight)"
    height = page.evaluate(f'Math.max(...{heights})')
    page.set_viewport_size(dict(width=page.viewport_size['width'], height=min(height + 200, 12_000)))
    found = []
    for scheme in ('dark', 'light'):
        page.emulate_media(color_scheme=scheme)
        is_set = 'light => document.body.dataset.jpThemeLight === light'
        page.wait_for_function(is_set, arg=str(scheme == 'light').lower())
        page.wait_for_timeout(500)  # colors fade
        found += (ratios := page.evaluate(CONTRASTS))
        if ratios and ratios[0][0] < 4.5:
            page.screenshot(path=folder / f'{name}-{scheme}.png')
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize('path', TUTORIALS)
def test_tutorial_runs(lab, tab, path, tmp_path):
    page, folder = tab(), (lab.nbs / path).parent

    def files():
        return sorted(p.name for p in folder.iterdir() if p.name != '.ipynb_checkpoints')

    before = files()
    prompts, errors = lab.run_all(page, path, seconds=400)
    assert ran(prompts) and errors == [] and asks_no_other_host(page, lab)
    assert files() == before, 'a tutorial leaves nothing in its folder'
    low = [x for x in contrasts(page, tmp_path, Path(path).stem) if x[0] < 4.5]
    assert low == []


COLORED = """[...document.querySelectorAll('.jp-OutputArea-output .tnb :is(span, mark, li, td)')]
    .filter(e => getComputedStyle(e).backgroundColor !== 'rgba(0, 0, 0, 0)').length"""


def test_stored_outputs_have_their_colors_once_make_lab_has_trusted_them(lab, tab):
    page, name = tab(), 'stored.ipynb'
    shutil.copy(ROOT / 'nbs' / 'tutorials' / 'explore.ipynb', lab.nbs / name)
    before = lab.open(page, name).evaluate(COLORED)  # the stripes of tables
    patterns = re.search(r'jupyter trust (.*) >/dev/null', (ROOT / 'Makefile').read_text())[1]
    trust = ['sh', '-c', f'"$0" -m jupyter trust {patterns}', sys.executable]
    subprocess.run(trust, cwd=lab.nbs.parent, env=environment(lab.folder), check=True, capture_output=True)
    assert lab.open(page, name).evaluate(COLORED) > 5 * before


SHOWN = [
    'show_trace(e, build_traces([e], toy, "incorrect")[0])',
    'build_traces([e], toy, "correct")[0]',
    """
text = '<think><script>hacked = 1</script></think> <answer>b</answer>'
r = Response(id=e.id, label='<u>', facts=e.context[:1], answers=('b',), error='<s>', text=text)
r""",
    'show_response(r, e)',
    'from tracenb.runs.grids import get_grid\nget_grid("demo")',
    """
from tracenb.models.loading import load_tokenizer
from tracenb.traces.loss_mask import encode, show_mask
from tracenb.traces.chat import render
tok = load_tokenizer('tiny-random')
c = render(e, build_traces([e], toy, 'correct')[0], toy)
c""",
    'show_mask(encode(c, tok), tok)',
]
RUN = """
import tempfile
from tracenb.runs import stages
work = tempfile.TemporaryDirectory()
settings = dict(train=dict(num_train_epochs=1, gradient_accumulation_steps=1), generate=dict(max_new_tokens=24))
run = stages.open_run(stages.make_run(data=dict(n_train=8, n_test=3), **settings), work.name)
stages.tune(run, stages.build(run))
stages.finish(run, stages.score(run, stages.answer(run)))"""
EXPLORE = 'from tracenb.runs.explorer import explore\nexplore("toy", model="tiny-random")'
FORCE = 'from tracenb.interventions.panel import explore_trace\nexplore_trace(run.path)'
DISPLAYED = [HOSTILE, *SHOWN, RUN, EXPLORE, 'explore(run=run.path)', FORCE]


@pytest.fixture(scope='module')
def displayed(lab, chromium):
    "A page with records, the explorer and the panel of forced traces: one notebook, run once for the tests below."
    page = new_page(chromium, width=900, height=1000)
    prompts, errors = lab.run_all(page, lab.write('displayed.ipynb', *DISPLAYED))
    assert ran(prompts) and errors == []
    yield page
    assert asks_no_other_host(page, lab)
    page.context.close()


def cell_with(page, source):
    return page.locator('.jp-CodeCell').nth(DISPLAYED.index(source))


def press(cell, name, awaited):
    "Press a button by the keyboard, as often as needed: a key is lost while a busy machine still draws the page."
    from playwright.sync_api import Error, expect

    for _ in range(4):
        expect(cell.get_by_role('button', name=name)).to_be_enabled(timeout=30_000)
        cell.get_by_role('button', name=name).press('Enter')
        with suppress(Error):
            return awaited.wait_for(timeout=15_000)
    raise AssertionError(f'{name!r} was pressed four times: {cell.inner_text()}')


def test_records_are_legible_and_harmless(displayed, tmp_path):
    page = displayed
    assert page.locator('.tnb').count() >= 8
    assert page.evaluate('typeof hacked') == 'undefined'
    assert page.locator('.tnb script, .tnb img').count() == 0
    found = contrasts(page, tmp_path, 'records')
    assert len(found) > 80 and found[0][0] >= 4.5, found[:3]


def test_the_explorer_reacts(displayed, tmp_path):
    page = displayed
    page.set_viewport_size(dict(width=1200, height=1500))
    assert cell_with(page, RUN).locator('.widget-hprogress').count() == 2  # bars of training and of generation
    first, second = cell_with(page, EXPLORE), cell_with(page, 'explore(run=run.path)')
    first.get_by_text('incorrect trace').wait_for()
    first.get_by_label('condition', exact=True).select_option('wrong_label')
    first.get_by_text('wrong_label trace').wait_for()
    first.get_by_label('condition', exact=True).focus()
    for key in ('Space', 'ArrowDown', 'Enter'):
        page.keyboard.press(key)  # without a mouse
    first.get_by_text('wrong_facts trace').wait_for()
    before = first.locator('.tnb-items').first.inner_text()
    first.get_by_label('data set').select_option('babi')
    first.locator('.tnb-note', has_text='split of babi').wait_for()
    assert first.locator('.tnb-items').first.inner_text() != before
    first.get_by_label('compared with').select_option('nothing')
    first.get_by_text('incorrect trace').wait_for(state='hidden')
    second.get_by_role('button', name='Ask the model').click()
    second.get_by_text('parsed and scored').wait_for()
    second.get_by_text('what the model wrote').wait_for()
    second.get_by_label('question').fill('Where is Zoë?')
    press(second, 'Ask the model', second.get_by_text('the answer is parsed, not scored'))
    page.screenshot(path=tmp_path / 'explorer.png')


def test_a_trace_can_be_edited_by_hand(displayed):
    page, panel = displayed, cell_with(displayed, FORCE)
    trace = panel.get_by_label('trace', exact=True)
    trace.wait_for()
    assert trace.input_value(), 'it begins with the correct trace'
    logprobs = []
    for text in (trace.input_value(), 'Nothing <b>is</b> known.'):
        trace.fill(text)
        row = panel.locator('tbody tr', has=page.locator('td', has_text=text[:24])).last
        press(panel, 'Force this trace', row)
        logprobs.append(float(re.search(r'-\d+\.\d\d', row.inner_text())[0]))
    assert logprobs[0] != logprobs[1]
    panel.get_by_label('start from').select_option('none')
    page.wait_for_function('t => t.value === ""', arg=trace.element_handle())


# --- a stopped cell


@pytest.fixture(scope='module')
def kernel(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp('kernel'))
    yield kernel
    kernel.close()


BEGIN = """
from tracenb.models.loading import linear4bit
from tracenb.runs import stages
train = dict(num_train_epochs=1, batch_size=1, gradient_accumulation_steps=1)
train |= dict(save_steps=2, gradient_checkpointing=False)
settings = dict(train=train, generate=dict(max_new_tokens=40, batch_size=1))
def begin(out):
    return stages.open_run(stages.make_run(data=dict(n_train=48, n_test=24), **settings), out)
run = begin('stopped')
chats = stages.build(run)
print(run.path.resolve())"""
RESUME = """
run = begin('stopped')
summary = stages.tune(run, chats)
print(summary['resumed_at'], summary['steps'], len(linear4bit(run.base_model)) > 0)"""
COMPARE = """
made = stages.answer(run)
whole = begin('whole')
stages.tune(whole, stages.build(whole))
print(made == stages.answer(whole), len(made))"""


def n_lines(path):
    return path.read_bytes().count(b'\n') if path.exists() else 0


def test_training_and_generation_resume_after_a_stopped_cell(kernel):
    error, printed = kernel.run(BEGIN)
    assert error is None
    run = Path(printed)
    log, generations = run / 'train_log.jsonl', run / 'generations.jsonl'
    assert kernel.run('stages.tune(run, chats)', lambda: n_lines(log) >= 5)[0] == 'KeyboardInterrupt'
    assert kernel.run('print(6 * 7)') == (None, '42')
    error, printed = kernel.run(RESUME)
    at, steps, quantized = printed.split()
    assert error is None and 4 <= int(at) < int(steps) == 48 and quantized == 'True'
    assert kernel.run('made = stages.answer(run)', lambda: n_lines(generations) >= 3)[0] == 'KeyboardInterrupt'
    before = generations.read_text()
    assert kernel.run(COMPARE) == (None, 'True 24')
    assert generations.read_text().startswith(before[: before.rfind('\n') + 1])


CALL = """
from tracenb.teacher.client import ask
from tracenb.teacher.endpoint import Endpoint, Request
messages = [({{'role': 'user', 'content': f'question {{i}}'}},) for i in range(40)]
requests = [Request(id=f'q{{i}}', messages=m) for i, m in enumerate(messages)]
replies = ask(requests, Endpoint(base_url={url!r}, model='m', concurrency=2), 'c.sqlite')
print(len(replies), *{{r.state for r in replies}})"""


def test_requests_resume_after_a_stopped_cell(kernel):
    "No reply that arrived is requested again."
    with FaultyServer(lambda question, attempt: None, delay=0.1) as server:
        call = CALL.format(url=server.url)
        assert kernel.run(call, lambda: len(server.answered) >= 6)[0] == 'KeyboardInterrupt'
        assert kernel.run('print(6 * 7)') == (None, '42')
        assert kernel.run(call) == (None, '40 ok')
        assert len(server.answered) == 40 and sum(server.answered.values()) <= 42  # two were on their way
