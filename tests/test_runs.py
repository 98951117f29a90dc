"""Run folders: named by their settings, resumed by stage, never reused under other examples; failures lose nothing."""

import ast
import base64
import gzip
import html
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import forked
import nbformat
import pandas as pd
import psutil
import pytest
import yaml
from conftest import ROOT
from execute import with_parameters, write_notebook
from jupyter_client.manager import AsyncKernelManager
from transformers import AutoTokenizer

from tracenb.core.files import read_jsonl, write_jsonl
from tracenb.core.records import Generation, TracenbError
from tracenb.models.adapters import WEIGHTS
from tracenb.models.batches import TrainConfig
from tracenb.models.loading import load_tokenizer
from tracenb.models.presets import model_source
from tracenb.report.page import make_report, weights_notice
from tracenb.report.results import gather
from tracenb.report.tables import headline
from tracenb.report.viewer import chosen_rows, packed
from tracenb.runs.engine import plan_grid, run_grid
from tracenb.runs.finished import TrainedRun, compare_weights, verify
from tracenb.runs.folders import list_runs, run_progress, show_run, state
from tracenb.runs.grids import SHIPPED, Grid, expand, get_grid, read_grid
from tracenb.runs.notebook import execute, experiment, parameters, printed, template_parameters
from tracenb.runs.stages import Run, answer, build, finish, make_run, open_run, run_name, score, tune
from tracenb.traces.chat import TEMPLATES
from tracenb.traces.loss_mask import ChatConfig, encode, template_variables

SMALL = dict(
    dataset='toy',
    condition='incorrect',
    data={'n_train': 8, 'n_test': 4},
    train={'num_train_epochs': 2, 'gradient_accumulation_steps': 1, 'save_steps': 1},
    generate={'max_new_tokens': 6, 'batch_size': 2},
)


def go(run, out):
    "All stages in this process."
    opened = open_run(run, out)
    tune(opened, build(opened))
    finish(opened, score(opened, answer(opened)))
    return opened


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return go(make_run(**SMALL), tmp_path_factory.mktemp('whole'))


def results(opened):
    return {
        n: opened.file(n).read_bytes()
        for n in ('examples.jsonl', 'chat.jsonl', 'generations.jsonl', 'scores.jsonl', 'metrics.json')
    }


def test_other_settings_are_another_folder():
    run = make_run(**SMALL)
    others = [
        replace(run, seed=2),
        replace(run, quantize='none'),
        replace(run, data=replace(run.data, n_train=9)),
        replace(run, train=replace(run.train, learning_rate=1e-3)),
    ]
    assert len({r.name for r in (run, *others)}) == 5
    assert make_run(**json.loads(run.to_json())) == run


def test_one_sample_is_the_same_run_as_before_samples_were_a_setting():
    one, three = make_run(**SMALL), make_run(**SMALL | dict(generate=dict(do_sample=True, num_return_sequences=3)))
    settings = one.to_dict()
    assert settings['generate'].pop('num_return_sequences') == 1
    assert run_name(settings) == one.name == 'toy/tiny-random/incorrect/seed1-a4b78666'
    assert three.name != replace(three, generate=replace(three.generate, num_return_sequences=1)).name


IDLE = [
    dict(train=dict(report_to='tensorboard')),
    dict(train=dict(save_steps=7)),
    dict(train=dict(eval_share=0.4)),  # nothing is evaluated
    dict(train=dict(warmup_steps=3, warmup_ratio=0.5)),
    dict(train=dict(max_steps=4, num_train_epochs=9)),
    dict(generate=dict(temperature=0.3, top_p=0.5)),  # greedy
]


@pytest.mark.parametrize('change', IDLE, ids=lambda c: next(iter(next(iter(c.values())))))
def test_settings_that_change_no_figure_name_no_run(change):
    [(part, settings)] = change.items()
    kept = {k: v for k, v in settings.items() if k in ('warmup_steps', 'max_steps')}
    assert make_run(**change).name == make_run(**{part: kept}).name


def test_settings_that_are_used_name_the_run():
    evaluated, sampled = dict(train=dict(eval_steps=2)), dict(generate=dict(do_sample=True))
    runs = [
        *(evaluated, dict(train=dict(eval_steps=2, eval_share=0.4))),
        *(
            sampled,
            dict(generate=dict(do_sample=True, temperature=0.3)),
            dict(generate=dict(do_sample=True, top_p=0.5)),
        ),
        *(dict(train=dict(warmup_ratio=0.5)), dict(train=dict(num_train_epochs=9)), {}),
    ]
    assert len({make_run(**r).name for r in runs}) == len(runs)


def test_a_run_found_finished_under_another_such_setting_is_the_same_run(smoke, whole):
    run = replace(whole.run, train=replace(whole.run.train, report_to='tensorboard', save_steps=5))
    before = results(whole)
    again = go(run, whole.path.parents[3])
    assert results(again) == before and 'base_model' not in vars(again)
    grid = get_grid('smoke', match=True)
    watched = replace(grid, runs=tuple(replace(r, train=replace(r.train, report_to='tensorboard')) for r in grid.runs))
    assert set(plan_grid(watched, smoke).state) == {'finished'}


