"""Devices and number formats: what torch reports is patched; fp16 is trained in for real, on the CPU."""

import json
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_train import QUICK, toy_rows

from tracenb.core.files import read_jsonl
from tracenb.core.records import TracenbError
from tracenb.models import loading, training
from tracenb.models.loading import compute_dtype, load_model, pick_device, warn_of_unused_gpu
from tracenb.models.training import TrainState, peak_memory, train
from tracenb.report.results import load_costs
from tracenb.runs.stages import RunInputs, answer, build, finish, load_run, make_run, open_run, score, tune


@pytest.fixture
def machine(monkeypatch):
    "`machine(cuda=2, mps=True, bf16=False)`: what torch finds."

    def found(cuda=0, mps=False, bf16=True):
        def supported(including_emulation=True):
            return bf16 or including_emulation

        monkeypatch.setattr(torch.cuda, 'is_available', lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, 'device_count', lambda: cuda)
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', supported)
        monkeypatch.setattr(torch.backends.mps, 'is_available', lambda: mps)

    return found


@pytest.mark.parametrize(
    'has,asked,device,dtype',
    [
        (dict(cuda=1), 'auto', 'cuda', torch.bfloat16),
        (dict(cuda=1, bf16=False), 'auto', 'cuda', torch.float16),  # a T4 emulates bf16
        (dict(cuda=2), 'cuda:1', 'cuda:1', torch.bfloat16),
        (dict(cuda=1, mps=True), 'cpu', 'cpu', None),
        (dict(mps=True), 'auto', 'mps', torch.float32),
        (dict(), 'auto', 'cpu', None),
    ],
)
def test_the_device_and_its_number_format(machine, has, asked, device, dtype):
    machine(**has)
    assert pick_device(asked) == device and compute_dtype(asked) in (dtype,) if dtype else True


@pytest.mark.parametrize(
    'has,asked,words',
    [
        (dict(), 'cuda', 'finds no CUDA device'),
        (dict(), 'cuda:0', 'finds no CUDA device'),
        (dict(cuda=2), 'cuda:2', 'cuda:2 was asked for, but torch finds 2 CUDA devices\n  -> use cuda:0 to cuda:1'),
        (dict(cuda=2), 'cuda:x', 'cuda:x was asked for'),
        (dict(cuda=2), 'mps', 'torch finds no Apple GPU'),
        (dict(), 'cdua', "unknown device 'cdua'\n  -> did you mean 'cuda'"),
        (dict(), 'cpu:1', "unknown device 'cpu:1'"),
    ],
)
def test_a_device_that_is_not_there_is_named(machine, has, asked, words):
    machine(**has)
    with pytest.raises(TracenbError) as e:
        pick_device(asked)
    assert words in str(e.value)


def test_four_bits_on_an_apple_gpu(machine, monkeypatch):
    machine(mps=True)
    with pytest.raises(TracenbError, match='nf4 is not possible on an Apple GPU\n  -> set quantize: none, or device'):
        load_model('tiny-random', device='mps')
    places = []
    monkeypatch.setattr(
        loading, '_from_pretrained', lambda cls, *name, **how: places.append(how) or torch.nn.Linear(1, 1)
    )
    for quantize in ('nf4', 'none'):
        load_model('tiny-random', quantize=quantize)
    assert [how['device_map'] for how in places] == [{'': 'cpu'}, {'': 'mps'}]


@pytest.fixture
def told(monkeypatch, tmp_path):
    "`told(driver=..., card=..., smi=...)`: the warnings of a machine with these signs of a GPU."

    def ask(driver='', card=False, smi='', env=None):
        warn_of_unused_gpu.cache_clear()
        for name, content in (('_DRIVER', driver), ('_CARD', 'x' * card)):
            monkeypatch.setattr(loading, name, tmp_path / name)
            (tmp_path / name).unlink(missing_ok=True)
            if content:
                (tmp_path / name).write_text(content)
        monkeypatch.setattr(loading.shutil, 'which', lambda name: smi and '/usr/bin/nvidia-smi')
        monkeypatch.setattr(loading.subprocess, 'run', lambda *args, **how: SimpleNamespace(stdout=smi))
        monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
        if env is not None:
            monkeypatch.setenv('CUDA_VISIBLE_DEVICES', env)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            pick_device()
            pick_device()
        return [str(w.message) for w in said]

    yield ask
    warn_of_unused_gpu.cache_clear()


