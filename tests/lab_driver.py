"""A real JupyterLab and a real kernel of this checkout, for test_lab.py."""

import json
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

from conftest import ROOT
from execute import write_notebook
from jupyter_client.manager import start_new_kernel

# No news, no check for updates, the theme of the system, every cell in the page
SETTINGS = {
    'apputils-extension/notification': {'checkForUpdates': False, 'fetchNews': 'false', 'doNotDisturbMode': True},
    'apputils-extension/themes': {'adaptive-theme': True},
    'notebook-extension/tracker': {'windowingMode': 'none'},
}
PROMPTS = '.jp-Notebook .jp-CodeCell .jp-InputArea-prompt'


def environment(folder):
    "Environment of a server or a kernel: this checkout's library, an empty configuration, progress bars."
    own = {f'JUPYTER_{k}_DIR': str(folder / k.lower()) for k in ('CONFIG', 'DATA', 'RUNTIME')}
    own |= {f'JUPYTERLAB_{k}_DIR': str(folder / k.lower()) for k in ('SETTINGS', 'WORKSPACES')}
    own |= dict(PYTHONPATH=str(ROOT), IPYTHONDIR=str(folder / 'ipython'), HF_HUB_OFFLINE='1')
    own |= dict(OMP_NUM_THREADS='1', TOKENIZERS_PARALLELISM='false')
    return {k: v for k, v in os.environ.items() if k != 'CI'} | own


def make_lab_arguments():
    "The arguments that `make lab` gives to JupyterLab."
    return shlex.split(re.search(r'^\t.*/jupyter lab (.*)$', (ROOT / 'Makefile').read_text(), re.M)[1])


class Lab:
    "JupyterLab, started as `make lab` starts it, on a copy of the notebooks."

    def __init__(self, folder):
        self.folder, self.token = folder, secrets.token_hex(16)
        self.nbs = folder / 'checkout' / 'nbs'
        shutil.copytree(ROOT / 'nbs', self.nbs, ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
        for name, values in SETTINGS.items():
            path = folder / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        self.url = f'http://127.0.0.1:{port}'
        options = ['--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}']
        options += ['--ServerApp.port_retries=0', f'--IdentityProvider.token={self.token}']
        options += ['--LabApp.extension_manager=readonly', '--LabApp.news_url=']
        self.log = folder / 'lab.log'
        with open(self.log, 'w') as log:
            self.process = subprocess.Popen(
                [sys.executable, '-m', 'jupyterlab', *make_lab_arguments(), *options],
                cwd=folder / 'checkout',
                env=environment(folder),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        while not self.is_up():
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.2)

    def get(self, path):
        "A JSON answer of the server."
        separator = '&' if '?' in path else '?'
        with urllib.request.urlopen(f'{self.url}/{path}{separator}token={self.token}', timeout=60) as r:
            return json.load(r)

    def is_up(self):
        try:
            return bool(self.get('api/status'))
        except OSError:
            return False

    def write(self, name, *sources):
        "Write a notebook of code cells into the copy; returns its name."
        write_notebook(self.nbs / name, *sources)
        return name

    def open(self, page, name):
        "Open the notebook `name` (relative to nbs) in a browser's page, and wait for its kernel."
        page.goto(f'{self.url}/lab/tree/nbs/{name}?reset&token={self.token}')
        page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=90_000)
        page.get_by_text('| Idle').wait_for(timeout=90_000)
        return page

    def run_all(self, page, name, seconds=180):
        "Open `name`, run all cells, wait for the last; returns the prompts of the code cells and all tracebacks."
        self.open(page, name)
        prompts = page.locator(PROMPTS)
        while not any(re.search(r'[*\d]', p) for p in prompts.all_inner_texts()):
            # a kernel that was idle a moment ago may still miss the first request
            page.get_by_role('menuitem', name='Run', exact=True).click()
            page.get_by_role('menuitem', name='Run All Cells', exact=True).click()
            page.wait_for_timeout(2000)
        busy = f"[...document.querySelectorAll('{PROMPTS}')].some(p => p.textContent.includes('*'))"
        page.wait_for_function(f'() => !{busy}', timeout=seconds * 1000)
        outputs = page.locator('.jp-Notebook .jp-OutputArea-output', has_text='Traceback (most recent call last)')
        return prompts.all_inner_texts(), outputs.all_inner_texts()

    def close(self):
        os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)


class Kernel:
    "A real kernel of this checkout, driven as JupyterLab drives it."

    def __init__(self, folder):
        self.manager, self.client = start_new_kernel(kernel_name='python3', env=environment(folder), cwd=str(folder))

    def run(self, code, stop_when=None):
        "(name of the error or None, what was printed); interrupts the cell as soon as `stop_when()` is true."
        request, printed, stopped = self.client.execute(code), '', False
        while True:
            if stop_when and not stopped and stop_when():
                self.manager.interrupt_kernel()
                stopped = True
            try:
                m = self.client.get_iopub_msg(timeout=0.05)
            except Exception as e:
                if type(e).__name__ != 'Empty':
                    raise
                if not self.manager.is_alive():
                    raise RuntimeError(f'the kernel died while it ran:\n{code}') from None
                continue
            if m['parent_header'].get('msg_id') != request:
                continue
            if m['msg_type'] == 'stream' and m['content']['name'] == 'stdout':
                printed += m['content']['text']
            if m['msg_type'] == 'status' and m['content']['execution_state'] == 'idle':
                break
        return self.reply(request)['content'].get('ename'), printed.strip()

    def reply(self, request):
        "The reply to `request`: a slow start leaves replies to repeated questions about the kernel before it."
        while (reply := self.client.get_shell_msg(timeout=30))['parent_header'].get('msg_id') != request:
            pass
        return reply

    def close(self):
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
