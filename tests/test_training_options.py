"""Settings of training that people expect: evaluation, early stopping, packing, DoRA, a begun adapter, trackers."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftConfig
from test_train import QUICK, toy_rows, weights
from transformers import AutoConfig, AutoModelForCausalLM

from tracenb.core.files import read_jsonl, write_text
from tracenb.core.records import TracenbError
from tracenb.models.adapters import attach_adapter, load_adapter
from tracenb.models.batches import TrainConfig, check_packing, collate, completion_loss, make_batch, pack, plan_batches
from tracenb.models.loading import load_model
from tracenb.models.train_log import HeldOut, RunLabel
from tracenb.models.training import train
from tracenb.report.design_figures import learning_figure
from tracenb.report.results import load_logs
from tracenb.report.statements import summarize_learning
from tracenb.runs.engine import plan_grid
from tracenb.runs.grids import Grid
from tracenb.runs.stages import answer, build, finish, make_run, open_run, score, tune


@pytest.fixture(scope='module')
def rows(tok):
    return toy_rows(tok)


TINY = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=97,
    max_position_embeddings=128,
    pad_token_id=0,
)


def of_type(kind, **more):
    "A random model of this architecture, in fp32."
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY, **more)).eval()


def some_rows():
    from tracenb.traces.loss_mask import Encoded

    made = []
    for k, n in enumerate((9, 14, 5, 11)):
        ids = tuple((7 * i * (k + 3) + 5 * k) % 96 + 1 for i in range(n))
        made.append(Encoded(str(k), ids, tuple(i >= n // 2 for i in range(n))))
    return made


@pytest.mark.parametrize('kind', ['llama', 'qwen2', 'qwen3', 'mistral', 'gemma', 'gemma2', 'olmo2', 'phi3', 'smollm3'])
@pytest.mark.parametrize('loss', ['completion', 'all'])
def test_packed_rows_have_the_loss_and_gradient_of_padded_ones(kind, loss):
    model, rows = of_type(kind), some_rows()
    found = []
    for packing in (False, True):
        model.zero_grad()
        total = completion_loss(model, *make_batch(rows, 0, TrainConfig(packing=packing, loss=loss)))
        total.backward()
        found.append((total.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])))
    (padded, gradient), (packed, same) = found
    assert packed == pytest.approx(padded, rel=1e-5) and torch.allclose(gradient, same, atol=1e-3)
    check_packing(model, rows[:2])


def test_a_norm_of_0_is_no_limit_as_in_transformers(tmp_path, tok, rows):
    made = []
    for norm in (0, 1e9, 0.01):
        config = replace(QUICK, num_train_epochs=1, max_grad_norm=norm)
        train(load_model('tiny-random', device='cpu'), tok, rows[:8], config, 1, tmp_path / str(norm))
        made.append(weights(tmp_path / str(norm)))
    assert made[0] == made[1] != made[2]


def test_a_model_that_carries_a_row_over_is_refused(tmp_path):
    sizes = dict(hidden_size=32, num_hidden_layers=2, vocab_size=97, state_size=4)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model('mamba', **sizes)).eval()
    with pytest.raises(TracenbError, match='packing: a row changes by [0-9]+% .* type mamba\n.*packing: false'):
        check_packing(model, some_rows()[:2])


def test_packing_trains_as_padding_does(tmp_path, tok, rows):
    model, logs = load_model('tiny-random', device='cpu', dtype='float32'), []
    for packing in (False, True):
        out = tmp_path / str(packing)
        summary = train(model, tok, rows, replace(QUICK, packing=packing, lora_dropout=0.0), 1, out)
        assert summary['padding_share'] == 0 or not packing
        logs.append([x['loss'] for x in read_jsonl(out / 'train_log.jsonl')])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3) and len(logs[0]) == 12


@pytest.mark.parametrize('backend', ['eager', pytest.param('inductor', marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize('twice', [True, False])
def test_compiled_blocks_train_as_others_do(tmp_path, tok, rows, backend, twice, monkeypatch):
    "The backend `eager` traces the blocks and runs what was traced; `inductor` takes a compiler and half a minute."
    model, logs, compiled = load_model('tiny-random', device='cpu', dtype='float32'), [], []
    call = torch.nn.Module.compile
    to_backend = lambda self, **how: compiled.append(self) or call(self, backend=backend, **how)
    monkeypatch.setattr(torch.nn.Module, 'compile', to_backend)
    for name in (False, True):
        config = replace(QUICK, torch_compile=name, lora_dropout=0.0, gradient_checkpointing=twice, max_steps=6)
        train(model, tok, rows, config, 1, tmp_path / str(name))
        logs.append([x['loss'] for x in read_jsonl(tmp_path / str(name) / 'train_log.jsonl')])
    assert logs[0] == pytest.approx(logs[1], rel=1e-3)
    assert len(compiled) == model.config.num_hidden_layers and not any(m._compiled_call_impl for m in model.modules())


def test_max_steps_overrides_epochs_in_both_directions(rows):
    plan = plan_batches(rows, QUICK, 1)
    assert len(plan) == 12
    for steps in (1, 5, 12, 13, 30):
        made = plan_batches(rows, replace(QUICK, max_steps=steps), 1)
        assert len(made) == steps and made[:12] == plan[:steps]
    budget = plan_batches(rows, replace(QUICK, budget=10**6, max_steps=4), 1)
    assert budget == plan[:4]  # whichever comes first


@pytest.mark.parametrize('kind', ['use_dora', 'use_rslora'])
def test_variants_of_peft_are_trained_saved_and_loaded(tmp_path, model, tok, rows, kind):
    plain = train(model, tok, rows, QUICK, 1, tmp_path / 'plain')
    summary = train(model, tok, rows, replace(QUICK, **{kind: True}), 1, tmp_path / kind)
    log = read_jsonl(tmp_path / kind / 'train_log.jsonl')
    assert log[-1]['loss'] < 0.8 * log[0]['loss'] and summary['loss'] != plain['loss']
    assert getattr(PeftConfig.from_pretrained(tmp_path / kind / 'adapter'), kind)
    ids, labels = collate(rows[:8], 0, 'completion')
    with torch.no_grad():
        tuned = completion_loss(load_adapter(model, tmp_path / kind / 'adapter'), ids, labels)
    assert tuned / (labels != -100).sum() < 0.8 * log[0]['loss']


def test_evaluation_changes_nothing_and_stays_off_by_default(tmp_path, model, tok, rows):
    def score(model):
        torch.rand(3)  # as sampling would
        return dict(eval_exact=0.25)

    held_out = HeldOut(rows[:5], score)
    for name, config, more in (
        ('plain', QUICK, {}),
        ('watched', replace(QUICK, eval_steps=5), dict(held_out=held_out)),
        ('off', QUICK, dict(held_out=held_out)),
    ):
        summary = train(model, tok, rows[5:], config, 1, tmp_path / name, **more)
        lines = [x for x in read_jsonl(tmp_path / name / 'train_log.jsonl') if 'eval_loss' in x]
        assert [x['step'] for x in lines] == ([5, 10] if name == 'watched' else [])
        assert ('eval_loss' in summary) == (name == 'watched')
    assert weights(tmp_path / 'plain') == weights(tmp_path / 'watched') == weights(tmp_path / 'off')


def test_the_validation_loss_is_that_of_the_saved_adapter(tmp_path, tok, rows):
    model = load_model('tiny-random', device='cpu', dtype='float32')
    summary = train(model, tok, rows[6:], replace(QUICK, eval_steps=100), 1, tmp_path, held_out=HeldOut(rows[:6]))
    ids, labels = collate(rows[:6], 0, 'completion')
    with torch.no_grad():
        again = completion_loss(load_adapter(model, tmp_path / 'adapter'), ids, labels) / (labels != -100).sum()
    assert summary['eval_loss'] == pytest.approx(again.item(), abs=1e-3)


def test_early_stopping_also_after_a_kill(tmp_path, model, tok, rows):
    config = replace(QUICK, learning_rate=1e-9, warmup_steps=0, max_steps=40, eval_steps=2, early_stopping_patience=2)
    held_out = HeldOut(rows[:5])

    def stop(line):
        if line['step'] == 5:
            raise KeyboardInterrupt

    whole = train(model, tok, rows[5:], config, 1, tmp_path / 'whole', held_out=held_out)
    assert whole['stopped_early'] and 6 <= whole['steps'] < 40 and whole['steps'] % 2 == 0
    with pytest.raises(KeyboardInterrupt):
        train(model, tok, rows[5:], config, 1, tmp_path / 'cut', held_out=held_out, on_step=stop)
    again = train(model, tok, rows[5:], config, 1, tmp_path / 'cut', held_out=held_out)
    assert (again['resumed_at'], again['steps']) == (3, whole['steps'])
    assert weights(tmp_path / 'cut') == weights(tmp_path / 'whole')


def test_an_adapter_can_be_the_beginning(tmp_path, model, tok, rows):
    first = train(model, tok, rows, QUICK, 1, tmp_path / 'a')
    begun = replace(QUICK, resume_from=str(tmp_path / 'a/adapter'))
    more = train(model, tok, rows, begun, 1, tmp_path / 'b')
    before = read_jsonl(tmp_path / 'a/train_log.jsonl')[0]['loss']
    assert read_jsonl(tmp_path / 'b/train_log.jsonl')[0]['loss'] < 0.8 * before and more['loss'] < first['loss']
    assert len(more['resume_from_sha256']) == 64 and weights(tmp_path / 'a') != weights(tmp_path / 'b')
    with pytest.raises(TracenbError, match='adapter has r 16, these settings 8\n.*set the same'):
        attach_adapter(model, replace(begun, r=8), 1)
    with pytest.raises(TracenbError, match='resume_from: no adapter in .*nowhere'):
        train(model, tok, rows, replace(QUICK, resume_from=str(tmp_path / 'nowhere')), 1, tmp_path / 'c')
    settings = json.loads((tmp_path / 'a/adapter/adapter_config.json').read_text())
    write_text(tmp_path / 'a/adapter/adapter_config.json', json.dumps(settings | dict(target_modules=['q_proj'])))
    with pytest.raises(TracenbError, match=r"adapter has target_modules \['q_proj'\], these settings \['down_proj', "):
        attach_adapter(model, begun, 1)


@pytest.mark.parametrize(
    'bad, message',
    [
        (dict(max_steps=0), 'max_steps is 0'),
        (dict(eval_steps=-1), 'eval_steps is -1'),
        (dict(eval_share=1.0), 'eval_share is 1.0'),
        (dict(early_stopping_patience=3), 'early_stopping_patience without eval_steps'),
        (dict(eval_steps=5, early_stopping_patience=0), 'early_stopping_patience is 0'),
        (dict(report_to='mlflows'), "did you mean 'mlflow'"),
    ],
)
def test_settings_that_cannot_be_are_named(bad, message):
    with pytest.raises(TracenbError, match=message):
        TrainConfig(**bad).check()


def test_a_tracker_groups_by_grid_and_links_the_notebook(tmp_path, model, tok, rows):
    config = TrainConfig(max_steps=2, gradient_accumulation_steps=1, report_to='tensorboard')
    train(model, tok, rows, config, 1, tmp_path, label=RunLabel('my-grid', 'toy/m/correct/seed1', '/o/run.ipynb'))
    [settings] = tmp_path.rglob('hparams.yml')
    assert settings.relative_to(tmp_path).parts[0] == 'my-grid'
    assert 'run: toy/m/correct/seed1' in settings.read_text() and 'notebook: /o/run.ipynb' in settings.read_text()


@pytest.mark.parametrize('name', ['wandb', 'trackio', 'mlflow'])
def test_a_tracker_that_is_not_installed_is_named(tmp_path, model, tok, rows, name):
    from accelerate.utils import is_mlflow_available, is_trackio_available, is_wandb_available

    if dict(wandb=is_wandb_available, trackio=is_trackio_available, mlflow=is_mlflow_available)[name]():
        pytest.skip(f'{name} is installed')
    with pytest.raises(TracenbError, match=f"report_to='{name}', but it is not installed\n.*pip install {name}"):
        train(model, tok, rows, TrainConfig(report_to=name), 1, tmp_path)


EVALUATED = dict(
    dataset='babi',
    data=dict(n_train=24, n_test=4),
    train=dict(max_steps=4, gradient_accumulation_steps=1, eval_steps=2, eval_share=0.2),
    generate=dict(max_new_tokens=6),
)


def test_a_run_holds_out_training_questions_and_reports_the_curve(tmp_path):
    runs = {c: make_run(**EVALUATED, condition=c) for c in ('correct', 'vanilla', 'zero_shot')}
    held = {}
    for condition, run in runs.items():
        opened = open_run(run, tmp_path)
        summary = tune(opened, build(opened))
        finish(opened, score(opened, answer(opened)))
        held[condition] = {e.id for e in opened.held_out}
        if condition != 'zero_shot':
            assert summary['held_out'] == sorted(held[condition]) and summary['rows'] == 24 - 5
            assert not held[condition] & {e.id for e in opened.examples['test']}
            assert held[condition] < {e.id for e in opened.examples['train']}
    assert held['correct'] == held['vanilla'] and len(held['correct']) == 5 and held['zero_shot'] == set()
    _, data = learning_figure(load_logs(tmp_path))
    assert set(data.step) == {2, 4} and set(data.measure) == {'eval_loss', 'eval_exact'}
    assert summarize_learning(data)[0].startswith('Held-out questions answered exactly at the end, percent: ')
    plan = plan_grid(Grid('g', tuple(runs.values())), tmp_path)
    assert plan.steps.tolist()[:2] == [4, 4]


def test_usual_values_change_no_name_of_a_run():
    usual = make_run(dataset='babi', train=dict(eval_steps=0, packing=False, max_steps=None, resume_from=''))
    assert usual.name == make_run(dataset='babi').name
    assert make_run(dataset='babi', train=dict(eval_steps=5)).name != usual.name


def test_pack_keeps_rows_apart():
    ids, labels, positions = pack(some_rows()[:2], 'all')
    assert ids.shape == labels.shape == positions.shape == (1, 23)
    assert positions[0].tolist() == [*range(9), *range(14)] and (labels[0] == -100).nonzero().flatten().tolist() == [
        0,
        9,
    ]
