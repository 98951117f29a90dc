"""Adapters trained side by side: each as it would be alone, whoever is trained beside it."""

import copy
import json
from dataclasses import replace

import forked
import pytest
import torch
from safetensors.torch import load_file
from test_architectures import ALL, row, tiny

from tracenb.core.files import read_jsonl
from tracenb.core.records import TracenbError
from tracenb.models import concurrent
from tracenb.models.batches import TrainConfig
from tracenb.models.concurrent import n_fitting, train_together
from tracenb.models.loading import linear4bit, load_model
from tracenb.models.train_log import HeldOut
from tracenb.models.training import Job, train_job
from tracenb.runs.engine import grouped, run_grid
from tracenb.runs.finished import verify
from tracenb.runs.grids import expand, get_grid

CONFIG = TrainConfig(
    r=4, lora_dropout=0.2, learning_rate=1e-2, warmup_steps=1, num_train_epochs=2, batch_size=2, save_steps=2
)
CONFIG = replace(CONFIG, gradient_accumulation_steps=2, target_modules='all-linear')
# Rows of three runs: other rows, other lengths, and one run that ends earlier
ROWS = [[row(k, 6 + (5 * k + j) % 11) for k in range(n)] for j, n in enumerate((9, 9, 5))]


@pytest.fixture(scope='module')
def pad0(tok):
    "A tokenizer that pads with an id of the small vocabularies."
    tok = copy.deepcopy(tok)
    tok.pad_token = tok.convert_ids_to_tokens(0)
    return tok


def jobs(tok, out, config=CONFIG, **more):
    return [Job(tok, rows, config, seed, out / str(seed), **more) for seed, rows in enumerate(ROWS)]


def numbers(job):
    "What the log says of each step, and the adapter's size."
    lines = [[x[k] for k in x if k in ('loss', 'grad_norm', 'eval_loss', 'learning_rate')] for x in log_of(job)]
    saved = load_file(job.out / 'adapter/adapter_model.safetensors').values()
    return [*sum(lines, []), *(x.norm().item() for x in saved)]


def log_of(job):
    return read_jsonl(job.out / 'train_log.jsonl')


# LoRA on experts that are one tensor
EXPERTS = 'afmoe deepseek_v2 deepseek_v3 ernie4_5_moe exaone_moe glm4_moe qwen3_next solar_open'
# Why the others are refused; all else must be trained as alone
REFUSED = {
    'dropout of its own': 'biogpt gpt2 gpt_bigcode openai-gpt opt phimoe seed_oss xglm',
    'its scores in one piece': 'modernbert-decoder',
    'not row by row': 'jetmoe minicpm3 qwen2_moe',
    'of another kind': EXPERTS,
}
REFUSED = {kind: why for why, kinds in REFUSED.items() for kind in kinds.split()}


@pytest.mark.filterwarnings('ignore:LoRA reaches')
@pytest.mark.parametrize('kind', ALL)
def test_together_as_alone(kind, pad0, tmp_path):
    "Losses, gradients, rates and weights of each step, with dropout and with activations computed twice if possible."
    model = tiny(kind)
    dropout = 0.0 if kind in EXPERTS.split() else CONFIG.lora_dropout
    config = replace(CONFIG, gradient_checkpointing=model.supports_gradient_checkpointing, lora_dropout=dropout)
    together = jobs(pad0, tmp_path / 'together', config)
    if why := REFUSED.get(kind):
        with pytest.raises(TracenbError, match=why):
            train_together(model, together)
        assert not [m for m in model.modules() if hasattr(m, 'lora_A') or hasattr(m, 'loras')]
        return
    before = {n: p.clone() for n, p in model.named_parameters()}
    found, apart = train_together(model, together), jobs(pad0, tmp_path / 'apart', config)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters()) and not model.training
    alone = [train_job(model, j) for j in apart]
    assert [f['concurrent'] for f in found] == [3, 3, 3]
    own = ('seconds', 'concurrent', 'loss', 'peak_memory_mb', 'adapter')  # rounded differently
    assert [{k: v for k, v in s.items() if k not in own} for s in found] == [
        {k: v for k, v in s.items() if k not in own} for s in alone
    ]
    for one, other in zip(together, apart):
        assert numbers(one) == pytest.approx(numbers(other), rel=2e-3, abs=2e-4)


class Stop(Exception):
    pass


def stop_at(step):
    def on_step(line):
        if line['step'] == step:
            raise Stop

    return on_step


@pytest.mark.parametrize('first', ('alone', 'together'))
def test_what_was_begun_alone_goes_on_together_and_the_other_way_round(first, pad0, tmp_path):
    model, whole, part = tiny('llama'), jobs(pad0, tmp_path / 'whole'), jobs(pad0, tmp_path / 'part')
    for j in whole:
        train_job(model, j)
    alone = lambda many: [train_job(model, j) for j in many]
    one, other = (alone, lambda many: train_together(model, many))[:: 1 if first == 'alone' else -1]
    stopped = [replace(j, on_step=stop_at(3)) for j in part]
    for many in [[j] for j in stopped] if first == 'alone' else [stopped]:
        with pytest.raises(Stop):
            one(many)
    assert not [m for m in model.modules() if hasattr(m, 'lora_A') or hasattr(m, 'loras')]
    found = other(part)
    assert [f['resumed_at'] for f in found] == [2, 2, 2]
    for x, y in zip(whole, part):
        assert numbers(x) == pytest.approx(numbers(y), rel=2e-3, abs=2e-4)
        assert not (y.out / 'checkpoints').exists()


