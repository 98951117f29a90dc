"""Descriptions count what is there; an export loads as what was written, or leaves nothing behind."""

import json
import re
from dataclasses import replace

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracenb.core import files
from tracenb.core.files import read_jsonl
from tracenb.core.records import Example, Steps, TracenbError
from tracenb.core.rows import RowsLeftOut
from tracenb.tasks.babi import babi
from tracenb.tasks.task import DataConfig, load_examples, toy
from tracenb.traces import export as export_module
from tracenb.traces.conditions import build_traces
from tracenb.traces.dataset_rows import ROW_TYPES, check_rows, example_rows, sft_rows, step_rows, to_dataset
from tracenb.traces.export import all_rows, export, read_examples, safe_name
from tracenb.traces.overview import describe, lengths, repeats, show

CONDITIONS = ('vanilla', 'correct', 'incorrect')
ODD = replace(
    toy,
    name='odd',
    labels=('a', 'b'),
    decompose=lambda e: Steps(label=e.meta['label'], facts=tuple(e.meta.get('facts', ()))),
)


@pytest.fixture(autouse=True, scope='module')
def quiet():
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def both(task, n_train=22, n_test=11):
    config = DataConfig(n_train=n_train, n_test=n_test) if task is babi else DataConfig(source='built-in')
    return {split: load_examples(task, config, split) for split in ('train', 'test')}


def odd(i=0, **fields):
    "An example with what breaks readers: no facts, nested and differing meta, text of every kind."
    given = dict(
        id=f'odd-{i}',
        dataset='odd',
        split='train',
        context=('Zoë sagt „Straße“.', '𝄞 \u2028 \x85 \r\n "quoted" \\ \t end', ''),
        question="Wer's da? 猫",
        answers=('é', 'e\u0301', 'null'),
        meta={'label': 'a', 'facts': []},
    )
    return Example(**given | fields)


def load(folder, config, cache):
    return {s: list(rows) for s, rows in datasets.load_dataset(str(folder), config, cache_dir=str(cache)).items()}


# --- describe


def test_describe_counts_by_hand():
    table = describe(toy, both(toy)['train'] + both(toy)['test'])
    assert list(table.index) == ['color', 'place', 'all']
    color = table.loc['color']
    assert (color.n, color.share, color.sentences, color.words_max, color.several_answers, color.no_facts) == (
        3,
        0.6,
        4,
        18,
        1,
        0,
    )
    assert (color.facts, color.answers) == (pytest.approx(4 / 3), pytest.approx(4 / 3))
    assert table.n['all'] == 5 and table.answers['all'] == 6 / 5


def test_describe_counts_gaps_and_repeats():
    rows = [
        odd(0),
        odd(1),
        odd(2, meta={'label': 'b', 'facts': [0]}),
        odd(3, answers=('null', 'e\u0301', 'é')),
        odd(4, question='Who?'),
    ]
    table = describe(ODD, rows)
    assert list(table.no_facts) == [4, 0, 4] and list(table.n) == [4, 1, 5]
    assert list(table.repeated) == [
        2,
        1,
        3,
    ]  # 1 and 3 repeat 0, whatever the order of their answers; 2 does so under another label
    assert repeats(rows[:1], before=rows[3:4]) == [True] and repeats(rows[4:], before=rows[:4]) == [False]


def test_describe_keeps_whole_numbers_and_sums():
    rows = both(babi)['train']
    table = describe(babi, rows)
    assert [str(table[c].dtype) for c in ('n', 'words_max', 'no_facts', 'repeated')] == ['int64'] * 4
    for column in ('n', 'several_answers', 'no_facts', 'repeated'):
        assert table[column].iloc[:-1].sum() == table[column]['all']
    assert table.share.iloc[:-1].sum() == pytest.approx(1) and set(table.index) == {*babi.labels, 'all'}
    with pytest.raises(TracenbError, match='no examples of babi'):
        describe(babi, [])


# --- show


