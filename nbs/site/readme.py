"""Write README.md from nbs/index.ipynb: `python nbs/site/readme.py`, part of `make export`."""

import re
from pathlib import Path

import nbformat
from nbconvert.exporters import MarkdownExporter

ROOT = Path(__file__).resolve().parents[2]
NOTE = '<!-- Made from nbs/index.ipynb by `make export` -->\n\n'


def from_root(link: re.Match) -> str:
    "A link of the notebook, or the source of its picture, as seen from the folder above it."
    before, target = link.groups()
    return before + (target.removeprefix('../') if target.startswith('../') else f'nbs/{target}')


def readme(notebook: str | Path) -> str:
    "The front-page notebook as Markdown: code and outputs, without cells marked `hide`."
    nb = nbformat.read(notebook, as_version=4)
    nb.cells = [c for c in nb.cells if not c.source.startswith('#| hide')]
    nb.metadata['language_info'] = dict(name='python')
    for c in nb.cells:
        if c.source.startswith('#| echo: false'):
            c.metadata['transient'] = dict(remove_source=True)
    text, _ = MarkdownExporter().from_notebook_node(nb)
    text = re.sub(r'(\]\(|<img src=")(?!https?:|#)([^)"]+)', from_root, text)
    text = re.sub(r'<style scoped>.*?</style>\n?', '', text, flags=re.S)
    return NOTE + re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


if __name__ == '__main__':
    (ROOT / 'README.md').write_text(readme(ROOT / 'nbs' / 'index.ipynb'), encoding='utf-8')
