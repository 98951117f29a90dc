"MS MARCO: every official form gives the same examples, bad rows are named, metrics agree with the official evaluation."

import functools
import gzip
import json
import random
import re
from collections import Counter

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracenb.core.records import Example, Generation, TracenbError, normalize
from tracenb.core.rows import RowsLeftOut
from tracenb.scoring.rouge_bleu import answerable, bleu, evaluate, rouge_l, words
from tracenb.tasks.msmarco import (
    closest_passage,
    load_msmarco,
    msmarco,
    msmarco_paper_steps,
    msmarco_steps,
    overlap,
    paper_wrong_facts,
    read_msmarco_row,
)
from tracenb.tasks.msmarco_sim import MSMARCO_LABELS, NO_ANSWER, TOPICS, SimulatedQuery, simulate_msmarco
from tracenb.tasks.task import DataConfig, check_examples, get_task, load_examples, split_of


def official(e, i):
    "The official v2.1 row of an example."
    return {
        'answers': list(e.answers),
        'passages': [
            {'is_selected': int(k in e.meta['facts']), 'passage_text': p, 'url': f'http://x/{k}'}
            for k, p in enumerate(e.context)
        ],
        'query': e.question,
        'query_id': 1000 + i,
        'query_type': e.meta['label'],
        'wellFormedAnswers': ['It is so.'] if i % 4 == 0 else '[]',
    }


def rows(n=10, split='train', **more):
    return [official(e, i) for i, e in enumerate(simulate_msmarco(n, split=split, max_words=90, **more))]


def columns(rows):
    return json.dumps({k: {str(i): r[k] for i, r in enumerate(rows)} for k in rows[0]})


def lines(rows):
    return ''.join(json.dumps(r) + '\n' for r in rows)


def hub(row):
    return row | {
        'passages': {k: [p[k] for p in row['passages']] for k in ('is_selected', 'passage_text', 'url')},
        'wellFormedAnswers': row['wellFormedAnswers'] if isinstance(row['wellFormedAnswers'], list) else [],
    }


def parquet(path, rows):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([hub(r) for r in rows]), path)


ROW = rows(1)[0]


# --- one row


def test_official_row():
    e = read_msmarco_row(ROW, 'train')
    assert (e.id, e.dataset, e.split, e.question, e.answers) == (
        'msmarco-1000',
        'msmarco',
        'train',
        ROW['query'],
        tuple(ROW['answers']),
    )
    assert e.meta == {
        'label': ROW['query_type'],
        'facts': [i for i, p in enumerate(ROW['passages']) if p['is_selected']],
        'query_id': 1000,
        'wellFormedAnswers': ['It is so.'],
    }
    assert e.context == tuple(p['passage_text'] for p in ROW['passages'])


def test_the_real_row_of_version_1(shared):
    e = read_msmarco_row(json.loads((shared / 'marco' / 'one_row_v1.1.json').read_text()), 'train')
    assert (e.id, len(e.context), e.answers, e.meta) == (
        'msmarco-0',
        7,
        ('Yes',),
        {'label': 'DESCRIPTION', 'facts': [2], 'query_id': 0},
    )
    assert msmarco_paper_steps(e).facts != msmarco_steps(e).facts  # no passage says yes


def test_other_field_names():
    texts = [p['passage_text'] for p in ROW['passages']]
    for passages in ({'passages': texts}, {'passage': texts}, {'passage': repr(texts)}):
        for answer in ({'gold': 'a, b'}, {'answer': ['a, b']}, {'answer': "['a, b']"}):
            for label in ({'query_type': 'numeric'}, {'category': 'NUMERIC'}):
                e = read_msmarco_row({'question': 'how many', **passages, **answer, **label}, 'test')
                assert (e.context, e.answers, e.meta['label'], e.split) == (tuple(texts), ('a, b',), 'NUMERIC', 'test')
                assert re.fullmatch(r'msmarco-row-[0-9a-f]{12}', e.id)
    assert read_msmarco_row(
        {'question': 'how many', 'passages': texts, 'gold': '3,000', 'query_type': 'NUMERIC'}, 'test'
    ).answers == ('3,000',)