DRIVER = 'NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build'


def test_a_gpu_that_torch_cannot_use_is_said_once(machine, told):
    machine()
    assert told() == told(driver=DRIVER, env='') == told(driver=DRIVER, env='-1') == []
    [said] = told(driver=DRIVER)
    assert f'(driver 550.54.15), and torch {torch.__version__} cannot use it: computing on the CPU' in said
    assert 'device: cpu' in said
    assert len(told(card=True)) == len(told(smi='GPU 0: Tesla T4 (UUID: x)')) == 1
    machine(cuda=1)
    assert told(driver=DRIVER) == []


def test_an_attention_that_is_not_there_is_named():
    with pytest.raises(TracenbError, match='tiny-random: .*[Ff]lash'):
        load_model('tiny-random', device='cpu', attn_implementation='flash_attention_2')
    with pytest.raises(TracenbError, match="did you mean 'eager'"):
        load_model('tiny-random', device='cpu', attn_implementation='eagre')


def test_device_and_attention_in_a_run(tmp_path):
    small = dict(data=dict(n_train=2, n_test=2))
    plain, elsewhere = make_run(**small), make_run(**small, device='cpu')
    chosen = make_run(**small, attn_implementation='eager')
    assert elsewhere.name == plain.name != chosen.name and elsewhere == plain != chosen
    with pytest.raises(TracenbError, match="unknown attn_implementation 'flash'"):
        make_run(attn_implementation='flash')
    assert RunInputs(chosen).base_model.config._attn_implementation == 'eager'
    opened = open_run(elsewhere, tmp_path)
    assert load_run(opened.path).device == 'cpu'


class Gpus:
    "What torch tells the library of two GPUs: MB allocated at most, since the start or `reset_peak_memory_stats`."

    def __init__(self, monkeypatch):
        self.peaks, self.resets = {0: 300, 1: 9000}, []
        report = dict(
            is_available=lambda: True,
            is_initialized=lambda: True,
            device_count=lambda: 2,
            max_memory_allocated=lambda gpu: self.peaks[gpu] * 2**20,
            reset_peak_memory_stats=lambda gpu: (self.resets.append(gpu), self.peaks.update({gpu: 0})),
        )
        cuda = SimpleNamespace(**vars(torch.cuda) | report)
        monkeypatch.setattr(loading, 'torch', SimpleNamespace(**vars(torch) | dict(cuda=cuda)))


SMALL = dict(
    device='cpu',
    data=dict(n_train=2, n_test=2),
    train=dict(num_train_epochs=1, gradient_accumulation_steps=1),
    generate=dict(max_new_tokens=4),
)


def run_through(opened):
    "The stages of a run; its cost."
    tune(opened, build(opened))
    finish(opened, score(opened, answer(opened)))
    return opened.record()['cost']


def test_a_run_keeps_the_peak_memory_of_the_gpu_beside_that_of_the_process(monkeypatch, tmp_path):
    "The report of torch is patched: no GPU is needed, and none is measured."
    assert 'peak_gpu_memory_mb' not in run_through(open_run(make_run(**SMALL), tmp_path / 'cpu'))
    gpus = Gpus(monkeypatch)
    opened = open_run(make_run(**SMALL), tmp_path / 'gpu')
    assert gpus.resets == [0, 1], 'what came before the run is not counted'
    gpus.peaks[1] = 700
    cost = run_through(opened)
    assert cost['peak_gpu_memory_mb'] == 700 and cost['peak_memory_mb'] == pytest.approx(peak_memory('cpu'), rel=0.5)

    # trained in a process before, with more memory: train.json kept it
    opened = open_run(make_run(**SMALL, condition='vanilla'), tmp_path / 'gpu')
    trained = tune(opened, build(opened))
    opened.file('train.json').write_text(json.dumps(trained | dict(device='cuda', peak_memory_mb=2000)))
    opened.locked.release()
    again = open_run(opened.run, tmp_path / 'gpu')
    gpus.peaks[0] = 50
    assert run_through(again)['peak_gpu_memory_mb'] == 2000
    gpus.peaks[0] = 2500  # finished again, by a process that needs more
    finish(again, score(again, answer(again)))
    assert again.record()['cost']['peak_gpu_memory_mb'] == 2500
    assert sorted(load_costs(tmp_path / 'gpu').peak_gpu_memory_mb) == [700, 2500]


