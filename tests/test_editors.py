"""Notebooks with widgets outside JupyterLab: VS Code, GitHub and nbconvert show the stored state or static HTML."""

import re

import nbformat
import pytest
from execute import WIDGET, with_parameters, without_widgets, write_notebook
from nbconvert import HTMLExporter

from tracenb.runs.notebook import execute

SHOWN = [
    'from tracenb.runs.explorer import explore\nexplore("toy", model="tiny-random")',
    """
import tempfile
from tracenb.interventions.panel import explore_trace
from tracenb.runs import stages
work = tempfile.TemporaryDirectory()
settings = dict(train=dict(num_train_epochs=1, gradient_accumulation_steps=1), generate=dict(max_new_tokens=8))
run = stages.open_run(stages.make_run(data=dict(n_train=8, n_test=3), **settings), work.name)
stages.tune(run, stages.build(run))
stages.finish(run, stages.score(run, stages.answer(run)))
explore_trace(run.path)""",
]


@pytest.fixture(scope='module')
def stored(tmp_path_factory, forked_kernels):
    "A notebook with the explorer and the panel of forced traces, executed, as an editor stores it."
    folder = tmp_path_factory.mktemp('editors')
    template = write_notebook(folder / 'n.ipynb', with_parameters(''), *SHOWN)
    return nbformat.read(execute(template, folder / 'out.ipynb', {}), as_version=4)


def page(notebook):
    return HTMLExporter().from_notebook_node(notebook)[0]


def test_the_stored_state_of_the_widgets_is_whole(stored):
    "What VS Code and nbconvert draw widgets from: every view's model is in the notebook, with its values."
    state = stored.metadata.widgets['application/vnd.jupyter.widget-state+json'].state
    views = [
        o.data[WIDGET]['model_id'] for c in stored.cells for o in c.get('outputs', ()) if WIDGET in o.get('data', {})
    ]
    assert len(views) >= 2 and set(views) <= set(state)
    offered = [m.state.get('_options_labels') for m in state.values() if m.model_name == 'DropdownModel']
    assert any('babi' in labels for labels in offered if labels)
    children = [c.removeprefix('IPY_MODEL_') for m in state.values() for c in m.state.get('children', ())]
    assert children and set(children) <= set(state)
    html = page(stored)
    assert html.count('application/vnd.jupyter.widget-view+json') >= 2 and 'widget-state+json' in html


def test_without_widgets_the_traces_are_there_and_a_word_says_what_to_do(stored):
    "GitHub, an editor without the widget extension, and the site: static HTML."
    html = page(without_widgets(nbformat.from_dict(stored)))
    assert WIDGET not in html and 'widget-view' not in html
    assert len(re.findall('Run this notebook to', html)) >= 2
    assert 'correct trace' in html and 'incorrect trace' in html and 'Model()' not in html


def test_plain_text_says_the_same(stored):
    "An editor that shows no HTML."
    texts = [o.data['text/plain'] for c in stored.cells for o in c.get('outputs', ()) if WIDGET in o.get('data', {})]
    [explorer], [panel] = ([t for t in texts if word in t] for word in ('compared with', 'to force others'))
    assert 'correct trace' in explorer and 'tokens: prompt' in explorer and 'begun with the trace' in panel
    assert not [t for t in texts if 'VBox(' in t]