def test_held_out_rows_are_evaluated_with_the_own_adapter_alone(pad0, tmp_path):
    model, seen = tiny('llama'), []
    config = replace(CONFIG, eval_steps=2)
    asked = HeldOut(ROWS[1], lambda m: seen.append(type(m).__name__) or dict(eval_exact=0.5))
    together = jobs(pad0, tmp_path / 'together', config, held_out=asked)
    apart = jobs(pad0, tmp_path / 'apart', config, held_out=asked)
    train_together(model, together)
    for one, other in zip(together, apart):
        train_job(model, other)
        assert numbers(one) == pytest.approx(numbers(other), rel=2e-3, abs=2e-4)
    assert (
        set(seen) == {'PeftModelForCausalLM'} and len({x['eval_loss'] for j in together for x in log_of(j)[-1:]}) == 3
    )


def test_on_4_bits(tok, tmp_path):
    "The frozen layers are those of the model again, and the losses those of training alone, but for rounding in bf16."
    model, few = load_model('tiny-random', device='cpu'), replace(CONFIG, lora_dropout=0.0)
    before = linear4bit(model)
    found = train_together(model, jobs(tok, tmp_path / 'together', few))
    assert linear4bit(model) == before != []
    alone = [train_job(model, j) for j in jobs(tok, tmp_path / 'apart', few)]
    assert [f['loss'] for f in found] == pytest.approx([a['loss'] for a in alone], rel=0.02)


def test_a_gpu_takes_as_many_as_half_of_its_free_memory_holds(pad0, tmp_path, monkeypatch):
    "The memory is made up; the size of an adapter in training is not."
    model = tiny('llama')
    three = jobs(pad0, tmp_path)
    most = concurrent.bytes_beside(model, three[0])
    assert n_fitting(model, three) == 1
    monkeypatch.setattr(type(model), 'device', property(lambda self: torch.device('cuda')))
    for free, n in ((0, 1), (2 * most, 1), (5 * most, 2), (100 * most, 3)):
        monkeypatch.setattr(concurrent, 'free_memory', lambda device: free)
        monkeypatch.setattr(concurrent, 'bytes_beside', lambda model, job: most)
        assert n_fitting(model, three) == n


# --- grids


def test_runs_are_grouped_by_base_and_settings(tmp_path, monkeypatch):
    grid = get_grid('smoke')
    conditions = lambda groups: [[r.condition for r in g] for g in groups]
    assert grouped(grid, grid.runs, tmp_path) == [], 'off without a GPU'
    three = ['vanilla', 'correct', 'incorrect']
    assert conditions(grouped(replace(grid, concurrent=4), grid.runs, tmp_path)) == [three]
    assert conditions(grouped(replace(grid, concurrent=2), grid.runs, tmp_path)) == [three[:2]]
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    assert conditions(grouped(grid, grid.runs, tmp_path)) == [three]
    assert conditions(grouped(grid, grid.runs, tmp_path, workers=2)) == [three[:2]]
    assert grouped(replace(grid, concurrent=1), grid.runs, tmp_path) == []
    for n in (0, -3):
        with pytest.raises(TracenbError, match=f'concurrent is {n}\n.*1 for one run after another'):
            grouped(replace(grid, concurrent=n), grid.runs, tmp_path)
    with pytest.raises(TracenbError, match='g: retries is -1\n.*0 for one try'):
        expand(dict(datasets=['toy'], models=['tiny-random'], conditions=['vanilla'], retries=-1), 'g')
    other = [replace(r, train=replace(r.train, learning_rate=k)) for k, r in enumerate(grid.runs, 1)]
    assert grouped(grid, other, tmp_path) == [], 'other settings of training'


def test_a_grid_side_by_side_and_what_cannot_be_one_after_another(tmp_path):
    grid = get_grid('smoke', ['condition=vanilla,correct'])
    with_dora = [replace(r, train=replace(r.train, use_dora=True)) for r in grid.runs]
    all_runs = replace(grid, runs=(*grid.runs, *with_dora), concurrent=2)
    errors, told = forked.call(run_grid, all_runs, tmp_path, 1)
    assert errors == {}
    assert 'side by side: vanilla seed 1, correct seed 1' in told
    assert 'one after another: vanilla seed 1, correct seed 1: these runs cannot' in told
    summaries = [json.loads(p.read_text()) for p in tmp_path.rglob('train.json')]
    assert sorted(s.get('concurrent', 1) for s in summaries) == [1, 1, 2, 2]
    costs = [json.loads(p.read_text())['cost'] for p in tmp_path.rglob('run.json')]
    assert [c for c in costs if c['all_seconds'] < c['train_seconds']] == [], 'training beside others is counted'
    folders = [p.parent for p in tmp_path.rglob('metrics.json')]
    assert len(folders) == 4 and [verify(f) for f in folders] == [[], [], [], []]
    assert [p for p in tmp_path.rglob('*') if p.name in ('error.txt', 'checkpoints')] == []
