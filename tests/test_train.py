"""The loss, the adapter, and a run that is killed and goes on."""

import json
import os
import signal
import textwrap
import time
from dataclasses import replace

import forked
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoTokenizer

from tracenb.core.files import read_jsonl, write_jsonl
from tracenb.core.records import Trace, TracenbError
from tracenb.models.adapters import attach_adapter, load_adapter
from tracenb.models.batches import TrainConfig, collate, completion_loss, fit_rows, padding_share, plan_batches
from tracenb.models.loading import linear4bit, load_model
from tracenb.models.training import save_checkpoint, train
from tracenb.tasks.task import DataConfig, get_task, load_examples, toy
from tracenb.traces.chat import render
from tracenb.traces.conditions import build_traces
from tracenb.traces.loss_mask import Encoded, encode

QUICK = TrainConfig(
    num_train_epochs=2, batch_size=4, gradient_accumulation_steps=1, learning_rate=1e-2, warmup_steps=2, save_steps=3
)


def toy_rows(tokenizer, n=24):
    trace = lambda e: Trace(e.id, 'correct', toy.trace_text(e, toy.decompose(e)), toy.decompose(e), 'rule')
    return [encode(render(e, trace(e), toy), tokenizer) for e in load_examples(toy, DataConfig(n_train=n), 'train')]


@pytest.fixture(scope='module')
def rows(tok):
    return toy_rows(tok)


def weights(out):
    return (out / 'adapter/adapter_model.safetensors').read_bytes()


def test_the_loss_is_the_models_own_and_padding_is_no_label(tok, rows):
    model = load_model('tiny-random', device='cpu', dtype='float32')
    ids, labels = collate(rows, tok.pad_token_id, 'completion')
    n = sum(sum(r.loss_mask) for r in rows)
    assert (labels != -100).sum() == n
    ends = [r.loss_mask[-1] and r.input_ids[-1] == tok.eos_token_id == tok.pad_token_id for r in rows]
    # each row's end token is trained on, padding is not
    assert all(ends) and (labels == tok.eos_token_id).sum() == len(rows)
    with torch.no_grad():
        ours, theirs = completion_loss(model, ids, labels) / n, model(ids, labels=labels).loss
        alone = sum(completion_loss(model, *collate([r], 0, 'completion')) for r in rows) / n
    assert torch.allclose(ours, theirs, atol=1e-4) and torch.allclose(ours, alone, atol=1e-4)


def test_chunks_of_labels_give_the_same_loss_and_gradient(tok, rows, monkeypatch):
    model = load_model('tiny-random', quantize='none', device='cpu', dtype='float32')
    batch, found = collate(rows, tok.pad_token_id, 'all'), []
    for chunk in (2**25, 512 * 7):  # one chunk, or seven labels at a time
        monkeypatch.setattr('tracenb.models.batches._CHUNK', chunk)
        loss = completion_loss(model, *batch)
        found.append((loss.detach(), *torch.autograd.grad(loss, model.parameters())))
    assert all(torch.allclose(one, many, rtol=1e-4, atol=1e-4) for one, many in zip(*found))


def test_activations_are_computed_twice_where_memory_asks_for_it(tok, rows, tmp_path, monkeypatch):
    model, made = load_model('tiny-random', device='cpu', dtype='float32'), {}
    enable = type(model).activation_checkpointing_enable
    monkeypatch.setattr(
        type(model), 'activation_checkpointing_enable', lambda *args: made.setdefault('twice', enable(*args) or True)
    )
    config = replace(QUICK, num_train_epochs=1, gradient_checkpointing=None)
    train(model, tok, rows, config, 1, tmp_path / 'enough')
    assert not made
    monkeypatch.setattr('tracenb.models.batches.free_memory', lambda device: 10**5)
    train(model, tok, rows, config, 1, tmp_path / 'little')
    assert made == {'twice': True} and weights(tmp_path / 'enough') == weights(tmp_path / 'little')


