"Interventions on real runs of the tiny model: resumed, grown, killed, refused, verified; bad input; pairs over runs."

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import forked
import pandas as pd
import pytest
import yaml
from fastcore.test import test_close as close
from filelock import FileLock

from tracenb.core.records import TracenbError
from tracenb.interventions import running
from tracenb.interventions.grid import intervene_runs, load_interventions
from tracenb.interventions.registry import NOT_WRONG, known_interventions, summarize_rows
from tracenb.interventions.running import (
    FOLDER,
    intervene,
    make_config,
    missing_tests,
    read_interventions,
    verify_interventions,
)
from tracenb.interventions.validity import force_matrix
from tracenb.runs.finished import TrainedRun, verify
from tracenb.runs.folders import find_runs
from tracenb.runs.stages import answer, build, finish, make_run, open_run, score, tune

SMALL = dict(
    data=dict(n_train=8, n_test=12),
    train=dict(num_train_epochs=1, gradient_accumulation_steps=1),
    generate=dict(max_new_tokens=8),
)
FORCED = ['edited_facts', 'shuffled', 'none']
FEW = dict(limit=4, tests=['A', 'C', 'E'], samples=2, longest=8, deciles=2, forced=FORCED)


def finished(out, **settings):
    "The folder of a finished run."
    opened = open_run(make_run(**(SMALL | settings)), out)
    tune(opened, build(opened))
    finish(opened, score(opened, answer(opened)))
    return opened.path


@pytest.fixture(scope='module')
def babi(tmp_path_factory):
    "A finished run on simulated bAbI. To be copied."
    return finished(tmp_path_factory.mktemp('babi'), dataset='babi')


@pytest.fixture
def run(babi, tmp_path):
    "A copy of that run."
    to = tmp_path / 'o' / Path(*babi.parts[-4:])
    shutil.copytree(babi, to)
    return to


@pytest.fixture(scope='module')
def whole(babi, tmp_path_factory):
    "The same run, with interventions. To be copied."
    to = tmp_path_factory.mktemp('whole') / Path(*babi.parts[-4:])
    shutil.copytree(babi, to)
    intervene(to, make_config(**FEW))
    return to


def copied(folder, to):
    shutil.copytree(folder, to := to / Path(*folder.parts[-4:]))
    return to


def contents(run):
    "Bytes of the files of interventions, without the executed notebook, which holds times."
    return {p.name: p.read_bytes() for p in (run / FOLDER).iterdir() if p.suffix in ('.jsonl', '.json')}


def rows_of(run, name):
    return [json.loads(line) for line in (run / FOLDER / f'{name}.jsonl').read_text().splitlines()]


def command(*args, cwd, code=0):
    done = forked.tracenb(*args, cwd=cwd, timeout=300)
    assert done.returncode == code, done.stderr[-2000:]
    return done


def test_the_same_again_does_nothing(whole, tmp_path):
    run = copied(whole, tmp_path)
    before = {p: p.stat().st_mtime_ns for p in (run / FOLDER).iterdir()}
    assert missing_tests(run, make_config(**FEW)) == []
    first = intervene(run, make_config(**FEW))
    assert {p: p.stat().st_mtime_ns for p in (run / FOLDER).iterdir() if p.name != '.lock'} == {
        p: t for p, t in before.items() if p.name != '.lock'
    }
    assert set(first.test) == {'forced_wrong', 'early_answering', 'swap'} and set(first.n) == {4}


def test_a_run_that_is_verified(whole):
    assert verify(whole) == [] and verify_interventions(whole) == []
    assert [len({r['id'] for r in rows_of(whole, n)}) for n in ('forced_wrong', 'early_answering', 'swap')] == [4] * 3


