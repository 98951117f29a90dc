"""The parser: what is rendered is parsed back, spans lie in the text, and display marks what scores say."""

import functools
import gzip
import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_chat import TOKENIZERS, taught

from tracenb.core.records import Example, Generation, Steps, TracenbError, normalize, normalize_paper
from tracenb.scoring.overlap import as_set
from tracenb.scoring.tables import score_all, score_response, tabulate
from tracenb.stats.association import two_by_two
from tracenb.tasks.task import DataConfig, get_task, load_examples, toy
from tracenb.teacher.judging import judge_reply
from tracenb.traces.blocks import (
    ANSWER_FIRST,
    ANSWER_INSIDE,
    ANSWER_NOT_CLOSED,
    END_TOKEN,
    NEXT_TURN,
    NO_TAG,
    NOT_CLOSED,
    OTHER_TAGS,
    STRAY_CLOSE,
    TEXT_AFTER,
    read_blocks,
)
from tracenb.traces.chat import TEMPLATES, render, taught_pairs
from tracenb.traces.conditions import build_traces, every_condition, get_condition
from tracenb.traces.display import MARK_TITLES, claim_marks, quoted_items
from tracenb.traces.loss_mask import encode
from tracenb.traces.parsing import answer_readings, parse, parse_trace

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


def said(text, e=E1, reason='stop'):
    return Generation(id=e.id, text=text, n_tokens=1, finish_reason=reason)


def facts_in(trace, context=CONTEXT):
    e = Example(id='x', dataset='toy', split='test', context=tuple(context), question='?', answers=('a',))
    return parse_trace(trace, e, toy).facts


def answer_in(text, **more):
    return read_blocks(text, **more).answer.value


# --- what is rendered is parsed back


@pytest.mark.parametrize('style', TEMPLATES)
@pytest.mark.parametrize('name', ['toy', 'cotempqa', 'gsm8k', 'msmarco', 'babi', 'babi20', '2wiki', 'hotpotqa'])
def test_what_is_taught_is_parsed_back(name, style):
    for condition in set(every_condition(get_task(name))) - ({'swapped', 'foreign_facts'} if name == 'toy' else set()):
        check_round_trip(get_task(name), TOKENIZERS[style], get_condition(condition))


@functools.cache
def rows_of(name):
    "Some training examples of each label."
    n = {'babi20': 120, '2wiki': 16, 'hotpotqa': 16}.get(name, 44)
    return load_examples(get_task(name), DataConfig(n_train=n), 'train')


@functools.cache
def pairs_of(name, condition):
    "Some training examples of each label with their traces."
    task, rows = get_task(name), rows_of(name)
    return taught_pairs(rows, build_traces(rows, task, condition, 1))


def check_round_trip(task, tok, cond):
    for e, t in pairs_of(task.name, cond.name):
        text = taught(encode(render(e, t, task), tok), tok)
        r = parse(said(text, e), e, task, trace=cond.has_trace, steps=cond.has_steps)
        assert (r.error, set(r.answers)) == (None, set(e.answers[:1] if task.alternatives else e.answers))
        if t.steps:
            assert (r.label, r.work) == (t.steps.label, t.steps.work)
            assert set(r.facts) == {e.context[i] for i in t.steps.facts}


words = st.text(st.sampled_from('abcXYZ éß"\'’.,-()[]\\\n'), min_size=1, max_size=12)
items = words.filter(lambda s: any(c.isalnum() for c in s))


def letters(text):
    return ''.join(c for c in text.lower() if c.isalnum())


@given(st.lists(items, min_size=2, max_size=5, unique_by=letters), st.data())
def test_any_text_in_a_fact_survives(context, data):
    facts = data.draw(st.lists(st.integers(0, len(context) - 1), min_size=1, unique=True).map(sorted))
    e = Example(id='x', dataset='toy', split='test', context=tuple(context), question='?', answers=('a',))
    trace = toy.trace_text(e, Steps(label='place', facts=tuple(facts)))
    r = parse_trace(trace, e, toy)
    assert r.label == 'place' and set(r.facts) >= {context[i] for i in facts}
    for s in r.spans:
        if s.kind in ('fact', 'invented'):  # a place holds the item, apart from escape sequences
            assert letters(trace[s.start : s.end].replace('\\n', ' ')) == letters(s.value)


# --- spans, for any text that a model may write

