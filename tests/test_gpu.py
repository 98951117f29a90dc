"""The GPU path (`pytest -m gpu`): NF4 QLoRA with the paged optimizer, bf16 generation; tiny and Llama-3.2-1B-shaped."""

import pytest
import torch

from tracenb.models.adapters import load_adapter
from tracenb.models.batches import TrainConfig
from tracenb.models.generation import GenerateConfig, generate
from tracenb.models.loading import linear4bit, load_model, load_tokenizer
from tracenb.models.training import train
from tracenb.tasks.task import DataConfig, load_examples, toy
from tracenb.traces.chat import render
from tracenb.traces.conditions import build_traces
from tracenb.traces.loss_mask import encode

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason='no CUDA device here')]


def chats(tokenizer, n, prompt_only=False):
    examples = load_examples(toy, DataConfig(n_train=n), 'train')
    return [
        encode(render(e, t, toy), tokenizer, prompt_only)
        for e, t in zip(examples, build_traces(examples, toy, 'correct'))
    ]


@pytest.fixture(scope='module')
def one_billion(tmp_path_factory):
    "A random model of Llama-3.2-1B's shape with the tiny tokenizer, saved in the Hugging Face format."
    from transformers import LlamaConfig, LlamaForCausalLM

    to, tok = tmp_path_factory.mktemp('1b'), load_tokenizer('tiny-random')
    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        tie_word_embeddings=True,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
    with torch.device('cuda'):
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(to)
    tok.save_pretrained(to)
    return str(to)


@pytest.mark.parametrize('size', ['tiny', 'one_billion'])
def test_qlora_and_generation(size, tmp_path, request):
    name = 'tiny-random' if size == 'tiny' else request.getfixturevalue('one_billion')
    tok, model = load_tokenizer(name), load_model(name, device='cuda')
    assert linear4bit(model) and model.device.type == 'cuda'
    summary = train(
        model,
        tok,
        chats(tok, 16),
        TrainConfig(num_train_epochs=4, gradient_accumulation_steps=1, learning_rate=1e-3, save_steps=0),
        seed=1,
        out=tmp_path,
    )
    assert summary['optim'] == 'paged_adamw_8bit' and summary['device'] == 'cuda' and summary['steps'] == 16
    assert summary['peak_memory_mb'] < 8000
    made = generate(
        load_adapter(model, tmp_path / 'adapter'),
        tok,
        chats(tok, 4, prompt_only=True),
        GenerateConfig(max_new_tokens=16),
    )
    assert len(made) == 4 and all(g.n_tokens for g in made)


def test_slots_with_a_recorded_step_give_what_batches_give(one_billion):
    tok, model = load_tokenizer(one_billion), load_model(one_billion, 'none', device='cuda', dtype='float32')
    how = [GenerateConfig(max_new_tokens=16, batch_size=4, cache_implementation=c) for c in ('static', 'dynamic')]
    static, dynamic = (generate(model, tok, chats(tok, 12, prompt_only=True), c) for c in how)
    assert static == dynamic


@pytest.mark.parametrize('size', ['tiny', 'one_billion'])
def test_interventions(size, request):
    "All tests on one question: the same code, bf16 and 4 bits; a hidden swap stays near 0."
    from tracenb.interventions.questions import InterventionSettings, QuestionItem
    from tracenb.interventions.registry import known_interventions, run_question
    from tracenb.interventions.subject import Subject
    from tracenb.tasks.task import get_task
    from tracenb.traces.conditions import ConditionContext

    name = 'tiny-random' if size == 'tiny' else request.getfixturevalue('one_billion')
    subject, task = Subject(load_model(name, device='cuda'), load_tokenizer(name)), get_task('babi')
    examples = load_examples(task, DataConfig(n_test=24), 'test')
    ctx = ConditionContext(task, tuple(examples), task.labels)
    settings = InterventionSettings(samples=2, longest=16)
    with subject.ready():
        rows = [
            r
            for e in examples[:3]
            for r in run_question(QuestionItem(e, ctx, subject, settings), known_interventions())
        ]
    assert {r['test'] for r in rows} == set(known_interventions())
    assert {r['test'] for r in rows if r['eligible']} >= {'forced_wrong', 'step_attribution', 'swap', 'knock_out'}
    changes = [r['null_change'] for r in rows if r['test'] == 'swap' and r['eligible']]
    assert changes and max(map(abs, changes)) < 1