def test_facts_of_rows_that_do_not_say_what_was_selected():
    row = {
        'question': 'q',
        'passages': ['the cat sat', 'a dog ran fast', 'a dog'],
        'category': 'ENTITY',
        'gold': 'the dog ran',
    }
    assert (
        read_msmarco_row(row, 'test').meta['facts'] == [1]
        and read_msmarco_row(row, 'test').meta['facts_by'] == 'overlap'
    )
    assert read_msmarco_row(row | {'gold': NO_ANSWER}, 'test').meta['facts'] == []


def test_ids_without_query_id_are_fingerprints():
    row = {'question': 'q', 'passages': ['a'], 'category': 'ENTITY', 'gold': 'x'}
    assert (
        read_msmarco_row(row, 'test').id
        == read_msmarco_row(row | {'gold': 'y'}, 'test').id
        != read_msmarco_row(row | {'passages': ['b']}, 'test').id
    )


def test_repeated_and_empty_answers_are_dropped():
    assert read_msmarco_row(ROW | {'answers': ['a', '', 'b ', 'a']}, 'train').answers == ('a', 'b')


def passage(i, **change):
    return {'passages': [p | change if k == i else p for k, p in enumerate(ROW['passages'])]}


BAD = {
    'no query': ({'query': None}, "no field 'query' or 'question'"),
    'empty query': ({'query': ' '}, 'the query is'),
    'query of another kind': ({'query': 5}, 'the query is 5'),
    'no type': ({'query_type': None}, "no field 'query_type'"),
    'unknown type': ({'query_type': 'COLOR'}, "the query type is 'COLOR'"),
    'type of another kind': ({'query_type': 3}, 'the query type is 3'),
    'passages missing': ({'passages': None}, "no field 'passages'"),
    'no passages': ({'passages': []}, 'it has no passages'),
    'passages of another kind': ({'passages': 7}, 'passages are neither'),
    'passages as broken text': ({'passages': "['a"}, 'passages are neither'),
    'mixed passages': ({'passages': ['x', ROW['passages'][0]]}, 'partly objects'),
    'empty passage': (passage(1, passage_text='  '), 'passage 1 has no text'),
    'passage of another kind': (passage(0, passage_text=None), 'passage 0 has no text'),
    'is_selected 2': (passage(1, is_selected=2), 'is_selected of passage 1 is 2'),
    'is_selected text': (passage(1, is_selected='1'), "is_selected of passage 1 is '1'"),
    'is_selected true': (passage(0, is_selected=True), 'is_selected of passage 0 is True'),
    'unequal lists': ({'passages': {'passage_text': ['a', 'b'], 'is_selected': [1]}}, 'equally long'),
    'lists missing': ({'passages': {'passage_text': ['a']}}, 'equally long'),
    'no answers': ({'answers': []}, 'it has no answer'),
    'answers missing': ({'answers': None}, "no field 'answers'"),
    'empty answers': ({'answers': ['', ' ']}, 'it has no answer'),
    'answers as text': ({'answers': 'a'}, "answers is 'a'"),
    'answers of another kind': ({'answers': ['a', 3]}, 'a list of strings is expected'),
    'query_id true': ({'query_id': True}, 'query_id is True'),
    'query_id list': ({'query_id': [1]}, 'query_id is'),
    'well-formed of another kind': ({'wellFormedAnswers': 5}, 'wellFormedAnswers is'),
}


@pytest.mark.parametrize('name', BAD)
def test_a_bad_row_is_named_and_the_others_are_kept(tmp_path, name):
    change, why = BAD[name]
    with pytest.raises(TracenbError, match=re.escape(why)):
        read_msmarco_row(ROW | change, 'train')
    good = rows(4)
    (tmp_path / 'train.jsonl').write_text(lines([good[0], good[1] | change, good[2], good[3]]))
    with pytest.warns(RowsLeftOut) as caught:
        kept = load_msmarco(tmp_path, 'train')
    assert [e.id for e in kept] == ['msmarco-1000', 'msmarco-1002', 'msmarco-1003']
    assert (
        len(caught) == 1
        and len(caught[0].message.problems) == 1
        and re.search(rf'(?s)train\.jsonl:2: .*{re.escape(why)}', str(caught[0].message.problems[0]))
    )


def test_a_repeated_query_id_keeps_the_first(tmp_path):
    good = rows(3)
    (tmp_path / 'train.jsonl').write_text(lines([good[0], good[1] | {'query_id': 1000}, good[2]]))
    with pytest.warns(RowsLeftOut, match=r"train\.jsonl:2: id 'msmarco-1000' was used before, at .*train\.jsonl:1"):
        assert len(load_msmarco(tmp_path, 'train')) == 2


