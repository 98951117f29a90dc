"""Batched answers are the answers one by one, and a file that was cut is completed to the same bytes."""

import shutil
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tracenb.core.files import read_jsonl
from tracenb.core.records import Generation, Trace, TracenbError
from tracenb.models import decoding
from tracenb.models import generation as module
from tracenb.models.decoding import stop_ids
from tracenb.models.generation import GenerateConfig, generate, plan_prompts
from tracenb.models.loading import linear4bit, load_model
from tracenb.tasks.task import DataConfig, load_examples, toy
from tracenb.traces.chat import render
from tracenb.traces.loss_mask import Encoded, encode

SAMPLED = GenerateConfig(max_new_tokens=10, batch_size=2, do_sample=True, temperature=0.8, top_p=0.9)


def toy_prompts(tokenizer, n=6):
    examples = load_examples(toy, DataConfig(n_test=n), 'test')
    return [
        encode(
            render(e, Trace(e.id, 'vanilla', '', None, 'rule'), toy, system='Be brief.' * (1 + i % 3)),
            tokenizer,
            prompt_only=True,
        )
        for i, e in enumerate(examples)
    ]


@pytest.fixture(scope='module')
def model():
    return load_model('tiny-random', device='cpu', dtype='float32')


@pytest.mark.parametrize('n', [3, pytest.param(6, marks=pytest.mark.exhaustive)])
def test_batched_is_one_by_one_on_the_embedded_model(n, embedded_fp32):
    tok, model = embedded_fp32
    prompts = toy_prompts(tok, n)
    assert len({len(p.input_ids) for p in prompts}) > 2  # so that there is padding
    batched = generate(model, tok, prompts, GenerateConfig(max_new_tokens=24, batch_size=n))
    assert generate(model, tok, prompts, GenerateConfig(max_new_tokens=24, batch_size=1)) == batched
    static = GenerateConfig(max_new_tokens=24, batch_size=2, cache_implementation='static')
    assert generate(model, tok, prompts, static) == batched
    with torch.no_grad():  # and what transformers alone gives, on the 4-bit layers, without padding or mask
        alone = model.generate(
            torch.tensor([prompts[1].input_ids]), max_new_tokens=24, do_sample=False, pad_token_id=tok.pad_token_id
        )[0]
    assert tok.decode(alone[len(prompts[1].input_ids) :], skip_special_tokens=True) == batched[1].text
    assert len({g.n_tokens for g in batched}) > 1  # rows left the batch at different times
    assert linear4bit(model)  # the layers are 4-bit again


def tiny(kind, **more):
    "A random model of another architecture, for the tokens of the tiny tokenizer."
    shape = dict(vocab_size=512, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3)
    config = AutoConfig.for_model(kind, **shape | dict(bos_token_id=None, eos_token_id=2, pad_token_id=2) | more)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config).eval()


FAMILIES = dict(
    llama=dict(intermediate_size=64, num_key_value_heads=2),
    qwen3=dict(intermediate_size=64, num_key_value_heads=2, head_dim=8),
    gpt2=dict(n_positions=128),  # learned positions: one beyond the last would be an error
    gpt_neox=dict(intermediate_size=64),
    bloom={},  # distances come from the attention mask
    gemma2=dict(intermediate_size=64, num_key_value_heads=2, head_dim=8, sliding_window=8),
    mamba=dict(state_size=4),
)


@pytest.mark.parametrize('kind', FAMILIES)
def test_the_shared_start_and_slots_change_nothing_in_other_architectures(tok, kind):
    model = tiny(kind, **FAMILIES[kind])
    prompts = [Encoded(str(n), (*range(5, 25), *range(30, 30 + n)), (False,) * (20 + n)) for n in (1, 9, 4, 12, 5)]
    alone = [g for p in prompts for g in generate(model, tok, [p], GenerateConfig(max_new_tokens=40, batch_size=1))]
    assert len({g.n_tokens for g in alone}) > 1 or {g.n_tokens for g in alone} == {40}
    batched = GenerateConfig(max_new_tokens=40, batch_size=3)
    assert generate(model, tok, prompts, batched) == alone
    static = replace(batched, cache_implementation='static')
    if kind in ('llama', 'qwen3', 'gpt2', 'gpt_neox'):
        assert generate(model, tok, prompts, static) == alone
    else:
        with pytest.raises(TracenbError, match=f'type {kind} cannot use slots'):
            generate(model, tok, prompts, static)


