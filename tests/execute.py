"""Run notebooks in place and keep their outputs: `python tests/execute.py [NOTEBOOK...]`, all library notebooks if none is named."""
import subprocess
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

NBS = Path(__file__).parents[1]/'nbs'


def run(path: Path):
    "Execute one notebook in its own folder, as JupyterLab would."
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=900, kernel_name='python3', resources={'metadata': {'path': str(path.parent)}}).execute()
    return notebook


if __name__ == '__main__':
    for path in tqdm([Path(a) for a in sys.argv[1:]] or sorted(NBS.glob('*.ipynb'))): nbformat.write(run(path), path)
    subprocess.run([Path(sys.executable).parent/'nbdev_clean'], cwd=NBS.parent, check=True)