@given(
    key=st.sampled_from(sorted(ROW)),
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3),
        max_leaves=5,
    ),
)
def test_whatever_a_field_contains_the_row_is_read_or_refused(key, value):
    try:
        e = read_msmarco_row(ROW | {key: value}, 'train')
    except TracenbError:
        return
    check_examples([e], msmarco)
    assert Example.from_json(e.to_json()) == e


# --- files

FORMS = {
    'train_v2.1.json': lambda p, r: p.write_text(columns(r)),
    'train_v2.1.json.gz': lambda p, r: p.write_bytes(gzip.compress(columns(r).encode())),
    'train.jsonl': lambda p, r: p.write_text(lines(r)),
    'train.jsonl.gz': lambda p, r: p.write_bytes(gzip.compress(lines(r).encode())),
    'train.json': lambda p, r: p.write_text(json.dumps(r)),
    'train_v1.1.json': lambda p, r: p.write_text(lines([x | {'query_type': x['query_type'].lower()} for x in r])),
    'train-00000-of-00001.parquet': parquet,
}


@pytest.mark.parametrize('name', FORMS)
def test_every_official_form_gives_the_same_examples(tmp_path, name):
    FORMS[name](tmp_path / name, rows(30))
    expected = [read_msmarco_row(r, 'train') for r in rows(30)]
    assert load_msmarco(tmp_path, 'train') == load_msmarco(tmp_path / name, 'train') == expected
    assert any(e.answers == (NO_ANSWER,) for e in expected) and any(len(e.answers) > 1 for e in expected)


@pytest.mark.parametrize(
    'name', ['dev_v2.1.json', 'dev_v2.1.json.gz', 'validation-00000-of-00001.parquet', 'test.jsonl', 'validation.jsonl']
)
def test_the_test_split_is_the_official_development_set(tmp_path, name):
    FORMS[name.replace('dev', 'train').replace('validation', 'train').replace('test', 'train')](tmp_path / name, rows())
    assert [e.split for e in load_msmarco(tmp_path, 'test')] == ['test'] * 10
    (tmp_path / 'eval_v2.1_public.json').write_text('{}')
    if not name.startswith('test'):
        (tmp_path / 'test-00000-of-00001.parquet').write_bytes(b'the official test set has no answers')
    assert len(load_msmarco(tmp_path, 'test')) == 10
    with pytest.raises(TracenbError, match='no train file in this folder'):
        load_msmarco(tmp_path, 'train')


def test_shards_belong_together_and_a_missing_one_is_reported(tmp_path):
    for k in range(3):
        parquet(tmp_path / f'train-{k:05}-of-00003.parquet', rows()[3 * k : 3 * k + 3])
    assert [e.meta['query_id'] for e in load_msmarco(tmp_path, 'train')] == list(range(1000, 1009))
    (tmp_path / 'train-00001-of-00003.parquet').unlink()
    with pytest.warns(RowsLeftOut, match='2 of 3 train shards are here'):
        assert len(load_msmarco(tmp_path, 'train')) == 6
    assert len(load_msmarco(tmp_path / 'train-00000-of-00003.parquet', 'train')) == 3


def test_a_copy_of_the_hub_has_two_versions(tmp_path):
    for version, n in (('v1.1', 4), ('v2.1', 6)):
        (tmp_path / version).mkdir()
        parquet(tmp_path / version / 'train-00000-of-00001.parquet', rows(n))
    assert len(load_msmarco(tmp_path, 'train')) == 6 and len(load_msmarco(tmp_path / 'v1.1', 'train')) == 4
    (tmp_path / 'v2.1').rename(tmp_path / 'other')
    with pytest.raises(TracenbError, match='train files in several folders: other, v1.1'):
        load_msmarco(tmp_path, 'train')


def test_two_files_that_could_be_the_split_are_an_error(tmp_path):
    for name in ('train_v2.1.json', 'train.jsonl'):
        FORMS[name](tmp_path / name, rows(2))
    with pytest.raises(TracenbError, match='several train files: train.jsonl, train_v2.1.json'):
        load_msmarco(tmp_path, 'train')
    assert len(load_msmarco(tmp_path / 'train.jsonl', 'train')) == 2