@pytest.mark.parametrize('condition', CONDITIONS)
def test_show_marks_gold_facts_whatever_the_trace_says(condition):
    rows = both(babi)['train']
    text = show(babi, rows, n=5, condition=condition, seed=3)
    parts = text.split('--- ')[1:]
    assert len(parts) == 5
    for e, t, part in zip(rows, build_traces(rows, babi, condition, 3), parts):
        assert [int(i) for i in re.findall(r'(?m)^\* +(\d+)  ', part)] == sorted(babi.decompose(e).facts)
        assert len(re.findall(r'(?m)^[* ] +\d+  ', part)) == len(e.context)
        plain = ' '.join(part.split())
        assert ' '.join(e.question.split()) in plain and f'label: {babi.decompose(e).label}' in plain
        assert (' '.join(t.text.split()) or f'trace, {condition}: none') in plain


def test_show_stops_at_what_there_is():
    assert show(toy, both(toy)['test'], n=99).count('--- ') == 2
    with pytest.raises(TracenbError, match='0 examples'):
        show(toy, both(toy)['test'], n=0)


def test_show_passes_no_command_to_the_terminal():
    text = show(ODD, [odd(context=('\x1b[2J\x07 gone', ''))], n=1)
    assert '\x1b' not in text and '\x07' not in text and 'gone' in text and '\n    1\n' in text


# --- lengths


def test_lengths_measure_the_texts():
    rows = both(babi)['train']
    table = lengths(babi, rows, CONDITIONS, seed=2, count=len)
    for name in CONDITIONS:
        traces = [len(t.text) for t in build_traces(rows, babi, name, 2)]
        assert table.trace_max[name] == max(traces) and table.trace_mean[name] == pytest.approx(
            sum(traces) / len(traces)
        )
    assert table.prompt_median.nunique() == 1 and table.completion_mean['vanilla'] < table.completion_mean['correct']
    assert lengths(babi, rows, ('zero_shot',), count=lambda text: 7).to_numpy().tolist() == [[7] * 9 + [0]]
    with pytest.raises(TracenbError, match='no examples'):
        lengths(babi, [], CONDITIONS)
    with pytest.raises(TracenbError, match="did you mean 'vanilla'"):
        lengths(babi, rows, ('vanila',))


# --- export and back


@pytest.mark.parametrize('format', ['jsonl', 'parquet'])
@pytest.mark.parametrize('task', [toy, babi], ids=lambda t: t.name)
def test_an_export_loads_as_what_was_written(task, format, tmp_path):
    examples = both(task)
    folder = export(task, examples, tmp_path / 'out', CONDITIONS, seed=1, format=format)
    rows = all_rows(task, examples, CONDITIONS, seed=1)
    configs = ['examples', 'steps', *(f'sft_{c}' for c in CONDITIONS)]
    assert sorted(p.name for p in folder.iterdir()) == sorted(
        ['README.md', *(f'{c}_{s}.{format}' for c in configs for s in examples)]
    )
    for config in configs:
        assert load(folder, config, tmp_path / 'cache') == {s: rows[config, s] for s in examples}
        one = datasets.Dataset.from_json if format == 'jsonl' else datasets.Dataset.from_parquet
        assert (
            list(one(str(folder / f'{config}_train.{format}'), cache_dir=str(tmp_path / 'cache')))
            == rows[config, 'train']
        )
    assert {s: read_examples(folder / f'examples_{s}.{format}') for s in examples} == examples


@pytest.mark.parametrize('format', ['jsonl', 'parquet'])
def test_what_breaks_readers_survives(format, tmp_path):
    examples = {
        'train': [odd(0), odd(1, meta={'label': 'b', 'facts': [], 'deep': {'x': [1, {'y': None}]}})],
        'test': [
            odd(2, split='test', meta={'label': 'a', 'facts': [0], 'deep': 'text'}),
            odd(3, split='test', meta={'label': 'a', 'deep': 1.5}),
        ],
    }
    folder = export(ODD, examples, tmp_path / 'out', CONDITIONS, format=format)
    rows = all_rows(ODD, examples, CONDITIONS)
    for config in ('examples', 'steps', 'sft_vanilla', 'sft_correct', 'sft_incorrect'):
        assert load(folder, config, tmp_path / 'cache') == {s: rows[config, s] for s in examples}
    typed = datasets.load_dataset(str(folder), 'steps', split='train', cache_dir=str(tmp_path / 'cache'))
    assert typed['facts'][:] == [[], []] and typed.features['facts'] == datasets.List(datasets.Value('int64'))
    assert {s: read_examples(folder / f'examples_{s}.{format}') for s in examples} == examples