PIECES = (
    *('<think>', '</think>', '<answer>', '</answer>', 'assistant\n', LABEL, FACTS, 'Answer: ', 'the answer is: '),
    *("['", "', '", "']", '["', '"]', '\\n', "\\'", '\\', '\n', ' ', ',', '.', 'home', 'red', 'place', 'İΣ'),
    *('Mary went home.', 'mary WENT home', 'John and Mary went home.', 'John left.', 'John left', 'John flew.'),
    *('A: ', 'Q: ', 'B: ', '**', '## Answer\n', 'Final answer: ', '\\boxed{', '}', 'Human: ', 'Question: '),
    *('<THINK>', '[/THINK]', '<|begin_of_thought|>', '</thinking>', '< / answer >', '<|im_end|>', '<|im_start|>user\n'),
)
texts = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=4)), max_size=14).map(''.join)
well_formed = st.lists(
    st.sampled_from([*CONTEXT, 'john LEFT', 'John flew.', "Ann's hat", 'a\nb', 'İ']), max_size=4
).map(lambda facts: f'<think>{LABEL}{FACTS}{facts}</think> <answer>home</answer>')
any_text = st.one_of(texts, well_formed)
forms = st.sampled_from([dict(trace=False, steps=False), dict(steps=False), {}])


@given(any_text, forms)
@example(f'<think>{LABEL}{FACTS}["MARY WENT HOME"]</think> <answer>home</answer>', {})
def test_every_span_is_inside_the_text(text, form):
    r = parse(said(text), E1, toy, **form)
    assert list(r.spans) == sorted(r.spans, key=lambda s: (s.start, -s.end))
    for s in r.spans:
        assert 0 <= s.start < s.end <= len(text) and text[s.start : s.end].strip()
        if s.kind in ('think', 'quotes', 'label', 'answer_block', 'answer'):
            written = text[s.start : s.end]
            heard = written.replace('<think>', ' ' * 7)  # a tag that opens nothing is not read
            assert s.value in (written, heard) or s.kind == 'answer'
        if s.kind == 'fact':
            assert normalize(text[s.start : s.end].replace('\\n', ' ')) == normalize(s.value)
    think = [s for s in r.spans if s.kind == 'think']
    for s in r.spans:
        if s.kind in ('quotes', 'label', 'fact', 'invented'):
            assert think[0].start <= s.start and s.end <= think[0].end


@given(any_text, forms)
def test_what_is_scored_has_a_span(text, form):
    r = parse(said(text), E1, toy, **form)
    of = {kind: [s.value for s in r.spans if s.kind == kind] for kind in ('label', 'fact', 'invented', 'answer')}
    assert of['label'] == ([] if r.label is None else [r.label])
    assert set(of['fact']) == set(r.facts) & set(CONTEXT)
    assert [f for f in r.facts if f not in CONTEXT] == of['invented']
    block = [s for s in r.spans if s.kind == 'answer_block']
    assert of['answer'] == (list(r.answers) if block else [])
    assert read_blocks(text).answer.value == (block[0].value if block else '')


@given(any_text, forms)
@example(f'<think>{LABEL}{FACTS}["MARY WENT HOME"]</think> <answer>home</answer>', {})
def test_display_marks_what_scores_say(text, form):
    r, gold = parse(said(text), E1, toy, **form), toy.decompose(E1)
    score = {s.scorer: s.value for s in score_response(r, E1, gold)}
    marks = claim_marks(r, E1, gold, score['classification'], score['answer_exact'])
    assert all(a < b <= c for (a, b, _), (c, *_) in zip(marks, [*marks[1:], (len(text), 0, 0)]))
    kinds = [MARK_TITLES[k] for *_, k in marks]
    assert ('gold fact' in kinds) == (score['retrieval_recall'] > 0)
    assert ('other fact' in kinds or 'not in the context' in kinds) == (
        score['retrieval_precision'] < 1 and r.facts != ()
    )
    assert {normalize(CONTEXT[i]) for i in quoted_items(r, CONTEXT)} == as_set(r.facts) & as_set(CONTEXT)
    answer = 'right answer' if score['answer_exact'] else 'wrong answer'
    assert [k for k in kinds if k.endswith('answer')] == [answer for s in r.spans if s.kind == 'answer_block']
    label = 'right label' if score['classification'] else 'wrong label'
    assert [k for k in kinds if k.endswith('label')] in ([], [label]) and (r.label is not None or 'label' not in kinds)


def test_a_fact_in_lower_case_is_marked_as_it_is_scored():
    text = f"<think>{LABEL}{FACTS}['mary went home']</think> <answer>home</answer>"
    r = parse(said(text), E1, toy)
    marks = claim_marks(r, E1, toy.decompose(E1), 1.0, 1.0)
    assert [(text[a:b], MARK_TITLES[k]) for a, b, k in marks] == [
        ('place', 'right label'),
        ('mary went home', 'gold fact'),
        ('home', 'right answer'),
    ]