def test_the_limit_grows_and_tests_are_added(whole, tmp_path):
    run = copied(whole, tmp_path)
    before = contents(run)
    intervene(run, make_config(**FEW | dict(limit=6)))
    for name, data in contents(run).items():
        if name.endswith('.jsonl'):
            assert data.startswith(before[name]) and len(data) > len(before[name])
    assert verify_interventions(run) == []
    once = copied(whole, tmp_path / 'once')
    shutil.rmtree(once / FOLDER)
    intervene(once, make_config(**FEW | dict(limit=6)))
    assert contents(once) == contents(run)
    before = contents(run)
    intervene(run, make_config(**FEW | dict(limit=6, tests=['H'])))
    made, now = json.loads((run / FOLDER / 'summary.json').read_text()), contents(run)
    assert made['n'] == 6 and set(made['tests']) == {'forced_wrong', 'early_answering', 'swap', 'knock_out'}
    assert {k: v for k, v in now.items() if k in before and k.endswith('.jsonl')}.items() <= before.items()
    with_fewer = intervene(run, make_config(**FEW | dict(limit=2, tests=['A'])))
    assert set(with_fewer.n) == {2} and verify_interventions(run) == []


@pytest.mark.parametrize(
    'settings, said',
    [(dict(samples=3), 'samples 2, now 3'), (dict(seed=1), 'seed 0, now 1'), (dict(forced=['none']), 'forced ')],
)
@pytest.mark.parametrize('limit', [4, 5])
def test_other_settings_are_refused_by_name(whole, tmp_path, settings, said, limit):
    run = copied(whole, tmp_path)
    before = contents(run)
    with pytest.raises(TracenbError, match=said):
        intervene(run, make_config(**FEW | settings | dict(limit=limit)))
    assert contents(run) == before


def test_other_code_does_not_continue_but_is_not_asked_for_what_is_there(whole, tmp_path):
    run = copied(whole, tmp_path)
    path = run / FOLDER / 'settings.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | dict(code='other')))
    assert len(intervene(run, make_config(**FEW)))
    with pytest.raises(TracenbError, match='begun with other settings: code other, now'):
        intervene(run, make_config(**FEW | dict(limit=5)))


def changed(line, **values):
    return json.dumps(json.loads(line) | values, ensure_ascii=False)


def test_a_curve_over_cuts_of_a_trace_is_no_judgment_of_one_text(run):
    [item] = running._items(TrainedRun(run), make_config(limit=1), None)
    gold = item.example.answers
    row = dict(test='early_answering', id=item.example.id, variant='correct', said=item.task.write_answers(gold))
    assert list(running._said_otherwise(row | dict(right=[False, True]), gold, item)) == []
    assert len(list(running._said_otherwise(row | dict(right=0.0), gold, item))) == 1


def test_verify_finds_what_was_changed(whole, tmp_path):
    at = whole / FOLDER
    lines = (at / 'forced_wrong.jsonl').read_text().splitlines()
    k = next(k for k, line in enumerate(lines) if json.loads(line)['eligible'])
    follow = json.loads(lines[k])['follow']
    edits = {
        'its text says': [*lines[:k], changed(lines[k], follow=1 - follow), *lines[k + 1 :]],
        'not the rows': [changed(lines[0], lp_gold=-1.0), *lines[1:]],
        'no row of 1 questions': [x for x in lines if json.loads(x)['id'] != json.loads(lines[0])['id']],
        'right 1.0, its text says 0.0': [changed(lines[0], right=1.0, said='nothing'), *lines[1:]],
        'not the rows that': lines[1:],
    }
    for n, (said, text) in enumerate(edits.items()):
        run = copied(whole, tmp_path / str(n))
        (run / FOLDER / 'forced_wrong.jsonl').write_text('\n'.join(text) + '\n')
        assert any(said in problem for problem in verify_interventions(run)), said
    run = copied(whole, tmp_path / 'summary')
    path = run / FOLDER / 'summary.json'
    made = json.loads(path.read_text())
    made['estimates'][3]['estimate'] = 0.123
    path.write_text(json.dumps(made))
    [problem] = verify_interventions(run)
    assert made['estimates'][3]['metric'] in problem and problem.startswith('interventions/summary.json')
    path.unlink()
    assert verify_interventions(run) == ['interventions: not complete']
    found = command('verify', run, cwd=tmp_path, code=1).stdout
    assert 'interventions: not complete' in found


