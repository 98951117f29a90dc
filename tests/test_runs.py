"""Run folders: named by their settings, resumed by stage, never reused under other examples; what fails is reported and loses nothing."""
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tracenb.core import TracenbError, read_jsonl
from tracenb.runs import GRIDS, execute, experiment, get_grid, run_grid, stage
from tracenb.stages import Run, answer, build, finish, make_run, open_run, score, tune

SMALL = dict(dataset='toy', condition='incorrect', data={'n_train': 8, 'n_test': 4}, train={'epochs': 2, 'accumulation': 1, 'save_steps': 1}, generate={'max_new_tokens': 6, 'batch_size': 2})


def go(run, out):
    "All stages in this process."
    opened = open_run(run, out)
    tune(opened, build(opened))
    finish(opened, score(opened, answer(opened)))
    return opened


@pytest.fixture(scope='module')
def whole(tmp_path_factory): return go(make_run(**SMALL), tmp_path_factory.mktemp('whole'))


def results(opened): return {n: opened.file(n).read_bytes() for n in ('examples.jsonl', 'chat.jsonl', 'generations.jsonl', 'scores.jsonl', 'metrics.json')}


def test_other_settings_are_another_folder():
    run = make_run(**SMALL)
    others = [replace(run, seed=2), replace(run, quantise='none'), replace(run, data=replace(run.data, n_train=9)), replace(run, train=replace(run.train, lr=1e-3))]
    assert len({r.name for r in (run, *others)}) == 5
    assert make_run(**json.loads(run.to_json())) == run


def test_a_hub_id_or_a_path_makes_a_plain_folder_name():
    assert '/' not in make_run(model='allenai/OLMo-2-0425-1B').name.split('/')[1] and len(make_run(model='allenai/OLMo-2-0425-1B').name.split('/')) == 4


@pytest.mark.parametrize('settings, says', [
    (dict(condition='incorect'), "did you mean 'incorrect'"), (dict(dataset='babbi'), "did you mean 'babi'"), (dict(model='smollm-135m'), "did you mean 'smollm2-135m'"),
    (dict(sed=1), "did you mean 'seed'"), (dict(train={'lrr': 1}), "did you mean 'lr'"), (dict(data={'n_train': 'many'}), 'n_train'), (dict(seed='one'), 'seed'),
])
def test_bad_settings_name_the_value_and_the_remedy(settings, says):
    with pytest.raises(TracenbError, match=says): make_run(**settings)


def test_a_second_pass_changes_no_byte_and_loads_no_model(whole):
    before = results(whole)
    again = go(whole.run, whole.path.parents[3])
    assert results(again) == before and 'base_model' not in vars(again)


@pytest.mark.parametrize('lost', [('metrics.json',), ('metrics.json', 'scores.jsonl'), ('metrics.json', 'scores.jsonl', 'generations.jsonl')])
def test_a_lost_stage_is_redone_to_the_same_bytes(whole, lost):
    before = results(whole)
    for name in lost: whole.file(name).unlink()
    assert results(go(whole.run, whole.path.parents[3])) == before


def test_a_torn_last_generation_is_redone(whole):
    before = results(whole)
    path = whole.file('generations.jsonl')
    path.write_bytes(path.read_bytes()[:-25])
    whole.file('metrics.json').unlink()
    assert results(go(whole.run, whole.path.parents[3])) == before


def test_other_examples_never_reuse_a_folder(whole):
    path = whole.file('run.json')
    text = path.read_text()
    path.write_text(text.replace(json.loads(text)['data_hash'], '0' * 16))
    with pytest.raises(TracenbError, match='begun with other examples'): open_run(whole.run, whole.path.parents[3])
    path.write_text(text)


def test_run_json_says_how_to_redo_it(whole):
    record = json.loads(whole.file('run.json').read_text())
    assert make_run(**record['settings']) == whole.run
    assert record['packages'].keys() >= {'torch', 'transformers', 'peft', 'bitsandbytes'} and record['hardware']['cpu_count'] == os.cpu_count()
    assert record['cost'].keys() >= {'peak_memory_mb', 'tokens_generated'} and not record['settings'].keys() - Run.__dataclass_fields__.keys()