def test_a_hub_id_or_a_path_makes_a_plain_folder_name():
    assert (
        '/' not in make_run(model='allenai/OLMo-2-0425-1B').name.split('/')[1]
        and len(make_run(model='allenai/OLMo-2-0425-1B').name.split('/')) == 4
    )


@pytest.mark.parametrize(
    'settings, says',
    [
        (dict(condition='incorect'), "did you mean 'incorrect'"),
        (dict(dataset='babbi'), "did you mean 'babi'"),
        (dict(model='smollm-135m'), "did you mean 'smollm2-135m'"),
        (dict(sed=1), "did you mean 'seed'"),
        (dict(train={'learning_rat': 1}), "did you mean 'learning_rate'"),
        (dict(train={'learning_rate': -1}), 'learning_rate must be positive'),
        (dict(train={'max_grad_norm': -1}), 'use the largest norm, or 0 for no limit'),
        (dict(train={'lora_dropout': 1}), 'lora_dropout is 1.0'),
        (dict(train={'warmup_ratio': 2}), 'warmup_ratio is 2.0'),
        (dict(data={'n_train': 'many'}), 'n_train'),
        (dict(seed='one'), 'seed'),
        (dict(generate={'num_return_sequences': 3}), 'num_return_sequences is 3 without sampling: .*\n.*do_sample'),
        (dict(generate={'num_return_sequences': 0}), 'num_return_sequences is 0'),
    ],
)
def test_bad_settings_name_the_value_and_the_remedy(settings, says):
    with pytest.raises(TracenbError, match=says):
        make_run(**settings)


def test_a_second_pass_changes_no_byte_and_loads_no_model(whole):
    before = results(whole)
    again = go(whole.run, whole.path.parents[3])
    assert results(again) == before and 'base_model' not in vars(again)


@pytest.mark.parametrize(
    'lost', [('metrics.json',), ('metrics.json', 'scores.jsonl'), ('metrics.json', 'scores.jsonl', 'generations.jsonl')]
)
def test_a_lost_stage_is_redone_to_the_same_bytes(whole, lost):
    before = results(whole)
    for name in lost:
        whole.file(name).unlink()
    assert results(go(whole.run, whole.path.parents[3])) == before


def test_a_torn_last_generation_is_redone(whole):
    before = results(whole)
    path = whole.file('generations.jsonl')
    path.write_bytes(path.read_bytes()[:-25])
    whole.file('metrics.json').unlink()
    assert results(go(whole.run, whole.path.parents[3])) == before


@pytest.fixture(scope='module')
def sampled(tmp_path_factory):
    "A folder with a run of three samples a question, asked for by a grid file."
    at = tmp_path_factory.mktemp('sampled')
    settings = {k: v for k, v in SMALL.items() if k not in ('dataset', 'condition')}
    settings['generate'] = dict(max_new_tokens=6, batch_size=2, do_sample=True, num_return_sequences=3)
    spec = dict(datasets=['toy'], models=['tiny-random'], conditions=['incorrect', 'correct'], settings=settings)
    (at / 'three.yaml').write_text(yaml.safe_dump(spec))
    return [go(run, at / 'out') for run in get_grid(str(at / 'three.yaml')).runs]


def test_three_samples_are_scored_verified_and_counted_as_questions(sampled):
    opened = sampled[0]
    scores, metrics = read_jsonl(opened.file('scores.jsonl')), json.loads(opened.file('metrics.json').read_text())
    ids = [e.id for e in opened.examples['test']]
    assert [(s['id'], s.get('sample', 0)) for s in scores if s['scorer'] == 'answer_exact'] == [
        (i, k) for i in ids for k in range(3)
    ]
    assert metrics['n'] == 4 and metrics['samples'] == 3
    assert {m['n'] + m['unscored'] for m in metrics['metrics'].values()} == {4}
    assert 'answer_exact_pass' in metrics['metrics'] and verify(opened.path) == []
    assert run_progress(opened.path) == (4, 4)
    before = results(opened)
    assert results(go(opened.run, opened.path.parents[3])) == before
    path = opened.file('generations.jsonl')
    path.write_bytes(path.read_bytes()[:-25])
    opened.file('metrics.json').unlink()
    assert results(go(opened.run, opened.path.parents[3])) == before
    text = opened.file('scores.jsonl').read_text()
    opened.file('scores.jsonl').write_text(text.replace('"sample": 2', '"sample": 3', 1))
    assert any('sample 2' in x for x in verify(opened.path)) and any('sample 3' in x for x in verify(opened.path))
    opened.file('scores.jsonl').write_text(text)


def test_right_samples_are_averaged_before_questions_are_counted(tmp_path, sampled):
    "All the way: two of three samples of one question of four are right: mean@3 is 1/6, pass@3 is 1/4."
    at = shutil.copytree(sampled[0].path, tmp_path / sampled[0].run.name)
    first = sampled[0].examples['test'][0]
    made = [
        replace(g, text=f'<answer>{", ".join(first.answers)}</answer>', finish_reason='stop')
        if g.id == first.id and g.sample
        else replace(g, text='<answer>nothing</answer>', finish_reason='stop')
        for g in read_jsonl(at / 'generations.jsonl', Generation)
    ]
    write_jsonl(at / 'generations.jsonl', made)
    for name in ('scores.jsonl', 'metrics.json'):
        (at / name).unlink()
    go(sampled[0].run, tmp_path)
    metrics = json.loads((at / 'metrics.json').read_text())['metrics']
    assert metrics['answer_exact']['mean'] == pytest.approx(1 / 6) and metrics['answer_exact']['n'] == 4
    assert metrics['answer_exact_pass']['mean'] == 1 / 4 and verify(at) == []
    found = headline(gather(tmp_path).rows)
    assert found.n.tolist() == [4]
    assert found['answer exact, mean@3'].iloc[0].startswith('17 ') and found['pass@3'].iloc[0].startswith('25 ')


