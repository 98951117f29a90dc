"""Links of the site: from notebook to notebook in the sources, from page to page on the site, every one checked."""

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lxml import html

from tracenb.core.records import TracenbError

NBDEV_LINK = re.compile(r'https?://[^)\s]*/[0-9]+_(\w+)/(\w+)\.html#(\S*)$')  # as nbdev links a name in backticks


def page_of(path: str) -> str:
    """Address of the page that is made from a notebook or a text, without '.html'.

    `path` is relative to the folder of the notebooks. '04_traces/01_conditions.ipynb' gives
    'reference/traces/conditions', and 'site/howto/add_a_scorer.md' gives 'howto/add_a_scorer'.
    """
    stem = str(Path(path).with_suffix(''))
    if stem in ('index', 'start'):
        return {'index': 'start/story', 'start': 'start/jupyterlab'}[stem]
    if module := re.fullmatch(r'[0-9]+_(\w+)/[0-9]+_(\w+)', stem):
        return f'reference/{module[1]}/{module[2]}'
    return stem.removeprefix('site/')


class Linker:
    "Turns the links of one source file into links of its page. Call it with Markdown."

    def __init__(
        self,
        source: str,  # The file, relative to the folder of the notebooks
        nbs: Path,  # The folder of the notebooks
        repository: str,  # Address of the repository, with a slash at its end
        names: frozenset = frozenset(),  # Names that the notebook defines or imports
    ):
        self.source, self.nbs, self.repository, self.names = source, nbs, repository, names
        self.page = page_of(source)
        self.up = '../' * self.page.count('/')

    def __call__(self, text: str) -> str:
        "`text` with its links replaced; code blocks stay. Raises `TracenbError` for a link to a file that is missing."
        text = re.sub(r'(?<=<img src=")(?!https?:)([^"]+)', self._to_picture, text)
        link = re.compile(r'(!?\[[^\]\n]*\])\(([^)\s]+)\)')
        parts = re.split(r'(^```.*?^```)', text, flags=re.M | re.S)
        return ''.join(part if part.startswith('```') else link.sub(self._replace, part) for part in parts)

    def _replace(self, found) -> str:
        label, target = found[1], found[2]
        if label.startswith('[`') and (module := NBDEV_LINK.match(target)):
            return self._to_symbol(label, *module.groups())
        if re.match(r'[a-z]+:|#', target):
            return found[0]
        target, _, anchor = target.partition('#')
        path = os.path.normpath(os.path.join(os.path.dirname(self.source), target))
        if not (self.nbs / path).exists():
            if self.source.startswith('experiments/'):
                return label[1:-1]  # a file that executing the notebook leaves behind
            raise TracenbError(f'{self.source}: the link to {found[2]} leads nowhere', 'name a file of the repository')
        if label.startswith('!'):
            return f'{label}({self.up}{path})'
        if path.startswith('site/_extra/'):
            return f'{label}({self.up}{path.removeprefix("site/_extra/")})'  # a page of the site as it is
        if path.endswith('.ipynb') or path.startswith('site/'):
            return f'{label}({self.up}{page_of(path)}.html{"#" * bool(anchor)}{anchor})'
        return f'{label}({self.repository}blob/main/{os.path.normpath(os.path.join(self.nbs.name, path))})'

    def _to_picture(self, found) -> str:
        return self.up + os.path.normpath(os.path.join(os.path.dirname(self.source), found[1]))

    def _to_symbol(self, label: str, package: str, module: str, anchor: str) -> str:
        """nbdev links every word in backticks that is the name of some symbol, but `load` may be just a word.

        The link is kept if the name is clear: this page is about it, defines or imports it, or no word is like it.
        """
        name, page = label.strip('[]`'), f'reference/{package}/{module}'
        is_long = re.search('[A-Z_]', label) and len(label) > 8
        if page == self.page or name.split('.')[0] in self.names or is_long:
            return f'{label}({self.up}{page}.html#{anchor})'
        return label[1:-1]


class _Page:
    "What a page offers (ids) and needs (targets of links, files that it loads)."

    def __init__(self, path: Path):
        tree = html.parse(str(path), html.HTMLParser(encoding='utf-8', huge_tree=True))  # pages hold whole figures
        self.ids = {*tree.xpath('//@id'), *tree.xpath('//@name')}
        self.links = tree.xpath('//a/@href[. != ""]')
        self.loads = tree.xpath('(//script | //img | //iframe | //source | //video)/@src[. != ""]')
        for link in tree.xpath('//link[@href != ""]'):
            if link.get('rel') not in ('canonical', 'prev', 'next', 'search', 'index'):
                self.loads.append(link.get('href'))


def broken(site: Path) -> list[str]:
    """Everything that is wrong with the links of a finished site, as 'page: target (reason)'.

    A file or an anchor is missing, or a page would load something from another host.
    """
    files = {p.relative_to(site).as_posix() for p in site.rglob('*') if p.is_file()}
    names = sorted(f for f in files if f.endswith('.html') and '_static' not in f.split('/'))
    pages = {name: _Page(site / name) for name in names}
    return [
        f'{name}: {target} ({reason})'
        for name, page in pages.items()
        for target in dict.fromkeys([*page.links, *page.loads])
        if (reason := _fault(files, pages, name, target))
    ]


def _fault(files: set[str], pages: dict[str, _Page], name: str, target: str) -> str:
    "Why `target`, a link on the page `name`, is wrong; '' if it is right. Files and pages are relative to the site."
    url = urlsplit(target)
    if url.scheme or url.netloc:
        return 'loaded from another host' if target in pages[name].loads and url.scheme != 'data' else ''
    path = os.path.normpath(os.path.join(os.path.dirname(name), unquote(url.path))) if url.path else name
    if path not in files:
        path = os.path.normpath(os.path.join(path, 'index.html'))  # a folder
    if path not in files:
        return 'no such file'
    if url.fragment and path in pages and unquote(url.fragment) not in pages[path].ids:
        return 'no such place'
    return ''
