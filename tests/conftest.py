"""What all tests share: the checkout, the optional research data, and one cache folder for models."""

import functools
import gc
import os
import shlex
import ssl
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import base_install
import pytest
import run_notebook
from filelock import FileLock
from hypothesis import settings

gc.disable()  # until all tests are imported, see `pytest_collection_finish`
ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / 'shared' / 'data'

os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('GOMP_SPINCOUNT', '10000')  # before torch is loaded: as the command sets it
os.environ.setdefault('OMP_NUM_THREADS', '1')  # one per process: `make test` has as many processes as there are cores
os.environ.setdefault('HF_HUB_OFFLINE', '1')  # nothing here may wait for a hub
# Every HTTP client reads the certificates of all authorities, 30 ms, and no request leaves this machine
ssl.create_default_context = functools.cache(ssl.create_default_context)

# Hypothesis: 25 examples per property, 200 in `make test-all`. Costly properties set a smaller number themselves.
settings.register_profile('default', max_examples=25, deadline=None)
settings.register_profile('exhaustive', max_examples=200, deadline=None)
settings.load_profile(os.environ.get('HYPOTHESIS_PROFILE', 'default'))

LONGEST = (
    'test_engine.py',
    'test_lab.py',
    'test_docs.py',
    'test_intervene.py',
    'test_tutorials.py',
    'test_survey_page.py',
    'test_runs.py',
    'test_teacher.py',
    'test_cli.py',
    'test_interventions.py',
    'test_train.py',
    'test_generate.py',
    'test_rating_page.py',
    'test_report.py',
    'test_traces.py',
    'test_audit.py',
    'test_parsing.py',
    'test_cotempqa.py',
    'test_stats.py',
)  # begun first, so that no process waits for another at the end
LAST = 'test_notebooks.py'  # many and short: whichever process is free takes the next
APART = ('test_engine.py', 'test_notebooks.py', 'test_tutorials.py')  # their tests share nothing


def pytest_configure(config):
    "One fork server for all processes; nothing of it is needed where only quick tests run."
    if getattr(config.option, 'numprocesses', None) and 'slow' not in config.option.markexpr:
        run_notebook.share()
        worker = shlex.join((sys.executable, str(ROOT / 'tests' / 'worker.py')))
        config.option.tx = [f'popen//python={worker}'] * len(config.option.tx)


def pytest_collection_modifyitems(items):
    place = dict(zip(LONGEST, range(-len(LONGEST), 0))) | {LAST: 1}
    items.sort(key=lambda item: place.get(item.path.name, 0))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish():
    "The collector need not search all modules of torch and transformers again and again: a third of the computing."
    gc.enable()
    gc.set_threshold(20_000)  # 700 new objects are made by one row
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """
    One process runs all tests of a file, because they share fixtures; the tests of the files in `APART` are spread.
    One process runs all tests whose name has `embedded_model`, which takes seconds to load.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file, _, name = nodeid.partition('::')
            if 'embedded_model' in name:
                return 'embedded_model'
            return nodeid if file.rpartition('/')[2] in APART else file

    return ByFile(config, log)


@pytest.fixture
def shared() -> Path:
    "Research copies of CoTempQA, bAbI and published generations, which most checkouts lack: not redistributable."
    if not SHARED.is_dir():
        pytest.skip('../shared/data is absent: research copies that are not redistributed')
    return SHARED


@pytest.fixture(scope='session')
def embedded():
    """
    (tokenizer, model) of the embedded SmolLM2-135M in 4 bits, loaded once per process. A test leaves its weights as
    they were.
    """
    from tracenb.models.loading import load_model, load_tokenizer

    return load_tokenizer('smollm2-135m'), load_model('smollm2-135m', device='cpu')


@pytest.fixture(scope='session')
def embedded_fp32():
    "As `embedded`, computing in float32."
    from tracenb.models.loading import load_model, load_tokenizer

    return load_tokenizer('smollm2-135m'), load_model('smollm2-135m', device='cpu', dtype='float32')


@pytest.fixture(scope='module')
def tok():
    "The tokenizer of the tiny random model."
    from tracenb.models.loading import load_tokenizer

    return load_tokenizer('tiny-random')


@pytest.fixture
def model():
    "The tiny random model on the CPU, loaded for each test."
    from tracenb.models.loading import load_model

    return load_model('tiny-random', device='cpu')


@pytest.fixture(scope='session')
def base_only(tmp_path_factory) -> dict[str, str]:
    "An environment for subprocesses in which only the base requirements can be imported."
    return base_install.environment(ROOT, tmp_path_factory.mktemp('base'))


@pytest.fixture(scope='session')
def smoke(tmp_path_factory, base_only) -> Path:
    """
    Folder of the smoke grid: 4 finished runs and their report, made once for all processes. To be read, or copied.

    Made with the base requirements alone.

    `run.txt` and `report.txt` beside it hold what the two commands printed.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base  # each process of xdist has a folder in it
    folder = base / 'smoke'
    with FileLock(base / 'smoke.lock'):
        folder.mkdir(exist_ok=True)
        for name, args in (('run.txt', ('run', 'smoke', '--out', 'o')), ('report.txt', ('report', 'o'))):
            if not (folder / name).exists():
                command = [Path(sys.executable).parent / 'tracenb', *args]
                done = subprocess.run(command, cwd=folder, env=base_only, capture_output=True, text=True, timeout=600)
                assert done.returncode == 0, done.stderr[-2000:]
                (folder / name).write_text(done.stdout)
    return folder / 'o'