def test_the_report_of_samples_speaks_of_questions(sampled, forked_kernels):
    out = sampled[0].path.parents[3]
    page = make_report(out).read_text()
    for words in ('mean@3', 'pass@3', 'Each question has 3 samples', 'intervals count questions'):
        assert words in page, words
    assert set(pd.read_csv(out / 'figures' / 'accuracy.csv').n) == {4}
    data, n = packed(gather(out))
    rows = json.loads(gzip.decompress(base64.b64decode(data)))['rows']
    assert n == 24 and rows['sample'] == [0, 1, 2] * 8
    assert len(chosen_rows(gather(out).rows, 12)) == 12  # two questions of each run, with all their samples
    assert set(chosen_rows(gather(out).rows, 12)['sample']) == {0, 1, 2}


def test_other_examples_never_reuse_a_folder(whole):
    path = whole.file('run.json')
    text = path.read_text()
    path.write_text(text.replace(json.loads(text)['data_hash'], '0' * 16))
    with pytest.raises(TracenbError, match='begun with other examples'):
        open_run(whole.run, whole.path.parents[3])
    path.write_text(text)


def test_an_adapter_that_was_not_trained_here_is_named(tmp_path):
    opened = open_run(make_run(condition='correct', data=dict(n_train=4, n_test=2), train=dict(max_steps=1)), tmp_path)
    tune(opened, build(opened))
    file = opened.adapter / 'adapter_model.safetensors'
    trained = file.read_bytes()
    file.write_bytes(trained[:-1] + bytes([trained[-1] ^ 1]))
    with pytest.raises(TracenbError, match='not the adapter that was trained here .weights .*\n.*put back the one'):
        answer(opened)
    file.write_bytes(trained)
    finish(opened, score(opened, answer(opened)))
    file.write_bytes(trained[:-1] + bytes([trained[-1] ^ 1]))
    with pytest.raises(TracenbError, match='not the adapter that was trained here'):
        TrainedRun(opened.path).load()


def test_no_tokens_left_for_an_answer_is_said_before_training(tmp_path):
    settings = dict(data=dict(n_train=4, n_test=2), generate=dict(max_new_tokens=5000))
    opened = open_run(make_run(condition='correct', **settings), tmp_path)
    with pytest.raises(TracenbError, match='no prompt fits: .* an answer may have 5000, and both together 1024'):
        tune(opened, build(opened))
    assert not opened.file('train_log.jsonl').exists()


def test_run_json_says_how_to_redo_it(whole):
    record = json.loads(whole.file('run.json').read_text())
    assert make_run(**record['settings']) == whole.run
    assert (
        record['packages'].keys() >= {'torch', 'transformers', 'peft', 'bitsandbytes'}
        and record['hardware']['cpu_count'] == os.cpu_count()
    )
    assert (
        record['cost'].keys() >= {'peak_memory_mb', 'tokens_generated'}
        and not record['settings'].keys() - Run.__dataclass_fields__.keys()
    )


def test_metrics_are_the_means_of_the_scores(whole):
    metrics = json.loads(whole.file('metrics.json').read_text())
    values = {}
    for s in read_jsonl(whole.file('scores.jsonl')):
        values.setdefault(s['scorer'], []).append(s['value'])
    assert metrics['metrics'].keys() == values.keys()
    for name, v in values.items():
        assert metrics['metrics'][name]['mean'] == pytest.approx(sum(v) / len(v)) and metrics['metrics'][name]['n'] == 4


def test_the_stage_is_read_from_the_files(tmp_path):
    run = make_run(**SMALL)
    at = tmp_path / run.name
    assert state(at) == 'new'
    opened = open_run(run, tmp_path)
    assert state(at) == 'building'
    chats = build(opened)
    (at / 'train_log.jsonl').write_text('{"step": 1, "steps": 16, "rows": 4}\n{"step": 2, "steps": 16, "rows": 8}\n')
    assert state(at) == 'training 2/16' and run_progress(at) == (8, 64)
    (at / 'train_log.jsonl').unlink()
    tune(opened, chats)
    assert state(at) == 'generating 0/4'


def test_an_unknown_parameter_is_an_error_not_a_warning(tmp_path):
    with pytest.raises(
        TracenbError,
        match="unknown parameter of sft.ipynb 'conditon'(: .*did you mean 'condition')?",
    ):
        execute(experiment('sft'), tmp_path / 'x.ipynb', dict(conditon='vanilla'))
    assert not list(tmp_path.iterdir())


def test_the_default_parameters_of_the_template_are_a_smoke_test():
    defaults = template_parameters(experiment('sft'))
    assert set(defaults) == set(Run.__dataclass_fields__) | {'out'} and defaults['model'] == "'tiny-random'"


