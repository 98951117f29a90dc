"""Loss, padding, gradient checkpointing and LoRA on architectures of transformers, tiny and with random weights."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tracenb.core.records import TracenbError
from tracenb.models import batches
from tracenb.models.adapters import attach_adapter, load_adapter, lora_share
from tracenb.models.batches import TrainConfig, collate, completion_loss, scoring
from tracenb.models.loading import activation_checkpointing
from tracenb.models.training import train
from tracenb.traces.loss_mask import Encoded

SIZES = dict(
    **dict.fromkeys(('hidden_size', 'n_embd', 'd_model', 'word_embed_proj_dim'), 32),
    **dict.fromkeys(('intermediate_size', 'ffn_dim', 'n_inner', 'd_ff'), 48),
    **dict.fromkeys(('num_hidden_layers', 'n_layer', 'n_layers', 'num_layers', 'decoder_layers'), 2),
    **dict.fromkeys(('num_attention_heads', 'n_head', 'n_heads', 'num_heads', 'attention_heads'), 4),
    **dict.fromkeys(('max_position_embeddings', 'n_positions', 'n_ctx', 'max_seq_len'), 64),
    **dict.fromkeys(('num_experts', 'num_local_experts', 'n_routed_experts'), 4),
    **dict.fromkeys(('moe_intermediate_size', 'shared_expert_intermediate_size', 'q_lora_rank', 'kv_lora_rank'), 16),
    **dict.fromkeys(('qk_rope_head_dim', 'qk_nope_head_dim', 'v_head_dim', 'head_dim', 'sliding_window'), 8),
    **dict.fromkeys(('num_experts_per_tok', 'top_k'), 2),
    **dict.fromkeys(('n_group', 'topk_group', 'first_k_dense_replace'), 1),
    **dict(num_key_value_heads=2, vocab_size=64, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    # state spaces
    **dict(state_size=4, mamba_d_state=4, mamba_n_heads=4, mamba_d_head=16, mamba_d_ssm=64, mamba_n_groups=1),
    **dict(mamba_chunk_size=8, mamba_expand=2, conv_L_cache=3),
    # what some do to their scores; small caps, so that they are seen
    **dict(final_logit_softcapping=2.0, attn_logit_softcapping=5.0, logits_scaling=4.0, lm_head_multiplier=0.5),
)
MORE = dict(
    bamba=dict(attn_layer_indices=[1]),
    deepseek_v2=dict(num_key_value_heads=4, num_experts_per_tok=2),
    deepseek_v3=dict(num_key_value_heads=4),
    gpt_neo=dict(attention_types=[[['global', 'local'], 1]]),
    jamba=dict(attn_layer_period=2, attn_layer_offset=1, mamba_dt_rank=4),
    lfm2=dict(layer_types=['conv', 'full_attention']),
    minicpm3=dict(num_key_value_heads=4),
    nemotron=dict(num_key_value_heads=2),
    recurrent_gemma=dict(block_types=['recurrent', 'attention'], attention_window_size=8, logits_soft_cap=2.0),
    mamba2=dict(num_heads=4, head_dim=16, n_groups=1, chunk_size=8),
)
KINDS = """
bamba bloom cohere cohere2 deepseek_v2 deepseek_v3 exaone4 falcon falcon_h1 gemma gemma2 gemma3_text glm glm4 gpt2
gpt_neox gpt_oss granite granitemoe helium lfm2 llama mamba mistral mixtral modernbert-decoder mpt nemotron olmo olmo2
opt phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe smollm3 stablelm starcoder2
""".split()
RARE = """
afmoe apertus arcee biogpt bitnet cwm diffllama doge ernie4_5 ernie4_5_moe exaone_moe falcon_mamba flex_olmo glm4_moe
gpt_bigcode gpt_neo granitemoeshared hyperclovax jamba jetmoe mamba2 minicpm3 minimax ministral3 nanochat olmo3 olmoe
openai-gpt persimmon phimoe qwen3_5_text qwen3_next recurrent_gemma seed_oss solar_open vaultgemma xglm
""".split()
ALL = [*KINDS, *(pytest.param(kind, marks=pytest.mark.exhaustive) for kind in RARE)]
LENGTHS = (9, 14, 5, 11)


def tiny(kind, **more):
    "A random model of this architecture in fp32, with scores that are large enough to tell models apart."
    usual = AutoConfig.for_model(kind)
    named = lambda key: hasattr(usual, key) and key not in usual.attribute_map  # not under another name
    may = lambda key: not isinstance(getattr(type(usual), key, None), property)
    sizes = {k: v for k, v in SIZES.items() if named(k) and may(k) and getattr(usual, k) is not None}
    if named('layer_types') and may('layer_types') and getattr(usual, 'layer_types', None):
        kinds = sorted(set(usual.layer_types))
        sizes['layer_types'] = [kinds[0], kinds[-1]]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **sizes | dict(pad_token_id=0) | MORE.get(kind, {}) | more)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for m in model.modules():
        if isinstance(m, (torch.nn.Linear, torch.nn.Embedding)):
            torch.nn.init.normal_(m.weight, std=0.3)
    return model.eval()


def row(k, n):
    ids = tuple((7 * i * (k + 3) + 5 * k) % 60 + 3 for i in range(n))
    return Encoded(str(k), ids, tuple(i >= n // 2 for i in range(n)))


ROWS = [row(k, n) for k, n in enumerate(LENGTHS)]


NO_DROPOUT = TrainConfig(r=2, lora_dropout=0.0, target_modules='all-linear')


def lora(model, config=NO_DROPOUT):
    "With an adapter that changes the model: the one that training begins with does not."
    adapted = attach_adapter(model, config, seed=1)
    for name, p in adapted.named_parameters():
        if 'lora_B' in name:
            torch.nn.init.normal_(p, std=0.1)
    return adapted


def loss_and_gradient(adapted, checkpointing, batch):
    adapted.train().zero_grad()
    with activation_checkpointing(adapted.get_base_model(), checkpointing):
        torch.manual_seed(0)  # models have dropout of their own
        loss = completion_loss(adapted, *batch)
        loss.backward()
    trained = [p.grad.norm() for p in adapted.parameters() if p.requires_grad]
    return loss.item(), torch.stack(trained).norm().item()


@pytest.mark.parametrize('kind', ALL)
def test_the_loss_is_the_models_own_and_padding_and_checkpointing_change_nothing(kind):
    model, (ids, labels) = tiny(kind), collate(ROWS, 0, 'completion')
    n = (labels != -100).sum()
    with torch.no_grad():
        ours, theirs = completion_loss(model, ids, labels) / n, model(input_ids=ids, labels=labels).loss
        alone = sum(completion_loss(model, *collate([r], 0, 'completion')) for r in ROWS) / n
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-4) == pytest.approx(alone.item(), rel=1e-4)
    adapted = lora(model)
    plain = loss_and_gradient(adapted, False, (ids, labels))
    assert abs(plain[0] / n.item() - ours.item()) > 1e-4 and plain[1] > 0, 'the adapter is used'
    if not model.supports_gradient_checkpointing:
        with pytest.raises(TracenbError, match='gradient_checkpointing: false'), activation_checkpointing(model, True):
            pass
        return
    assert loss_and_gradient(adapted, True, (ids, labels)) == pytest.approx(plain, rel=1e-4)


SCORED = dict(
    layer=('llama', 'qwen3_moe', 'mamba'),
    forward=('cohere', 'falcon_h1', 'gemma2', 'granite'),
    whole=('modernbert-decoder',),
)


@pytest.mark.parametrize('how,kind', [(how, kind) for how, kinds in SCORED.items() for kind in kinds])
def test_chunks_of_labels_change_neither_loss_nor_gradient(how, kind, monkeypatch):
    model, batch, found = tiny(kind), collate(ROWS, 0, 'all'), []
    assert scoring(model) == how and not model.training
    for chunk in (2**25, 64 * 7):  # all labels at once, or seven
        monkeypatch.setattr(batches, '_CHUNK', chunk)
        loss = completion_loss(model, *batch)
        gradients = torch.autograd.grad(loss, model.parameters(), allow_unused=True)
        found.append([loss.detach(), *(g for g in gradients if g is not None)])
    assert all(torch.allclose(one, many, rtol=1e-4, atol=1e-3) for one, many in zip(*found, strict=True))


def test_the_loss_of_routers_is_left_out():
    model, (ids, labels) = tiny('mixtral', output_router_logits=True, router_aux_loss_coef=1.0), collate(ROWS, 0, 'all')
    with torch.no_grad():
        ours, theirs = completion_loss(model, ids, labels) / (labels[:, 1:] != -100).sum(), model(ids, labels=labels)
    assert ours.item() == pytest.approx(theirs.loss.item() - theirs.aux_loss.item(), rel=1e-4) != theirs.loss.item()


def test_a_model_that_looks_ahead_is_refused():
    with pytest.raises(TracenbError, match='a model of type bert looks ahead'):
        completion_loss(tiny('bert'), *collate(ROWS, 0, 'completion'))


SHARES = dict(llama=1, phi3=0.35, lfm2=0.04, mixtral=0.14, gpt_oss=0.13)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', SHARES)
def test_the_share_that_lora_reaches_is_that_of_the_layers_that_have_it(kind):
    adapted = attach_adapter(tiny(kind), TrainConfig(), seed=1)
    share, experts = lora_share(adapted)
    reached = sum(m.base_layer.weight.numel() for m in adapted.modules() if hasattr(m, 'lora_A'))
    head, base = adapted.get_output_embeddings(), adapted.get_base_model()
    layers = [m for m in base.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    names = {id(m): n for n, m in base.named_modules()}
    n = sum(m.weight.numel() for m in layers if '.lora_' not in names[id(m)])
    tensors = sum(p.numel() for n, p in base.named_parameters() if 'experts' in n and p.dim() == 3)
    assert share == pytest.approx(reached / (n + tensors), abs=0.02) == pytest.approx(SHARES[kind], abs=0.02)
    assert experts == pytest.approx(tensors / (n + tensors), abs=0.03)  # small tensors beside count, too


@pytest.mark.parametrize('kind', KINDS)
def test_all_linear_reaches_what_it_can(kind):
    "Every linear layer but routers that are more than one, and the last layer of state spaces."
    adapted = attach_adapter(tiny(kind), TrainConfig(r=2, lora_dropout=0.0, target_modules='all-linear'), seed=1)
    share, experts = lora_share(adapted)
    assert share + experts > 0.6
    assert not hasattr(adapted.get_output_embeddings(), 'lora_A')


@pytest.mark.parametrize('kind', ['qwen3_moe', 'deepseek_v3'])
def test_dropout_on_experts_is_refused_by_name(kind):
    with pytest.raises(TracenbError, match=f'no adapter fits {kind}: .*dropout.*\n  -> set lora_dropout: 0'):
        attach_adapter(tiny(kind), TrainConfig(), seed=1)
    share, experts = lora_share(attach_adapter(tiny(kind), TrainConfig(lora_dropout=0.0), seed=1))
    assert share > 0.3 and experts == 0, 'without dropout PEFT reaches them'


ODD = ['falcon_h1', 'gemma2', 'gpt2', 'gpt_oss', 'lfm2', 'mamba', 'modernbert-decoder', 'phi3', 'qwen3_moe']


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ODD)
def test_training_works_on_unusual_models(kind, tmp_path, tok):
    config = TrainConfig(
        num_train_epochs=12, gradient_accumulation_steps=1, learning_rate=0.03, warmup_steps=2, save_steps=0
    )
    model = tiny(kind)
    summary = train(model, tok, ROWS, replace(config, target_modules='all-linear'), seed=1, out=tmp_path)
    first = json.loads((tmp_path / 'train_log.jsonl').read_text().splitlines()[0])
    with torch.no_grad():
        before = completion_loss(model, *collate(ROWS, 0, 'completion')) / first['loss_tokens']
        tuned = completion_loss(load_adapter(model, tmp_path / 'adapter'), *collate(ROWS, 0, 'completion'))
    assert first['loss'] == pytest.approx(before.item(), rel=0.2), 'dropout apart, training begins with the model'
    assert tuned / first['loss_tokens'] < 0.8 * before and 0 < summary['lora_share'] <= 1
    assert f'| lora_share | {summary["lora_share"]} |' in (tmp_path / 'adapter/README.md').read_text()


def test_a_small_share_is_warned_about(tmp_path, tok):
    with pytest.warns(UserWarning, match='LoRA reaches [0-9]+% .* type phi3 .*\n  -> set target_modules: all-linear'):
        train(tiny('phi3'), tok, ROWS, TrainConfig(max_steps=1), seed=1, out=tmp_path)


def test_an_adapter_on_all_layers_is_trained_on(tmp_path, tok):
    model, config = tiny('phi3'), TrainConfig(max_steps=1, target_modules='all-linear')
    train(model, tok, ROWS, config, seed=1, out=tmp_path / 'a')
    more = replace(config, resume_from=str(tmp_path / 'a/adapter'))
    assert train(model, tok, ROWS, more, seed=1, out=tmp_path / 'b')['lora_share'] == 1
