"""The site as a reader meets it: built as `make docs` builds it, every page opened in a real browser."""

import functools
import http.server
import re
import threading

import pytest
import yaml
from conftest import ROOT
from links import broken, page_of
from make_site import build_site, notebooks
from run_notebook import context

pytestmark = pytest.mark.slow


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    return build_site(ROOT, tmp_path_factory.mktemp('docs') / 'site', context()).parent


@pytest.fixture(scope='session')
def address(site):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}'
    server.shutdown()


def pages(site):
    return sorted(p.relative_to(site).as_posix() for p in site.rglob('*.html') if '_static' not in p.parts)


def test_a_page_for_every_notebook_and_text(site):
    made, nbs = set(pages(site)), ROOT / 'nbs'
    texts = [p.relative_to(nbs) for p in (nbs / 'site').rglob('*.md') if '_extra' not in p.parts]
    for path in [*notebooks(nbs), *texts]:
        assert f'{page_of(str(path))}.html' in made, path
    assert not [p for p in made if re.search(r'^images|_extra', p)]


def test_reference_has_anchors_tables_sources_and_outputs(site):
    text = (site / 'reference' / 'core' / 'records.html').read_text()
    core = ''.join(p.read_text() for p in (site / 'reference' / 'core').glob('*.html'))
    assert 'id="read_jsonl"' in core and 'source-link' in text and re.search(r'what it is</p></th>', text)
    assert text.index('id="steps"') < text.index('id="example"')  # in the order of the code
    repeated = {}
    for p in (site / 'reference').rglob('*.html'):
        ids = re.findall(r' id="([^"]+)"', p.read_text())
        repeated |= {p.name: i for i in ids if ids.count(i) > 1 and i != 'pst-page-navigation-heading-2'}
    assert repeated == {}
    assert '#|' not in re.sub(r'<[^>]+>', '', text) and 'show_doc(' not in text
    assert 'output text_html' in (site / 'reference' / 'traces' / 'loss_mask.html').read_text()  # colored
    assert 'hide below-input' in ''.join(p.read_text() for p in (site / 'reference').rglob('*.html'))


def test_every_link_leads_somewhere(site, tmp_path):
    assert broken(site) == []
    page = (site / 'index.html').read_text()
    (tmp_path / 'index.html').write_text(page + '<a href="gone.html">x</a><img src="https://elsewhere.example/x.png">')
    found = broken(tmp_path)
    assert 'index.html: gone.html (no such file)' in found and any('another host' in f for f in found)


def test_every_module_is_in_the_reference_index(site):
    text = (site / 'reference' / 'index.html').read_text()
    names = [page_of(str(n)) for n in notebooks(ROOT / 'nbs') if re.match('[0-9]', str(n))]
    links = [f'href="{name.removeprefix("reference/")}.html"' for name in names]
    assert names and [link for link in links if link not in text] == []
    assert [text.index(link) for link in links] == sorted(text.index(link) for link in links)


def test_the_page_about_the_command_line_lists_every_verb(site):
    text = (site / 'reference' / 'command.html').read_text()
    assert all(f'tracenb {verb}<' in text for verb in ('run', 'audit', 'data export', 'teacher collect', 'study build'))
    assert '--scheduler' in text


def one_of_each_package(site):
    "All pages, but of the reference only the first page of each package."
    seen = {}
    for name in pages(site):
        seen.setdefault(re.match('reference/[^/]+/|.*', name)[0], name)
    return sorted(seen.values())


@pytest.mark.parametrize('chosen', [one_of_each_package, pytest.param(pages, marks=pytest.mark.exhaustive)])
def test_every_page_opens_asks_no_other_host_and_fits_a_phone(site, address, tab, chosen):
    page, wide = tab(width=390, height=800), {}
    for name in chosen(site):
        answer = page.goto(f'{address}/{name}')
        assert answer.status == 200, name
        if page.evaluate('document.documentElement.scrollWidth') > 390:
            wide[name] = page.evaluate('document.documentElement.scrollWidth')
    assert page.errors == [] and wide == {}
    assert [u for u in page.asked if not u.startswith((address, 'data:', 'blob:'))] == []


# Pages of each kind. The theme's own buttons show 'Search Ctrl+K' and are called 'Search'.
ONE_OF_EACH_KIND = ['index.html', 'reference/traces/conditions.html', 'experiments/demo_run.html', 'start/report.html']
THEME = ['label-content-name-mismatch']


@pytest.mark.parametrize('name', ONE_OF_EACH_KIND)
def test_pages_are_accessible(address, tab, axe, name):
    page = tab()
    page.goto(f'{address}/{name}')
    assert axe(page, without=THEME, settle=600) == []  # the theme decides late what can be scrolled


def test_search_is_accessible(address, tab, axe):
    page = tab()
    page.goto(f'{address}/search.html?q=score')
    page.wait_for_function("document.querySelector('#search-results').innerText.includes('found')")
    assert axe(page, without=THEME, settle=600) == []


@pytest.mark.exhaustive
def test_every_page_is_accessible(site, address, tab, axe):
    found, page = {}, tab()
    for name in pages(site):
        page.goto(f'{address}/{name}')
        if wrong := axe(page, without=THEME, settle=600):
            found[name] = wrong
    assert found == {}


def test_search_finds_names_and_prose(address, tab):
    page = tab()
    for words, expected in (
        ('build_traces', 'reference/traces/conditions.html'),
        ('independence', 'explanation/definitions.html'),
        ('Kubernetes', 'howto/run_on_slurm.html'),
    ):
        page.goto(f'{address}/search.html?q={words}')
        page.wait_for_selector('#search-results li a')
        page.wait_for_function("document.querySelector('#search-results').innerText.includes('found')")
        found = [a.get_attribute('href') or '' for a in page.locator('#search-results li a').all()]
        assert any(expected in link for link in found), words
    assert page.errors == []


BRIGHTNESS = """getComputedStyle(document.body).backgroundColor.match(/\\d+/g)
    .slice(0, 3).map(Number).reduce((a, b) => a + b)"""


def test_formulas_are_set_and_the_dark_is_dark(address, tab):
    for dark in (False, True):
        page = tab(dark=dark)
        page.goto(f'{address}/explanation/definitions.html')
        page.wait_for_selector('mjx-container svg')
        assert page.locator('mjx-container').count() > 10
        assert page.locator('mjx-merror, [data-mjx-error]').count() == 0
        assert (page.evaluate(BRIGHTNESS) < 200) == dark
        assert page.errors == []


def test_the_workflow_builds_as_make_does():
    steps = yaml.safe_load((ROOT / '.github' / 'workflows' / 'docs.yaml').read_text())['jobs']['build']['steps']
    assert any(s.get('run') == 'make docs' for s in steps)
    assert 'nbs/site/make_site.py' in (ROOT / 'Makefile').read_text()
