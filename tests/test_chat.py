"""Rendering: messages, templates, tokens and the loss mask."""

import datetime
from dataclasses import replace

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tracenb.core.records import Example, TracenbError
from tracenb.models.round_trip import Taught, check_round_trip
from tracenb.tasks.task import DataConfig, load_examples, toy
from tracenb.traces.chat import SYSTEM, TEMPLATES, TURN_ENDS, render
from tracenb.traces.conditions import build_traces
from tracenb.traces.loss_mask import (
    chat_texts,
    decode_text,
    encode,
    n_special_tokens,
    show_mask,
    template_record,
)

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


# --- templates of the field


DATED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'system' %}Today: "
    "{{ strftime_now('%d %b %Y') }}\n{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}"
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)
NO_SYSTEM = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    '{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}'
)
DROPS_SYSTEM = NO_SYSTEM.replace("{{ raise_exception('System role not supported') }}", '{% continue %}')
CUTS = TEMPLATES['chatml'].replace("m['content']", "m['content'].split('</think>')[-1]")  # as those of R1-Distill
REWRITES = TEMPLATES['chatml'].replace(
    "m['content']", "(m['content'] | replace('<think>', '[T]') | replace('</think>', '[/T]'))"
)


def with_template(template, style='chatml'):
    tok = tokenizer(style)
    tok.chat_template = template
    return tok


def rows_of(condition):
    examples = load_examples(toy, DataConfig(n_train=8), 'train')
    traces = build_traces(examples, toy, condition)
    return [Taught(e, t, render(e, t, toy)) for e, t in zip(examples, traces)]


def test_a_prompt_does_not_depend_on_the_day(monkeypatch):
    import transformers.utils.chat_template_utils as utils

    class Day(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.datetime(2031, 3, 5)

    tok, chat = with_template(DATED), one('correct')
    today = encode(chat, tok)
    monkeypatch.setattr(utils, 'datetime', Day)
    assert encode(chat, tok) == today and 'Today: 26 Jul 2024' in chat_texts(chat, tok)[0]
    tok.chat_template = DATED.replace("strftime_now('%d %b %Y')", 'strftime_now(a)').replace(
        '{%', "{% set a = '%d' %}{%", 1
    )
    assert 'Today: 2024-07-26' in chat_texts(chat, tok)[0]


@pytest.mark.parametrize('template', [NO_SYSTEM, DROPS_SYSTEM])
def test_a_system_turn_that_a_template_has_not_begins_the_user_turn(template):
    tok = with_template(template)
    prompt = chat_texts(one('correct'), tok)[0]
    assert prompt.startswith(f'<|im_start|>user\n{SYSTEM}\n\nAnswer the question')
    assert template_record(tok)['system'] == 'begins the user turn'
    assert check_round_trip(rows_of('correct'), tok, toy) == 0
    assert template_record(tokenizer('chatml'))['system'] == 'own turn'


def test_without_a_system_turn():
    e = load_examples(toy, DataConfig(n_train=1), 'train')[0]
    chat = render(e, build_traces([e], toy, 'vanilla')[0], toy, system='')
    assert [m['role'] for m in chat.prompt] == ['user']
    assert chat_texts(chat, tokenizer('chatml'))[0].startswith('<|im_start|>user')


def test_special_tokens_in_a_context_end_nothing_and_are_read_back():
    context = ('The tag <|im_end|> ends a turn.', 'The hat is <|im_start|> blue.')
    asked = dict(context=context, question='Which tag?', answers=('hat',), meta={'label': 'color', 'facts': [0]})
    e, tok = Example(id='x', dataset='toy', split='train', **asked), tokenizer('chatml')
    row = Taught(e, build_traces([e], toy, 'correct')[0], one('correct', e))
    encoded = encode(row.chat, tok)
    assert encoded.input_ids.count(tok.eos_token_id) == 3  # one a turn
    assert n_special_tokens(row.chat, tok) == 3
    assert check_round_trip([row], tok, toy) == 0


@pytest.mark.parametrize('condition', ['correct', 'incorrect', 'wrong_label', 'shuffled'])
@pytest.mark.parametrize('template', [CUTS, REWRITES], ids=['cuts', 'rewrites'])
def test_a_template_that_loses_what_is_taught_stops_a_run(template, condition):
    with pytest.raises(TracenbError, match='the chat template of .* loses .*\n.*set tokenizer.chat_template'):
        check_round_trip(rows_of(condition), with_template(template), toy)


@pytest.mark.parametrize('style', TEMPLATES)
@pytest.mark.parametrize('condition', ['vanilla', 'correct', 'incorrect'])
def test_our_templates_lose_nothing(style, condition):
    assert check_round_trip(rows_of(condition), tokenizer(style), toy) == 0


def test_a_begin_token_that_is_written_twice_is_named():
    tok = with_template('<|begin_of_text|>' + TEMPLATES['llama3'], 'llama3')
    tok.bos_token = '<|begin_of_text|>'
    with pytest.raises(TracenbError, match='begin token is written twice'):
        check_round_trip(rows_of('correct'), tok, toy)


def test_think_tags_that_are_special_tokens_survive_decoding():
    tok = tokenizer('chatml')
    tok.add_special_tokens({'additional_special_tokens': ['<think>', '</think>']})
    assert check_round_trip(rows_of('correct'), tok, toy) == 0
    tok.clean_up_tokenization_spaces = True
    text = "The cup 's red , blue . Don 't !"
    assert decode_text(tok, tok(f'<think>{text}</think><|im_end|>')['input_ids']) == f'<think>{text}</think>'


def test_an_answer_that_no_parser_reads_back_is_counted():
    row = rows_of('vanilla')[0]
    e = replace(row.example, answers=('Answer: 5',))
    row = Taught(e, row.trace, render(e, row.trace, toy))
    assert check_round_trip([row], tokenizer('chatml'), toy) == 1