def test_a_checkpoint_of_another_optimizer_is_refused_by_name(tok, rows, tmp_path, monkeypatch):
    model = load_model('tiny-random', device='cpu', dtype='float32')

    def stop(line):
        if line['step'] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, tok, rows, QUICK, 1, tmp_path, on_step=stop)
    [kept] = (tmp_path / 'checkpoints').glob('*.pt')
    torch.save(torch.load(kept) | dict(optim='paged_adamw_8bit'), kept)  # as a GPU writes it
    with pytest.raises(TracenbError, match='made with the optimizer paged_adamw_8bit, this machine would use adamw_t'):
        train(model, tok, rows, QUICK, 1, tmp_path)
    assert kept.exists()


def test_a_checkpoint_with_random_states_of_more_gpus_goes_on(tok, rows, tmp_path):
    model, stops = load_model('tiny-random', device='cpu', dtype='float32'), [4]

    def stop(line):
        if line['step'] in stops:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, tok, rows, QUICK, 1, tmp_path / 'a', on_step=stop)
    [kept] = (tmp_path / 'a' / 'checkpoints').glob('*.pt')
    torch.save(torch.load(kept) | dict(cuda=[torch.get_rng_state()] * 4), kept)
    stops.clear()
    train(model, tok, rows, QUICK, 1, tmp_path / 'a')
    train(model, tok, rows, QUICK, 1, tmp_path / 'b')
    assert weights(tmp_path / 'a') == weights(tmp_path / 'b')


def test_loss_on_everything_covers_the_prompt(tok, rows):
    n = sum(len(r.input_ids) for r in rows)
    assert (
        (collate(rows, tok.pad_token_id, 'all')[1] != -100).sum()
        == n
        > (collate(rows, tok.pad_token_id, 'completion')[1] != -100).sum()
    )


