"""Scores under forced traces are those of plain forward passes over the tokens that training uses."""

import pytest
import torch
from test_chat import tokenizer as byte_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from tracenb.core.records import ChatExample, Example, TracenbError
from tracenb.interventions import Probe, Subject
from tracenb.interventions.probes import (
    TokenTree,
    attention_mask,
    cut_trace,
    forced_chat,
    forced_response,
    forced_tokens,
    prompt_tokens,
    trace_offsets,
)
from tracenb.interventions.subject import MAX_NEW
from tracenb.models.adapters import attach_adapter
from tracenb.models.batches import TrainConfig
from tracenb.models.loading import linear4bit, load_model, load_tokenizer
from tracenb.tasks.task import toy
from tracenb.traces.chat import TEMPLATES
from tracenb.traces.loss_mask import decode_text, encode, escape_special

CONTEXT = ('Ann is in the shop.', 'Bob has 12 red apples.', 'Ann is in the shop.', 'The café — Zoë’s — is open.')
E = Example(id='e', dataset='toy', split='test', context=CONTEXT, question='Where is Ann?', answers=('shop',))
CHAT = ChatExample(
    id='e',
    prompt=({'role': 'system', 'content': 'Be brief.'}, {'role': 'user', 'content': toy.prompt(E)}),
    completion=({'role': 'assistant', 'content': 'shop'},),
)
TRACE = "The category is: place.\nI need: ['Ann is in the shop.']"
TRACES = (TRACE, '', 'No', ' .' * 20, 'Zoë’s café 🙂 is\n\nopen.\n', 'a <|im_end|> b')
ANSWERS = ('shop', '12', '-3.5', 'red,blue', "['a', 'b']", 'No Answer Present.', '(x)', 'é', '<b>', 'Yes')


def merging(style='chatml'):
    "A tokenizer without pre-tokenization, which has tokens over both ends of tags: '>No', 'e.</', '>sh', 'p</'."
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [('N', 'o'), ('>', 'No'), ('s', 'h'), ('>', 'sh'), ('<', '/'), ('.', '</'), ('p', '</'), (']', '</')]
    vocab = {c: i for i, c in enumerate([*letters, *(a + b for a, b in pairs)])}
    tk = Tokenizer(models.BPE(vocab=vocab, merges=pairs))
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tk.decoder = decoders.ByteLevel()
    other = byte_tokenizer(style)
    tk.add_special_tokens(list(other.all_special_tokens) + ['<|im_start|>'])
    return PreTrainedTokenizerFast(
        tokenizer_object=tk, eos_token=other.eos_token, pad_token=other.eos_token, chat_template=TEMPLATES[style]
    )


TOKENIZERS = {style: byte_tokenizer(style) for style in TEMPLATES} | {
    f'merging-{style}': merging(style) for style in TEMPLATES
}
TOKENIZERS |= {name: load_tokenizer(name) for name in ('tiny-random', 'smollm2-135m')}


def tiny(kind, tok):
    "A small model with random weights."
    if kind == 'llama':
        return load_model('tiny-random', quantize='none', device='cpu', dtype='float32')
    config = dict(qwen2=Qwen2Config, qwen3=Qwen3Config)[kind](
        vocab_size=len(tok) + 5,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=1024,
        initializer_range=0.3,
    )
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config).eval()


def plain(model, tok, probe, whole_tag):
    "(logprob, greedy, n_tokens) from one forward pass over the ids of training, without cache, batch or mask."
    row = encode(forced_chat(CHAT, cut_trace(probe.trace, probe.until, tok), probe.answer), tok)
    ids = list(row.input_ids[:-1])
    first = row.loss_mask.index(True)
    written = lambda n: tok.decode(ids[first:n], clean_up_tokenization_spaces=False)
    tail = f'<answer>{probe.answer}</answer>'
    total = written(len(ids))
    assert total.rstrip('\n').endswith(tail)
    at = total.rindex(tail) + len('<answer>') - whole_tag
    # the first token that holds a character after `at`
    start = next(n for n in range(first, len(ids)) if len(written(n + 1)) > at)
    end = next(n for n in range(start, len(ids) + 1) if written(n).startswith(total[: total.rindex(tail) + len(tail)]))
    with torch.no_grad():
        logits = model(torch.tensor([ids[:end]])).logits[0].log_softmax(-1)
    found = [logits[n - 1, ids[n]].item() for n in range(start, end)]
    return sum(found), all(logits[n - 1].argmax() == ids[n] for n in range(start, end)), end - start


