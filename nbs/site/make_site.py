"""Build the site from the notebooks: `python nbs/site/make_site.py`, or `make docs`.

The notebooks are the documentation, and the site is another way to read them. nbdev drops hidden cells, runs imports
and exported cells, adds `show_doc` after each exported cell and links names in backticks. Sphinx with myst-nb renders
what is stored, without running it again. Between the two, `pages.py` makes pages of notebooks, `reference.py` shows
symbols, `commands.py` lists the verbs of the command, and `links.py` turns links between files into links between pages
and checks every link of the finished site.
"""

import configparser
import gc
import json
import re
import shutil
import sys
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.context import BaseContext
from pathlib import Path

from commands import command_reference
from links import Linker, broken
from pages import own_names, process_all, title_of, write_page
from reference import reference_index

from tracenb.cli.main import app
from tracenb.core.npm import Pinned, fetch, unpack
from tracenb.core.records import TracenbError

ROOT = Path(__file__).resolve().parents[2]
MATHJAX = Pinned(  # sets formulas, in the form that needs no fonts
    'mathjax',
    '3.2.2',
    'sha512-Bt+SSVU8eBG27zChVewOicYs7Xsdt40qm4+UpHyX7k0/O9NliPc+x77k1/FEsPsjKPZGJvtRZM1vO+geW0OhGw==',
)


def notebooks(nbs: Path) -> list[Path]:
    "All notebooks, relative to `nbs`, in the order of the library."
    found = (p.relative_to(nbs) for p in nbs.rglob('*.ipynb'))
    return sorted(p for p in found if not any(part.startswith(('.', '_')) for part in p.parts))


def write_mathjax(to: Path):
    "Put the script, and its license, where the site's pages look for it."
    data = fetch(MATHJAX)
    to.mkdir(parents=True, exist_ok=True)
    for name in ('es5/tex-svg-full.js', 'LICENSE'):
        (to / Path(name).name).write_bytes(unpack(data, name))


def write_sources(
    root: Path,  # The checkout
    processed: Path,  # What nbdev made of its notebooks
    to: Path,  # Folder for the site's sources, emptied first
):
    "Write everything that Sphinx reads: texts, one page per notebook, index of the reference, images, MathJax."
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(root / 'settings.ini')
    settings = settings['DEFAULT']
    nbs, repository = root / settings['nbs_path'], settings['git_url']
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(nbs / 'site', to, ignore=shutil.ignore_patterns('.*', '__pycache__', '*.ipynb', '*.py'))
    shutil.copy(nbs / 'site' / 'conf.py', to)
    shutil.copytree(nbs / 'images', to / 'images')
    for path in sorted(to.rglob('*.md')):
        path.write_text(Linker(f'site/{path.relative_to(to)}', nbs, repository)(path.read_text()))
    modules = []
    for name in notebooks(nbs):
        stored, made = (json.loads((folder / name).read_text()) for folder in (nbs, processed))
        linker = Linker(name.as_posix(), nbs, repository, own_names(stored))
        write_page(made, stored, linker, to)
        if module := re.fullmatch(r'reference/(\w+)/(\w+)', linker.page):
            modules.append((*module.groups(), linker(title_of(stored)[1])))
    generated = {
        'index.md': reference_index(modules, root / settings['lib_path']),
        'command.md': command_reference(app),
    }
    for name, text in generated.items():
        with (to / 'reference' / name).open('a') as page:
            page.write(text)
    write_mathjax(to / '_static' / 'mathjax')


@contextmanager
def without_collection():
    "Sphinx keeps all pages in memory, and searching them for what can be freed is a third of its computing."
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def build_site(
    root: str | Path = ROOT,  # The checkout
    out: str | Path | None = None,  # Where the site goes; `doc_path` of settings.ini if None
    context: BaseContext = get_context('spawn'),  # How processes for nbdev are started
) -> Path:
    "Build the site; returns its first page. Raises `TracenbError` for a warning of Sphinx or a broken link."
    from sphinx.cmd.build import main as sphinx

    root = Path(root).resolve()
    if not (root / 'settings.ini').is_file():
        raise TracenbError(f'{root} is not a checkout of this package', 'name the folder that holds settings.ini')
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(root / 'settings.ini')
    out = Path(out).resolve() if out else root / settings['DEFAULT']['doc_path']
    work = root / '_proc'
    nbs = root / settings['DEFAULT']['nbs_path']
    process_all(root, nbs, notebooks(nbs), work / 'notebooks', context)
    write_sources(root, work / 'notebooks', work / 'sources')
    made = work / 'html'  # moved when it is complete: a build that fails leaves the site of the last one
    for folder in (made, work / 'doctrees'):
        shutil.rmtree(folder, ignore_errors=True)
    options = ['-q', '-W', '--keep-going', '-j', '2', '-d', str(work / 'doctrees')]
    with without_collection():
        failed = sphinx([*options, str(work / 'sources'), str(made)])
    if failed:
        raise TracenbError('Sphinx gives warnings, see above', 'correct the page that it names')
    if found := broken(made):
        raise TracenbError(
            f'{len(found)} broken links:\n  ' + '\n  '.join(found),
            'correct them in the notebook or text that the page is made from',
        )
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(made, out)
    return out / 'index.html'


if __name__ == '__main__':
    print(build_site(*sys.argv[1:]))