def test_one_file_stands_for_its_data_set(tmp_path):
    (tmp_path / 'train_v2.1.json').write_text(columns(rows(4)))
    (tmp_path / 'dev_v2.1.json').write_text(columns(rows(3, 'test')))
    assert (
        len(load_msmarco(tmp_path / 'train_v2.1.json', 'test')) == 3
        and len(load_msmarco(str(tmp_path / 'dev_v2.1.json'), 'train')) == 4
    )
    (tmp_path / 'dev_v2.1.json').unlink()
    with pytest.raises(TracenbError, match='the test split is not beside it'):
        load_msmarco(tmp_path / 'train_v2.1.json', 'test')


def test_sources_that_cannot_be_read(tmp_path):
    with pytest.raises(TracenbError, match='no such file or folder'):
        load_msmarco(tmp_path / 'nowhere', 'train')
    with pytest.raises(TracenbError, match='no train file in this folder'):
        load_msmarco(tmp_path, 'train')
    with pytest.raises(TracenbError, match='unknown split'):
        load_msmarco(tmp_path, 'dev')
    for name in ('rows.jsonl', 'training.jsonl'):
        (tmp_path / name).write_text(lines(rows(2)))
        with pytest.raises(TracenbError, match='does not say which split'):
            load_msmarco(tmp_path / name, 'train')
    (tmp_path / 'train.jsonl').write_text('{"query": "x"}\n')
    with pytest.raises(TracenbError, match='no usable row'):
        load_msmarco(tmp_path, 'train')


def test_a_hub_id_is_recognized(tmp_path, monkeypatch):
    import tracenb.tasks.msmarco as module

    asked = []
    monkeypatch.setattr(module, 'local_folder', lambda source, patterns: asked.append((source, patterns)) or tmp_path)
    (tmp_path / 'v2.1').mkdir()
    parquet(tmp_path / 'v2.1' / 'validation-00000-of-00001.parquet', rows(3))
    assert len(load_msmarco('microsoft/ms_marco', 'test')) == 3 and asked == [
        ('microsoft/ms_marco', ('v2.1/validation*.parquet',))
    ]


# --- sampling, wording, the paper's definitions


def test_balanced_samples(tmp_path):
    for name, split, n in (('train_v2.1.json', 'train', 12), ('dev_v2.1.json', 'test', 5)):
        mixed = [
            e
            for k, label in enumerate(MSMARCO_LABELS)
            for e in simulate_msmarco(n + 9 * (k == 0), split=split, labels=(label,), max_words=60)
        ]
        (tmp_path / name).write_text(columns([official(e, i + 1000 * (split == 'test')) for i, e in enumerate(mixed)]))
    config = DataConfig(source=str(tmp_path), n_train=50, n_test=20, balanced=True)
    train, test = load_examples(msmarco, config, 'train'), load_examples(msmarco, config, 'test')
    assert Counter(e.meta['label'] for e in train) == dict.fromkeys(MSMARCO_LABELS, 10) and Counter(
        e.meta['label'] for e in test
    ) == dict.fromkeys(MSMARCO_LABELS, 4)
    assert load_examples(msmarco, config, 'train') == train and {e.id for e in train}.isdisjoint(e.id for e in test)
    with pytest.raises(TracenbError, match='12 train examples of ENTITY fit the settings, 14 were asked for'):
        load_examples(msmarco, DataConfig(source=str(tmp_path), n_train=70, balanced=True), 'train')


def test_wording():
    e = read_msmarco_row(ROW, 'train')
    texts = [p['passage_text'] for p in ROW['passages']]
    assert (
        msmarco.prompt(e)
        == f'Answer the question based on the context:\n{texts!r}\nQuestion: {ROW["query"]}\nOnly return the answer.\n'
    )
    assert msmarco.trace_text(e, msmarco_steps(e)) == (
        'The category of the question represents what is being asked in that question. '
        'The category of the question asked is: DESCRIPTION.\n'
        f'I need to use the following text to answer the question: {[texts[i] for i in e.meta["facts"]]!r}'
    )
    assert get_task('msmarco') is msmarco and msmarco.alternatives


@given(
    answers=st.lists(
        st.text(st.characters(exclude_categories=['Cs']), min_size=1, max_size=20).filter(str.strip),
        min_size=1,
        max_size=3,
    )
)
def test_the_first_answer_is_written_and_read_as_one(answers):
    assert msmarco.read_answers(msmarco.write_answers(tuple(answers))) == (answers[0].strip(),)


