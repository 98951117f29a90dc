"""What makes the site and the README: links, reference texts, cells of a page."""

import json
import re

import nbformat
import pytest
from commands import command_reference
from conftest import ROOT
from links import Linker, broken, page_of
from make_site import build_site, notebooks
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pages import own_names, page_cells, title_of
from readme import readme
from reference import Reference, call, parameters, reference_index

from tracenb.cli.main import app
from tracenb.core.records import Example, TracenbError, lookup

REPOSITORY = 'https://example.org/'


def linker(source='04_traces/01_conditions.ipynb', names=()):
    return Linker(source, ROOT / 'nbs', REPOSITORY, frozenset(names))


@pytest.mark.parametrize(
    ('path', 'page'),
    [
        ('04_traces/01_conditions.ipynb', 'reference/traces/conditions'),
        ('09_report/08_page.ipynb', 'reference/report/page'),
        ('10_audit/08_page.ipynb', 'reference/audit/page'),
        ('tutorials/train.ipynb', 'tutorials/train'),
        ('site/howto/index.md', 'howto/index'),
        ('site/index.md', 'index'),
        ('index.ipynb', 'start/story'),
    ],
)
def test_where_a_file_is_shown(path, page):
    assert page_of(path) == page


@pytest.mark.parametrize(
    ('text', 'linked'),
    [
        ('[task](../01_tasks/02_task.ipynb)', '[task](../../reference/tasks/task.html)'),
        ('[task](../01_tasks/02_task.ipynb#a-toy)', '[task](../../reference/tasks/task.html#a-toy)'),
        ('[train](../tutorials/train.ipynb)', '[train](../../tutorials/train.html)'),
        ('![x](../images/audit-variants.png)', '![x](../../images/audit-variants.png)'),
        ('<img src="../images/demo-accuracy.png" width="9">', '<img src="../../images/demo-accuracy.png" width="9">'),
        ('[report](../site/_extra/start/report.html)', '[report](../../start/report.html)'),
        ('[settings](../../settings.ini)', '[settings](https://example.org/blob/main/settings.ini)'),
        ('[web](https://example.org/x) [here](#here)', '[web](https://example.org/x) [here](#here)'),
        ('[`load`](https://x/01_tasks/babi.html#load)', '`load`'),
        ('[`load`](https://x/04_traces/conditions.html#load)', '[`load`](../../reference/traces/conditions.html#load)'),
        ('[`turns`](https://x/06_teacher/prompts.html#turns)', '[`turns`](../../reference/teacher/prompts.html#turns)'),
        (
            '[`load_examples`](https://x/01_tasks/task.html#load_examples)',
            '[`load_examples`](../../reference/tasks/task.html#load_examples)',
        ),
        ('```python\nrows[0](99_gone.ipynb)\n```', '```python\nrows[0](99_gone.ipynb)\n```'),
    ],
)
def test_links_between_files_become_links_between_pages(text, linked):
    assert linker(names=['turns'])(text) == linked


def test_two_modules_of_the_same_name_keep_their_own_pages():
    text = '[`one_of_it`](https://x/09_report/page.html#a) [`one_of_it`](https://x/10_audit/page.html#b)'
    linked = '[`one_of_it`](../../reference/report/page.html#a) [`one_of_it`](../../reference/audit/page.html#b)'
    assert linker()(text) == linked


def test_a_link_to_a_missing_file_ends_the_build():
    message = '04_traces/01_conditions.ipynb: the link to 99_gone.ipynb leads nowhere'
    with pytest.raises(TracenbError, match=message):
        linker()('see [that](99_gone.ipynb)')
    with pytest.raises(TracenbError, match='site/index.md: the link to start/demo.html leads nowhere'):
        linker('site/index.md')('see [that](start/demo.html)')  # a page has no place in the repository
    assert linker('experiments/report.ipynb')('see [that](headline.csv)') == 'see that'  # a run leaves it


def test_a_folder_that_is_not_a_checkout_is_refused(tmp_path):
    with pytest.raises(TracenbError, match='is not a checkout of this package'):
        build_site(tmp_path)


def test_broken_links_are_found(tmp_path):
    (tmp_path / 'a.html').write_text(
        '<p id="here"><a href="b.html#there">good</a> <a href="#here">good</a> <a href="https://example.org">good</a>'
        '<a href="c.html">bad</a><a href="b.html#nowhere">bad</a><script src="https://example.org/x.js"></script>'
    )
    (tmp_path / 'b.html').write_text('<p id="there">')
    assert broken(tmp_path) == [
        'a.html: c.html (no such file)',
        'a.html: b.html#nowhere (no such place)',
        'a.html: https://example.org/x.js (loaded from another host)',
    ]


def test_call_and_parameters_of_a_symbol():
    def f(
        a: dict[str, int] | None,  # Either this | or that
        *rest,
        b: float = 0.5,  # A share
    ) -> list[str]:  # The names
        "Nothing."

    assert call('f', f) == 'f(a, *rest, b=0.5)'
    table = parameters(f)
    assert '| `a` | `dict[str, int] \\| None` |  | Either this \\| or that |' in table
    assert '| `b` | `float` | `0.5` | A share |' in table
    assert '| *returns* | `list[str]` |  | The names |' in table
    assert call('g', lambda a, *, b=2: 0) == 'g(a, *, b=2)'
    assert call('Example', Example).startswith('Example(')