@pytest.fixture(scope='session')
def forked_kernels():
    """
    Notebooks that the library executes get kernels that are forks of the process with the imports.

    Jupyter's own kernels run in the report of `smoke`, in test_lab.py and in three notebooks of test_notebooks.py.
    """
    import forked

    from tracenb.runs import kernels, notebook

    server = forked.Forks()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(kernels, 'FORK_SERVER', server)
        patched.setattr(notebook.execute, '__defaults__', (kernels.ForkedKernelManager,))
        yield
    server.close()


@pytest.fixture(scope='module', autouse=True)
def forked_servers(request):
    """
    Study servers of a module that imports `LocalServer` are forks of the process with the imports.

    A new process serves in test_study_cli.py (`tracenb study serve`) and in the notebook of the load test.
    """
    if 'LocalServer' not in vars(request.module):
        yield
        return
    import forked

    from tracenb.fieldwork import load_test

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(load_test, 'subprocess', SimpleNamespace(Popen=forked.popen))
        yield


@pytest.fixture
def call(capsys, monkeypatch):
    "`call(*args, cwd=..., code=0)`: (output, errors) of the entry point that the command calls, in this process."
    monkeypatch.setattr(warnings, 'showwarning', warnings.showwarning)  # the entry point replaces it

    from tracenb.cli.main import main

    def ended(*args, cwd, code=0):
        monkeypatch.chdir(cwd)
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(a) for a in args])
        out, err = capsys.readouterr()
        assert (end.value.code or 0) == code, err
        return out, err

    return ended


@pytest.fixture(
    scope='module'
)  # not the session: Playwright's loop runs as long as it is open, and tests elsewhere start loops of their own
def chromium():
    "A headless Chromium, driven by Playwright."
    from tracenb.fieldwork.screenshots import chromium, find_browser

    pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not find_browser():
        pytest.skip('no Chromium on this machine: `make browser` installs it where it may')
    with chromium() as browser:
        yield browser


def new_page(chromium, width=1200, height=900, dark=False, **kwargs):
    "A page in a browser context of its own; it lists its requests (`page.asked`) and errors (`page.errors`)."
    colors = 'dark' if dark else 'light'
    context = chromium.new_context(viewport=dict(width=width, height=height), color_scheme=colors, **kwargs)
    page = context.new_page()
    page.asked, page.errors = [], []
    page.on('request', lambda r: page.asked.append(r.url))
    page.on('pageerror', lambda e: page.errors.append(str(e)))
    page.on(
        'console',
        lambda m: page.errors.append(f'{m.text} ({m.location.get("url", "")})') if m.type == 'error' else None,
    )
    return page


@pytest.fixture
def tab(chromium):
    "Make pages: `tab(width=400, dark=True)`, see `new_page`. They are closed at the end of the test."
    pages = []

    def make(**kwargs):
        pages.append(new_page(chromium, **kwargs))
        return pages[-1]

    yield make
    for page in pages:
        page.context.close()


AXE = dict(
    name='axe-core',
    version='4.14.1',
    integrity='sha512-FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ==',
)  # Deque's checker of accessibility (MPL 2.0), for tests only
WCAG = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa']
SIZES = dict(desk=(1200, 900), phone=(375, 700))


@pytest.fixture(scope='session')
def axe():
    """`axe(page)`: violations of WCAG 2.2 A or AA, in light and dark colors, at the widths of a desktop and a phone.

    One line per violation, [] if none is found. `without` names rules to leave out; `settle` is the time in
    milliseconds that the page's own scripts need after a change of size."""
    from tracenb.core.npm import Pinned, fetch, unpack
    from tracenb.core.records import TracenbError

    try:
        script = unpack(fetch(Pinned(**AXE)), 'axe.min.js').decode()
    except TracenbError as e:
        pytest.skip(f'axe-core is neither in the cache nor within reach: {e}')

    def check(page, without=(), settle=0):
        found, size = [], page.viewport_size
        if not page.evaluate('window.axe !== undefined'):
            page.evaluate(script)
        for colors in ('light', 'dark'):
            page.emulate_media(color_scheme=colors)
            for where, (width, height) in SIZES.items():
                page.set_viewport_size(dict(width=width, height=height))
                page.wait_for_timeout(settle)
                wrong = page.evaluate(
                    '([tags, without]) => axe.run(document, {runOnly: tags, resultTypes: ["violations"], '
                    'rules: Object.fromEntries(without.map(r => [r, {enabled: false}]))}).then(r => r.violations)',
                    [WCAG, list(without)],
                )
                found += [
                    f'{colors}, {where}: {v["id"]}: {v["help"]}: {n["html"][:200]} {n["failureSummary"]}'
                    for v in wrong
                    for n in v['nodes']
                ]
        page.emulate_media(color_scheme=None)
        page.set_viewport_size(size)
        return found

    return check
