"""JupyterLab as a user meets it: records show themselves in both themes, the explorer reacts, tutorials run, an interrupted cell leaves a kernel that goes on."""

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT
from faulty_server import FaultyServer
from jupyter_client.manager import start_new_kernel

TUTORIALS = sorted(
    p.relative_to(ROOT / 'nbs') for where in ('start.ipynb', 'tutorials/*.ipynb') for p in (ROOT / 'nbs').glob(where)
)
# No news, no look for updates, one theme with the system's, every cell in the page
SETTINGS = {
    'apputils-extension/notification': {'checkForUpdates': False, 'fetchNews': 'false', 'doNotDisturbMode': True},
    'apputils-extension/themes': {'adaptive-theme': True},
    'notebook-extension/tracker': {'windowingMode': 'none'},
}

PROMPTS = '.jp-Notebook .jp-CodeCell .jp-InputArea-prompt'


def environment(folder):
    "Of a server or a kernel: this checkout's library, nobody's configuration, no bars left out."
    own = {f'JUPYTER_{k}_DIR': str(folder / k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')} | {
        f'JUPYTERLAB_{k}_DIR': str(folder / k.lower()) for k in ('SETTINGS', 'WORKSPACES')
    }
    return (
        {k: v for k, v in os.environ.items() if k != 'CI'}
        | own
        | dict(
            PYTHONPATH=str(ROOT),
            IPYTHONDIR=str(folder / 'ipython'),
            HF_HUB_OFFLINE='1',
            OMP_NUM_THREADS='1',
            TOKENIZERS_PARALLELISM='false',
        )
    )


class Lab:
    "A JupyterLab on a copy of the notebooks."

    def __init__(self, folder):
        self.folder, self.token = folder, secrets.token_hex(16)
        shutil.copytree(ROOT / 'nbs', folder / 'checkout' / 'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
        for name, values in SETTINGS.items():
            place = folder / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(values))
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            self.url = f'http://127.0.0.1:{s.getsockname()[1]}'
        self.log = open(folder / 'lab.log', 'w')
        self.process = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                '--ServerApp.ip=127.0.0.1',
                f'--ServerApp.port={self.url.rpartition(":")[2]}',
                '--ServerApp.port_retries=0',
                f'--IdentityProvider.token={self.token}',
                f'--ServerApp.root_dir={folder / "checkout" / "nbs"}',
                '--LabApp.extension_manager=readonly',
                '--LabApp.news_url=',
            ],
            env=environment(folder),
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        while not self.up():
            assert self.process.poll() is None, (folder / 'lab.log').read_text()
            time.sleep(0.2)

    def get(self, path):
        "A JSON answer of the server."
        with urllib.request.urlopen(
            f'{self.url}/{path}{"&" if "?" in path else "?"}token={self.token}', timeout=60
        ) as r:
            return json.load(r)

    def up(self):
        try:
            return bool(self.get('api/status'))
        except OSError:
            return False

    def write(self, name, *sources):
        "A notebook of code cells."
        nbformat.write(
            nbformat.v4.new_notebook(
                cells=[nbformat.v4.new_code_cell(s) for s in sources],
                metadata=dict(kernelspec=dict(name='python3', language='python', display_name='python3')),
            ),
            self.folder / 'checkout' / 'nbs' / name,
        )
        return name

    def open(self, page, name):
        page.goto(f'{self.url}/lab/tree/{name}?reset&token={self.token}')
        page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=90_000)
        page.get_by_text('| Idle').wait_for(timeout=90_000)
        return page

    def run_all(self, page, name, seconds=180):
        "Open `name`, Run All, wait for the last cell; returns the prompts of the code cells and the tracebacks shown."
        self.open(page, name)
        while not any(
            re.search(r'[*\d]', p) for p in page.locator(PROMPTS).all_inner_texts()
        ):  # a kernel that was idle a moment ago may still let the first order pass
            page.get_by_role('menuitem', name='Run', exact=True).click()
            page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
            page.wait_for_timeout(2000)
        page.wait_for_function(
            f"() => ![...document.querySelectorAll('{PROMPTS}')].some(p => p.textContent.includes('*'))",
            timeout=seconds * 1000,
        )
        return page.locator(PROMPTS).all_inner_texts(), page.locator(
            '.jp-Notebook .jp-OutputArea-output', has_text='Traceback (most recent call last)'
        ).all_inner_texts()

    def close(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.log.close()


@pytest.fixture(scope='module')
def lab(chromium, tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp('lab'))
    yield lab
    lab.close()


def stays_at_home(page, lab):
    return [u for u in page.asked if not u.startswith((lab.url, lab.url.replace('http', 'ws'), 'data:', 'blob:'))] == []


def ran(prompts):
    return all(re.fullmatch(r'\[\d+\]:', p) for p in prompts)


def test_run_all_sees_an_error(lab, tab):
    prompts, errors = lab.run_all(tab(), lab.write('stand-in.ipynb', '1 + 1', 'raise ValueError("no")', '2'))
    assert not ran(prompts) and 'ValueError: no' in errors[0]


# --- displays and the explorer

HOSTILE = """
from tracenb.core.records import Example, Response
from tracenb.traces.display import show_response, show_trace
from tracenb.tasks.task import toy
from tracenb.traces.conditions import build_traces
e = Example(id='<i>', dataset='toy', split='test', context=('<script>hacked = 1</script>', '<img src=x onerror="hacked = 1">', 'Zoë 😀 שלום'), question='</table><b>?', answers=('a',), meta={'label': 'color', 'facts': [1]})
e"""
LOWEST = """() => {
  const parse = c => (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number), over = ([r, g, b, a = 1], under) => [r, g, b].map((x, i) => a * x + (1 - a) * under[i]);
  const light = c => { const [r, g, b] = c.map(x => (x /= 255) <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ratios = [];
  for (const e of document.querySelectorAll('.jp-OutputArea-output .tnb *')) {
    if (![...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) || !e.checkVisibility()) continue;
    const line = []; for (let p = e; p; p = p.parentElement) line.unshift(p);
    let ground = [255, 255, 255], clear = 1;
    for (const p of line) { const s = getComputedStyle(p); ground = over(parse(s.backgroundColor), ground); clear *= s.opacity; }
    const [r, g, b, a = 1] = parse(getComputedStyle(e).color), a1 = light(over([r, g, b, a * clear], ground)), a2 = light(ground);
    ratios.push([(Math.max(a1, a2) + .05) / (Math.min(a1, a2) + .05), e.className + ' ' + e.textContent.slice(0, 30)]);
  }
  return ratios.sort((x, y) => x[0] - y[0]);
}"""


def look(page, folder, name):
    "Both themes: a picture of the whole notebook, and the contrasts of what records show, lowest first."
    tall = page.evaluate(
        "Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight))"
    )
    page.set_viewport_size(dict(width=page.viewport_size['width'], height=min(tall + 200, 12_000)))
    found = []
    for scheme in ('dark', 'light'):
        page.emulate_media(color_scheme=scheme)
        page.wait_for_function(
            'light => document.body.dataset.jpThemeLight === light', arg=str(scheme == 'light').lower()
        )
        page.wait_for_timeout(500)  # colors fade
        page.screenshot(path=folder / f'{name}-{scheme}.png')
        found += page.evaluate(LOWEST)
    return sorted(found)


@pytest.mark.slow
@pytest.mark.parametrize('path', TUTORIALS, ids=lambda p: p.stem)
def test_tutorial_runs(lab, tab, path, tmp_path):
    page = tab()
    around = lambda: sorted(
        p.name for p in (lab.folder / 'checkout' / 'nbs' / path).parent.iterdir() if p.name != '.ipynb_checkpoints'
    )
    before = around()
    prompts, errors = lab.run_all(page, str(path), seconds=400)
    assert ran(prompts) and errors == [] and stays_at_home(page, lab)
    assert around() == before, 'a tutorial leaves nothing in its folder'
    assert not (low := [x for x in look(page, tmp_path, path.stem) if x[0] < 4.5]), low[:3]


def test_stored_outputs_have_their_colors_once_make_lab_has_trusted_them(lab, tab):
    page, name = tab(), 'stored.ipynb'
    shutil.copy(ROOT / 'nbs' / 'tutorials' / 'explore.ipynb', lab.folder / 'checkout' / 'nbs' / name)
    colored = lambda: lab.open(page, name).evaluate(
        "[...document.querySelectorAll('.jp-OutputArea-output .tnb :is(span, mark, li, td)')].filter(e => getComputedStyle(e).backgroundColor !== 'rgba(0, 0, 0, 0)').length"
    )
    before = colored()  # the stripes of tables
    patterns = re.search(r'jupyter trust (.*) >/dev/null', (ROOT / 'Makefile').read_text())[1]
    subprocess.run(
        ['sh', '-c', f'"$0" -m jupyter trust {patterns}', sys.executable],
        cwd=lab.folder / 'checkout',
        env=environment(lab.folder),
        check=True,
        capture_output=True,
    )
    assert colored() > 5 * before


def test_records_are_legible_and_harmless(lab, tab, tmp_path):
    page = tab(width=900, height=1000)
    shown = [
        'show_trace(e, build_traces([e], toy, "incorrect")[0])',
        'build_traces([e], toy, "correct")[0]',
        'r = Response(id=e.id, label="<u>", facts=e.context[:1], answers=("b",), error="<s>", text="<think><script>hacked = 1</script></think> <answer>b</answer>")\nr',
        'show_response(r, e)',
        'from tracenb.runs.grids import get_grid\nget_grid("demo")',
        'from tracenb.traces.chat import encode, render, show_mask\nfrom tracenb.models.loading import load_tokenizer\ntok = load_tokenizer("tiny-random")\nc = render(e, build_traces([e], toy, "correct")[0], toy)\nc',
        'show_mask(encode(c, tok), tok)',
    ]
    prompts, errors = lab.run_all(page, lab.write('records.ipynb', HOSTILE, *shown))
    assert ran(prompts) and errors == [] and page.locator('.tnb').count() >= 8
    assert (
        page.evaluate('typeof hacked') == 'undefined'
        and page.locator('.tnb script, .tnb img').count() == 0
        and stays_at_home(page, lab)
    )
    ratios = look(page, tmp_path, 'records')
    assert len(ratios) > 80 and ratios[0][0] >= 4.5, ratios[:3]


RUN = """
import tempfile
from tracenb.runs import stages
work = tempfile.TemporaryDirectory()
run = stages.open_run(stages.make_run(data=dict(n_train=8, n_test=3), train=dict(num_train_epochs=1, gradient_accumulation_steps=1), generate=dict(max_new_tokens=24)), work.name)
stages.tune(run, stages.build(run))
stages.finish(run, stages.score(run, stages.answer(run)))"""


def test_the_explorer_reacts(lab, tab, tmp_path):
    page = tab(width=1200, height=1500)
    prompts, errors = lab.run_all(
        page,
        lab.write(
            'explorer.ipynb',
            RUN,
            'from tracenb.runs.explorer import explore\nexplore("toy", model="tiny-random")',
            'explore(run=run.path)',
        ),
    )
    assert ran(prompts) and errors == []
    assert (
        page.locator('.jp-CodeCell').first.locator('.widget-hprogress').count() == 2
    )  # training and generation had bars of widgets
    first, second = (page.locator('.jp-CodeCell').nth(k) for k in (1, 2))
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
    second.get_by_role('button', name='Ask the model').press('Enter')  # a click would need a page that stands still
    second.get_by_text('the answer is read, not scored').wait_for()
    assert stays_at_home(page, lab)
    page.screenshot(path=tmp_path / 'explorer.png')


# --- a stopped cell


class Kernel:
    "A real kernel of this checkout, driven as JupyterLab drives it."

    def __init__(self, folder):
        self.manager, self.client = start_new_kernel(kernel_name='python3', env=environment(folder), cwd=str(folder))

    def run(self, code, stop_when=None):
        "(error name or None, what was printed); interrupts the cell as soon as `stop_when()` is true."
        asked, printed, stopped = self.client.execute(code), '', False
        while True:
            if stop_when and not stopped and stop_when():
                self.manager.interrupt_kernel()
                stopped = True
            try:
                m = self.client.get_iopub_msg(timeout=0.05)
            except Exception as e:
                if type(e).__name__ != 'Empty':
                    raise
                continue
            if m['parent_header'].get('msg_id') != asked:
                continue
            if m['msg_type'] == 'stream' and m['content']['name'] == 'stdout':
                printed += m['content']['text']
            if m['msg_type'] == 'status' and m['content']['execution_state'] == 'idle':
                break
        reply = self.client.get_shell_msg(timeout=30)
        return reply['content'].get('ename'), printed.strip()

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)


