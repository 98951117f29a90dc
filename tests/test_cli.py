"""The command, run as a user runs it: in a process of its own."""
import json
import subprocess
import sys
from pathlib import Path

import pytest

TRACENB = Path(sys.executable).parent/'tracenb'


def tracenb(*args, cwd=None, code=0):
    done = subprocess.run([TRACENB, *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout, done.stderr


def test_help_and_version():
    assert 'tracenb' in tracenb('--help')[0]
    assert tracenb('--version')[0].strip() == '0.1.0'


@pytest.mark.parametrize('args, says', [(('run', 'dmeo'), "did you mean 'demo'"), (('report', 'nowhere'), 'tracenb run demo --out nowhere'), (('run', 'smoke', '--limit', 0), 'at least one')])
def test_errors_say_what_to_do_without_a_traceback(args, says, tmp_path):
    _, err = tracenb(*args, cwd=tmp_path, code=1)
    assert err.startswith('error: ') and says in err and 'Traceback' not in err


def test_dry_run_lists_and_writes_nothing(tmp_path):
    out, _ = tracenb('run', 'demo', '--dry-run', cwd=tmp_path)
    assert out.count('new ') == 4 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_grid_from_run_to_report(tmp_path):
    out, _ = tracenb('run', 'smoke', '--out', 'o', cwd=tmp_path)
    assert '4 of 4 runs finished' in out
    folders = [p.parent for p in (tmp_path/'o').rglob('metrics.json')]
    assert sorted(f.parent.name for f in folders) == ['correct', 'incorrect', 'vanilla', 'zero_shot']
    for f in folders:
        trained = f.parent.name != 'zero_shot'
        want = {'run.json', 'examples.jsonl', 'generations.jsonl', 'scores.jsonl', 'metrics.json', 'run.ipynb'} | ({'chat.jsonl', 'adapter', 'train_log.jsonl', 'train.json'} if trained else set())
        assert {p.name for p in f.iterdir()} == want
        record = json.loads((f/'run.json').read_text())
        assert record['settings']['condition'] == f.parent.name and record['packages']['torch'] and record['cost']['peak_memory_mb'] > 0
        assert (f/'adapter'/'adapter_model.safetensors').exists() or not trained
    before = {p: p.read_bytes() for f in folders for p in f.rglob('*') if p.is_file()}
    tracenb('run', 'smoke', '--out', 'o', cwd=tmp_path)
    assert {p: p.read_bytes() for p in before} == before, 'a second run finds everything finished'
    table, _ = tracenb('report', 'o', cwd=tmp_path)
    assert 'answer exact' in table and 'zero_shot' in table
    page = (tmp_path/'o'/'report.html').read_text()
    assert page.count('data:image/png') >= 3 and 'What can be said' in page
    import re
    assert not re.findall(r'(?:src|href)="https?://[^"]*"', page) and '<script' not in page, 'the page fetches nothing'
    for name in ('accuracy', 'steps', 'trace_answer'):
        for kind in ('png', 'svg', 'csv'): assert (tmp_path/'o'/'figures'/f'{name}.{kind}').stat().st_size > 100
