"""From a notebook to a page of the site: headings, reference text, code, outputs."""

import ast
import gc
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path

from links import Linker


def process(source: Path, to: Path):
    "Let nbdev process one notebook. For a worker process that was started in the checkout."
    from IPython.core.history import HistoryManager
    from nbdev.config import get_config
    from nbdev.processors import FilterDefaults
    from nbdev.serve_drv import exec_nb

    get_config().d['renderer'] = 'reference.Reference'
    HistoryManager.enabled = False  # the user has not typed these cells
    os.environ['IN_TEST'] = '1'  # nbdev: code that should not run while a page is made can look at this
    to.parent.mkdir(parents=True, exist_ok=True)
    exec_nb(source, to, FilterDefaults)
    gc.freeze()  # at the end the shell of each notebook searches all memory: three quarters of the computing


def process_all(root: Path, nbs: Path, names: list[Path], to: Path, context: BaseContext = get_context('spawn')):
    """Let nbdev process the notebooks `names` of the folder `nbs`, in as many processes as there are cores.

    `context` says how those are started.
    """
    shutil.rmtree(to, ignore_errors=True)
    before = Path.cwd()
    try:
        os.chdir(root)  # nbdev looks for its settings from the working folder
        with ProcessPoolExecutor(mp_context=context) as pool:
            list(pool.map(process, [nbs / name for name in names], [to / name for name in names]))
    finally:
        os.chdir(before)


def title_of(notebook: dict) -> tuple[str, str, str]:
    """Heading of a stored notebook, the line below it that says what it holds, and the rest of its first cell.

    '' stands for what is missing. nbdev keeps heading and line, and loses the rest.
    """
    text = ''.join(next(c for c in notebook['cells'] if c['cell_type'] == 'markdown')['source'])
    head = re.match(r'# (?P<title>.+)\n*(?:> (?P<what>.+(?:\n> ?.+)*))?\n*(?P<rest>[\s\S]*)', text)
    return head['title'], re.sub(r'\n> ?', ' ', head['what'] or ''), head['rest'].strip()


def own_names(notebook: dict) -> frozenset[str]:
    "The names of this package that the cells of a stored notebook define or import."
    names = set()
    for cell in notebook['cells']:
        try:
            tree = ast.parse(''.join(cell['source']) if cell['cell_type'] == 'code' else '')
        except SyntaxError:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('tracenb'):
                names |= {a.asname or a.name for a in node.names}
        names |= {n.name for n in tree.body if isinstance(n, (ast.FunctionDef, ast.ClassDef))}
    return frozenset(names)


def is_long(output: dict) -> bool:
    "Does this output of a cell take more than a screen: 30 lines, or a table of 12 rows? A figure does not count."
    data = output.get('data', {})
    if any(kind.startswith('image/') for kind in data):
        return False
    rich = ''.join(data.get('text/html', ''))
    if '<tr' in rich:
        return rich.count('<tr') > 13
    if rich:
        return len(rich) > 20_000
    return ''.join(output.get('text', data.get('text/plain', ''))).count('\n') > 30


def page_output(output: dict, relink: Callable[[str], str]) -> dict:
    "The output with links between pages, and without what a page cannot show: widgets, links to files of the run."
    data = {k: v for k, v in output.get('data', {}).items() if 'widget' not in k}
    if 'text/markdown' in data:
        data['text/markdown'] = relink(''.join(data['text/markdown']))
    if 'text/html' in data:
        local_link = r'<a\s[^>]*href="(?![a-z]+:|#)[^"]*"[^>]*>(.*?)</a>'
        data['text/html'] = re.sub(local_link, r'\1', ''.join(data['text/html']), flags=re.S)
    return output | ({'data': data} if 'data' in output else {})


def _code_cell(cell: dict, source: str, relink: Callable[[str], str]) -> dict | None:
    "A code cell without its directives, long outputs folded; None if nothing is left of it."
    outputs = [page_output(o, relink) for o in cell['outputs'] if o.get('name') != 'stderr']
    tags = ['hide-output'] * any(map(is_long, outputs)) + ['remove-input'] * ('echo: false' in source)
    source = re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')
    if source.strip() or outputs:
        return cell | {'source': source, 'outputs': outputs, 'metadata': {'tags': tags}}
    return None


def page_cells(
    cells: list[dict],  # Of a notebook that nbdev has processed
    relink: Callable[[str], str],  # Markdown -> Markdown, a `Linker`
) -> Iterator[dict]:
    "The cells of a page. What `show_doc` returned becomes text: it is a piece of the page, not a result."
    symbols = []  # nbdev appends the symbols of one cell last one first
    for cell in cells:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and re.search(r'^show_doc\(', source, re.M):
            symbols.insert(0, _reference_cell(cell, relink))
            continue
        yield from symbols
        symbols = []
        if cell['cell_type'] == 'raw' or source.startswith('<!-- WARNING'):
            continue
        if cell['cell_type'] == 'markdown':
            yield cell | {'source': relink(source)}
        elif made := _code_cell(cell, source, relink):
            yield made
    yield from symbols


def _reference_cell(cell: dict, relink: Callable[[str], str]) -> dict:
    text = ''.join(cell['outputs'][0]['data']['text/markdown'])
    return dict(cell_type='markdown', id=cell['id'], metadata={}, source=relink(text))


def write_page(
    made: dict,  # A notebook that nbdev has processed
    stored: dict,  # The same notebook as stored
    linker: Linker,
    to: Path,  # Folder of the site's sources
):
    "Write one notebook as a page: heading, a link to the notebook, its cells."
    title, what, rest = title_of(stored)
    if linker.page.startswith('reference/'):
        title = linker.page.removeprefix('reference/').replace('/', '.')  # 'report.page' and 'audit.page' are two
    address = f'{linker.repository}blob/main/{linker.nbs.name}/{linker.source}'
    note = f'<p class="from-notebook"><a href="{address}">This page is a notebook</a></p>'
    head = '\n\n'.join([f'# {title}', *([f'> {linker(what)}'] if what else []), note, linker(rest)])
    cells = list(page_cells(made['cells'], linker))
    if cells and cells[0]['cell_type'] == 'markdown' and cells[0]['source'].startswith('# '):
        del cells[0]
    first = dict(cell_type='markdown', id='page-head', metadata={}, source=head)
    metadata = {'kernelspec': stored['metadata'].get('kernelspec', {})}
    path = to / f'{linker.page}.ipynb'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(made | {'cells': [first, *cells], 'metadata': metadata}))
