"""Rendering: messages, templates, tokens and the loss mask."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tracenb.core.records import Example, TracenbError
from tracenb.tasks.task import DataConfig, load_examples, toy
from tracenb.traces.chat import TEMPLATES, TURN_ENDS, render
from tracenb.traces.conditions import build_traces
from tracenb.traces.loss_mask import chat_texts, encode, show_mask

SPECIAL = ('<|im_start|>', '<|im_end|>', '<|begin_of_text|>', '<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>')


def tokenizer(style):
    "Byte-level, lossless, no merges; the turn markers are special, the think tags are not, as in Qwen's vocabulary."
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tk = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    tk.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tk.decoder = decoders.ByteLevel()
    tk.add_special_tokens(list(SPECIAL))
    end, template = TURN_ENDS[style], TEMPLATES[style]
    return PreTrainedTokenizerFast(tokenizer_object=tk, eos_token=end, pad_token=end, chat_template=template)


TOKENIZERS = {s: tokenizer(s) for s in TEMPLATES}


def taught(encoded, tok):
    return tok.decode([i for i, m in zip(encoded.input_ids, encoded.loss_mask) if m], skip_special_tokens=True)


def one(condition, example=None):
    "The chat of one example."
    e = example or load_examples(toy, DataConfig(n_train=1), 'train')[0]
    return render(e, build_traces([e], toy, condition)[0], toy)


@pytest.mark.parametrize('style', TEMPLATES)
def test_the_mask_covers_the_completion_and_its_end_token(style):
    tok, chat = TOKENIZERS[style], one('correct')
    enc, prompt = encode(chat, tok), encode(chat, tok, prompt_only=True)
    k = len(prompt.input_ids)
    assert enc.input_ids[:k] == prompt.input_ids and not any(enc.loss_mask[:k]) and all(enc.loss_mask[k:])
    assert enc.input_ids[-1] == tok.eos_token_id and enc.input_ids[k:].count(tok.eos_token_id) == 1
    assert ''.join(show_mask(enc, tok).tokens).count('<answer>') == 1


def test_qwen_style_pads_the_think_block():
    texts = {c: chat_texts(one(c), TOKENIZERS['qwen3'])[1] for c in ('vanilla', 'correct')}
    assert texts['vanilla'].startswith('<think>\n\n</think>\n\n')
    assert texts['correct'].startswith('<think>\nThe category') and '\n</think>\n\n <answer>' in texts['correct']


def test_a_template_that_rewrites_the_prompt_is_refused():
    tok = tokenizer('chatml')
    tok.chat_template = '{% if add_generation_prompt %}A{% else %}B{% endif %}'
    with pytest.raises(TracenbError, match='different prompt'):
        encode(one('vanilla'), tok)
    tok.chat_template = None
    with pytest.raises(TracenbError, match='no chat template'):
        encode(one('vanilla'), tok)


def test_the_mask_view_escapes_html():
    said = dict(context=('<script>alert(1)</script>',), question='?', answers=('<b>',))
    e = Example(id='x', dataset='toy', split='test', meta={'label': 'place', 'facts': [0]}, **said)
    html = show_mask(encode(one('correct', e), TOKENIZERS['chatml']), TOKENIZERS['chatml'])._repr_html_()
    assert '<script>' not in html and '<b>' not in html


def test_ids_must_agree():
    e, other = load_examples(toy, DataConfig(n_train=2), 'train')
    with pytest.raises(TracenbError, match='join traces'):
        render(other, build_traces([e], toy, 'vanilla')[0], toy)