def test_a_completion_is_read_back():
    from tracenb.traces.chat import completion_text
    from tracenb.traces.conditions import build_traces
    from tracenb.traces.parsing import parse

    examples = simulate_msmarco(30, seed=3, max_words=90)
    for e, t in zip(examples, build_traces(examples, msmarco, 'correct')):
        said = parse(
            Generation(id=e.id, text=completion_text(e, t, msmarco), n_tokens=1, finish_reason='stop'), e, msmarco
        )
        assert (said.label, said.answers, said.error) == (e.meta['label'], e.answers[:1], None)
        assert set(said.facts) == {e.context[i] for i in e.meta['facts']}


texts = st.lists(
    st.sampled_from('the a cat dog runs sits red blue on in mat fast slow big'.split()), min_size=1, max_size=14
).map(' '.join)


@given(context=st.lists(texts, min_size=1, max_size=6), answer=texts, seed=st.integers(0, 99))
def test_the_papers_rules(context, answer, seed):
    e = Example(
        id='x',
        dataset='msmarco',
        split='test',
        context=tuple(context),
        question='q',
        answers=(answer, 'other'),
        meta={'label': 'ENTITY', 'facts': [0]},
    )
    shared = [len({w for w in normalize(c).split()} & {w for w in normalize(answer).split()}) for c in context]
    assert [overlap(c, answer) for c in context] == shared
    assert msmarco_paper_steps(e).facts == (shared.index(max(shared)),) == (closest_passage(e.context, answer),)
    (wrong,) = paper_wrong_facts(e, random.Random(seed))
    assert shared[wrong] < 8 if min(shared) < 8 else shared[wrong] == min(shared)
    assert {paper_wrong_facts(e, random.Random(s))[0] for s in range(60)} == {
        i for i, s in enumerate(shared) if s < max(8, min(shared) + 1)
    }


@pytest.mark.parametrize(
    'shared, drawn', [((7, 8), {0}), ((8, 9), {0}), ((7, 7, 8), {0, 1}), ((9, 9, 12), {0, 1}), ((0,), {0})]
)
def test_eight_shared_word_types_are_too_many(shared, drawn):
    answer = ' '.join(f'w{i}' for i in range(12))
    e = Example(
        id='x',
        dataset='msmarco',
        split='test',
        context=tuple(' '.join(f'w{i}' for i in range(n)) + ' end' for n in shared),
        question='q',
        answers=(answer,),
        meta={'label': 'ENTITY', 'facts': []},
    )
    assert {paper_wrong_facts(e, random.Random(s))[0] for s in range(60)} == drawn


# --- ROUGE-L and BLEU

PUBLISHED = {'bleu_1': 0.17634, 'bleu_2': 0.11419, 'bleu_3': 0.08906, 'bleu_4': 0.07623, 'rouge_l': 0.12077}


def test_the_published_figures(shared):
    read = lambda name: {
        r['query_id']: r['answers'] for r in map(json.loads, gzip.open(shared / 'marco' / name, 'rt', encoding='utf-8'))
    }
    references, candidates = (
        read('eval_references.jsonl.gz'),
        {i: a[0] for i, a in read('eval_candidates.jsonl.gz').items()},
    )
    assert evaluate(candidates, references) == pytest.approx(
        PUBLISHED, abs=2.5e-5
    )  # the rest: exceptions of the tokenizer of 2016
    assert sum(map(answerable, references.values())) == 9754


SENTENCE = 'A boil is an infection, of the hair follicle.'


@pytest.mark.parametrize(
    'candidates, references, value',
    [
        ({1: SENTENCE, 2: 'It costs $5 or so.'}, {1: [SENTENCE], 2: ['x', 'It costs $5 or so.']}, 1),
        ({1: NO_ANSWER}, {1: [NO_ANSWER]}, 0),
        ({1: 'x'}, {1: [NO_ANSWER]}, 0),
        ({1: NO_ANSWER}, {1: [SENTENCE]}, 0),
        ({1: ''}, {1: [SENTENCE]}, 0),
        ({1: 'x'}, {1: []}, 0),
        ({1: ''}, {1: ['']}, 0),
        ({}, {}, 0),
        ({1: '  '}, {1: ['a  b']}, 0),
    ],
)
def test_small_cases(candidates, references, value):
    assert set(evaluate(candidates, references).values()) == {value}