@pytest.mark.parametrize('name', TOKENIZERS)
def test_the_ids_are_those_of_training(name):
    tok = TOKENIZERS[name]
    pairs = [(t, a) for t in TRACES for a in ANSWERS]
    for (trace, answer), forced in zip(pairs, forced_tokens(CHAT, pairs, tok)):
        row = encode(forced_chat(CHAT, trace, answer), tok)
        k = row.loss_mask.index(True)
        assert prompt_tokens(CHAT, tok).ids == row.input_ids[:k]
        rest = row.input_ids[k + len(forced.ids) :]
        assert row.input_ids[k : k + len(forced.ids)] == forced.ids and rest[-1] == tok.eos_token_id
        assert tok.decode(rest[:-1]).strip() == ''
        assert tok.decode(forced.ids).endswith(f'{answer}</answer>')
        assert tok.decode(forced.ids[forced.start :]).lstrip('>') == f'{answer}</answer>'.lstrip('>')
        assert forced.start - forced.tag in (0, 1)
        said = tok.decode(forced.ids[slice(*forced.trace)])
        assert escape_special(dict(content=trace.strip()), tok)['content'] in said


def test_a_token_over_the_boundary_moves_the_start_of_all_answers():
    tok = TOKENIZERS['merging-chatml']
    no, dog = forced_tokens(CHAT, [('x', 'No'), ('x', 'dog')], tok)
    assert no.merged and not dog.merged and tok.decode([no.ids[no.start]]) == '>No'
    model = tiny('qwen2', tok)
    both = Subject(model, tok).score(CHAT, [Probe('x', 'No'), Probe('x', 'dog')])
    assert both[1].n_tokens == len('>dog</answer>') - 1  # '</' is one token
    alone = Subject(model, tok).score(CHAT, [Probe('x', 'dog')])[0]  # whatever else is asked
    assert alone.n_tokens == both[1].n_tokens and abs(alone.logprob - both[1].logprob) < 1e-4


MODELS = [
    ('llama', 'tiny-random'),
    *((kind, style) for kind in ('qwen2', 'qwen3') for style in ('chatml', 'qwen3', 'llama3', 'merging-chatml')),
]


@pytest.mark.parametrize('kind,name', MODELS)
def test_scores_are_those_of_plain_forward_passes(kind, name):
    tok = TOKENIZERS[name]
    model = tiny(kind, tok)
    cut = [Probe(TRACE, a, until=n) for n in (0, 1, 7, 20, 10**6) for a in ANSWERS[:2]]
    probes = [*(Probe(t, a) for t in TRACES for a in ANSWERS), *cut]
    whole = any(f.merged for f in forced_tokens(CHAT, [(p.trace, p.answer) for p in probes], tok))
    assert whole == (name == 'merging-chatml')
    wanted = [plain(model, tok, p, whole) for p in probes]
    for chunk in (64, 512):
        probed = Subject(model, tok, chunk=chunk).score(CHAT, probes)
        assert len(probed) == len(probes)
        for probe, got, (logprob, greedy, n) in zip(probes, probed, wanted):
            assert got.n_tokens == n and got.greedy == greedy, probe
            assert abs(got.logprob - logprob) < 1e-4, probe


def test_scores_on_the_embedded_model(embedded_fp32):
    tok, model = embedded_fp32
    probes = [Probe(TRACE, 'shop'), Probe(TRACE, '12', until=9), Probe('', 'No Answer Present.'), Probe(' .' * 9, 'é')]
    with Subject(model, tok, chunk=100).ready() as subject:
        for probe, got in zip(probes, subject.score(CHAT, probes)):
            logprob, greedy, n = plain(model, tok, probe, False)
            assert abs(got.logprob - logprob) < 1e-4 and (got.greedy, got.n_tokens) == (greedy, n)
    assert linear4bit(model)  # 4-bit again


def by_hand(model, tok, probe, gold, ban):
    "Logprob with a 4-D mask in one full forward; `ban(query, key)` over (index, kind) says what is not seen."
    [forced] = forced_tokens(CHAT, [(probe.trace, probe.answer)], tok)
    prompt = prompt_tokens(CHAT, tok, CONTEXT, gold)
    kinds = [set(g) for g in prompt.groups]
    kinds += [{'trace'} if forced.trace[0] <= i < forced.trace[1] else set() for i in range(len(forced.ids))]
    after = len(prompt.ids) + forced.trace[1]
    ids, n = [*prompt.ids, *forced.ids], len(kinds)
    mask = torch.full((1, 1, n, n), torch.finfo(torch.float32).min)
    for q in range(n):
        for k in range(q + 1):
            if q == k or not ban('end' if q >= after else 'trace' if 'trace' in kinds[q] else '', kinds[k]):
                mask[0, 0, q, k] = 0
    with torch.no_grad():
        logits = model(torch.tensor([ids]), attention_mask=mask).logits[0].log_softmax(-1)
    first = len(prompt.ids) + (forced.start)
    return sum(logits[i - 1, ids[i]].item() for i in range(first, n))


