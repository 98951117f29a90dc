"""Run notebooks in place and keep their outputs: `python tests/execute.py [NOTEBOOK...]`; none: all of the library.

Show on the site what papermill executed, with a text that replaces the template's first cell:
`python tests/execute.py --show outputs/.../run.ipynb nbs/site/experiments/NAME.ipynb "# Title"`."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

NBS = Path(__file__).parents[1] / 'nbs'


def with_parameters(source: str):
    "The cell that papermill looks for."
    return nbformat.v4.new_code_cell(source, metadata=dict(tags=['parameters']))


def write_notebook(path: Path, *cells) -> Path:
    "Write a notebook of code cells: their sources, or cells of nbformat."
    spec = dict(kernelspec=dict(name='python3', display_name='python3', language='python'))
    cells = [nbformat.v4.new_code_cell(c) if isinstance(c, str) else c for c in cells]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=spec), path)
    return path


def run(path: Path):
    "Execute one notebook in its own folder, as JupyterLab would."
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}
    ).execute()
    return notebook


WIDGET = 'application/vnd.jupyter.widget-view+json'


def without_widgets(notebook):
    "The notebook as it can be stored: widgets need a kernel, so only their HTML is kept; progress bars are removed."
    notebook.metadata.pop('widgets', None)
    for cell in notebook.cells:
        for o in cell.get('outputs', ()):
            if WIDGET in o.get('data', {}):
                del o['data'][WIDGET]
                o['dropped'] = 'text/html' not in o['data']
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if not o.pop('dropped', False)]
    return notebook


def show(executed: str, page: str, text: str):
    "Keep a notebook that papermill executed: without bars, without times, and with paths as seen from the checkout."
    notebook = without_widgets(nbformat.reads(Path(executed).read_text().replace(f'{NBS.parent}/', ''), as_version=4))
    notebook.metadata.pop('papermill', None)
    notebook.cells[0].source = text
    for cell in notebook.cells:
        cell.metadata = {'tags': cell.metadata.tags} if cell.metadata.get('tags') else {}
        if cell.cell_type == 'code':
            cell.outputs = [o for o in cell.outputs if o.get('name') != 'stderr' and o.get('text', '-').strip()]
    nbformat.write(notebook, page)


if __name__ == '__main__':
    if sys.argv[1:2] == ['--show']:
        sys.exit(show(*sys.argv[2:]))
    os.environ.setdefault('CI', '1')  # no bars: they would be other ones every time
    for path in tqdm([Path(a) for a in sys.argv[1:]] or sorted([*NBS.glob('*.ipynb'), *NBS.glob('[0-9]*/*.ipynb')])):
        nbformat.write(without_widgets(run(path)), path)
    subprocess.run([Path(sys.executable).parent / 'nbdev_clean'], cwd=NBS.parent, check=True)