@pytest.fixture(scope='module')
def kernel(tmp_path_factory):
    kernel = Kernel(tmp_path_factory.mktemp('kernel'))
    yield kernel
    kernel.close()


LONG = """
import json
from tracenb.runs import stages
from tracenb.models.loading import linear4bit
def begin(out): return stages.open_run(stages.make_run(data=dict(n_train=24, n_test=12), train=dict(num_train_epochs=1, batch_size=1, gradient_accumulation_steps=1, save_steps=2, gradient_checkpointing=False), generate=dict(max_new_tokens=40, batch_size=1)), out)
run = begin('stopped')
chats = stages.build(run)
print(run.path.resolve())"""


def lines(path):
    return path.read_bytes().count(b'\n') if path.exists() else 0


def test_training_and_generation_go_on_after_a_stopped_cell(kernel):
    name, place = kernel.run(LONG)
    assert name is None
    place = Path(place)
    assert (
        kernel.run('stages.tune(run, chats)', lambda: lines(place / 'train_log.jsonl') >= 5)[0] == 'KeyboardInterrupt'
    )
    assert kernel.run('print(6 * 7)') == (None, '42')
    name, told = kernel.run(
        'run = begin("stopped")\nsummary = stages.tune(run, chats)\nprint(summary["resumed_at"], summary["steps"], len(linear4bit(run.base_model)) > 0)'
    )
    at, steps, packed = told.split()
    assert name is None and 4 <= int(at) < int(steps) == 24 and packed == 'True'
    assert (
        kernel.run('made = stages.answer(run)', lambda: lines(place / 'generations.jsonl') >= 3)[0]
        == 'KeyboardInterrupt'
    )
    begun = (place / 'generations.jsonl').read_text()
    name, told = kernel.run(
        'made = stages.answer(run)\nwhole = begin("whole")\nstages.tune(whole, stages.build(whole))\nprint(made == stages.answer(whole), len(made))'
    )
    assert (name, told) == (None, 'True 12') and (place / 'generations.jsonl').read_text().startswith(
        begun[: begun.rfind('\n') + 1]
    )


def test_asking_goes_on_after_a_stopped_cell(kernel):
    "No answer that arrived is asked for again."
    with FaultyServer(lambda question, attempt: None, delay=0.1) as server:
        call = f"""
from tracenb.teacher.endpoint import Endpoint, Request, ask
replies = ask([Request(id=f'q{{i}}', messages=({{'role': 'user', 'content': f'question {{i}}'}},)) for i in range(40)], Endpoint(base_url={server.url!r}, model='m', concurrency=2), 'c.sqlite')
print(len(replies), *{{r.state for r in replies}})"""
        assert kernel.run(call, lambda: len(server.answered) >= 6)[0] == 'KeyboardInterrupt'
        assert kernel.run('print(6 * 7)') == (None, '42')
        assert kernel.run(call) == (None, '40 ok')
        assert len(server.answered) == 40 and sum(server.answered.values()) <= 42  # two were under way