TEXT = 'It\'s "quoted" \\\\n\\u2028 {x} \U0001f600'
VALUES = dict(
    text=TEXT, number=1e-7, whole=10**12, none=None, yes=True, items=[1, 'a', None], nested={'a': {'b': [0.1]}}
)


def template_of(path, *sources):
    "A notebook with a cell of parameters, all 0, and these cells."
    return write_notebook(path, with_parameters('\n'.join(f'{name} = 0' for name in VALUES)), *sources)


def stored(path):
    "Sources and outputs of an executed notebook, without the injected cell and papermill's notes on an error."
    added = {'injected-parameters', 'papermill-error-cell-tag'}
    cells = [c for c in nbformat.read(path, as_version=4).cells if not added & set(c.metadata.get('tags', ()))]
    return [(c.source, [dict(o) for o in c.get('outputs', ()) if o.get('name') != 'stderr']) for c in cells]


@pytest.mark.parametrize('name', ['papermill', 'nbclient'])
def test_both_executors_pass_values_on_and_store_what_failed(tmp_path, monkeypatch, forked_kernels, name):
    monkeypatch.setenv('TRACENB_EXECUTOR', name)
    shown = f'print(repr(dict({", ".join(f"{k}={k}" for k in VALUES)})))'
    template = template_of(tmp_path / 't.ipynb', shown, 'whole / 0', 'print("never")')
    with pytest.raises(
        TracenbError, match=r't/out.ipynb: cell 4 failed: ZeroDivisionError: division by zero\n.*resumes'
    ):
        execute(template, tmp_path / 't' / 'out.ipynb', VALUES)
    assert [p.name for p in (tmp_path / 't').iterdir()] == ['out.ipynb']
    (_, none), (_, [printed]), (_, [error]), (_, never) = stored(tmp_path / 't' / 'out.ipynb')[-4:]
    assert none == never == [] and error['ename'] == 'ZeroDivisionError'
    assert ast.literal_eval(printed['text']) == VALUES


def test_both_executors_store_the_same_notebook_of_a_run(smoke, tmp_path, monkeypatch, forked_kernels):
    "The run of `smoke`, which papermill executed, again with nbclient: only seconds and memory of training differ."
    monkeypatch.setenv('TRACENB_EXECUTOR', 'nbclient')
    run = get_grid('smoke').runs[2]
    made = execute(experiment('sft'), tmp_path / 'run.ipynb', parameters(run, tmp_path / 'o'))
    ours, theirs = stored(made), stored(smoke / run.name / 'run.ipynb')
    seen = lambda outputs: [(o.get('text'), o.get('data', {}).get('text/html')) for o in outputs]
    for (source, a), (same, b) in zip(ours, theirs, strict=True):
        assert source == same and (seen(a) == seen(b) or 'stages.tune(' in source), source
    assert sum(bool(outputs) for _, outputs in ours) >= 6


def test_an_executor_that_is_not_known_or_not_there(tmp_path, monkeypatch):
    template = template_of(tmp_path / 't.ipynb')
    monkeypatch.setenv('TRACENB_EXECUTOR', 'nbclien')
    with pytest.raises(TracenbError, match="unknown executor .TRACENB_EXECUTOR. 'nbclien'\n.*did you mean 'nbclient'"):
        execute(template, tmp_path / 'x.ipynb', {})
    monkeypatch.delenv('TRACENB_EXECUTOR')
    monkeypatch.setitem(sys.modules, 'papermill', None)
    with pytest.raises(TracenbError, match='papermill cannot be imported(.|\n)*TRACENB_EXECUTOR=nbclient'):
        execute(template, tmp_path / 'x.ipynb', {})


def test_grids_are_known_and_limited():
    assert [r.condition for r in get_grid('demo').runs] == ['zero_shot', 'vanilla', 'correct', 'incorrect']
    few = get_grid('demo', limit=3).runs
    assert {(r.data.n_train, r.data.n_test) for r in few} == {(3, 3)} and not {r.name for r in few} & {
        r.name for r in get_grid('demo').runs
    }
    with pytest.raises(TracenbError, match="did you mean 'demo'"):
        get_grid('dem')


@pytest.mark.slow
def test_a_failing_run_is_retried_and_reported_and_the_others_go_on(tmp_path):
    bad = make_run(**SMALL | dict(dataset='babi', condition='zero_shot', data={'source': str(tmp_path / 'nowhere')}))
    good = make_run(**SMALL | dict(condition='zero_shot'))
    errors, _ = forked.call(run_grid, Grid(name='two', runs=(bad, good), retries=1), tmp_path, 1)
    assert list(errors) == [bad.name] and 'nowhere' in errors[bad.name] and 'run.ipynb' in errors[bad.name]
    assert state(tmp_path / good.name) == 'finished' and state(tmp_path / bad.name) == 'failed'
    assert 'nowhere' in (tmp_path / bad.name / 'run.ipynb').read_text(), 'the executed notebook holds the traceback'
    error = tmp_path / bad.name / 'error.txt'
    assert 'no such file or folder' in error.read_text()
    written = lambda path: path.stat().st_mtime_ns
    assert written(error) > written(tmp_path / good.name / 'metrics.json'), 'the one worker tried again after `good`'