def test_the_reference_shows_source_and_parameters(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = Reference(lookup)._repr_markdown_()
    assert 'class="source-link"' in text and '| parameter | type |' in text


def test_the_reference_index_lists_packages_in_order():
    modules = [('tasks', 'task', 'what a task is'), ('tasks', 'babi', 'x'), ('audit', 'page', 'y')]
    text = reference_index(modules, ROOT / 'tracenb')
    assert text.index('## tracenb.tasks') < text.index('[task](tasks/task.html) | what a task is') < text.index('audit')
    assert text.count('[page](audit/page.html)') == 1 and 'page <audit/page>' in text
    assert json.loads(json.dumps(text)) and '## tracenb.audit\n\nPublished generations' in text


def test_every_verb_is_on_the_page_about_the_command_line():
    made = command_reference(app)
    for verb in ('run', 'ls', 'audit', 'data export', 'teacher import', 'study build', 'study load'):
        assert f'### tracenb {verb}\n' in made
    assert '| `--dry-run` |' in made and '| `grid` | required |' in made and '| `--browser`, `--no-browser` |' in made
    written = (ROOT / 'nbs' / 'site' / 'reference' / 'command.md').read_text()
    verbs = re.findall(r'^### tracenb (.*)$', made, re.M)
    assert verbs and [v for v in verbs if not re.search(rf'\b{v.split()[-1]}\b', written)] == []


def test_cells_of_a_page():
    widget = {
        'output_type': 'display_data',
        'metadata': {},
        'data': {'application/vnd.jupyter.widget-view+json': {}, 'text/html': 'a <a href="rows.csv">table</a>'},
    }
    noise = {'output_type': 'stream', 'name': 'stderr', 'text': 'noise'}
    cell = dict(cell_type='code', id='a', metadata={}, source='#| echo: false\nx', outputs=[widget, noise])
    made = list(page_cells([cell, dict(cell_type='raw', id='b', source='---')], lambda text: text))
    assert len(made) == 1
    assert [o['data'] for o in made[0]['outputs']] == [{'text/html': 'a table'}]
    assert made[0]['metadata']['tags'] == ['remove-input']


def test_long_outputs_are_folded_and_prose_is_relinked():
    long = dict(output_type='stream', name='stdout', text='line\n' * 40)
    cells = [
        dict(cell_type='code', id='a', source='#| echo: false\n1', outputs=[long], metadata={}),
        dict(cell_type='markdown', id='b', source='[x](y)'),
    ]
    made = list(page_cells(cells, str.upper))
    assert made[0]['metadata']['tags'] == ['hide-output', 'remove-input']
    assert made[1]['source'] == '[X](Y)'


def test_the_first_cell_of_a_notebook():
    cells = [dict(cell_type='markdown', source=['# core \n', '\n', '> Records,\n', '> in files\n', '\n', 'More.'])]
    assert title_of(dict(cells=cells)) == ('core ', 'Records, in files', 'More.')


def test_names_that_a_notebook_defines_or_imports():
    source = 'from tracenb.core.records import Example as E\nimport json\n\n\ndef f():\n    pass'
    assert own_names(dict(cells=[dict(cell_type='code', source=source)])) == {'E', 'f'}


def test_notebooks_come_in_the_order_of_the_library():
    names = [n.as_posix() for n in notebooks(ROOT / 'nbs')]
    assert names[0] == '00_core/01_html.ipynb' and 'tutorials/train.ipynb' in names
    assert [n for n in names if 'checkpoints' in n] == []


def test_readme_links_work_from_the_top(tmp_path):
    links = '[a](00_core/02_records.ipynb) ![b](images/b.png) [c](https://x.org) [d](#e) [o](../outputs/README.md)'
    links += '<img src="images/i.png">'
    nbformat.write(new_notebook(cells=[new_markdown_cell(links), new_code_cell('#| hide\nx')]), tmp_path / 'i.ipynb')
    text = readme(tmp_path / 'i.ipynb')
    for link in (
        '(nbs/00_core/02_records.ipynb)',
        '(nbs/images/b.png)',
        '(https://x.org)',
        '(#e)',
        '(outputs/README.md)',
    ):
        assert link in text
    assert '<img src="nbs/images/i.png">' in text and '#| hide' not in text


def test_readme_is_the_index_notebook():
    assert readme(ROOT / 'nbs' / 'index.ipynb') == (ROOT / 'README.md').read_text()


def test_the_tools_are_small_and_stay_out_of_the_library():
    files = sorted((ROOT / 'nbs' / 'site').glob('*.py'))
    assert {'make_site.py', 'readme.py'} <= {p.name for p in files}
    assert [p.name for p in files if len(p.read_text().splitlines()) > 300] == []
    assert 'renderer' not in (ROOT / 'settings.ini').read_text()  # `show_doc` works in every notebook