# --- broken forms


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
    assert parse(said(text), E1, toy).error == error


def test_what_was_cut_off_has_that_reason():
    assert parse(said('<think>The', reason='length'), E1, toy).error.startswith('cut off after 1 tokens')
    assert parse(said('', reason='too_long'), E1, toy).error == 'the prompt did not fit: nothing was generated'


def test_answers_alone_need_no_tag():
    assert parse(said('home'), E1, toy, trace=False).error is None
    assert parse(said(''), E1, toy, trace=False).error == 'the answer is empty'
    assert parse(said('Answer: home\n'), E1, toy, trace=False).answers == ('home',)
    assert parse(said('The right answer is: home'), E1, toy, trace=False).answers == ('home',)


def test_assistant_is_dropped_only_as_a_word():
    assert answer_in('assistant\nhome') == 'home'
    assert answer_in('assistants are here') == 'assistants are here'
    assert parse(said('assistant professor, thinker'), E1, toy, trace=False).answers[-1] == 'thinker'


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
def test_a_role_name_is_dropped_and_an_occupation_is_kept(text, answer):
    assert answer_in(text) == answer


def test_many_blank_lines_are_read_in_linear_time():
    assert answer_in('\n' * 300_000 + 'Answer: Rome') == 'Rome'  # would take hours if it were quadratic


def test_an_empty_think_block_that_is_left_open_hides_nothing():
    assert answer_in("assistant\n<think>\n\n['Rome']") == "['Rome']"  # as 567 of the published rows
    assert answer_in('<think>\n\nRome, or', ended=False) == ''
    assert answer_in('<think>It may be Rome') == ''


# --- what models write instead of the form

T = f'{LABEL}{FACTS}{list(CONTEXT[:1])}'


@pytest.mark.parametrize(
    'text, error',
    [
        (f'<think>{T}</think> <answer>home</answer>', None),
        (f'{T}</think> <answer>home</answer>', None),  # the template opened the thought
        (f'<THINK>{T}</THINK> <ANSWER>home</ANSWER>', OTHER_TAGS),
        (f'<thinking>{T}</thinking><answer>home</answer>', OTHER_TAGS),
        (f'<reasoning>{T}</reasoning>\n<final_answer>home</final_answer>', OTHER_TAGS),
        (f'[THINK]{T}[/THINK]<answer>home</answer>', OTHER_TAGS),
        (f'◁think▷{T}◁/think▷<answer>home</answer>', OTHER_TAGS),
        (
            f'<|begin_of_thought|>{T}<|end_of_thought|> <|begin_of_solution|>home<|end_of_solution|>',
            OTHER_TAGS,
        ),
        (f'<|START_THINKING|>{T}<|END_THINKING|><|START_RESPONSE|>home<|END_RESPONSE|>', OTHER_TAGS),
        (f'<think type="cot">{T}</think><answer lang="en">home</answer>', OTHER_TAGS),
        (f'<|channel|>analysis<|message|>{T}<|end|><|start|>assistant<|channel|>final<|message|>home', NO_TAG),
        (
            f'<|start|>assistant<|channel|>analysis<|message|>{T}<|end|>'
            '<|start|>assistant<|channel|>final <|constrain|>text<|message|>home<|return|>',
            NO_TAG,
        ),
        (f'analysis{T}assistantfinalhome', NO_TAG),  # the same, decoded without special tokens
        (f'<think>{T}</think> <answer>home</answer><|im_end|>', END_TOKEN),
        (f'<|im_start|>assistant\n<think>{T}</think> <answer>home</answer></s>', END_TOKEN),
        (f'<｜end▁of▁sentence｜><think>{T}</think> <answer>home</answer>', END_TOKEN),
        (f'<think>{T}</think> <answer>home</answer><|eot_id|><answer>red</answer>', END_TOKEN),
        (
            f'<think>{T}</think> <answer>home</answer>\nHuman: x\nassistant\n<think>y</think> <answer>red</answer>',
            NEXT_TURN,
        ),
        (f'<think>{T}</think> <answer>home</answer>\nuser\nAnd red?', NEXT_TURN),
        (f'<think>{T}</think> <answer>home</answer>\nQuestion: what is red?\nAnswer: red', NEXT_TURN),
        (f'<think>{T}</think> <answer>home</answer></think>', STRAY_CLOSE),
        (f'<think>{T}</think></think> <answer>home</answer>', STRAY_CLOSE),
        (f'<think>{T}</think> <answer>home</answer> <think>red</think> <answer>red</answer>', TEXT_AFTER),
        (f'<think>{T}</think> <answer>home</answer> I am sure.', TEXT_AFTER),
        (f'<answer>home</answer> <think>{T}</think>', ANSWER_FIRST),
        (f'home\n<think>{T}</think>', ANSWER_FIRST),
        (f'<think>{T} <answer>home</answer></think>', ANSWER_INSIDE),
        (f'<think>{T} <answer>home</answer>', NOT_CLOSED),
        (f'<think>{T}</think> <answer>home', ANSWER_NOT_CLOSED),
        (f'<think>{T}</think> home</answer>', ANSWER_NOT_CLOSED),
        (f'<think>{T}</think> home', NO_TAG),
        (f'<think>\n\n</think>\n<think>{T}</think> <answer>home</answer>', None),
        (f'<think>I put it in <answer></answer>. {T}</think> <answer>home</answer>', None),
    ],
)
def test_an_irregular_form_is_heard_and_named(text, error):
    for form in ({}, dict(trace=False, steps=False)):
        r = parse(said(text), E1, toy, **form)
        assert r.answers == ('home',) and (r.label, r.facts) == ('place', CONTEXT[:1])
        assert error in (r.error, NO_TAG)