# --- Grids

SPEC = dict(
    datasets=['toy', 'babi'],
    models=['tiny-random'],
    conditions=['vanilla', 'correct'],
    seeds=[1, 2],
    settings=dict(data=dict(n_train=4, n_test=2)),
)


def test_a_grid_is_a_product_with_overrides_and_exclusions():
    grid = expand(
        SPEC
        | dict(
            overrides=dict(
                datasets=dict(babi=dict(data=dict(n_train=9))), seeds={2: dict(train=dict(learning_rate=0.5))}
            ),
            exclude=[dict(dataset='babi', seed=2), dict(condition=['vanilla'], dataset='toy')],
        ),
        'g',
    )
    assert [(r.dataset, r.condition, r.seed, r.data.n_train, r.train.learning_rate) for r in grid.runs] == [
        ('toy', 'correct', 1, 4, 2e-4),
        ('babi', 'vanilla', 1, 9, 2e-4),
        ('babi', 'correct', 1, 9, 2e-4),
        ('toy', 'correct', 2, 4, 0.5),
    ]


@pytest.mark.parametrize('written, meant', [('2e-4', 2e-4), ('1E-5', 1e-5), ("'0.5'", 0.5), ('1e-4', 1e-4)])
def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path, written, meant):
    path = tmp_path / 'g.yaml'
    axes = 'datasets: [toy]\nmodels: [tiny-random]\nconditions: [correct]\n'
    path.write_text(
        f"{axes}settings: {{train: {{learning_rate: {written}, batch_size: '8'}}, data: {{n_train: 1e2}}}}\n"
    )
    [run] = read_grid(path).runs
    found = run.train.learning_rate, run.train.batch_size, run.data.n_train
    assert found == (meant, 8, 100) and type(found[1]) is type(found[2]) is int
    assert run.name == make_run(**json.loads(run.to_json())).name


def test_words_that_yaml_1_1_reads_as_dates_and_truth_values_are_words(tmp_path):
    path = tmp_path / 'g.yaml'
    axes = 'datasets: [toy]\nmodels: [tiny-random]\nconditions: [correct]\n'
    path.write_text(f'{axes}settings: {{revision: 2026-01-02, train: {{gradient_checkpointing: off}}}}\n')
    [run] = read_grid(path).runs
    assert run.revision == '2026-01-02' and run.train.gradient_checkpointing is False
    path.write_bytes(axes.encode() + b'about: \xff\n')
    with pytest.raises(TracenbError, match='g.yaml: not YAML: .*\n.*UTF-8'):
        read_grid(path)


@pytest.mark.parametrize(
    'settings, says',
    [
        (dict(train=dict(learning_rate='2e-4x')), r"train.learning_rate: .*'2e-4x'"),
        (dict(train=dict(learning_rate='nan')), r"train.learning_rate: .*'nan'"),
        (dict(train=dict(batch_size='2.5')), r"train.batch_size: .*'2.5'"),
        (dict(seed='one'), "seed: .*'one'"),
        (dict(seed=True), "seed: .*'True'"),
    ],
)
def test_a_bad_number_is_named_with_its_field(settings, says):
    with pytest.raises(TracenbError, match=f'run settings: {says}'):
        make_run(**settings)


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(dataset=['toy']), "g.yaml: unknown key 'dataset'"),
        (dict(models=[]), 'g.yaml: models: no value'),
        (dict(models='tiny-random'), 'g.yaml: models: a list is expected'),
        (dict(seeds=[1, 1]), 'seeds: duplicate value'),
        (dict(conditions=['corect']), "g.yaml: toy, tiny-random, corect, seed 1: unknown condition 'corect'"),
        (dict(settings=dict(train=dict(lrr=1))), "unknown setting of train 'lrr'"),
        (dict(settings=dict(modle='x')), "unknown run setting 'modle'"),
        (dict(overrides=dict(dataset={})), "g.yaml: overrides: unknown axis 'dataset'"),
        (dict(overrides=dict(datasets=dict(baby={}))), "overrides.datasets: unknown value of datasets 'baby'"),
        (dict(overrides=dict(datasets=dict(babi=[1]))), 'overrides.datasets.babi: settings are expected'),
        (dict(exclude=[dict(color=1)]), "exclude, rule 1: unknown axis 'color'"),
        (dict(exclude=['babi']), 'exclude, rule 1: a mapping'),
        (dict(exclude=[dict(model='tiny-random')]), 'every run is excluded'),
        (dict(retries='often'), 'retries: a int is expected'),
    ],
)
def test_a_bad_grid_says_where_and_what_is_meant(change, says):
    with pytest.raises(TracenbError) as e:
        expand(SPEC | change, 'g', 'g.yaml')
    assert says in str(e.value)