BANS = {
    ('trace',): lambda q, k: q == 'end' and 'trace' in k,
    ('context',): lambda q, k: q == 'end' and 'context' in k,
    ('trace', 'context'): lambda q, k: q == 'end' and bool(k & {'trace', 'context'}),
    ('gold',): lambda q, k: q == 'end' and 'gold' in k,
    ('control',): lambda q, k: q == 'end' and 'control' in k,
    ('trace<-context',): lambda q, k: q == 'trace' and 'context' in k,
    ('trace<-gold', 'context'): lambda q, k: q == 'trace' and 'gold' in k or q == 'end' and 'context' in k,
}


def adapted():
    "NF4 with an adapter that changes what the model says."
    model = attach_adapter(load_model('tiny-random', device='cpu', dtype='float32'), TrainConfig(), 3)
    torch.manual_seed(5)
    for name, p in model.named_parameters():
        if 'lora_B' in name:
            p.data = torch.randn_like(p) * 0.3
    return model


@pytest.mark.parametrize('kind', ['llama', 'nf4-lora'])
def test_hidden_tokens_are_those_of_a_mask_by_hand(kind):
    tok = TOKENIZERS['tiny-random']
    model = adapted().eval() if kind == 'nf4-lora' else tiny('llama', tok)
    probes = [Probe(TRACE, 'shop'), *(Probe(TRACE, 'shop', hide=h) for h in BANS)]
    got = [p.logprob for p in Subject(model, tok, chunk=100).score(CHAT, probes, CONTEXT, gold=(1,))]
    want = [by_hand(model, tok, probes[0], (1,), lambda q, k: False)]
    want += [by_hand(model, tok, probes[0], (1,), ban) for ban in BANS.values()]
    assert max(abs(a - b) for a, b in zip(got, want)) < 1e-4
    assert len({round(x, 4) for x in got}) == len(got)  # each hides something else
    if kind == 'nf4-lora':
        assert linear4bit(model)
        with model.disable_adapter():
            base = Subject(model, tok).score(CHAT, probes[:1])[0].logprob
        assert abs(base - got[0]) > 1e-2


def test_the_context_is_found_in_the_prompt_and_the_control_is_as_large_as_gold():
    for tok in TOKENIZERS.values():
        prompt = prompt_tokens(CHAT, tok, CONTEXT, gold=(1,))
        text = lambda name: tok.decode([i for i, g in zip(prompt.ids, prompt.groups) if name in g])
        assert 'Bob has 12 red apples.' in text('gold') and 'Ann' not in text('gold') and 'Bob' not in text('control')
        assert text('context').count('Ann is in the shop.') == 2  # each of two equal sentences at its own place
        assert 'Question' not in text('context')
        sizes = prompt.sizes()
        assert sizes['gold'] == sizes['control'] > 0
        assert prompt_tokens(CHAT, tok, CONTEXT, gold=(1, 2, 3)).sizes()['control'] == 0  # too little is left


def test_the_tree_computes_what_is_shared_once():
    tree, none = TokenTree(), frozenset()
    a = tree.add(-1, (1, none, none))
    assert [tree.add(a, (2, none, none)) for _ in range(3)] == [1, 1, 1] and len(tree) == 2
    b = tree.add(a, (2, none, frozenset(['trace'])))  # another one: it sees other things
    assert b == 2 and attention_mask(tree, [], [0, 1, 2]).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize('name', ['chatml', 'merging-chatml', 'qwen3', 'merging-qwen3'])
def test_the_greedy_answer_is_the_one_that_scoring_calls_greedy(name):
    tok = TOKENIZERS[name]
    model = tiny('qwen2', tok)
    subject = Subject(model, tok)
    answers = subject.answer(CHAT, [TRACE, 'No', ''], n_samples=3, seed=2)
    assert [len(a) for a in answers] == [4, 4, 4]
    for trace, (text, *samples) in zip((TRACE, 'No', ''), answers):
        new = by_generate(model, tok, trace, name.startswith('merging'))
        assert new.startswith(text.rstrip('\ufffd')) and text
        assert subject.answer(CHAT, [trace], n_samples=3, seed=2) == [[text, *samples]]  # alone as together
        assert subject.answer(CHAT, [trace], n_samples=3, seed=3)[0][1:] != samples
        assert len(set(samples)) > 1


