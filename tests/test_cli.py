"""The command: in a process of its own where runs or exit codes are the subject, else by its entry point."""

import json
import re
import subprocess
import sys
from pathlib import Path

import forked
import pytest

TRACENB = Path(sys.executable).parent / 'tracenb'


def tracenb(*args, cwd=None, code=0):
    done = subprocess.run([TRACENB, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout, done.stderr


def test_help_and_version():
    assert 'tracenb' in tracenb('--help')[0]
    assert tracenb('--version')[0].strip() == '0.1.0'


def test_an_error_has_no_traceback(tmp_path):
    _, err = tracenb('run', 'dmeo', cwd=tmp_path, code=1)
    assert err.startswith('error: ') and "did you mean 'demo'" in err and 'Traceback' not in err


@pytest.mark.parametrize(
    'args, says',
    [
        (('run', 'dmeo'), "did you mean 'demo'"),
        (('report', 'nowhere'), 'tracenb run demo --out nowhere'),
        (('run', 'smoke', '--limit', 0), 'at least one'),
    ],
)
def test_errors_say_what_to_do(args, says, tmp_path, call):
    _, err = call(*args, cwd=tmp_path, code=1)
    assert err.startswith('error: ') and says in err and 'Traceback' not in err


def test_dry_run_lists_and_writes_nothing(tmp_path, call):
    out, _ = call('run', 'demo', '--dry-run', cwd=tmp_path)
    assert out.count('new ') == 4 and not list(tmp_path.iterdir())


def test_a_measured_plan_estimates_time_and_memory_and_writes_nothing(tmp_path, call):
    out, _ = call('run', 'smoke', '--dry-run', '--measure', cwd=tmp_path)
    head, *rows = [line.split() for line in out.strip().splitlines()]
    assert head[-3:] == ['training_s', 'answering_s', 'peak_memory_mb'] and len(rows) == 4
    assert [row[-3] == 'NaN' for row in rows] == [row[-4].split('/')[-2] == 'zero_shot' for row in rows]
    assert all(float(row[-2]) >= 0 and int(row[-1]) > 100 for row in rows) and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_grid_from_run_to_report(smoke):
    assert '4 of 4 runs finished' in (smoke.parent / 'run.txt').read_text()
    folders = [p.parent for p in smoke.rglob('metrics.json')]
    assert sorted(f.parent.name for f in folders) == ['correct', 'incorrect', 'vanilla', 'zero_shot']
    for f in folders:
        trained = f.parent.name != 'zero_shot'
        want = {'run.json', 'examples.jsonl', 'generations.jsonl', 'scores.jsonl', 'metrics.json', 'run.ipynb'} | (
            {'chat.jsonl', 'adapter', 'train_log.jsonl', 'train.json'} if trained else set()
        )
        assert {p.name for p in f.iterdir()} == want
        record = json.loads((f / 'run.json').read_text())
        assert (
            record['settings']['condition'] == f.parent.name
            and record['packages']['torch']
            and record['cost']['peak_memory_mb'] > 0
        )
        assert (f / 'adapter' / 'adapter_model.safetensors').exists() or not trained
    before = {p: p.read_bytes() for f in folders for p in f.rglob('*') if p.is_file()}
    assert forked.tracenb('run', 'smoke', '--out', smoke.name, cwd=smoke.parent).returncode == 0
    assert {p: p.read_bytes() for p in before} == before, 'a second run finds everything finished'
    table = (smoke.parent / 'report.txt').read_text()
    assert 'answer exact' in table and 'zero_shot' in table
    untrained = next(f for f in folders if f.parent.name == 'zero_shot')
    told = forked.tracenb('weights', untrained, cwd=smoke.parent)
    assert told.returncode == 1 and 'no finished run has an adapter' in told.stderr
    page = (smoke / 'report.html').read_text()
    assert page.count('data:image/png') >= 3 and 'What can be said' in page
    assert not re.findall(r'(?:src|href)="https?://[^"]*"', page) and not re.findall('<script[^>]*src', page), (
        'the page fetches nothing'
    )
    for name in ('accuracy', 'steps', 'training', 'cost'):  # a random model writes no readable trace: no mosaics
        for kind in ('png', 'svg', 'csv'):
            assert (smoke / 'figures' / f'{name}.{kind}').stat().st_size > 100


# --- data and audit


@pytest.mark.parametrize('name', ['cotempqa', 'msmarco', 'babi'])
def test_data_show(name, tmp_path, call):
    out, _ = call('data', 'show', name, '--n', 1, '--count', 22, '--balanced', cwd=tmp_path)
    for words in (
        'question',
        'answer',
        f'22 test examples of {name} (simulated)',
        'incorrect_paper',
        'mix:0.5',
        'trace_mean',
    ):
        assert words in out, words
    assert not list(tmp_path.iterdir())


def test_data_export_gives_rows_that_datasets_loads(tmp_path, call):
    out, _ = call(
        'data',
        'export',
        'cotempqa',
        '--out',
        'rows',
        '--n-train',
        12,
        '--n-test',
        4,
        '--conditions',
        'vanilla,mix:0.5',
        cwd=tmp_path,
    )
    assert 'sft_mix_0.5_train.jsonl' in out
    import datasets

    rows = datasets.Dataset.from_json(
        str(tmp_path / 'rows' / 'sft_mix_0.5_train.jsonl'), cache_dir=str(tmp_path / 'cache')
    )
    assert len(rows) == 12 and rows[0]['completion'][0]['content'].startswith('<think>')
    _, err = call('data', 'export', 'cotempqa', '--out', 'rows', '--n-train', 12, cwd=tmp_path, code=1)
    assert err.startswith('error: ') and 'Traceback' not in err


def test_data_from_files_in_the_official_format(tmp_path, call):
    from tracenb.tasks.babi import babi

    stories = babi.simulate(4, 0, 'test', ('counting',), None)
    lines = [
        line
        for e in stories
        for line in (
            [f'{i} {c}' for i, c in enumerate(e.context, 1)]
            + [
                f'{len(e.context) + 1} {e.question}\t{",".join(e.answers)}\t'
                + ' '.join(str(i + 1) for i in e.meta['facts'])
            ]
        )
    ]
    (tmp_path / 'qa7_counting_test.txt').write_text('\n'.join(lines) + '\n')
    out, _ = call('data', 'show', 'babi', '--source', '.', '--n', 4, cwd=tmp_path)
    assert '4 test examples of babi (.)' in out and stories[0].question in out


@pytest.mark.parametrize(
    'args, says',
    [
        (('data', 'show', 'babbi'), "did you mean 'babi'"),
        (('data', 'show', 'cotempqa', '--source', 'nowhere'), 'no such file or folder'),
        (('data', 'show', 'babi', '--condition', 'corect'), "did you mean 'correct'"),
        (('audit', 'nowhere.jsonl'), 'no such file or folder'),
        (('audit', 'rows.jsonl', '--data', 'x'), 'both or neither'),
    ],
)
def test_errors_of_data_and_audit(args, says, tmp_path, call):
    (tmp_path / 'rows.jsonl').write_text('{}\n')
    _, err = call(*args, cwd=tmp_path, code=1)
    assert err.startswith('error: ') and says in err and 'Traceback' not in err


def test_audit_prints_the_first_and_last_variant_and_writes_its_files(tmp_path, call):
    from tracenb.tasks.cotempqa import cotempqa
    from tracenb.traces.chat import completion_text
    from tracenb.traces.conditions import build_traces

    examples = cotempqa.simulate(20, 0, 'test', cotempqa.labels, None)
    rows = [
        dict(
            dataset='cotempqa',
            model='Tiny',
            condition='correct',
            question=e.question,
            facts=list(e.context),
            gold=list(e.answers),
            category=e.meta['label'],
            triple_element=e.meta['triple_element'],
            prediction=None if k == 3 else completion_text(e, t, cotempqa),
        )
        for k, (e, t) in enumerate(zip(examples, build_traces(examples, cotempqa, 'correct')))
    ]
    (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in rows))
    out, _ = call('audit', 'rows.jsonl', '--out', 'o', cwd=tmp_path, code=3)  # not every row was used
    assert 'cotempqa Tiny correct: 1 rows left out' in out and 'own_any' in out and 'o/audit.html' in out
    assert {p.name for p in (tmp_path / 'o').iterdir()} == {
        'audit.json',
        'audit.html',
        'rows.parquet',
        'left_out.jsonl',
    }