def test_grid_files(tmp_path):
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(SPEC))
    assert (
        get_grid(tmp_path / 'mine.yaml').name == 'mine'
        and len(get_grid(str(tmp_path / 'mine.yaml'), only=['seed=2', 'dataset=toy']).runs) == 2
    )
    (tmp_path / 'torn.yml').write_text('datasets: [toy')
    with pytest.raises(TracenbError, match='torn.yml: not YAML'):
        get_grid(str(tmp_path / 'torn.yml'))
    (tmp_path / 'torn.yml').write_text('datasets: [toy]\nmodels: tiny: random\n')
    with pytest.raises(TracenbError, match='line 2, column 13: models: tiny: random'):
        get_grid(str(tmp_path / 'torn.yml'))
    with pytest.raises(TracenbError, match='none.yaml: cannot be read'):
        get_grid(str(tmp_path / 'none.yaml'))
    (tmp_path / 'list.yaml').write_text('- 1')
    with pytest.raises(TracenbError, match='a mapping is expected'):
        get_grid(str(tmp_path / 'list.yaml'))


@pytest.mark.parametrize(
    'only, says',
    [
        (['condition'], 'no equals sign'),
        (['sed=1'], "did you mean 'seed'"),
        (['condition=mix:0.5'], 'no run has condition=mix:0.5'),
    ],
)
def test_bad_restrictions(only, says):
    with pytest.raises(TracenbError, match=says):
        get_grid('smoke', only=only)


def test_every_shipped_grid_can_be_read():
    sizes = {name: len(get_grid(name).runs) for name in SHIPPED}
    assert (
        sizes['paper'] == 3 * 2 * 3 * 3
        and sizes['controls'] == 3 * 2 * 8 * 3
        and sizes['demo'] == sizes['smoke'] == 4
        and sizes['interpretability'] == 4 * 4 * 3
    )


def test_the_plan_counts_steps_and_tokens(tmp_path):
    table = plan_grid(get_grid('smoke'), tmp_path).set_index(pd.Index(['zero_shot', 'vanilla', 'correct', 'incorrect']))
    assert (
        table.state.eq('new').all()
        and table.steps.tolist() == [0, 4, 4, 4]
        and table.tokens_generated_at_most.eq(8 * 16).all()
    )
    assert table.tokens_trained['zero_shot'] == 0 < table.tokens_trained['vanilla'] < table.tokens_trained['correct']
    assert pd.isna(table.lora_share['zero_shot']) and table.lora_share[1:].eq(1).all()


def test_a_plan_warns_where_lora_reaches_little_and_refuses_layers_that_are_not_there(tmp_path):
    few = replace(get_grid('smoke').runs[1], train=TrainConfig(target_modules=('q_proj', 'v_proj')))
    with pytest.warns(UserWarning, match='LoRA reaches 1[0-9]% of the block weights of a model of type llama'):
        assert plan_grid(Grid(name='few', runs=(few,)), tmp_path).lora_share[0] < 0.2
    none = replace(few, train=TrainConfig(target_modules=('c_attn',)))
    with pytest.raises(TracenbError, match='no adapter fits llama'):
        plan_grid(Grid(name='none', runs=(none,)), tmp_path)


# --- Nothing stale, nothing twice


def test_other_code_never_reuses_a_folder(whole):
    path, text = whole.file('run.json'), whole.file('run.json').read_text()
    path.write_text(text.replace(json.loads(text)['code'], '0' * 16))
    try:
        assert state(whole.path) == 'stale'
        with pytest.raises(TracenbError, match='begun with another version of the code'):
            open_run(whole.run, whole.path.parents[3])
        with pytest.raises(TracenbError, match='finished under another version of the code'):
            run_grid(Grid(name='g', runs=(whole.run,)), whole.path.parents[3])
    finally:
        path.write_text(text)
    assert state(whole.path) == 'finished'


def test_comments_and_docstrings_do_not_make_another_version(monkeypatch, tmp_path):
    import shutil

    from tracenb.runs import provenance

    shutil.copytree(provenance.PACKAGE, tmp_path / 'tracenb')
    monkeypatch.setattr(provenance, 'PACKAGE', tmp_path / 'tracenb')
    version = provenance.code_version.__wrapped__
    records = tmp_path / 'tracenb' / 'core' / 'records.py'
    before, source = version(), records.read_text()
    records.write_text(source.replace('"Base of all records', '"The base of all records') + '\n# a remark\n')
    assert version() == before
    (tmp_path / 'tracenb' / 'report' / 'page.py').write_text('')  # nothing that a run uses
    assert version() == before
    records.write_text(source.replace('text.lower()', 'text.upper()'))
    assert version() != before


def test_two_processes_on_one_run(tmp_path):
    run = make_run(**SMALL)
    hold = (
        'import sys, time; from tracenb.runs.stages import *; '
        f"o = open_run(make_run(**{SMALL!r}), sys.argv[1]); open(f'{{sys.argv[1]}}/held', 'w'); time.sleep(60)"
    )
    other = forked.start(hold, tmp_path)
    try:
        while not (tmp_path / 'held').exists():
            assert other.is_alive()
            time.sleep(0.01)
        with pytest.raises(TracenbError, match='another process works on this run'):
            open_run(run, tmp_path)
    finally:
        other.kill()
        other.join()
    open_run(run, tmp_path)  # a lock ends with its process


def test_verify_computes_again_and_names_what_differs(whole):
    assert verify(whole.path) == []
    path, text = whole.file('scores.jsonl'), whole.file('scores.jsonl').read_text()
    path.write_text(text.replace('"value": 0.0', '"value": 1.0', 1))
    try:
        [said] = verify(whole.path)
    finally:
        path.write_text(text)
    assert 'stored 1.0, now 0.0' in said
    with pytest.raises(TracenbError, match='there is no run.json'):
        verify(whole.path.parent)