def test_metrics_are_the_means_of_the_scores(whole):
    metrics = json.loads(whole.file('metrics.json').read_text())
    values = {}
    for s in read_jsonl(whole.file('scores.jsonl')): values.setdefault(s['scorer'], []).append(s['value'])
    assert metrics['metrics'].keys() == values.keys()
    for name, v in values.items(): assert metrics['metrics'][name]['mean'] == pytest.approx(sum(v) / len(v)) and metrics['metrics'][name]['n'] == 4


def test_the_stage_is_read_from_the_files(tmp_path):
    run = make_run(**SMALL)
    at = tmp_path/run.name
    assert stage(run, tmp_path) == 'new'
    opened = open_run(run, tmp_path)
    assert stage(run, tmp_path) == 'building'
    chats = build(opened)
    (at/'train_log.jsonl').write_text('{}\n{}\n')
    assert stage(run, tmp_path) == 'training 2'
    (at/'train_log.jsonl').unlink()
    tune(opened, chats)
    assert stage(run, tmp_path) == 'generating 0/4'


def test_an_unknown_parameter_is_an_error_not_a_warning(tmp_path):
    with pytest.raises(TracenbError, match="unknown parameter of sft.ipynb 'conditon': .*did you mean 'condition'|unknown parameter of sft.ipynb 'conditon'"):
        execute(experiment('sft'), tmp_path/'x.ipynb', dict(conditon='vanilla'))
    assert not list(tmp_path.iterdir())


def test_the_default_parameters_of_the_template_are_a_smoke_test():
    import papermill
    defaults = papermill.inspect_notebook(str(experiment('sft')))
    assert set(defaults) == set(Run.__dataclass_fields__) | {'out'}
    assert defaults['model']['default'] == "'tiny-random'"


def test_grids_are_known_and_limited():
    assert {'demo', 'smoke'} <= set(GRIDS)
    assert [r.condition for r in get_grid('demo')] == ['zero_shot', 'vanilla', 'correct', 'incorrect']
    few = get_grid('demo', limit=3)
    assert {(r.data.n_train, r.data.n_test) for r in few} == {(3, 3)} and not {r.name for r in few} & {r.name for r in get_grid('demo')}
    with pytest.raises(TracenbError, match="did you mean 'demo'"): get_grid('dem')


@pytest.mark.slow
def test_a_failing_run_is_reported_and_the_others_go_on(tmp_path):
    bad = make_run(**SMALL | dict(dataset='babi', data={'source': 'nowhere'}))
    good = make_run(**SMALL | dict(condition='zero_shot'))
    errors = run_grid([bad, good], tmp_path)
    assert list(errors) == [bad.name] and 'nowhere' in errors[bad.name] and 'run.ipynb' in errors[bad.name]
    assert stage(good, tmp_path) == 'finished' and stage(bad, tmp_path) != 'finished'
    assert 'nowhere' in (tmp_path/bad.name/'run.ipynb').read_text(), 'the executed notebook holds the traceback'


RUN = "import sys; from tracenb.stages import *; o = open_run(make_run(**{settings!r}), sys.argv[1]); tune(o, build(o)); finish(o, score(o, answer(o)))"


@pytest.mark.slow
@pytest.mark.parametrize('when, settings', [('train_log.jsonl', SMALL), ('generations.jsonl', SMALL | dict(generate={'max_new_tokens': 200, 'batch_size': 1}, data={'n_train': 8, 'n_test': 8}))])
def test_killed_and_continued_ends_as_if_never_killed(tmp_path, when, settings):
    "SIGKILL while training, then while generating; the same command ends with the same bytes."
    run, killed = make_run(**settings), 0
    at = tmp_path/'killed'/run.name
    process = subprocess.Popen([sys.executable, '-c', RUN.format(settings=settings), str(tmp_path/'killed')])
    for _ in range(6000):
        if process.poll() is not None: break
        if (at/when).exists() and (at/when).read_bytes().count(b'\n') >= 2:
            process.send_signal(signal.SIGKILL)
            killed = 1
            break
        time.sleep(0.01)
    process.wait()
    assert killed and not (at/'metrics.json').exists()
    assert results(go(run, tmp_path/'killed')) == results(go(run, tmp_path/'whole'))
    assert not [p for p in at.rglob('*') if p.suffix == '.tmp' and p.stat().st_mtime > time.time() - 0.1]
