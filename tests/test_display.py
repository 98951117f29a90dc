"""What records show of themselves: all of the data, and nothing but text of it."""

from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from IPython.core.formatters import DisplayFormatter
from IPython.lib.pretty import pretty

from tracenb.core.html import _INVISIBLE
from tracenb.core.records import ChatExample, Example, Generation, Response, Score, Span, Steps, Trace
from tracenb.runs.grids import SHIPPED, get_grid
from tracenb.tasks.task import SHIPPED_TASKS, get_task, toy
from tracenb.traces.conditions import build_traces
from tracenb.traces.display import show_response, show_trace
from tracenb.traces.loss_mask import MaskView
from tracenb.traces.parsing import parse

TAGS = set('style div p b ol ul li table thead tbody tr th td small mark span details summary h4'.split())
ATTRIBUTES = {'class', 'title', 'dir', 'start', 'tabindex', 'aria-label'}
HOSTILE = (
    '</style></div><script>alert(1)</script><img src=x onerror=alert(1)>" onclick="x" \x1b[31m\x00\ud800é😀\u05e9&amp;'
)


class Seen(HTMLParser):
    "The text of a piece of HTML, apart from its style; a tag or attribute of other origin is an error."

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.text, self.open = '', []
        html.encode()  # half a surrogate pair could not be sent
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        assert tag in TAGS and {k for k, _ in attributes} <= ATTRIBUTES
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.text += text if self.open and self.open[-1] != 'style' else ''

    def handle_comment(self, text):
        raise AssertionError('a comment')


def records(t):
    "One of everything that shows itself, with the text `t` wherever a text may be."
    about = dict(context=(t, f'{t} {t}'), question=t, answers=(t,), meta={'label': t, 'facts': [1], t: t})
    e = Example(id=t, dataset='toy', split=t, **about)
    trace = Trace(id=t, condition=t, text=t, steps=Steps(label=t, facts=(1,)), source=t)
    written = f'<think>{t}</think> <answer>{t}</answer>'
    response = Response(id=t, label=t, facts=(t,), answers=(t,), error=t, text=written)
    parsed = parse(Generation(id=t, text=written, n_tokens=1, finish_reason='stop'), e, toy)
    return [
        e,
        trace,
        response,
        parsed,
        Span(kind='answer', start=0, end=1, value=t),
        ChatExample(id=t, prompt=({'role': t, 'content': t},), completion=({'role': 'assistant', 'content': t},)),
        Generation(id=t, text=t, n_tokens=1, finish_reason=t),
        Score(id=t, scorer=t, value=None, explanation=t),
        Steps(label=t, facts=()),
        show_trace(e, trace),
        show_response(response, e),
        show_response(parsed, e),
        MaskView((t, t), (True, False)),
    ]


@given(st.text(st.characters(exclude_categories=())))
@example(HOSTILE)
def test_any_text_is_shown_and_is_only_text(text):
    for r in records(text):
        assert _INVISIBLE.sub('\ufffd', text) in Seen(r._repr_html_()).text.replace('\r', '\ufffd')
        if not isinstance(r, MaskView):
            assert '\x1b' not in str(r)


def test_a_list_of_records_stays_a_list_of_one_line_each():
    score = Score(id='a', scorer='answer_exact', value=1.0)
    assert pretty(score) == 'answer_exact of a: 1' and pretty([score]) == f'[{score!r}]'
    assert eval(repr(score)) == score


def test_a_notebook_is_offered_html_and_text():
    formatter = DisplayFormatter()
    formatter.active_types = ['text/plain', 'text/html']
    for r in (*records('x'), get_grid('smoke'), get_grid('smoke').runs[0], get_task('toy')):
        assert set(formatter.format(r)[0]) == {'text/plain', 'text/html'}, r


@pytest.mark.parametrize('name', ('toy', *SHIPPED_TASKS))
def test_gold_facts_are_marked_in_every_data_set(name):
    for e in get_task(name).simulate(n=4, seed=1, split='test'):
        n = len(set(get_task(name).decompose(e).facts))
        assert e._repr_html_().count('✓ gold') == n
        assert sum(line.startswith('*') for line in str(e).splitlines()) == n


def marks(view, kind):
    "Number of claims marked as `kind`."
    return view.html.count(f'class="tnb-{kind}" title')


def test_verdicts_of_a_trace_are_those_of_its_condition():
    examples = toy.simulate(n=9, seed=1, split='test')

    def marked(condition):
        views = [show_trace(e, t) for e, t in zip(examples, build_traces(examples, toy, condition))]
        return [(marks(v, 'right'), marks(v, 'wrong')) for v in views]

    n = [len(toy.decompose(e).facts) for e in examples]
    assert marked('correct') == [(1 + k, 0) for k in n]
    assert all(right == 0 and wrong >= 2 for right, wrong in marked('incorrect'))
    assert [right for right, _ in marked('wrong_label')] == n
    assert all(right == 1 for right, _ in marked('wrong_facts'))
    assert set(marked('vanilla')) == {(0, 0)}


@pytest.mark.parametrize('dataset', ('toy', 'not registered'))
def test_an_example_without_a_rule_or_with_half_its_data_still_shows_itself(dataset):
    e = Example(id='a', dataset=dataset, split='test', context=('b',), question='c?', answers=('d',))
    assert 'gold' not in e._repr_html_().partition('</style>')[2]


@pytest.mark.parametrize('name', sorted(SHIPPED))
def test_every_grid_shows_its_runs(name):
    grid = get_grid(name)
    assert f'{len(grid.runs)} runs' in grid._repr_html_() and str(grid).count('\n') >= len(grid.runs)
    Seen(grid._repr_html_())