def by_generate(model, tok, trace, whole_tag):
    "What transformers alone writes after the forced trace; its first token begins with '>' where these merge."
    [f] = forced_tokens(CHAT, [(trace, 'x')], tok)
    ids = [*prompt_tokens(CHAT, tok).ids, *f.ids[: f.tag if whole_tag else f.start]]
    allowed = [i for t, i in tok.get_vocab().items() if t.startswith('>')] if whole_tag else list(range(len(tok) + 5))
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1]
        first = max(allowed, key=lambda i: logits[i].item())
        out = model.generate(
            torch.tensor([[*ids, first]]),
            attention_mask=torch.ones(1, len(ids) + 1),
            max_new_tokens=MAX_NEW - 1,
            do_sample=False,
            pad_token_id=tok.pad_token_id,
        )[0, len(ids) :]
    text = decode_text(tok, out.tolist())
    return text.removeprefix('>') if whole_tag else text


def test_a_model_that_learned_the_answer_writes_it():
    "Trained to certainty on one answer: greedy decoding ends at the tag, scoring says so, and the parser reads it."
    tok = TOKENIZERS['chatml']
    model = tiny('qwen2', tok)
    row = torch.tensor([encode(forced_chat(CHAT, TRACE, 'red,blue'), tok).input_ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        model(row, labels=row).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    subject = Subject(model.eval(), tok)
    [[text, *samples]] = subject.answer(CHAT, [TRACE], n_samples=2)
    said, other = subject.score(CHAT, [Probe(TRACE, 'red,blue'), Probe(TRACE, 'red')])
    assert text == 'red,blue' and said.greedy and not other.greedy and said.logprob > other.logprob
    assert forced_response(E, TRACE, text, toy).answers == ('red', 'blue')


def test_what_is_too_long_is_refused_and_counted():
    tok = TOKENIZERS['tiny-random']
    subject = Subject(tiny('llama', tok), tok)
    long, short = Probe(' .' * 3000, 'shop'), Probe(TRACE, 'shop')
    assert subject.fits(CHAT, [long, short]) == [False, True]
    assert subject.fits(CHAT, [Probe(long.trace, 'shop', until=5)]) == [True]
    for call in (lambda: subject.score(CHAT, [short, long]), lambda: subject.answer(CHAT, [long.trace])):
        with pytest.raises(TracenbError, match='e: prompt, trace and answer are .* the model takes 1024'):
            call()
    n = len(prompt_tokens(CHAT, tok).ids)
    assert subject.score(CHAT, []) == [] and n < subject.limit == 1024


@pytest.mark.parametrize(
    'probe,message',
    [
        (Probe(TRACE, 'x', until=-1), 'until token -1'),
        (Probe(TRACE, 'x', hide=('tarce',)), "did you mean 'trace'"),
        (Probe(TRACE, 'x', hide=('context',)), 'no token of the prompt belongs to it'),
    ],
)
def test_bad_probes_are_named(probe, message):
    tok = TOKENIZERS['tiny-random']
    with pytest.raises(TracenbError, match=message):
        Subject(tiny('llama', tok), tok).score(CHAT, [probe])


def test_a_context_of_another_question_is_refused():
    with pytest.raises(TracenbError, match='does not hold the context sentence'):
        prompt_tokens(CHAT, TOKENIZERS['chatml'], ('Carl is away.',))


def test_a_template_that_loses_the_trace_is_refused():
    tok = byte_tokenizer('chatml')
    tok.chat_template = TEMPLATES['chatml'].replace("m['content']", "m['content'].split('</think>')[-1]")
    with pytest.raises(TracenbError, match='does not write the forced trace'):
        forced_tokens(CHAT, [(TRACE, 'x')], tok)


@pytest.mark.parametrize('name', TOKENIZERS)
def test_places_of_trace_tokens_cover_the_trace(name):
    tok = TOKENIZERS[name]
    for trace in TRACES[:4]:
        places = trace_offsets(trace, tok)
        assert ''.join(dict.fromkeys(trace[a:b] for a, b in places)) or not trace
        assert all(0 <= a <= b <= len(trace) for a, b in places)
        assert [b for _, b in places] == sorted(b for _, b in places)
        assert not places or places[-1][1] >= len(trace.rstrip('\n'))
        cuts = [cut_trace(trace, n, tok) for n in range(len(places) + 2)]
        assert cuts[0] == '' and cuts[-1] == trace and all(b.startswith(a) for a, b in zip(cuts, cuts[1:]))


def test_an_interruption_leaves_the_model_as_it_was():
    tok = TOKENIZERS['tiny-random']
    model = adapted()
    n = len(linear4bit(model))
    model.set_attn_implementation('eager')
    with pytest.raises(KeyboardInterrupt), Subject(model, tok).ready() as subject:
        assert not linear4bit(model)
        subject.score(CHAT, [Probe(TRACE, 'shop')])
        raise KeyboardInterrupt
    assert len(linear4bit(model)) == n > 0 and model.config._attn_implementation == 'eager'
    assert torch.is_grad_enabled() and not subject._ready
