"""The site as a reader meets it: built as `make docs` builds it, every page opened in a real browser."""

import functools
import http.server
import re
import threading

import pytest
from conftest import ROOT

from tracenb.core.records import TracenbError
from tracenb.docs.site import broken, build_docs, call, page_cells, parameters, reference_index, relink

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    return build_docs(ROOT, tmp_path_factory.mktemp('docs') / 'site').parent


@pytest.fixture(scope='module')
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
    from tracenb.docs.site import page_of

    made, nbs = set(pages(site)), ROOT / 'nbs'
    for path in [*nbs.rglob('*.ipynb'), *(nbs / 'site').rglob('*.md')]:
        if {'.ipynb_checkpoints', '_extra'} & set(path.parts):
            continue
        assert f'{page_of(str(path.relative_to(nbs)))}.html' in made, path
    assert not [p for p in made if re.search(r'^images|_extra', p)]


def test_reference_has_anchors_tables_sources_and_outputs(site):
    text = (site / 'reference' / 'core.html').read_text()
    assert 'id="read_jsonl"' in text and 'source-link' in text and re.search(r'what it is</p></th>', text)
    assert text.index('id="steps"') < text.index('id="example"')  # in the order of the code
    twice = {
        p.name: [i for i in set(ids) if ids.count(i) > 1]
        for p in (site / 'reference').glob('*.html')
        for ids in [re.findall(r' id="([^"]+)"', p.read_text())]
    }
    assert {k: v for k, v in twice.items() if any(i != 'pst-page-navigation-heading-2' for i in v)} == {}
    assert '#|' not in re.sub(r'<[^>]+>', '', text) and 'show_doc(' not in text
    assert 'output text_html' in (site / 'reference' / 'chat.html').read_text()  # the loss mask in color
    assert 'hide below-input' in ''.join(p.read_text() for p in (site / 'reference').glob('*.html'))


def test_links_are_looked_at(site, tmp_path):
    assert broken(site) == []
    page = next(site.glob('index.html')).read_text()
    (tmp_path / 'index.html').write_text(page + '<a href="gone.html">x</a><img src="https://elsewhere.example/x.png">')
    found = broken(tmp_path)
    assert 'index.html: gone.html (no such file)' in found and any('another host' in f for f in found)


def test_a_link_to_no_file_ends_the_build():
    with pytest.raises(
        TracenbError, match='../main/04_traces/01_conditions.ipynb: the link to 99_gone.ipynb leads nowhere'
    ):
        relink(
            'see [that](99_gone.ipynb)',
            'reference/traces',
            '../main/04_traces/01_conditions.ipynb',
            ROOT / 'nbs',
            'https://example.org/',
        )
    code = '```python\nrows[0](99_gone.ipynb)\n```'
    assert (
        relink(code, 'reference/traces', '../main/04_traces/01_conditions.ipynb', ROOT / 'nbs', 'https://example.org/')
        == code
    )


def test_what_is_written_of_a_symbol():
    def f(
        a: dict[str, int] | None,  # Either this | or that
        *rest,
        b: float = 0.5,  # A share
    ) -> list[str]:  # The names
        "Nothing."

    assert call('f', f) == 'f(a, *rest, b=0.5)'
    table = parameters(f)
    assert (
        '| `a` | `dict[str, int] \\| None` |  | Either this \\| or that |' in table
        and '| `b` | `float` | `0.5` | A share |' in table
        and '| *returns* | `list[str]` |  | The names |' in table
    )


def test_cells_of_a_page():
    widget = {
        'output_type': 'display_data',
        'metadata': {},
        'data': {'application/vnd.jupyter.widget-view+json': {}, 'text/html': 'a <a href="rows.csv">table</a>'},
    }
    cell = dict(
        cell_type='code',
        id='a',
        metadata={},
        source='#| echo: false\nx',
        outputs=[widget, {'output_type': 'stream', 'name': 'stderr', 'text': 'noise'}],
    )
    made = list(page_cells([cell, dict(cell_type='raw', id='b', source='---')], lambda text: text))
    assert (
        [o['data'] for o in made[0]['outputs']] == [{'text/html': 'a table'}]
        and made[0]['metadata']['tags'] == ['remove-input']
        and len(made) == 1
    )


def test_every_module_is_in_the_reference_index(site):
    from test_house import LIBRARY, module

    text = (site / 'reference' / 'index.html').read_text()
    assert [m for m in map(module, LIBRARY) if f'href="{m}.html"' not in text] == []
    assert reference_index([('99_last.ipynb', 'last', 'x')]).count('[last](last.html)') == 1


def test_every_page_opens_asks_no_other_host_and_fits_a_phone(site, address, tab):
    page, wide = tab(width=390, height=800), {}
    for name in pages(site):
        answer = page.goto(f'{address}/{name}')
        assert answer.status == 200, name
        if page.evaluate('document.documentElement.scrollWidth') > 390:
            wide[name] = page.evaluate('document.documentElement.scrollWidth')
    assert page.errors == [] and wide == {}
    assert [u for u in page.asked if not u.startswith((address, 'data:', 'blob:'))] == []


@pytest.mark.parametrize(
    'name',
    [
        'index.html',
        'reference/traces.html',
        'explanation/definitions.html',
        'tutorials/train.html',
        'experiments/demo_run.html',
        'search.html?q=score',
        'start/report.html',
    ],
)
def test_pages_are_accessible(address, tab, axe, name):
    page = tab()
    page.goto(f'{address}/{name}')
    if 'search' in name:
        page.wait_for_function("document.querySelector('#search-results').innerText.includes('found')")
    assert (
        axe(page, without=['label-content-name-mismatch'], settle=600) == []
    )  # the theme's own buttons show 'Search Ctrl+K' and are called 'Search'; it decides after a while what can be scrolled


def test_search_finds_names_and_prose(address, tab):
    page = tab()
    for words, expected in (
        ('build_traces', 'reference/traces.html'),
        ('independence', 'explanation/definitions.html'),
        ('Kubernetes', 'howto/run_on_slurm.html'),
    ):
        page.goto(f'{address}/search.html?q={words}')
        page.wait_for_selector('#search-results li a')
        page.wait_for_function("document.querySelector('#search-results').innerText.includes('found')")
        assert any(expected in (a.get_attribute('href') or '') for a in page.locator('#search-results li a').all()), (
            words
        )
    assert page.errors == []


def test_formulas_are_set_and_the_dark_is_dark(address, tab):
    for dark in (False, True):
        page = tab(dark=dark)
        page.goto(f'{address}/explanation/definitions.html')
        page.wait_for_selector('mjx-container svg')
        assert page.locator('mjx-container').count() > 10 and page.locator('mjx-merror, [data-mjx-error]').count() == 0
        light = page.evaluate(
            'getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b)'
        )
        assert (light < 200) == dark
        assert page.errors == []


def test_the_workflow_builds_as_make_does():
    import yaml

    steps = yaml.safe_load((ROOT / '.github' / 'workflows' / 'docs.yml').read_text())['jobs']['build']['steps']
    assert any(s.get('run') == 'make docs' for s in steps) and 'build_docs' in (ROOT / 'Makefile').read_text()