LENGTHS = [2 + 7 * i % 41 for i in range(50)]
OF_LENGTH = [Encoded(str(i), (1,) * n, (False,) * (n // 2) + (True,) * (n - n // 2)) for i, n in enumerate(LENGTHS)]


def test_batches_cover_each_epoch_and_are_of_like_length():
    plan = plan_batches(OF_LENGTH, TrainConfig(num_train_epochs=3, batch_size=4, gradient_accumulation_steps=4), seed=1)
    batches = [b for step in plan for b in step]
    assert sorted(i for b in batches for i in b) == sorted([*range(50)] * 3)
    assert all(len(step) == 4 for step in plan[:-1]) and len(batches) == 3 * 13
    assert padding_share(OF_LENGTH, plan) < 0.17
    assert sum(max(LENGTHS[i] for i in b) * len(b) for b in batches) < 1.2 * 3 * sum(LENGTHS)
    assert plan != plan_batches(
        OF_LENGTH, TrainConfig(num_train_epochs=3, batch_size=4, gradient_accumulation_steps=4), seed=2
    )


@pytest.mark.parametrize('dataset', ['babi', 'cotempqa', 'msmarco'])
def test_all_conditions_share_their_batches(dataset, tok):
    "However long their traces are; and few batches hold one label."
    task = get_task(dataset)
    examples = task.simulate(240, 0, 'train', task.labels, 120)
    config = TrainConfig(num_train_epochs=2, gradient_accumulation_steps=1)
    encoded = [
        [encode(render(e, t, task), tok) for e, t in zip(examples, build_traces(examples, task, name, seed=3))]
        for name in ('vanilla', 'correct', 'incorrect', 'filler', 'wrong_label')
    ]
    plans = [plan_batches(rows, config, seed=3) for rows in encoded]
    assert len({tuple(len(r.input_ids) for r in rows) for rows in encoded}) > 2
    assert all(plan == plans[0] for plan in plans)
    pure = [len({examples[i].meta['label'] for i in b}) == 1 for [b] in plans[0]]
    assert sum(pure) < 0.2 * len(pure)
    apart = plan_batches(encoded[0], TrainConfig(num_train_epochs=2, group_by_length=False), seed=3)
    assert padding_share(encoded[0], apart) > padding_share(encoded[0], plans[0])


@pytest.mark.parametrize('loss', ['completion', 'all'])
@pytest.mark.parametrize('budget', [1, 300, 5000])
def test_a_budget_stops_at_the_first_step_that_reaches_it(loss, budget):
    "Counted by the labels that the loss sees, not by the function that plans."
    config = TrainConfig(budget=budget, batch_size=4, gradient_accumulation_steps=2, loss=loss)
    plan = plan_batches(OF_LENGTH, config, seed=1)
    seen = lambda steps: sum(
        (collate([OF_LENGTH[i] for i in b], 0, loss)[1][:, 1:] != -100).sum().item() for step in steps for b in step
    )
    assert seen(plan[:-1]) < budget <= seen(plan)
    counts = [sum(i in b for step in plan for b in step) for i in range(50)]
    assert max(counts) - min(counts) <= 1, 'no example is seen twice more than another'


def test_rows_that_do_not_fit_are_left_out_whole():
    rows = [Encoded('short', (1, 2), (False, True)), Encoded('long', (1, 2, 3), (False, True, True))]
    assert fit_rows(rows, 2) == ([rows[0]], ['long'])
    with pytest.raises(TracenbError, match='none of 2 rows fits into 1 tokens'):
        fit_rows(rows, 1)
    with pytest.raises(TracenbError, match='no completion: p'):
        fit_rows([Encoded('p', (1,), (False,))], 9)


def test_the_seed_decides_the_adapter(model):
    drawn = []
    for seed in (1, 1, 2):
        adapted = attach_adapter(model, QUICK, seed)
        drawn.append([p.clone() for n, p in adapted.named_parameters() if 'lora_A' in n])
        adapted.unload()
    a, b, c = drawn
    assert all(map(torch.equal, a, b)) and not any(map(torch.equal, a, c))


def test_training_leaves_a_plain_adapter_and_the_base_as_it_was(tmp_path, model, tok, rows):
    ids, labels = collate(rows, tok.pad_token_id, 'completion')
    with torch.no_grad():
        before = model(ids).logits
    summary = train(model, tok, rows, QUICK, seed=1, out=tmp_path)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    assert len(linear4bit(model)) == 14 and not model.training
    log = read_jsonl(tmp_path / 'train_log.jsonl')
    assert (
        [x['step'] for x in log] == [*range(1, 13)] and log[-1]['loss'] < 0.7 * log[0]['loss'] and log[-1]['epoch'] == 2
    )
    assert {p.name for p in tmp_path.iterdir()} == {'adapter', 'train_log.jsonl'}
    card = (tmp_path / 'adapter/README.md').read_text()
    assert card.startswith('---\nbase_model: tiny-random\nlibrary_name: peft') and '| learning_rate | 0.01 |' in card
    n = sum(t.numel() for t in load_file(tmp_path / 'adapter/adapter_model.safetensors').values())
    for words in ('trained on NF4', '(digest), beside the adapter', f'| trainable parameters | {n:,} of '):
        assert words in card
    beside = AutoTokenizer.from_pretrained(tmp_path / 'adapter')
    assert beside.chat_template == tok.chat_template and beside('a b').input_ids == tok('a b').input_ids
    assert not any(str(tmp_path.home()) in p.read_text() for p in (tmp_path / 'adapter').glob('*.json'))
    assert summary['tokens'] == 2 * sum(len(r.input_ids) for r in rows) and summary['optim'] == 'adamw_torch'
    with torch.no_grad():
        ours = load_adapter(model, tmp_path / 'adapter')(ids).logits
        theirs = (
            PeftModel.from_pretrained(load_model('tiny-random', device='cpu'), tmp_path / 'adapter').eval()(ids).logits
        )
    assert torch.allclose(ours.float(), theirs.float(), rtol=0.05, atol=0.5) and not torch.equal(ours, before)


def test_training_after_an_evaluation_is_the_same(tmp_path, tok, rows):
    fresh, used = load_model('tiny-random', device='cpu'), load_model('tiny-random', device='cpu')
    with torch.no_grad():
        used.eval()(torch.arange(40)[None])
    for name, model in (('fresh', fresh), ('used', used)):
        train(model, tok, rows, QUICK, 1, tmp_path / name)
    assert weights(tmp_path / 'fresh') == weights(tmp_path / 'used')


def test_interrupted_and_resumed_is_uninterrupted(tmp_path, model, tok, rows):
    def stop(line):
        if line['step'] == 8:
            raise KeyboardInterrupt

    train(model, tok, rows, QUICK, 1, tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
        train(model, tok, rows, QUICK, 1, tmp_path / 'cut', on_step=stop)
    assert not (tmp_path / 'cut/adapter').exists() and [p.name for p in (tmp_path / 'cut/checkpoints').iterdir()] == [
        'step-000006.pt'
    ]
    with pytest.raises(TracenbError, match='belongs to other rows, settings or another seed'):
        train(model, tok, rows, QUICK, 2, tmp_path / 'cut')
    same = replace(QUICK, report_to='tensorboard', save_steps=7)  # changes no figure: the checkpoint is of the same run
    log = tmp_path / 'cut/train_log.jsonl'
    write_jsonl(log, [x | dict(seconds=900.0 + x['step']) for x in read_jsonl(log)])
    summary = train(model, tok, rows, same, 1, tmp_path / 'cut')
    assert summary['resumed_at'] == 6 and 906 < summary['seconds'] < 960, 'the time before the interruption counts'
    assert weights(tmp_path / 'cut') == weights(tmp_path / 'whole')
    drop = lambda out: [{k: v for k, v in x.items() if k != 'seconds'} for x in read_jsonl(out / 'train_log.jsonl')]
    assert drop(tmp_path / 'cut') == drop(tmp_path / 'whole')


KILLED = textwrap.dedent("""
    import sys, time
    from test_train import QUICK, load_model, toy_rows, train
    from tracenb.models.loading import load_tokenizer
    tok = load_tokenizer('tiny-random')
    slow = lambda line: time.sleep(0.3 if line['step'] > 6 else 0)
    train(load_model('tiny-random', device='cpu'), tok, toy_rows(tok), QUICK, 1, sys.argv[1], on_step=slow)
""")


def test_a_killed_process_goes_on_where_it_was(tmp_path, model, tok, rows):
    env = {**os.environ, 'CI': '1'}
    running = forked.start(KILLED, tmp_path / 'cut', env=env)
    log, until = tmp_path / 'cut/train_log.jsonl', time.monotonic() + 120
    while time.monotonic() < until and not (log.exists() and log.read_text().count('\n') >= 7):
        time.sleep(0.05)
    running.kill()
    running.join()
    assert running.exitcode == -signal.SIGKILL and not (tmp_path / 'cut/adapter').exists()
    with open(log, 'a') as f:
        f.write('{"step": 8, "lo')  # a torn line, as a kill may leave
    assert train(model, tok, rows, QUICK, 1, tmp_path / 'cut')['resumed_at'] == 6
    train(model, tok, rows, QUICK, 1, tmp_path / 'whole')
    assert weights(tmp_path / 'cut') == weights(tmp_path / 'whole')
    assert [x['step'] for x in read_jsonl(log)] == [*range(1, 13)]


def test_an_interrupt_at_a_checkpoint_loses_no_line_of_the_log(tmp_path, model, tok, rows, monkeypatch):
    def save_and_stop(folder, step, settings, state):
        save_checkpoint(folder, step, settings, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr('tracenb.models.training.save_checkpoint', save_and_stop)
        with pytest.raises(KeyboardInterrupt):
            train(model, tok, rows, QUICK, 1, tmp_path)
    assert train(model, tok, rows, QUICK, 1, tmp_path)['resumed_at'] == 3
    assert [x['step'] for x in read_jsonl(tmp_path / 'train_log.jsonl')] == [*range(1, 13)]


def test_checkpointing_and_accumulation_change_how_not_what(tmp_path, tok, rows):
    model, first = load_model('tiny-random', device='cpu', dtype='float32'), {}
    base = dict(num_train_epochs=1, learning_rate=1e-3, lora_dropout=0.0, save_steps=0)
    for name, how in dict(
        plain=dict(batch_size=24, gradient_accumulation_steps=1, gradient_checkpointing=False),
        small=dict(batch_size=4, gradient_accumulation_steps=6, gradient_checkpointing=False),
        checkpointed=dict(batch_size=24, gradient_accumulation_steps=1),
    ).items():
        train(model, tok, rows, TrainConfig(**base, **how), 1, tmp_path / name)
        first[name] = read_jsonl(tmp_path / name / 'train_log.jsonl')[0]
    for name in ('small', 'checkpointed'):
        assert first[name]['loss'] == pytest.approx(first['plain']['loss'], rel=1e-4)
        assert first[name]['grad_norm'] == pytest.approx(first['plain']['grad_norm'], rel=1e-3)


def test_tensorboard_gets_the_numbers(tmp_path, model, tok, rows):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = TrainConfig(num_train_epochs=1, batch_size=8, gradient_accumulation_steps=1, report_to='tensorboard')
    train(model, tok, rows, config, 1, tmp_path)
    events = [EventAccumulator(str(p.parent)).Reload() for p in tmp_path.rglob('events.out.tfevents*')]
    losses = [x.value for e in events if 'loss' in e.Tags()['scalars'] for x in e.Scalars('loss')]
    assert (
        losses == pytest.approx([x['loss'] for x in read_jsonl(tmp_path / 'train_log.jsonl')], abs=1e-4)
        and len(losses) == 3
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a CUDA device')
def test_the_paged_optimizer_needs_a_gpu(tmp_path, model, tok, rows):
    with pytest.raises(TracenbError, match='needs a CUDA device'):
        train(model, tok, rows, TrainConfig(optim='paged_adamw_8bit'), 1, tmp_path)


@pytest.mark.parametrize(
    'bad,message',
    [
        (dict(loss='prompt'), 'unknown loss'),
        (dict(report_to='tensorbord'), "did you mean 'tensorboard'"),
        (dict(learning_rate=-1.0), 'learning_rate is -1.0'),
        (dict(target_modules=('attention',)), 'no adapter fits llama'),
    ],
)
def test_bad_settings_are_named(tmp_path, model, tok, rows, bad, message):
    with pytest.raises(TracenbError, match=message):
        train(model, tok, rows, TrainConfig(num_train_epochs=1, **bad), 1, tmp_path)
    assert len(linear4bit(model)) == 14 and not (tmp_path / 'adapter').exists()


def test_an_adapter_of_another_model_is_refused(tmp_path, model, tok, rows):
    train(model, tok, rows, TrainConfig(num_train_epochs=1, gradient_accumulation_steps=1), 1, tmp_path)
    settings = json.loads((tmp_path / 'adapter/adapter_config.json').read_text())
    (tmp_path / 'adapter/adapter_config.json').write_text(json.dumps(settings | {'r': 4}))
    with pytest.raises(TracenbError, match='does not fit tiny-random'):
        load_adapter(model, tmp_path / 'adapter')


def test_the_embedded_model_learns(tmp_path, embedded):
    tok, model = embedded
    config = TrainConfig(
        num_train_epochs=5,
        batch_size=2,
        gradient_accumulation_steps=1,
        learning_rate=2e-3,
        warmup_steps=1,
        lora_dropout=0.0,
        gradient_checkpointing=False,
    )
    train(model, tok, toy_rows(tok, 3)[:2], config, 1, tmp_path)
    log = read_jsonl(tmp_path / 'train_log.jsonl')
    assert log[-1]['loss'] < 0.5 * log[0]['loss']
    assert (
        json.loads((tmp_path / 'adapter/adapter_config.json').read_text())['base_model_name_or_path']
        == 'HuggingFaceTB/SmolLM2-135M-Instruct'
    )