def test_a_text_that_was_cut_off_says_nothing_unless_a_block_ended():
    for text in ('Okay, home or red. Mary', '<think>Okay, home', 'Okay, the answer is: home. But', 'home'):
        for form in ({}, dict(steps=False), dict(trace=False, steps=False)):
            r = parse(said(text, reason='length'), E1, toy, **form)
            assert r.answers == () and r.error.startswith('cut off after 1 tokens')
            score = {s.scorer: s for s in score_response(r, E1, toy.decompose(E1)) if s.scorer.startswith('answer')}
            assert {s.value for s in score.values()} == {0.0}
            assert all('cut off after 1 tokens' in s.explanation for s in score.values())
    for text in (f'<think>{T}</think> <answer>home</answer> and', f'<think>{T}</think> home', 'home\nHuman: red'):
        assert parse(said(text, reason='length'), E1, toy).answers == ('home',)


@pytest.mark.parametrize(
    'text',
    [
        *('home', 'Home.', '"home"', '`home`', '*home*', '_home_', '**home**', '“home”'),
        *('\\boxed{home}', '\\boxed{\\text{home}}', '$\\boxed{\\text{home}}$', 'The answer is \\boxed{home}.'),
        *('**Final Answer:** home', '**Final Answer**\nhome', 'Final answer: home.', '### Final Answer\n\nhome'),
        *(
            'Answer: **home**',
            '**Answer: home**',
            'Answer:\nhome',
            '### Answer\nhome',
            '## Answer: home',
            'Answer - home',
        ),
        *(
            'The answer is **home**.',
            'The answer is home',
            'So the answer is: home',
            'She left. The final answer is home.',
        ),
        *('answer: home\nExplanation: because', 'Answer：home', '答案：home', 'Therefore, Mary is in the **home**.'),
        *('A: home', '**A:** home', '> A: **home**', 'Q: Where is Mary?\nA: home', 'A：home', 'A: The answer is home.'),
        *('home\nAnswer:', 'Answer: home\nAnswer:', 'Answer: red\nAnswer: home', 'home\n\n**Final answer:**\n'),
    ],
)
def test_an_answer_is_heard_however_it_is_phrased(text):
    for written in (text, f'<think>{T}</think> {text}', f'<think>{T}</think> <answer>{text}</answer>'):
        heard = parse(said(written), E1, toy)
        assert as_set(heard.answers) == {'home'}
        assert judge_reply(written, E1, toy)[1]


@pytest.mark.parametrize(
    'text',
    [
        *('A: home\nB: park', 'A: home B: park', 'A: home (B) park', 'Home.\nA: park', 'A: home\nThat is all.'),
        *('Q: Where?\nA: home\nQ: And John?\nA: park', 'Vitamin A: home', 'a: home', 'A home', 'A:', 'A: '),
    ],
)
def test_the_letter_a_is_heard_only_where_it_is_all(text):
    "Options, turns and headings may begin with it, too."
    assert parse(said(text), E1, toy, trace=False).answers == toy.read_answers(text)


