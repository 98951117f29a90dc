"""`render` and `parse` are inverses, over tasks, conditions and chat templates; what cannot be parsed is a value with a reason."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tracenb.core.records import Example, Generation, Steps, TracenbError
from tracenb.scoring.scorers import score_all, tabulate
from tracenb.stats.association import two_by_two
from tracenb.tasks.task import DataConfig, get_task, load_examples, toy
from tracenb.traces.chat import (
    TEMPLATES,
    TURN_ENDS,
    chat_texts,
    encode,
    parse,
    read_facts,
    read_label,
    render,
    show_mask,
    split_text,
)
from tracenb.traces.conditions import build_traces, every_condition, get_condition


def tokenizer(style):
    "Byte-level, lossless, no merges; the turn markers are special, the think tags are not, as in Qwen's vocabulary."
    special = [
        '<|im_start|>',
        '<|im_end|>',
        '<|begin_of_text|>',
        '<|start_header_id|>',
        '<|end_header_id|>',
        '<|eot_id|>',
    ]
    tk = Tokenizer(
        models.BPE(vocab={c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    tk.pre_tokenizer, tk.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        decoders.ByteLevel(),
    )
    tk.add_special_tokens(special)
    return PreTrainedTokenizerFast(
        tokenizer_object=tk, eos_token=TURN_ENDS[style], pad_token=TURN_ENDS[style], chat_template=TEMPLATES[style]
    )


TOKENIZERS = {s: tokenizer(s) for s in TEMPLATES}


def taught(encoded, tok):
    return tok.decode([i for i, m in zip(encoded.input_ids, encoded.loss_mask) if m], skip_special_tokens=True)


def said(text, e, reason='stop'):
    return Generation(id=e.id, text=text, n_tokens=1, finish_reason=reason)


@pytest.mark.parametrize('style', TEMPLATES)
@pytest.mark.parametrize('name', ['toy', 'cotempqa', 'msmarco', 'babi'])
def test_what_is_taught_is_parsed_back(name, style):
    for condition in set(every_condition(get_task(name))) - ({'swapped'} if name == 'toy' else set()):
        check_round_trip(get_task(name), TOKENIZERS[style], get_condition(condition))


def check_round_trip(task, tok, cond):
    rows = load_examples(task, DataConfig(n_train=44), 'train')
    for e, t in zip(rows, build_traces(rows, task, cond.name, 1)):
        r = parse(
            said(taught(encode(render(e, t, task), tok), tok), e), e, task, trace=cond.has_trace, steps=cond.has_steps
        )
        assert (r.error, set(r.answers)) == (None, set(e.answers[:1] if task.alternatives else e.answers))
        if t.steps:
            assert r.label == t.steps.label
            assert set(r.facts) == {e.context[i] for i in t.steps.facts}


words = st.text(st.sampled_from('abcXYZ éß"\'’.,-()[]\\\n'), min_size=1, max_size=12).filter(
    lambda s: any(c.isalnum() for c in s)
)


@given(
    st.lists(words, min_size=2, max_size=5, unique_by=lambda s: ''.join(c for c in s.lower() if c.isalnum())), st.data()
)
def test_any_text_in_a_fact_survives(context, data):
    facts = data.draw(st.lists(st.integers(0, len(context) - 1), min_size=1, unique=True).map(sorted))
    think = toy.trace_text(
        Example(id='x', dataset='toy', split='test', context=tuple(context), question='?', answers=('a',)),
        Steps(label='place', facts=tuple(facts)),
    )
    assert read_label(think, toy) == 'place'
    got = read_facts(think, tuple(context), toy)
    assert set(got) >= {context[i] for i in facts}


@pytest.mark.parametrize('style', TEMPLATES)
def test_the_mask_covers_the_completion_and_its_end_token(style):
    tok = TOKENIZERS[style]
    e = load_examples(toy, DataConfig(n_train=1), 'train')[0]
    chat = render(e, build_traces([e], toy, 'correct')[0], toy)
    enc, prompt = encode(chat, tok), encode(chat, tok, prompt_only=True)
    k = len(prompt.input_ids)
    assert enc.input_ids[:k] == prompt.input_ids and not any(enc.loss_mask[:k]) and all(enc.loss_mask[k:])
    assert enc.input_ids[-1] == tok.eos_token_id and enc.input_ids[k:].count(tok.eos_token_id) == 1
    assert ''.join(show_mask(enc, tok).tokens).count('<answer>') == 1


def test_qwen_style_pads_the_think_block():
    e = load_examples(toy, DataConfig(n_train=1), 'train')[0]
    texts = {
        c: chat_texts(render(e, build_traces([e], toy, c)[0], toy), TOKENIZERS['qwen3'])[1]
        for c in ('vanilla', 'correct')
    }
    assert texts['vanilla'].startswith('<think>\n\n</think>\n\n')
    assert texts['correct'].startswith('<think>\nThe category') and '\n</think>\n\n <answer>' in texts['correct']


def test_a_template_that_rewrites_the_prompt_is_refused():
    tok = tokenizer('chatml')
    tok.chat_template = '{% if add_generation_prompt %}A{% else %}B{% endif %}'
    e = load_examples(toy, DataConfig(n_train=1), 'train')[0]
    with pytest.raises(TracenbError, match='different prompt'):
        encode(render(e, build_traces([e], toy, 'vanilla')[0], toy), tok)
    tok.chat_template = None
    with pytest.raises(TracenbError, match='no chat template'):
        encode(render(e, build_traces([e], toy, 'vanilla')[0], toy), tok)


def test_the_mask_view_escapes_html():
    e = Example(
        id='x',
        dataset='toy',
        split='test',
        context=('<script>alert(1)</script>',),
        question='?',
        answers=('<b>',),
        meta={'label': 'place', 'facts': [0]},
    )
    html = show_mask(
        encode(render(e, build_traces([e], toy, 'correct')[0], toy), TOKENIZERS['chatml']), TOKENIZERS['chatml']
    )._repr_html_()
    assert '<script>' not in html and '<b>' not in html


CONTEXT = ('Mary went home.', 'John and Mary went home.', 'John left.')
E1 = Example(
    id='e',
    dataset='toy',
    split='test',
    context=CONTEXT,
    question='?',
    answers=('home',),
    meta={'label': 'place', 'facts': [0]},
)
LABEL = 'The category of the question asked is: place.\n'
FACTS = 'I need to use the following text to answer the question: '


@pytest.mark.parametrize(
    'text, error',
    [
        (f'<think>{LABEL}{FACTS}{list(CONTEXT[:1])}</think> <answer>home</answer>', None),
        (f'<think>\n{LABEL}{FACTS}{list(CONTEXT[:1])}\n</think>\n\n<answer>home', 'the answer tag is not closed'),
        (f'<think>{LABEL}{FACTS}{list(CONTEXT[:1])}</think> home', 'no answer tag'),
        (f'<think>{LABEL}{FACTS}', 'the think block is not closed'),
        (f'<think>{FACTS}[]</think> <answer>home</answer>', 'no classification sentence'),
        (f'<think>{LABEL}</think> <answer>home</answer>', 'no retrieval sentence'),
        ('<answer>home</answer>', 'no think block'),
        (f'<think>{LABEL}{FACTS}[]</think> <answer> </answer>', 'the answer is empty'),
        ('home', 'no answer tag'),
        ('', 'no answer tag'),
    ],
)
def test_a_broken_form_is_a_value_with_a_reason(text, error):
    assert parse(said(text, E1), E1, toy).error == error


def test_what_was_cut_off_says_so():
    assert parse(said('<think>The', E1, 'length'), E1, toy).error.startswith('cut off after 1 tokens')
    assert parse(said('', E1, 'too_long'), E1, toy).error == 'the prompt did not fit: nothing was generated'


def test_answers_alone_need_no_tag():
    assert parse(said('home', E1), E1, toy, trace=False).error is None
    assert parse(said('', E1), E1, toy, trace=False).error == 'the answer is empty'
    assert parse(said('Answer: home\n', E1), E1, toy, trace=False).answers == ('home',)
    assert parse(said('The right answer is: home', E1), E1, toy, trace=False).answers == ('home',)


def test_assistant_is_dropped_only_as_a_word():
    assert split_text('assistant\nhome')[1] == 'home'
    assert split_text('assistants are here')[1] == 'assistants are here'
    assert parse(said('assistant professor, thinker', E1), E1, toy, trace=False).answers[-1] == 'thinker'


def test_a_fact_inside_a_longer_fact_is_not_found_there():
    assert read_facts(f'{FACTS}{[CONTEXT[1]]}', CONTEXT, toy) == (CONTEXT[1],)
    assert read_facts(f'{FACTS}{list(CONTEXT[:2])}', CONTEXT, toy) == CONTEXT[:2]


def test_invented_facts_are_kept():
    assert read_facts(f'{FACTS}{[CONTEXT[2], "John flew."]}', CONTEXT, toy) == (CONTEXT[2], 'John flew.')


def test_ids_must_agree():
    with pytest.raises(TracenbError, match='join generations'):
        parse(Generation(id='other', text='', n_tokens=0, finish_reason='stop'), E1, toy)
    with pytest.raises(TracenbError, match='join traces'):
        render(E1, build_traces(load_examples(toy, DataConfig(n_train=1), 'train'), toy, 'vanilla')[0], toy)


@pytest.mark.parametrize(
    'file, exact, table', [('vanilla', 97.9, None), ('correct', 96.5, (349, 8, 14, 5)), ('perturbed', 95.5, None)]
)
def test_published_babi_generations(shared, file, exact, table):
    "Accuracy and the 2x2 table of 376 published generations of Qwen3-1.7B, as scored in the method notes (own gold, class and any fact)."
    task, rows, made = get_task('babi'), [], []
    for i, line in enumerate(gzip.open(shared / 'published' / f'babi_Qwen3-1.7B_{file}.jsonl.gz')):
        r = json.loads(line)
        facts = [r['passage'].index(f) for f in r['answer_passage']]
        rows.append(
            Example(
                id=str(i),
                dataset='babi',
                split='test',
                context=tuple(r['passage']),
                question=r['question'],
                answers=tuple(r['gold'].split(',')),
                meta={'label': r['query_type'], 'facts': facts},
            )
        )
        made.append(parse(said(r['prediction'], rows[-1]), rows[-1], task, trace=file != 'vanilla'))
    scores = tabulate(score_all(made, rows, task, trace=file != 'vanilla'), rows, task)
    assert round(100 * scores.answer_exact.mean(), 1) == exact
    if table:
        assert two_by_two(scores.trace_correct_any, scores.answer_exact).table == table


@pytest.mark.parametrize(
    'text, answer',
    [
        ('assistant professor', 'assistant professor'),
        ('assistant\n<think>\n\n</think>\n\nassistant professor', 'assistant professor'),
        ('assistant\nthinker', 'thinker'),
        ('<think>a</think> <answer>Assistant Professor (1999)</answer>', 'Assistant Professor (1999)'),
        ('assistant', ''),
    ],
)
def test_a_role_name_is_dropped_and_a_post_is_kept(text, answer):
    assert split_text(text, trace='</think>' in text)[1] == answer


def test_a_long_run_of_blank_lines_is_read_in_linear_time():
    assert (
        split_text('\n' * 300_000 + 'Answer: Rome', trace=False)[1] == 'Rome'
    )  # would take hours if it were quadratic


def test_without_a_trace_an_open_think_tag_is_no_wall():
    assert (
        split_text("assistant\n<think>\n\n['Rome']", trace=False)[1] == "['Rome']"
        and split_text("<think>\n\n['Rome']")[1] == ''
    )