def test_a_step_in_slots_is_one_graph_that_is_compiled_once(tok, monkeypatch):
    "What a GPU records and replays; here without the code that is made from it."
    made, counters = decoding.Slots.__init__, torch._dynamo.utils.counters

    def compiled(self, *args):
        made(self, *args)
        self.step = torch.compile(self._step, backend='eager', fullgraph=True)

    model, prompts = load_model('tiny-random', device='cpu', dtype='float32'), toy_prompts(tok, 5)
    static = GenerateConfig(max_new_tokens=20, batch_size=2, cache_implementation='static')
    plain = generate(model, tok, prompts, static)
    counters.clear()
    monkeypatch.setattr(decoding.Slots, '__init__', compiled)
    assert generate(model, tok, prompts, static) == plain
    assert counters['stats']['unique_graphs'] == 1
    torch._dynamo.reset()


@pytest.mark.parametrize('cut', [0, 0.2, 0.5, 0.9, 1])
@pytest.mark.parametrize(
    'config',
    [
        GenerateConfig(max_new_tokens=10, batch_size=2),
        GenerateConfig(max_new_tokens=10, batch_size=2, cache_implementation='static'),
        SAMPLED,
        replace(SAMPLED, num_return_sequences=3),
    ],
    ids=['greedy', 'slots', 'sampled', 'several samples'],
)
def test_a_cut_file_is_completed_to_the_same_bytes(tmp_path, tok, model, config, cut):
    prompts, path = toy_prompts(tok, 5) + [Encoded('long', (5,) * 1020, (False,) * 1020)], tmp_path / 'g.jsonl'
    whole = generate(model, tok, prompts, config, seed=7, path=path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    assert generate(model, tok, prompts, config, seed=7, path=path) == whole
    assert path.read_bytes() == content


def test_batches_on_file_survive_an_interruption_and_are_not_done_again(tmp_path, tok, model, monkeypatch):
    prompts, config = toy_prompts(tok, 6), GenerateConfig(max_new_tokens=5, batch_size=2)
    path, calls, real = tmp_path / 'g.jsonl', [], module.generate_batch

    def counted(model, tokenizer, prompts, *rest):
        calls.append([p.id for p in prompts])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(model, tokenizer, prompts, *rest)

    monkeypatch.setattr(module, 'generate_batch', counted)
    with pytest.raises(KeyboardInterrupt):
        generate(model, tok, prompts, config, path=path)
    assert len(read_jsonl(path, Generation)) == 4
    generate(model, tok, prompts, config, path=path)
    assert len(calls) == 4 and calls[3] == calls[2]
    generate(model, tok, prompts, config, path=path)
    assert len(calls) == 4


def test_a_stop_between_two_batches_leaves_the_model_as_it_was(tmp_path, tok, model):
    "Also while the traceback still exists, as it does in a notebook after a stopped cell."
    prompts, packed, place = toy_prompts(tok, 4), len(linear4bit(model)), tmp_path / 'out'
    place.mkdir()
    assert packed > 0
    with pytest.raises(FileNotFoundError) as stopped:
        generate(
            model,
            tok,
            prompts,
            GenerateConfig(max_new_tokens=3, batch_size=2),
            path=place / 'g.jsonl',
            watch=lambda rows: shutil.rmtree(place, ignore_errors=True),
        )
    assert stopped.tb and len(linear4bit(model)) == packed


def test_a_file_of_other_prompts_is_refused(tmp_path, tok, model):
    prompts, path = toy_prompts(tok, 4), tmp_path / 'g.jsonl'
    generate(model, tok, prompts, GenerateConfig(max_new_tokens=3), path=path)
    content = path.read_bytes()
    with pytest.raises(TracenbError, match='its ids are not those'):
        generate(model, tok, prompts[::2], GenerateConfig(max_new_tokens=3), path=path)
    assert path.read_bytes() == content


def test_prompts_that_do_not_fit_are_never_cut(tok, model):
    prompts = [Encoded(str(n), (5,) * n, (False,) * n) for n in (50, 10, 51, 0)]
    made = generate(model, tok, prompts, GenerateConfig(max_new_tokens=10, max_length=60))
    assert [g.id for g in made] == ['50', '10', '51', '0']
    assert [g.finish_reason == 'too_long' for g in made] == [False, False, True, True]
    assert (made[2].text, made[2].n_tokens) == ('', 0)


def test_an_answer_ends_at_the_first_of_several_end_tokens(tok, model):
    prompts, config = toy_prompts(tok, 2), GenerateConfig(max_new_tokens=8)
    free = generate(model, tok, prompts, config)
    assert [g.finish_reason for g in free] == ['length'] * 2
    ids = model.generate(torch.tensor([prompts[0].input_ids]), max_new_tokens=8, do_sample=False)[
        0, len(prompts[0].input_ids) :
    ].tolist()
    before = model.generation_config.eos_token_id
    try:
        model.generation_config.eos_token_id = [tok.eos_token_id, ids[3]]
        assert stop_ids(model, tok) == sorted({tok.eos_token_id, ids[3]})
        ended = generate(model, tok, prompts, config)[0]
    finally:
        model.generation_config.eos_token_id = before
    assert (ended.finish_reason, ended.n_tokens) == ('stop', ids.index(ids[3]) + 1)


def test_sampling_is_seeded_and_leaves_the_callers_randomness_alone(tok, model):
    prompts = toy_prompts(tok, 4)
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    one, same, other = (generate(model, tok, prompts, SAMPLED, seed=s) for s in (1, 1, 2))
    assert one == same != other and torch.rand(1) == expected


def test_several_samples_are_numbered_and_differ(tmp_path, tok, model):
    prompts, path = toy_prompts(tok, 3) + [Encoded('long', (5,) * 1020, (False,) * 1020)], tmp_path / 'g.jsonl'
    config = replace(SAMPLED, num_return_sequences=3)
    made = generate(model, tok, prompts, config, seed=1, path=path)
    assert [(g.id, g.sample) for g in made] == [(p.id, k) for p in prompts for k in range(3)]
    assert all(len({g.text for g in made[i : i + 3]}) > 1 for i in (0, 3, 6))
    assert {g.finish_reason for g in made[9:]} == {'too_long'} and len(read_jsonl(path, Generation)) == 12
    with pytest.raises(TracenbError, match='its ids are not those of these prompts'):
        generate(model, tok, prompts, SAMPLED, seed=1, path=path)  # one sample each


def test_ids_must_be_unique():
    with pytest.raises(TracenbError, match="the id 'a'"):
        plan_prompts([Encoded('a', (1,), (False,))] * 2, GenerateConfig(), 1000)


@pytest.mark.parametrize(
    'bad,message',
    [
        (dict(batch_size=0), 'batch_size is 0'),
        (dict(temperature=0.0), 'do_sample=False'),
        (dict(top_p=1.5), 'top_p is at most 1'),
        (dict(num_return_sequences=0, do_sample=True), 'num_return_sequences is 0'),
        (dict(num_return_sequences=2), 'num_return_sequences is 2 without sampling'),
    ],
)
def test_bad_settings_are_named(tok, model, bad, message):
    with pytest.raises(TracenbError, match=message):
        generate(model, tok, [], GenerateConfig(**bad))