def test_a_sentence_around_the_answer_is_not_the_answer():
    "By exact match, the paper's included: what is heard is what was written."
    for text in ('She is at home.', 'the home'):
        response = parse(said(text), E1, toy, trace=False)
        values = {s.scorer: s.value for s in score_response(response, E1, toy.decompose(E1))}
        assert (values['answer_exact'], values['answer_contains']) == (0, 1)
        assert normalize_paper(response.answers[0]) == text.lower().rstrip('.') != 'home'


def test_free_answers_may_contain_the_words_that_announce_an_answer():
    task = get_task('msmarco')
    for text in ('The answer is in the **second** book.', 'It is so. Thus the answer is 5 m.'):
        e = Example(id='e', dataset='msmarco', split='test', context=CONTEXT, question='?', answers=(text,), meta={})
        assert parse(said(text), e, task, trace=False).answers == (text,)
        assert judge_reply(f'**Final answer:** {text}', e, task)[1]


@given(any_text, st.sampled_from(['stop', 'length']))
def test_the_same_text_says_the_same_in_every_condition(text, reason):
    read = [
        parse(said(text, reason=reason), E1, toy, **form)
        for form in (dict(trace=False, steps=False), dict(steps=False), {})
    ]
    assert len({(r.label, r.facts, r.answers, r.spans) for r in read}) == 1


@pytest.mark.parametrize(
    'text, answers',
    [
        ("['a b' 'c']", ('a b', 'c')),
        ('["a", null, "b"]', ('a', 'b')),
        ("['a', 'b'] because the text says so", ('a', 'b')),
        ("['a', 'b", ('a', 'b')),
        ("['it's', 'b']", ("it's", 'b')),
        ('a [b]', ('a [b]',)),
        ('[]', ()),
    ],
)
def test_no_answers_of_a_list_are_glued(text, answers):
    assert get_task('cotempqa').read_answers(text) == answers


@pytest.mark.parametrize(
    'labels', [('single hop', 'multi hop'), ('who/what', 'when'), ('U.S. politics', 'sport'), ('1.1', '1.2')]
)
def test_labels_of_several_words_are_read_back(labels):
    task = replace(toy, name='mine', labels=labels)
    for label in labels:
        r = parse_trace(task.trace_text(E1, Steps(label=label, facts=(0,))), E1, task)
        assert (r.label, r.facts) == (label, CONTEXT[:1])


# --- facts


def test_a_fact_inside_a_longer_fact_is_not_found_there():
    assert facts_in(f'{FACTS}{[CONTEXT[1]]}') == (CONTEXT[1],)
    assert facts_in(f'{FACTS}{list(CONTEXT[:2])}') == CONTEXT[:2]


def test_invented_facts_are_kept():
    assert facts_in(f'{FACTS}{[CONTEXT[2], "John flew."]}') == (CONTEXT[2], 'John flew.')


def test_ids_must_agree():
    with pytest.raises(TracenbError, match='join generations'):
        parse(Generation(id='other', text='', n_tokens=0, finish_reason='stop'), E1, toy)


# --- free answers


def test_a_free_answer_has_several_readings():
    assert answer_readings('I think so.\n\n**Answer:** blue', toy)[0] == ('blue', ('blue',))
    assert ('Rome', ('Rome',)) in answer_readings('It must be\nRome', toy)
    assert answer_readings('- Rome\n- Bonn', toy)[-1][1] == ('Rome', 'Bonn')


# --- published generations


@pytest.mark.parametrize(
    'file, exact, table', [('vanilla', 97.9, None), ('correct', 96.5, (349, 8, 14, 5)), ('perturbed', 95.5, None)]
)
def test_published_babi_generations(shared, file, exact, table):
    "Accuracy and 2x2 table of 376 published generations of Qwen3-1.7B, as in the method notes (own gold, any fact)."
    task, rows, made = get_task('babi'), [], []
    for i, line in enumerate(gzip.open(shared / 'published' / f'babi_Qwen3-1.7B_{file}.jsonl.gz')):
        r = json.loads(line)
        facts = [r['passage'].index(f) for f in r['answer_passage']]
        row = dict(context=tuple(r['passage']), question=r['question'], answers=tuple(r['gold'].split(',')))
        meta = {'label': r['query_type'], 'facts': facts}
        rows.append(Example(id=str(i), dataset='babi', split='test', meta=meta, **row))
        made.append(parse(said(r['prediction'], rows[-1]), rows[-1], task, trace=file != 'vanilla'))
    scores = tabulate(score_all(made, rows, task, trace=file != 'vanilla'), rows, task)
    assert round(100 * scores.answer_exact.mean(), 1) == exact
    if table:
        assert two_by_two(scores.trace_correct_any, scores.answer_exact).table == table