# --- The table of runs


def test_runs_are_listed_and_shown(whole):
    table = list_runs(whole.path.parents[3])
    assert table[['dataset', 'condition', 'seed', 'state']].values.tolist() == [['toy', 'incorrect', 1, 'finished']]
    said = show_run(whole.path)
    for words in ('state: finished', 'condition: "incorrect"', 'data hash', 'revision', 'answer_exact'):
        assert words in said
    with pytest.raises(TracenbError, match='no such folder'):
        list_runs(whole.path / 'nowhere')


# --- The engine, with real processes


LONG = SMALL | dict(
    data={'n_train': 400, 'n_test': 4},
    train={'num_train_epochs': 20, 'gradient_accumulation_steps': 1, 'save_steps': 5},
)


@pytest.mark.exhaustive
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_nothing_outlives_the_command(tmp_path, how):
    "SIGKILL is in every run of the tests too, when only a notebook is missing: see test_engine.py."
    (tmp_path / 'g.yaml').write_text(
        yaml.safe_dump(
            dict(
                datasets=['toy'],
                models=['tiny-random'],
                conditions=['correct'],
                settings={k: LONG[k] for k in ('data', 'train', 'generate')},
            )
        )
    )
    command = subprocess.Popen(
        [Path(sys.executable).parent / 'tracenb', 'run', 'g.yaml', '--out', 'o'],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    for _ in range(3600):
        if list((tmp_path / 'o').rglob('train_log.jsonl')):
            break
        time.sleep(0.05)
    else:
        pytest.fail('training never began')
    below = psutil.Process(command.pid).children(recursive=True)  # worker, fork server, proxy, kernel
    assert len(below) >= 4
    command.send_signal(how)
    assert command.wait(60) != 0
    _, alive = psutil.wait_procs(below, timeout=20)
    assert not alive


# --- kernels that die at their start


@pytest.mark.parametrize('deaths', [1, 3])
def test_a_kernel_that_dies_at_its_start_is_started_again(tmp_path, deaths):
    class Dying(AsyncKernelManager):
        left = deaths

        def format_kernel_cmd(self, extra_arguments=None):
            if Dying.left == 0:
                return super().format_kernel_cmd(extra_arguments)
            Dying.left -= 1
            return [sys.executable, '-c', 'raise SystemExit(1)']

    template = write_notebook(tmp_path / 'template.ipynb', with_parameters('x = 1'), 'print(6 * x)')
    if deaths < 3:
        assert printed(execute(template, tmp_path / 'done.ipynb', dict(x=7), Dying)) == '42'
    else:
        with pytest.raises(TracenbError, match='done.ipynb: the kernel died 3 times before it ran a cell'):
            execute(template, tmp_path / 'done.ipynb', dict(x=7), Dying)


def test_a_socket_that_is_there_accepts_connections(tmp_path):
    "Also if the fork server takes long between making its socket and listening on it."
    code = (
        'import socket, time; listen = socket.socket.listen; '
        'socket.socket.listen = lambda *a: (time.sleep(1), listen(*a)); '
        'from tracenb.runs import kernels; kernels.IMPORTS = ["json"]; kernels.serve_forks("socket")'
    )
    environment = os.environ | dict(PYTHONPATH=str(ROOT))
    server = subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path, stdin=subprocess.PIPE, env=environment)
    try:
        while not (tmp_path / 'socket').exists():
            assert server.poll() is None
            time.sleep(0.005)
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(str(tmp_path / 'socket'))
    finally:
        server.kill()
        server.communicate()


# --- The chat template of a run


@pytest.fixture
def own_template(tmp_path):
    "A folder with the tiny model, whose chat template can be replaced."
    folder = tmp_path / 'model'
    shutil.copytree(model_source('tiny-random'), folder)

    def write(template):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(folder)
        return str(folder)

    return write


def test_a_run_whose_template_loses_the_trace_stops_before_it_trains(own_template, tmp_path):
    model = own_template(TEMPLATES['chatml'].replace("m['content']", "m['content'].split('</think>')[-1]"))
    opened = open_run(make_run(**SMALL | dict(model=model)), tmp_path / 'o')
    with pytest.raises(TracenbError, match=f'the chat template of .*{model}.* loses the taught trace'):
        build(opened)
    assert not opened.file('chat.jsonl').exists() and not opened.file('train.json').exists()


def test_a_run_goes_on_with_the_template_it_was_begun_with_alone(own_template, tmp_path):
    run = make_run(**SMALL | dict(model=own_template(TEMPLATES['chatml'])))
    chats = build(open_run(run, tmp_path / 'o'))
    record = json.loads((tmp_path / 'o' / run.name / 'run.json').read_text())
    assert record['chat_template'].keys() == {'digest', 'date', 'system'} and record['n_chats_not_parsed_back'] == 0
    own_template(TEMPLATES['chatml'].replace('assistant\n', 'assistant \n'))
    with pytest.raises(TracenbError, match='begun with another chat template .*\n.*delete this folder'):
        build(open_run(run, tmp_path / 'o'))
    assert chats