def test_unanswerable_questions_do_not_count():
    assert evaluate({1: SENTENCE, 2: 'anything'}, {1: [SENTENCE], 2: [NO_ANSWER]}) == evaluate(
        {1: SENTENCE}, {1: [SENTENCE]}
    )


def test_ids_are_joined_completely():
    with pytest.raises(TracenbError, match='1 questions without a candidate: 2'):
        evaluate({1: 'a'}, {1: ['a'], 2: ['b']})
    with pytest.raises(TracenbError, match='2 candidates without a question: 2, 3'):
        evaluate({1: 'a', 2: 'b', 3: 'c'}, {1: ['a']})
    with pytest.raises(TracenbError, match='n is 1, 2, 3 or 4'):
        bleu('a', ['a'], 5)


def table(a, b):
    "The usual recursion."

    @functools.cache
    def common(i, j):
        return (
            0
            if not i or not j
            else common(i - 1, j - 1) + 1
            if a[i - 1] == b[j - 1]
            else max(common(i - 1, j), common(i, j - 1))
        )

    return common(len(a), len(b))


@given(a=st.text('abcd', min_size=1, max_size=40), b=st.text('abcde', min_size=1, max_size=90))
def test_rouge_l_is_made_of_the_longest_common_subsequence(a, b):
    precision, recall = table(a, b) / len(a), table(a, b) / len(b)
    expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0
    assert rouge_l(' '.join(a), [' '.join(b)]) == pytest.approx(expected)


any_text = st.text(st.characters(exclude_categories=['Cs']), max_size=30)


@given(said=any_text, gold=st.lists(any_text, min_size=1, max_size=3))
def test_scores_are_shares_and_ignore_case_and_order(said, gold):
    for score in (rouge_l, bleu):
        assert 0 <= score(said, gold) <= 1 and score(said, gold) == score(said, gold[::-1])
    assert ''.join(words(said)) == ''.join(words(said)).lower()
    if any(words(said)):
        assert rouge_l(said, [said]) == pytest.approx(1) and bleu(said, [said]) == pytest.approx(1)


def test_bleu_of_worked_examples():
    assert bleu('the the the cat', ['the cat sat', 'the dog'], 1) == pytest.approx(
        2 / 4
    )  # clipped by the best reference
    assert bleu('the cat', ['the cat sat on it', 'the cat sat'], 1) == pytest.approx(
        2.718281828 ** (1 - 3 / 2)
    )  # brevity against the closest
    assert bleu('the cat sat', ['the cat sat on', 'mat'], 1) == pytest.approx(
        2.718281828 ** (1 - 4 / 3)
    )  # ... which need not be the shortest
    assert (
        bleu('a b x y', ['a b c d'], 2) == pytest.approx((2 / 4 * 1 / 3) ** 0.5)
        and bleu('a b x y', ['a b c d'], 3) == 0
    )
    assert rouge_l('a x b', ['a b']) == pytest.approx(2.44 * (2 / 3) / (1 + 1.44 * 2 / 3))


@pytest.mark.parametrize(
    'text, cut',
    [
        ("Don't pay $21,550.", ['do', "n't", 'pay', '$', '21,550', '.']),
        ('the U.S. and/or Dr. Mary-Ann', ['the', 'u.s.', 'and/or', 'dr.', 'mary', '-', 'ann']),
        ('a  b', ['a', '', 'b']),
        ('', ['']),
        ('ÉCOLE (naïve)', ['école', '(', 'naïve', ')']),
        ('5km, 10-20', ['5', 'km', ',', '10', '-', '20']),
    ],
)
def test_words(text, cut):
    assert words(text) == cut


# --- the simulator


def key(e):
    return (e.context, e.question)


@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 25),
    more=st.integers(0, 15),
    split=st.sampled_from(['train', 'test']),
    max_words=st.sampled_from([None, 60, 120, 400]),
)
def test_a_longer_simulation_begins_with_the_shorter(seed, n, more, split, max_words):
    long = simulate_msmarco(n + more, seed, split, max_words=max_words)
    assert simulate_msmarco(n, seed, split, max_words=max_words) == long[:n]
    assert [e.meta['label'] for e in long] == [MSMARCO_LABELS[i % 5] for i in range(n + more)]
    one = simulate_msmarco(len(long[1::5]) or 1, seed, split, labels=('ENTITY',), max_words=max_words)
    if long[1::5]:
        assert one == long[1::5]
    assert all(e.meta['simulated'] is True and e.split == split for e in long)