CUTS = ['first line torn', 'first file only', 'a line torn', 'a file behind', 'nothing but settings', 'no summary']


@pytest.mark.parametrize('cut', CUTS)
def test_files_cut_anywhere_end_with_the_same_bytes(whole, tmp_path, cut):
    "What a killed process can leave."
    run, before = copied(whole, tmp_path), contents(whole)
    at = run / FOLDER
    (at / 'summary.json').unlink()
    files = sorted(at.glob('*.jsonl'))
    if cut == 'first line torn':
        for f in files:
            f.write_bytes(f.read_bytes()[:40])
    elif cut == 'first file only':
        [f.unlink() for f in files[1:]]
    elif cut == 'a line torn':
        files[-1].write_bytes(files[-1].read_bytes()[:-30])
    elif cut == 'a file behind':
        files[0].write_bytes(b''.join(files[0].read_bytes().splitlines(True)[:1]))
    elif cut == 'nothing but settings':
        [f.unlink() for f in files]
    intervene(run, make_config(**FEW))
    assert contents(run) == before


# The process forks one child per try, which kills itself before its n-th opening of a file
# to append rows, or at the n-th renaming. The first try is not killed and tells how many there are.
KILLED = """
import json, os, shutil, signal, sys
from pathlib import Path
os.environ['CI'] = '1'
import bitsandbytes, peft
from tracenb.interventions.running import intervene, make_config

source, root, config = Path(sys.argv[1]), Path(sys.argv[2]), make_config(**json.loads(sys.argv[3]))

def attempt(out, n):
    pid = os.fork()
    if pid: return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    count = [0]
    def hook(event, args):
        if event == 'os.rename' or event == 'open' and str(args[0]).endswith('.jsonl') and 'a' in str(args[1]):
            if str(args[0]).startswith(str(out)):
                count[0] += 1
                if count[0] == n: os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    try: intervene(out, config)
    except BaseException as e: print(json.dumps(dict(n=n, error=repr(e))), flush=True); os._exit(1)
    Path(f'{out}.count').write_text(str(count[0]))
    os._exit(0)

def fresh(name):
    out = root / name / 'o' / 'd' / 'm' / source.name
    shutil.copytree(source, out, ignore=shutil.ignore_patterns('interventions'))
    return out

whole = fresh('whole')
assert attempt(whole, 0) == 0
total = int(Path(f'{whole}.count').read_text())
chosen = range(1, total + 1) if sys.argv[4] == 'every' else sorted({1, 2, 3, total // 2, total})
for n in chosen:
    out = fresh(str(n))
    print(json.dumps(dict(n=n, code=attempt(out, n), again=attempt(out, 0), out=str(out))), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize('which', ['some', pytest.param('every', marks=pytest.mark.exhaustive)])
def test_killed_while_measuring_the_same_command_ends_with_the_same_bytes(whole, tmp_path, which):
    settings = json.dumps(FEW if which == 'every' else FEW | dict(limit=2, tests=['A'], samples=0, forced=['none']))
    done = forked.script(KILLED, whole, tmp_path, settings, which, timeout=900)
    tries = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and not [t for t in tries if 'error' in t], done.stdout[-500:] + done.stderr[-1500:]
    assert len(tries) >= 4 and {(t['code'], t['again']) for t in tries} == {(-signal.SIGKILL, 0)}
    [undisturbed] = (tmp_path / 'whole').rglob(FOLDER)
    for t in tries:
        assert contents(Path(t['out'])) == contents(undisturbed.parent), t


def test_two_processes_at_once_the_second_is_refused(run):
    (run / FOLDER).mkdir()
    holder = (
        f'from filelock import FileLock\nwith FileLock({str(run / FOLDER / ".lock")!r}): print(1, flush=1), input()'
    )
    with subprocess.Popen(
        [sys.executable, '-c', holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == '1\n'
        with pytest.raises(TracenbError, match='another process works on it'):
            intervene(run, make_config(**FEW))
        assert contents(run) == {}
        other.communicate('\n')
    with FileLock(run / FOLDER / '.lock', timeout=0):
        pass


def test_a_folder_that_cannot_be_written_says_so(run, monkeypatch):
    (run / FOLDER).write_text('a file in the way')
    with pytest.raises(TracenbError, match='interventions: cannot be written: File exists'):
        intervene(run, make_config(**FEW))


@pytest.mark.skipif(os.name != 'posix' or os.geteuid() == 0, reason='root may write everywhere')
def test_a_folder_without_permission_says_so(run):
    run.chmod(0o555)
    try:
        with pytest.raises(TracenbError, match='cannot be written: Permission denied'):
            intervene(run, make_config(**FEW))
    finally:
        run.chmod(0o755)


@pytest.mark.parametrize(
    'settings, said',
    [
        (dict(tests=['forced_rong']), "unknown intervention 'forced_rong'.*\n.*forced_wrong"),
        (dict(forced=['edited_fact']), "unknown forced trace 'edited_fact'.*\n.*edited_facts"),
        (dict(forced=['label_alon']), "unknown forced trace 'label_alon'.*\n.*label_alone"),
        (dict(forced=['r1']), "'r1' is made of traces of a teacher"),
        (dict(forced=['vanilla']), "'vanilla' has no trace to force.*\n.*'none'"),
        (dict(forced=['mix']), "condition 'mix' needs"),
        (dict(limits=3), 'limits: Unexpected keyword argument.*\n.*limit'),
        (dict(limit='many'), 'limit'),
        (dict(limit=0), 'limit is 0'),
        (dict(samples=-1), 'samples is -1'),
        (dict(longest=0), 'longest is 0'),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings, said):
    with pytest.raises(TracenbError, match=f'(?s){said}'):
        make_config(**settings)


def rewritten(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_without_adapter_or_with_another_base_or_template_is_refused(run, tmp_path):
    adapter = run / 'adapter' / 'adapter_config.json'
    base = json.loads(adapter.read_text())['base_model_name_or_path']
    rewritten(adapter, base_model_name_or_path='some/other-model')
    with pytest.raises(TracenbError, match="tuned on 'some/other-model'"):
        intervene(run, make_config(**FEW))
    rewritten(adapter, base_model_name_or_path=base)
    stored = (run / 'run.json').read_text()
    template = json.loads(stored)['chat_template']
    rewritten(run / 'run.json', chat_template={k: 'other' for k in template} if isinstance(template, dict) else 'other')
    with pytest.raises(TracenbError, match='another chat template'):
        intervene(run, make_config(**FEW))
    (run / 'run.json').write_text(stored)
    shutil.rmtree(run / 'adapter')
    with pytest.raises(TracenbError, match='adapter'):
        intervene(run, make_config(**FEW))
    (run / 'metrics.json').unlink()
    with pytest.raises(TracenbError, match='not a finished run'):
        intervene(run, make_config(**FEW))
    assert 'no finished run' in command('intervene', run, cwd=tmp_path, code=1).stderr


@pytest.mark.parametrize('condition', ['vanilla', 'zero_shot'])
def test_a_condition_without_traces_is_tested_under_ours(tmp_path, condition):
    run = finished(tmp_path, dataset='babi', condition=condition)
    table = intervene(run, make_config(**FEW))
    a = table[(table.test == 'forced_wrong') & (table.variant == 'edited_facts')].set_index('metric')
    assert a.loc['follow'].n == 4 and a.loc['accuracy'].n_eligible == 4 and verify_interventions(run) == []


def test_more_questions_than_there_are_and_none_eligible(tmp_path):
    "The toy task has no rule `implied`: nothing is eligible in the tests that need it, and all questions are counted."
    run = finished(tmp_path, dataset='toy', data=dict(n_train=8, n_test=3))
    table = intervene(run, make_config(limit=50, samples=1, longest=8, deciles=2, tests=['A', 'B', 'F', 'G', 'H']))
    assert set(table.n) == {3} and verify_interventions(run) == []
    counted = table.groupby('test').n_eligible.max()
    assert counted['step_attribution'] == 3 and counted['knock_out'] == 3
    for r in rows_of(run, 'conflict'):
        assert r['eligible'] or r['why']


def test_a_task_without_implied_leaves_rows_that_say_why(tmp_path):
    data = dict(n_train=8, n_test=6)
    run = finished(tmp_path, dataset='msmarco', condition='zero_shot', data=data)
    trained = TrainedRun(run)
    trained.load().config.max_position_embeddings = 8192  # passages are long for a tokenizer of single characters
    config = make_config(limit=1, samples=0, longest=4, deciles=2, tests=['A', 'B', 'E', 'G', 'H'])
    table = intervene(trained, config)
    by_test = {name: rows_of(run, name) for name in config.tests}
    assert all(r['why'] for rows in by_test.values() for r in rows if not r['eligible'])
    assert all(r['eligible'] for r in by_test['step_attribution']) and not any(
        r['eligible'] for r in by_test['conflict']
    )
    wrong = {r['variant']: r for r in by_test['forced_wrong']}
    assert "no rule 'edit'" in wrong['edited_facts']['why'] or 'edit' in wrong['edited_facts']['why']
    assert wrong['correct']['why'] == NOT_WRONG and table.n.eq(1).all() and verify_interventions(run) == []


def test_prompts_that_do_not_fit_are_counted(run):
    trained = TrainedRun(run)
    config = trained.load().config
    config.max_position_embeddings = 40
    table = intervene(trained, make_config(**FEW | dict(limit=2, tests=['A', 'B', 'C', 'H'])))
    rows = read_interventions(run)
    assert not rows.eligible.any() and rows.why.str.contains('the model takes 40').all()
    assert set(rows.test) == {'forced_wrong', 'step_attribution', 'early_answering', 'knock_out'}
    assert table.n.eq(2).all() and table.n_eligible.eq(0).all() and table.sentence.str.contains('0 of 2').all()
    assert verify_interventions(run) == []


@pytest.mark.slow
def test_simulated_cotempqa_end_to_end(tmp_path):
    run = finished(tmp_path, dataset='cotempqa', data=dict(n_train=8, n_test=8), condition='zero_shot')
    trained = TrainedRun(run)
    trained.load().config.max_position_embeddings = 4096
    table = intervene(trained, make_config(**FEW | dict(limit=2, samples=0, deciles=1)))
    wrong = [r for r in rows_of(run, 'forced_wrong') if r['variant'] == 'edited_facts']
    assert len(wrong) == 2 and all(r['eligible'] and r['implied'] and r['trace'] for r in wrong)
    assert set(table.n) == {2} and verify_interventions(run) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    'seeds', [[1], pytest.param([1, 2], marks=pytest.mark.exhaustive)], ids=['one_seed', 'two_seeds']
)
def test_a_grid_runs_and_intervenes_in_one_command(tmp_path, seeds):
    "Two conditions; all runs are asked under the same forced traces."
    n = 2 * len(seeds)
    grid = dict(
        datasets=['babi'],
        models=['tiny-random'],
        conditions=['correct', 'vanilla'],
        seeds=seeds,
        settings=SMALL,
        interventions=dict(limit=2, tests=['A', 'E'], samples=0, forced=['edited_facts', 'shuffled', 'masked']),
    )
    (tmp_path / 'g.yaml').write_text(yaml.safe_dump(grid))
    first = command('run', 'g.yaml', '--out', 'o', cwd=tmp_path)
    assert f'{n} of {n} runs finished' in first.stdout and first.stdout.count('questions eligible') >= n
    folders = list(find_runs(tmp_path / 'o'))
    assert len(folders) == n and all((at / FOLDER / 'summary.json').exists() for at in folders)
    files = {p: p.stat().st_mtime_ns for at in folders for p in (at / FOLDER).iterdir() if p.name != '.lock'}
    assert sum(p.name == 'intervene.ipynb' for p in files) == n
    command('run', 'g.yaml', '--out', 'o', cwd=tmp_path)
    options = ['--tests', 'A,swap', '--limit', 2, '--samples', 0, '--forced', 'edited_facts,shuffled,masked']
    command('intervene', 'o', *options, cwd=tmp_path)
    assert {p: p.stat().st_mtime_ns for p in files} == files
    refused = command('intervene', 'o', '--tests', 'A', '--limit', 2, '--forced', 'none', cwd=tmp_path, code=1)
    assert refused.stderr.count('begun with other settings: forced') >= n
    wrong = command('intervene', 'o', '--forced', 'shufled', cwd=tmp_path, code=1)
    assert 'shuffled' in wrong.stderr
    assert command('verify', 'o', cwd=tmp_path).stdout.count('as stored') == n
    paired_rows(load_interventions(tmp_path / 'o'), len(seeds))
    (tmp_path / 'h.yaml').write_text(yaml.safe_dump(grid | dict(interventions=dict(limits=3))))
    assert 'limits: Unexpected' in command('run', 'h.yaml', '--out', 'o', '--dry-run', cwd=tmp_path, code=1).stderr


def paired_rows(rows, n_seeds):
    "The rows of a grid: the same questions and forced traces in each run."
    runs = rows.groupby(['condition', 'seed'])
    assert len(runs) == 2 * n_seeds and runs.size().nunique() == 1
    forced = rows[rows.test == 'forced_wrong'].groupby(['id', 'variant'])
    assert (forced.size() == 2 * n_seeds).all() and (forced.trace.nunique(dropna=False) == 1).all()
    assert forced.implied.agg(lambda x: len({str(v) for v in x})).eq(1).all()
    assert rows[rows.test == 'swap'].groupby(['id', 'variant']).trace.nunique(dropna=False).eq(1).all()
    cells = force_matrix(rows).set_index(['condition', 'forced', 'measure'])
    part = rows[(rows.test == 'forced_wrong') & (rows.variant == 'edited_facts') & (rows.condition == 'correct')]
    cell = cells.loc[('correct', 'edited_facts', 'accuracy')]
    assert (cell.n, cell.n_eligible, cell.seeds) == (2, 2, n_seeds)
    close(cell.estimate, part.right.mean(), 1e-12)
    lp = cells.loc[('correct', 'edited_facts', 'lp_gold')]
    close(lp.estimate, part.lp_gold.mean(), 1e-9)
    assert cells.loc[('vanilla', 'edited_facts', 'lp_gold')].estimate != lp.estimate


def test_a_run_that_cannot_be_tested_is_named_and_the_others_go_on(whole, run, tmp_path):
    other = copied(whole, tmp_path / 'other')
    rewritten(run / 'adapter' / 'adapter_config.json', base_model_name_or_path='some/other-model')
    errors, _ = forked.call(intervene_runs, [run, other], make_config(**FEW))
    assert list(errors) == [str(run)] and 'some/other-model' in errors[str(run)]


def test_well_formed_is_estimated_and_cut_off_answers_are_counted(whole):
    "A random model goes on to the limit of tokens: no answer is closed."
    table = summarize_rows(read_interventions(whole))
    found = table[(table.metric == 'well_formed')]
    assert set(found.variant) >= {'correct', 'edited_facts', 'none'} and set(found.n) == {4}
    rows = read_interventions(whole)
    part = rows[(rows.test == 'forced_wrong') & (rows.variant == 'correct')]
    close(found[found.variant == 'correct'].estimate.iloc[0], part.well_formed.mean(), 1e-12)


def test_ten_runs_of_100_questions_are_summarized():
    "All metrics of the tests, 92 estimates with bootstrap intervals."
    rng, rows = __import__('random').Random(0), []
    for q in range(100):
        for seed in range(10):
            base = dict(id=f'q{q}', seed=seed, eligible=True, why='')
            for test in known_interventions().values():
                columns = {c for m in test.metrics for c in (m.column or m.name, m.minus) if c}
                variants = {m.variant for m in test.metrics if m.variant} or {'x', 'y', 'z'}
                rows += [base | dict(test=test.name, variant=v) | {c: rng.random() for c in columns} for v in variants]
    table = pd.DataFrame(rows)
    found = summarize_rows(table)
    known = found[~found.metric.str.startswith('copy_share')]  # which exists only where the trace adds something
    assert len(known) > 90 and known.low.notna().all()