def test_the_system_turn_is_a_setting_and_the_usual_one_changes_no_name(tmp_path):
    run = make_run(**SMALL)
    settings = {k: v for k, v in run.to_dict().items() if k not in ('chat', 'revision')}
    assert run_name(settings) == run_name(settings | dict(system=run.chat.system)) == run.name
    other = make_run(**SMALL | dict(system=''))  # as older grids name it
    assert other == make_run(**SMALL | dict(chat=dict(system='')))
    assert run_name(settings | dict(system='')) == other.name != run.name
    assert [m['role'] for m in build(open_run(other, tmp_path / 'o'))[0].prompt] == ['user']
    with pytest.raises(TracenbError, match='system and chat.system are the same setting'):
        make_run(system='', chat=dict(system='x'))
    spec = dict(datasets=['toy'], models=['tiny-random'], conditions=['vanilla', 'correct'])
    spec |= dict(
        settings=dict(system='Old.'), overrides=dict(conditions=dict(correct=dict(chat=dict(template='qwen3'))))
    )
    assert [(r.chat.system, r.chat.template) for r in expand(spec, 'g').runs] == [('Old.', ''), ('Old.', 'qwen3')]


THINKING = (
    "{{ strftime_now('%d %b %Y') }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] }}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt or messages[-1]['role'] == 'assistant' %}{% endif %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def test_chat_settings_reach_training_answering_and_what_comes_later(own_template, tmp_path):
    marked = THINKING.replace('}}{% for', '}}{% if style is defined and not style %}short{% endif %}{% for', 1)
    model, chat = own_template(marked), dict(chat_template_kwargs=dict(style=False), date='2025-01-31')
    plain, run = make_run(**SMALL | dict(model=model)), make_run(**SMALL | dict(model=model, chat=chat))
    assert len({plain.name, run.name, make_run(**SMALL | dict(model=model, chat=dict(date='2025-01-31'))).name}) == 3
    opened = go(run, tmp_path / 'o')
    assert opened.tokenizer.decode(encode(build(opened)[0], opened.tokenizer).input_ids).startswith('31 Jan 2025short')
    record, trained = opened.record(), TrainedRun(opened.path)
    assert record['chat_template']['date'] == '2025-01-31' and set(record['prompts']) == {'train', 'test'}
    assert trained.tokenizer.chat_template == opened.tokenizer.chat_template
    assert trained.ask(trained.examples[0]).text == answer(opened)[0].text
    other = go(plain, tmp_path / 'o').record()
    assert other['prompts']['test'] != record['prompts']['test']
    opened.file('run.json').write_text(json.dumps(record | dict(prompts=other['prompts'])))
    for ask in (lambda: answer_again(opened), lambda: TrainedRun(opened.path).load()):
        with pytest.raises(TracenbError, match='begun with other prompts .test .*, now .*\n.*delete this folder'):
            ask()


def test_an_adapter_is_compared_on_other_weights(whole):
    table = compare_weights(whole.path, limit=4)
    assert table.weights.tolist() == list(WEIGHTS) and (table.rows == 4).all() and (table.n == 4).all()
    assert table.equal[0] == 4 and table.difference[0] == 0 and table.p[0] == 1
    assert table.loss.nunique() > 1 and (table.loss > 0).all()  # NF4 and bf16 are other weights
    shown = html.unescape(weights_notice(gather(whole.path.parents[3])).data)
    assert all(how in shown for how in WEIGHTS) and "McNemar's p" in shown
    assert pd.read_csv(whole.file('weights.csv')).weights.tolist() == list(WEIGHTS)
    with pytest.raises(TracenbError, match='limit is 0'):
        compare_weights(whole.path, limit=0)


def answer_again(opened):
    opened.file('generations.jsonl').unlink(missing_ok=True)
    return answer(opened)


@pytest.mark.parametrize(
    'chat, says',
    [
        (dict(chat_template_kwargs=dict(enable_thinking=False)), "unknown variable of this chat template 'enable_thi"),
        (dict(date='2025-01-31'), 'chat.date is 2025-01-31, and the template .* never asks for the date'),
        (dict(date='yesterday'), "chat.date is 'yesterday'"),
        (dict(template='chatmll'), "unknown chat template .* 'chatmll'\n.*did you mean 'chatml'"),
        (dict(sistem=''), "unknown setting of chat 'sistem'"),
    ],
)
def test_chat_settings_that_would_do_nothing_are_named(chat, says, tmp_path):
    with pytest.raises(TracenbError, match=says):
        build(open_run(make_run(**SMALL | dict(chat=chat)), tmp_path / 'o'))


def test_a_template_of_a_file_or_by_name_replaces_the_models(tmp_path):
    path = tmp_path / 'own.jinja'
    path.write_text(TEMPLATES['qwen3'])
    texts = [load_tokenizer('tiny-random', chat=ChatConfig(template=t)).chat_template for t in ('qwen3', str(path))]
    assert texts == [TEMPLATES['qwen3']] * 2
    read = '{% if enable_thinking is defined %}{% generation %}x{% endgeneration %}{% endif %}'
    assert template_variables(read + '{% set y = y | default(1) %}{{ y }}') == ['enable_thinking', 'y']