words = st.text(st.characters(exclude_categories=['Cs']), max_size=12)
some = lambda what, n: st.lists(what, min_size=1, max_size=n)
metas = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda x: st.lists(x, max_size=3) | st.dictionaries(words, x, max_size=3),
    max_leaves=6,
)


@given(
    st.lists(
        st.tuples(some(words, 3), words, some(words, 2), st.dictionaries(words, metas, max_size=2)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(['jsonl', 'parquet']),
)
def test_any_text_and_any_meta_come_back(tmp_path_factory, drawn, format):
    rows = [
        odd(i, context=tuple(c), question=q, answers=tuple(a), meta=m | {'label': 'a', 'facts': []})
        for i, (c, q, a, m) in enumerate(drawn)
    ]
    folder = export(ODD, {'train': rows}, tmp_path_factory.mktemp('x') / 'out', ('correct',), format=format)
    assert read_examples(folder / f'examples_train.{format}') == rows
    if format == 'jsonl':
        assert read_jsonl(folder / 'sft_correct_train.jsonl') == sft_rows(ODD, rows, 'correct')


def test_steps_and_training_rows_say_what_the_task_says():
    rows = both(babi)['train']
    for e, s in zip(rows, step_rows(babi, rows)):
        gold = babi.decompose(e)
        assert s == dict(id=e.id, label=gold.label, facts=list(gold.facts), quoted=[e.context[i] for i in gold.facts])
    for condition in CONDITIONS:
        for e, t, r in zip(rows, build_traces(rows, babi, condition, 5), sft_rows(babi, rows, condition, 5)):
            assert [m['role'] for m in r['prompt'] + r['completion']] == ['system', 'user', 'assistant']
            assert (
                r['prompt'][1]['content'] == babi.prompt(e)
                and t.text in r['completion'][0]['content']
                and list(r) == list(ROW_TYPES['sft'])
            )


def test_in_memory_rows_have_the_same_types(tmp_path):
    rows = [odd(0), odd(1)]
    for kind, made in dict(
        examples=example_rows(rows), steps=step_rows(ODD, rows), sft=sft_rows(ODD, rows, 'correct')
    ).items():
        assert list(to_dataset(made, kind)) == made
    folder = export(ODD, {'train': rows}, tmp_path / 'out', ('correct',))
    assert (
        datasets.load_dataset(str(folder), 'steps', split='train', cache_dir=str(tmp_path)).features
        == to_dataset(step_rows(ODD, rows), 'steps').features
    )


def test_the_same_export_is_the_same_bytes(tmp_path):
    a, b, c = (
        export(babi, both(babi), tmp_path / name, CONDITIONS, seed=seed)
        for name, seed in (('a', 1), ('b', 1), ('c', 2))
    )
    different = lambda x, y: sorted(p.name for p in x.iterdir() if p.read_bytes() != (y / p.name).read_bytes())
    assert different(a, b) == []
    assert different(a, c) == ['README.md', 'sft_incorrect_test.jsonl', 'sft_incorrect_train.jsonl']


def test_labels_in_play_reach_the_traces(tmp_path):
    labels = ('counting', 'conjunction')
    rows = load_examples(babi, DataConfig(n_train=12, labels=labels), 'train')
    said = ' '.join(r['completion'][0]['content'] for r in sft_rows(babi, rows, 'incorrect', 1, labels=labels))
    assert {x for x in babi.labels if f': {x}.' in said} == set(labels)
    folder = export(babi, {'train': rows}, tmp_path / 'out', ('incorrect',), seed=1, labels=labels)
    assert read_jsonl(folder / 'sft_incorrect_train.jsonl') == sft_rows(babi, rows, 'incorrect', 1, labels=labels)
    assert show(babi, rows, 12, 'incorrect', 1, labels=labels) != show(babi, rows, 12, 'incorrect', 1)


# --- the card


def test_the_card_tells_counts_source_license_and_leaks(tmp_path):
    (tmp_path / 'own folder').mkdir()
    train, test = (both(babi)[s] for s in ('train', 'test'))
    leaked = [replace(train[0], id='leak', split='test'), *test]
    folder = export(
        babi,
        {'train': train, 'test': leaked},
        tmp_path / 'out',
        ('vanilla', 'mix:0.5'),
        4,
        source=str(tmp_path / 'own folder'),
        license='CC BY 3.0',
    )
    text = (folder / 'README.md').read_text()
    for line in (
        'source: own folder',
        'license: CC BY 3.0',
        'conditions: vanilla, mix:0.5',
        'seed of the traces: 4',
        'test examples that are training examples, too: 1',
    ):
        assert f'- {line}\n' in text
    assert str(tmp_path) not in text
    assert re.search(r'\| counting +\| +2 \|', text) and re.search(r'\| all +\| +22 \|', text)
    assert (tmp_path / 'out' / 'sft_mix_0.5_train.jsonl').exists()


@pytest.mark.parametrize('format', ['jsonl', 'parquet'])
def test_the_loading_lines_of_the_card_work(format, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    folder = export(toy, {'test': both(toy)['test']}, tmp_path / 'out', ('correct',), format=format)
    code = re.search(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.S)[1].replace('FOLDER', str(folder))
    names = {}
    imports, calls = (
        [x for x in code.splitlines() if x.startswith('from')],
        [x for x in code.splitlines() if x and not x.startswith('from')],
    )
    exec('\n'.join(imports), names)
    loaded = [list(eval(call, names)) for call in calls]
    assert loaded[0] == loaded[1] == sft_rows(toy, both(toy)['test'], 'correct')
    assert loaded[2] == both(toy)['test']


# --- what goes wrong


def test_names_of_files():
    assert safe_name('mix:0.5') == 'mix_0.5' and safe_name('a/../b c') == 'a_.._b_c'


def test_a_clash_of_file_names_is_refused(monkeypatch):
    from tracenb.traces.conditions import CONDITIONS as registry

    for name in ('a b', 'a/b'):
        monkeypatch.setitem(registry, name, replace(registry['correct'], name=name))
    with pytest.raises(TracenbError, match='would share the file name'):
        all_rows(toy, both(toy), ('a b', 'a/b'))


def test_dates_are_refused_where_a_reader_would_change_them(tmp_path):
    days = [odd(i, answers=(f'2001-02-0{i + 1}',)) for i in range(2)]
    with pytest.raises(TracenbError, match="answers looks like a date.*\n.*'parquet'"):
        export(ODD, {'train': days}, tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []
    folder = export(ODD, {'train': days}, tmp_path / 'out', format='parquet')
    assert load(folder, 'examples', tmp_path / 'cache')['train'] == example_rows(days)
    assert check_rows(example_rows([*days, odd(2)]), 'jsonl', 'x')


@pytest.mark.parametrize(
    'text',
    [
        '2001-02-03',
        '2001-02-03 04:05',
        '2001-02-03T04:05:06.789',
        '2001-02-03T04:05:06Z',
        '2001-02-03 04',
        '2001-02-03T04:05:06+01:00',
        '2001',
        '2 May 2001',
        '12:30',
        '2001-02',
    ],
)
def test_what_a_reader_takes_for_a_date_is_what_is_refused(text, tmp_path):
    path = tmp_path / 'a.jsonl'
    path.write_text(json.dumps({'id': 'x', 'answers': [text]}) + '\n')
    kept = list(datasets.Dataset.from_json(str(path), cache_dir=str(tmp_path / 'cache'))) == [
        {'id': 'x', 'answers': [text]}
    ]
    try:
        check_rows([{'id': 'x', 'answers': [text]}], 'jsonl', 'a')
        allowed = True
    except TracenbError:
        allowed = False
    assert kept or not allowed


@pytest.mark.parametrize('format', ['jsonl', 'parquet'])
def test_half_a_surrogate_pair_is_named(format, tmp_path):
    with pytest.raises(TracenbError, match="examples_train: 'odd-1': context holds half"):
        export(ODD, {'train': [odd(0), odd(1, context=('\ud83d',))]}, tmp_path / 'out', format=format)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'why, settings',
    {
        "did you mean 'correct'": dict(conditions=('corect',)),
        "unknown format 'csv'": dict(format='csv'),
        'trains nothing': dict(conditions=('vanilla', 'zero_shot')),
        "unknown split 'dev'": dict(examples={'dev': both(toy)['train']}),
        'no test examples of toy': dict(examples={'train': both(toy)['train'], 'test': []}),
        'no train or test examples': dict(examples={}),
        'its id is used twice': dict(examples={'train': both(toy)['train'], 'test': both(toy)['train']}),
    }.items(),
)
def test_wrong_settings_write_nothing(why, settings, tmp_path):
    with pytest.raises(TracenbError, match=why):
        export(toy, settings.pop('examples', both(toy)), tmp_path / 'out', **settings)
    assert list(tmp_path.iterdir()) == []


def test_bad_folders_are_named_and_left_alone(tmp_path):
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('mine')
    before = sorted(tmp_path.rglob('*'))
    for out, why in (
        (tmp_path / 'file', 'in the way'),
        (tmp_path / 'file' / 'below', 'cannot be written|in the way'),
        (tmp_path / 'full', 'holds files already'),
    ):
        with pytest.raises(TracenbError, match=why):
            export(toy, both(toy), out)
    assert sorted(tmp_path.rglob('*')) == before and (tmp_path / 'file').read_text() == 'mine'


def test_an_unwritable_place_is_named(tmp_path, monkeypatch):
    def refuse(*a, **k):
        raise PermissionError(13, 'Permission denied')

    monkeypatch.setattr(files.tempfile, 'mkdtemp', refuse)  # a mode would not stop a superuser
    with pytest.raises(TracenbError, match='cannot be written: Permission denied'):
        export(toy, both(toy), tmp_path / 'out')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    'error, shown', [(OSError(28, 'No space left on device'), TracenbError), (KeyboardInterrupt(), KeyboardInterrupt)]
)
def test_a_disk_that_fills_up_and_an_interrupt_leave_nothing(error, shown, tmp_path, monkeypatch):
    written = []

    def write(path, rows, kind):
        if len(written) == 3:
            raise error
        written.append(path.write_text('x'))

    monkeypatch.setitem(export_module.FORMATS, 'jsonl', write)
    with pytest.raises(shown):
        export(toy, both(toy), tmp_path / 'out')
    assert len(written) == 3 and list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / 'out').mkdir()
    assert (export(toy, both(toy), tmp_path / 'out') / 'README.md').stat().st_mode & 0o777 == 0o644
    assert (tmp_path / 'out').stat().st_mode & 0o777 == 0o755 and [p.name for p in tmp_path.iterdir()] == ['out']


def test_bad_rows_of_an_exported_file_are_named(tmp_path):
    path = export(toy, both(toy), tmp_path / 'out') / 'examples_train.jsonl'
    lines = path.read_text().splitlines()
    path.write_text('\n'.join([lines[0], lines[1].replace('"meta": "', '"meta": "oops'), lines[2]]) + '\n')
    with pytest.warns(RowsLeftOut, match='examples_train.jsonl:2: meta is not JSON text'):
        assert [e.id for e in read_examples(path)] == ['toy-0', 'toy-2']
    with pytest.raises(TracenbError, match='no usable row'):
        read_examples(path.with_name('steps_train.jsonl'))


def test_real_rows(shared, tmp_path):
    rows = babi.load(shared / 'babi', 'test')
    table = describe(babi, rows)
    assert table.n['all'] == len(rows) and set(table.index) == {*babi.labels, 'all'}
    folder = export(babi, {'test': rows}, tmp_path / 'out', ('incorrect',), seed=1, source=str(shared / 'babi'))
    assert read_examples(folder / 'examples_test.jsonl') == rows
    assert load(folder, 'sft_incorrect', tmp_path / 'cache')['test'] == sft_rows(babi, rows, 'incorrect', 1)