@pytest.fixture(scope='module')
def half():
    return load_model('tiny-random', quantize='none', device='cpu', dtype='float16')


PLAIN = replace(QUICK, lora_dropout=0.0)


def test_fp16_learns_as_fp32_does(half, tok, tmp_path):
    rows, full = toy_rows(tok), load_model('tiny-random', quantize='none', device='cpu', dtype='float32')
    found = [train(model, tok, rows, PLAIN, seed=1, out=tmp_path / str(k)) for k, model in enumerate((half, full))]
    assert [x['dtype'] for x in found] == ['float16', 'float32']
    logs = [[x['loss'] for x in read_jsonl(tmp_path / k / 'train_log.jsonl')] for k in '01']
    assert logs[0] == pytest.approx(logs[1], rel=0.02) and logs[0][-1] < 0.7 * logs[0][0]


def test_without_a_scale_small_gradients_are_lost():
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    state, loss = TrainState([p], replace(PLAIN, max_grad_norm=1e9), steps=9), lambda: p.float().sum() * 1e-9
    loss().backward()
    assert p.grad.abs().max() == 0
    state.scaler.scale(loss()).backward()
    assert state.step().item() == pytest.approx(2e-9, rel=0.1)


def test_a_scale_that_overflows_costs_no_rows(half, tok, tmp_path, monkeypatch):
    "The step is done again; its line in the log is written once, and the rate goes on step by step."
    rows, made = toy_rows(tok), torch.amp.GradScaler
    config = replace(PLAIN, num_train_epochs=1)
    train(half, tok, rows, config, seed=1, out=tmp_path / 'usual')
    scalers = []

    def large(device, enabled):
        scalers.append(made(device, 2.0**30, enabled=enabled))
        return scalers[-1]

    monkeypatch.setattr(training.torch.amp, 'GradScaler', large)
    train(half, tok, rows, config, seed=1, out=tmp_path / 'large')
    assert scalers[0].get_scale() < 2.0**24
    usual, large = (read_jsonl(tmp_path / name / 'train_log.jsonl') for name in ('usual', 'large'))
    same = lambda log: [(x['step'], x['rows'], x['learning_rate']) for x in log]
    assert same(usual) == same(large)
    assert [x['loss'] for x in large] == pytest.approx([x['loss'] for x in usual], rel=0.02)


def test_a_loss_that_is_not_finite_in_fp16_is_named(half, tok, tmp_path, monkeypatch):
    monkeypatch.setattr(
        training,
        'completion_loss',
        lambda model, *batch: sum(p.sum() for p in model.parameters() if p.requires_grad) * torch.inf,
    )
    with pytest.raises(TracenbError, match='not finite in float16 .loss (nan|-?inf).\n  -> lower learning_rate'):
        train(half, tok, toy_rows(tok), PLAIN, seed=1, out=tmp_path)


def test_a_run_in_fp16_resumes_to_the_same_weights(half, tok, tmp_path):
    rows = toy_rows(tok)

    def stop(line):
        if line['step'] == 8:
            raise KeyboardInterrupt

    train(half, tok, rows, PLAIN, seed=1, out=tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        train(half, tok, rows, PLAIN, seed=1, out=tmp_path / 'two', on_step=stop)
    assert train(half, tok, rows, PLAIN, seed=1, out=tmp_path / 'two')['resumed_at'] == 6
    assert len({(tmp_path / d / 'adapter/adapter_model.safetensors').read_bytes() for d in ('whole', 'two')}) == 1