@given(a=st.integers(0, 10**6), b=st.integers(0, 10**6), words=st.sampled_from([(None, None), (60, 60), (120, 200)]))
def test_train_and_test_share_nothing(a, b, words):
    train, test = simulate_msmarco(60, a, max_words=words[0]), simulate_msmarco(30, b, 'test', max_words=words[1])
    assert {key(e) for e in train}.isdisjoint(key(e) for e in test) and {e.id for e in train}.isdisjoint(
        e.id for e in test
    )
    assert len({e.id for e in train}) == len({key(e) for e in train}) == 60
    for e in train + test:
        assert (
            split_of(SimulatedQuery(e.context, e.question, e.answers, ())) == e.split
        )  # by content, whatever was drawn


def test_ids_are_fingerprints():
    by_id = {}
    for e in [x for seed in range(3) for mw in (None, 120) for x in simulate_msmarco(25, seed, max_words=mw)]:
        assert by_id.setdefault(e.id, key(e)) == key(e)
    assert simulate_msmarco(5, 1)[0].id != simulate_msmarco(5, 2)[0].id


@given(seed=st.integers(0, 10**6), max_words=st.sampled_from([None, 50, 120, 300]))
def test_the_answer_is_in_the_selected_passages_and_in_no_other(seed, max_words):
    "Found again from the text alone: the sentence with the asked detail of the asked thing."
    for e in simulate_msmarco(10, seed, max_words=max_words):
        asked = [
            (k, d, m[1])
            for k in TOPICS
            for d in k.details
            if d.label == e.meta['label']
            for q in d.queries
            if (m := re.fullmatch(re.escape(q).replace(r'\{x\}', '([a-z]+)'), e.question))
        ]
        ((kind, detail, name),) = asked
        telling = [
            re.compile(re.escape(t).replace(r'\{x\}', name.capitalize()).replace(r'\{v\}', '(.+?)'))
            for t in detail.sentences
        ]
        found = {i: m[1] for i, p in enumerate(e.context) for t in telling if (m := t.search(p))}
        assert sorted(found) == e.meta['facts'] and len(set(found.values())) <= 1
        if not found:
            assert e.answers == (NO_ANSWER,)
            continue
        value = next(iter(found.values()))
        assert [value in p for p in e.context] == [
            i in found for i in range(len(e.context))
        ] and value.lower() not in e.question
        assert all(a in (value, detail.answer.format(x=name.capitalize(), v=value)) for a in e.answers) and len(
            set(e.answers)
        ) == len(e.answers)


@settings(max_examples=15)
@given(max_words=st.integers(50, 900), seed=st.integers(0, 99))
def test_word_limits_are_kept(max_words, seed):
    examples = simulate_msmarco(10, seed, max_words=max_words)
    assert all(sum(len(p.split()) for p in e.context) <= max_words and 2 <= len(e.context) <= 10 for e in examples)
    assert check_examples(examples, msmarco) == examples


def test_the_default_is_ten_passages():
    examples = simulate_msmarco(200)
    assert all(len(e.context) == 10 and all(60 <= len(p.split()) <= 84 for p in e.context) for e in examples)
    assert (
        10 < sum(e.answers == (NO_ANSWER,) for e in examples) < 60
        and sum(len(e.meta['facts']) > 1 for e in examples) > 10
        and sum(len(e.answers) > 1 for e in examples) > 30
    )


@pytest.mark.parametrize(
    'call, message',
    [
        (dict(n=0), 'n is 0'),
        (dict(n=1, split='dev'), 'unknown split'),
        (dict(n=1, labels=('PERSONS',)), "did you mean 'PERSON'"),
        (dict(n=1, max_words=10), 'at most 10 words'),
    ],
)
def test_bad_settings_of_the_simulation(call, message):
    with pytest.raises(TracenbError, match=message):
        simulate_msmarco(**call)


def test_simulated_examples_come_by_the_usual_way():
    assert load_examples(msmarco, DataConfig(n_train=10, max_words=120), 'train') == simulate_msmarco(10, max_words=120)
    for e in simulate_msmarco(5):
        assert Example.from_json(e.to_json()) == e
