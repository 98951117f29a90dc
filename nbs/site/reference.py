"""How the reference shows a symbol of the library, and the page that lists all modules."""

import ast
import html
import inspect
import re
from itertools import groupby
from pathlib import Path

from fastcore.docments import DocmentTbl
from nbdev.showdoc import BasicMarkdownRenderer

EMPTY = inspect.Parameter.empty


def _plain(text) -> str:
    "Text that fits into one cell of a Markdown table."
    return ' '.join(str(text).split()).replace('|', '\\|')


def _code(text) -> str:
    return f'`{_plain(text)}`' if _plain(text) else ''


def _type(annotation) -> str:
    if annotation is EMPTY:
        return ''
    if isinstance(annotation, type) and not hasattr(annotation, '__args__'):
        return _code(annotation.__name__)
    return _code(re.sub(r'\b(?:[a-z_]\w*\.)+(?=\w)', '', str(annotation)))


def _row(name: str, note: dict, default=EMPTY) -> str:
    comment = note.get('docment', EMPTY)
    cells = [
        name,
        _type(note.get('anno', EMPTY)),
        '' if default is EMPTY else _code(repr(default)),
        '' if comment in (EMPTY, None) else _plain(comment),
    ]
    return f'| {" | ".join(cells)} |'


def parameters(symbol) -> str:
    "Markdown table of a function's or class's parameters, from its docments. '' if there are none."
    table = DocmentTbl(symbol)
    names = [p for p in table.params if p in table.dm and p not in ('self', 'args', 'kwargs')]
    rows = [_row(f'`{p}`', table.dm[p], table.dm[p].get('default', EMPTY)) for p in names]
    returned = table.dm.get('return', {}) if inspect.isfunction(symbol) else {}
    if returned.get('anno', EMPTY) is not EMPTY:
        rows.append(_row('*returns*', returned))
    return '\n'.join(['| parameter | type | default | what it is |', '|---|---|---|---|', *rows]) if rows else ''


def call(name: str, symbol) -> str:
    "How `symbol` is called: names and defaults, one per line where they do not fit into one line."
    try:
        own = inspect.signature(symbol)
    except (TypeError, ValueError):
        return name
    plain = [p.replace(annotation=EMPTY) for p in own.parameters.values() if p.name != 'self']
    texts = [re.sub(r'=<(?:factory|function (\w+)).*?>', lambda m: f'={m[1] or "..."}', str(p)) for p in plain]
    for i, p in enumerate(plain):
        if p.kind is p.KEYWORD_ONLY:
            if not any(q.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL) for q in plain[:i]):
                texts[i] = f'*, {texts[i]}'
            break
    line = f'{name}({", ".join(texts)})'
    return line if len(line) <= 100 else f'{name}(\n' + ''.join(f'    {t},\n' for t in texts) + ')'


class Reference(BasicMarkdownRenderer):
    "How `show_doc` writes a symbol: anchor, link to the source, call, docstring, table of parameters."

    def _repr_markdown_(self):
        source = re.search(r'\[source\]\(([^)]*)\)', super()._repr_markdown_())
        link = f'<a class="source-link" href="{source[1]}">source</a>' if source else ''
        doc = self.docs or ''
        if isinstance(self.sym, type):
            doc = inspect.cleandoc(vars(self.sym).get('__doc__') or '')  # its own, not what it inherits
        name = self.nm.lower()  # a heading of one word is its own anchor
        anchor = '' if name.isidentifier() else f'<span id="{name}"></span>\n\n'
        signature = f'```python\n{call(self.nm, self.sym)}\n```'
        parts = [link, signature, html.escape(doc, quote=False), parameters(self.sym)]
        return f'{anchor}{"#" * self.title_level} {self.nm}\n\n' + '\n\n'.join(p for p in parts if p)


def reference_index(
    modules: list[tuple[str, str, str]],  # Package, module, what it holds; in the order of the notebooks
    library: Path,  # Folder of the library: each package's docstring says what it is for
) -> str:
    "Tables of the modules, one per package."
    text = ''
    for package, group in groupby(modules, key=lambda m: m[0]):
        doc = ast.get_docstring(ast.parse((library / package / '__init__.py').read_text())).splitlines()[0]
        rows, entries = '', ''
        for _, module, what in group:
            rows += f'| [{module}]({package}/{module}.html) | {what} |\n'
            entries += f'{module} <{package}/{module}>\n'
        text += f'\n## tracenb.{package}\n\n{doc}\n\n| module | what it holds |\n|---|---|\n{rows}'
        text += f'\n```{{toctree}}\n:hidden:\n:caption: {package}\n\n{entries}```\n'
    return text
