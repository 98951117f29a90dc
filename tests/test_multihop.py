"""HotpotQA and 2WikiMultihopQA: the official format, triples and what follows from them, wrong and edited triples."""

import gzip
import json
import random
import re
import warnings
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracenb.audit.joining import dataset_of
from tracenb.audit.page import audit
from tracenb.audit.published import group_files
from tracenb.core.records import Generation, Response, Steps, TracenbError
from tracenb.core.rows import RowsLeftOut
from tracenb.scoring.baselines import guess_scores
from tracenb.scoring.scorers import squad_f1, squad_words
from tracenb.scoring.tables import fitting_scorers, score_response
from tracenb.tasks.multihop import (
    HOP_CLASSES,
    edit_hops,
    field_tuples,
    hop_steps,
    hotpotqa,
    load_multihop,
    near_sentences,
    offered_answers,
    read_hop_row,
    read_hops,
    two_wiki,
)
from tracenb.tasks.multihop_sim import TYPES, certified_hops, official_row, read_statement, simulate_multihop
from tracenb.tasks.task import DataConfig, check_examples, get_task, load_examples, split_of
from tracenb.tasks.triples import (
    Triple,
    check_evidence,
    implied_answer,
    read_amount,
    read_triple,
    same_name,
    solve_triples,
    states,
    write_triple,
    wrong_evidence,
)
from tracenb.traces.chat import completion_text
from tracenb.traces.conditions import build_traces, every_condition
from tracenb.traces.parsing import parse, parse_trace

WIKI = simulate_multihop(160, seed=3)
HOTPOT = simulate_multihop(40, seed=3, dataset='hotpotqa')
BOTH = [*WIKI, *HOTPOT]

# A row in the form of both data sets, written by this project: empty sentences, a bracket in a title, forms of dates
ROW = dict(
    _id='5abc',
    type='compositional',
    question='When was the director of film Blue Hill (1990 Film) born?',
    answer='3 May 1921',
    context=[
        ['Blue Hill (1990 film)', ['Blue Hill is a drama film. ', ' It was directed by Ann Lee.', '']],
        ['Ann Lee', ['', 'Ann Lee (born May 3, 1921) is an Avolian director.', ' She lives in Rome: the old town.']],
        ['Star: A Story', [' It is a film of 1990.']],
    ],
    supporting_facts=[['Ann Lee', 1], ['Blue Hill (1990 film)', 1], ['Ann Lee', 1]],
    evidences=[['Blue Hill', 'director', 'Ann Lee'], ['Ann Lee', 'date of birth', '3 May 1921']],
)


def test_an_official_row_is_read():
    e = read_hop_row(ROW, 'train', '2wiki')
    assert e.context == (
        'Blue Hill (1990 film): Blue Hill is a drama film.',
        'Blue Hill (1990 film): It was directed by Ann Lee.',
        'Ann Lee: Ann Lee (born May 3, 1921) is an Avolian director.',
        'Ann Lee: She lives in Rome: the old town.',
        'Star: A Story: It is a film of 1990.',
    )
    assert hop_steps(e) == Steps(
        'compositional', (1, 2), ('Blue Hill | director | Ann Lee', 'Ann Lee | date of birth | 3 May 1921')
    )
    assert (e.id, e.answers, e.meta['titles'][4]) == ('2wiki-5abc', ('3 May 1921',), 'Star: A Story')
    assert near_sentences(e) == [0, 1, 2, 3]
    two = read_hop_row(ROW | dict(type='bridge'), 'train', 'hotpotqa')
    assert hop_steps(two) == Steps('bridge', (1, 2)) and 'work' not in two.meta and two.context == e.context


@pytest.mark.parametrize(
    'change',
    [
        dict(
            context=dict(title=[t for t, _ in ROW['context']], sentences=[s for _, s in ROW['context']]),
            supporting_facts=dict(title=[t for t, _ in ROW['supporting_facts']], sent_id=[1, 1, 1]),
            evidences=[dict(zip(('fact', 'relation', 'entity'), t)) for t in ROW['evidences']],
        ),
        dict(
            context=[dict(title=t, content=s) for t, s in ROW['context']],
            supporting_facts=[dict(title=t, sent_id=i) for t, i in ROW['supporting_facts']],
        ),
        {k: json.dumps(ROW[k]) for k in ('context', 'supporting_facts', 'evidences')},
        {k: tuple(map(tuple, ROW[k])) for k in ('supporting_facts', 'evidences')},
        dict(_id=None, id='5abc') | dict(type='Compositional', label='bridge'),
    ],
)
def test_all_layouts_of_the_hub_are_the_same_row(change):
    row = {k: v for k, v in (ROW | change).items() if v is not None}
    assert read_hop_row(row, 'train', '2wiki') == read_hop_row(ROW, 'train', '2wiki')


def bad(**more):
    return ROW | more


SECOND = ROW['evidences'][1]
BAD = [
    ('no_fact', bad(supporting_facts=[])),
    ('no_paragraph', bad(supporting_facts=[['Bo Ray', 0]])),
    ('two_paragraphs', bad(context=[*ROW['context'], ['Ann Lee', ['Another one.']]])),
    ('no_sentence', bad(supporting_facts=[['Ann Lee', 3], ['Blue Hill (1990 film)', 1]])),
    ('no_sentence', bad(supporting_facts=[['Ann Lee', -1]])),
    ('no_sentence', bad(supporting_facts=[['Ann Lee', 0]])),  # an empty sentence
    ('no_answer', bad(answer='4 May 1921')),
    ('no_answer', bad(answer='Annabel')),
    ('no_triple', bad(evidences=[])),
    ('no_triple', bad(evidences=[['Blue | Hill', 'director', 'Ann Lee'], SECOND])),
    ('no_triple', bad(evidences=[['Blue Hill', ' ', 'Ann Lee'], SECOND])),
    ('unstated', bad(evidences=[['Blue Hill', 'director', 'Ann Leeson'], SECOND])),
    ('unstated', bad(supporting_facts=[['Ann Lee', 1]], evidences=[['Blue Hill', 'country', 'Rome'], SECOND])),
    ('other_end', bad(answer='Ann Lee')),
    ('other_end', bad(evidences=[*ROW['evidences'], ['Star: A Story', 'director', 'Ann Lee']])),
    ('verified', ROW),
    ('verified', bad(answer='May 3, 1921')),
]


@pytest.mark.parametrize(('found', 'row'), BAD)
def test_a_row_is_classed(found, row):
    assert read_hops(row, True)[0] == found
    if found != 'verified':
        with pytest.raises(TracenbError, match=re.escape(f'not verified: {HOP_CLASSES[found]}')):
            read_hop_row(row, 'train', '2wiki')


def test_every_class_has_a_row():
    assert {found for found, _ in BAD} == set(HOP_CLASSES)


@pytest.mark.parametrize(
    ('change', 'why'),
    [
        (dict(answer=None), 'answer is None'),
        (dict(question=' '), "question is ' '"),
        (dict(_id=7), '_id is 7'),
        (dict(type='bridge'), "the type is 'bridge'"),
        (dict(type=None), 'the type is None'),
        (dict(context='nothing'), "context is 'nothing'"),
        (dict(context=None), 'context is None'),
        (dict(context=[['a', 'text']]), 'context has the item'),
        (dict(context=[['', ['text']]]), 'context has the item'),
        (dict(context=[['a', ['text', 1]]]), "a sentence of 'a' is 1"),
        (dict(context=dict(title=['a', 'b'], sentences=[['c']])), 'context is'),
        (dict(supporting_facts=[['Ann Lee']]), 'supporting_facts is'),
        (dict(supporting_facts=[['Ann Lee', '1']]), 'supporting_facts has the item'),
        (dict(supporting_facts=[['Ann Lee', True]]), 'supporting_facts has the item'),
        (dict(evidences=7), 'evidences is 7'),
        (dict(evidences=[['a', 'b', 3]]), 'evidences has the item'),
    ],
)
def test_a_malformed_field_is_named(change, why):
    with pytest.raises(TracenbError, match=re.escape(why)):
        read_hop_row(ROW | change, 'train', '2wiki')


def test_field_tuples_need_all_parts():
    assert field_tuples(dict(a=[]), 'a', 'x', 'y') == []
    for found in ({}, dict(x=[1]), [dict(x=1, y=2), 3], [[1, 2, 3]], '{', 3, dict(x=[1], y=None)):
        with pytest.raises(TracenbError):
            field_tuples(dict(a=found), 'a', 'x', 'y')


# --- files


def rows_left_out(*args):
    "(examples, the warning's problems)."
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        examples = load_multihop(*args)
    return examples, [p for w in found if isinstance(w.message, RowsLeftOut) for p in w.message.problems]


def write(path, rows, form='json'):
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == 'parquet':
        import pyarrow as pa
        import pyarrow.parquet

        pa.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        text = json.dumps(rows) if form == 'json' else ''.join(json.dumps(r) + '\n' for r in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == '.gz' else text.encode())


def plain(e):
    return e.id, e.context, e.question, e.answers[0], e.meta['label'], e.meta['facts'], e.meta.get('work')


def read_as(examples):
    return [plain(replace(e, id=f'{e.dataset}-{e.id.removeprefix(e.dataset + "-")}')) for e in examples]


@pytest.mark.parametrize(
    ('name', 'form'),
    [('train.json', 'json'), ('train.jsonl', 'lines'), ('train.jsonl.gz', 'lines'), ('hotpot_train_v1.1.json', 'json')],
)
@pytest.mark.parametrize('examples', [WIKI[:12], HOTPOT[:12]], ids=['2wiki', 'hotpotqa'])
def test_what_is_written_in_the_official_format_is_read_back(tmp_path, name, form, examples):
    dataset = examples[0].dataset
    write(tmp_path / name, list(map(official_row, examples)), form)
    for source in (tmp_path, tmp_path / name):
        found, problems = rows_left_out(source, 'train', dataset)
        assert list(map(plain, found)) == read_as(examples) and not problems
    assert check_examples(found, get_task(dataset)) and all(e.split == 'train' for e in found)
    with pytest.raises(TracenbError, match='no test file'):
        load_multihop(tmp_path, 'test', dataset)


def columns(row):
    "The parquet layout of the hub."
    t, s = zip(*row['context'])
    titles, ids = zip(*row['supporting_facts'])
    row = row | dict(context=dict(title=t, sentences=s), supporting_facts=dict(title=titles, sent_id=ids))
    return row | dict(id=row.pop('_id'))


def test_parquet_shards_of_the_hub(tmp_path):
    rows = [columns(official_row(e)) for e in HOTPOT]
    for setting, part in (('distractor', rows[:30]), ('fullwiki', rows[30:])):
        for i in range(2):
            path = tmp_path / setting / f'validation-0000{i}-of-00002.parquet'
            write(path, part[i::2], 'parquet')
    found, problems = rows_left_out(tmp_path, 'test', 'hotpotqa')
    assert Counter(map(str, map(plain, found))) == Counter(map(str, read_as(HOTPOT[:30]))) and not problems
    (tmp_path / 'distractor' / 'validation-00001-of-00002.parquet').unlink()
    found, problems = rows_left_out(tmp_path, 'test', 'hotpotqa')
    assert len(found) == 15 and '1 of 2 test shards' in problems[0].what


def test_the_development_file_is_the_test_split(tmp_path):
    write(tmp_path / 'train.json', [official_row(e) for e in WIKI[:4]])
    write(tmp_path / 'dev.json', [official_row(e) for e in WIKI[4:8]])
    write(tmp_path / 'test.json', [official_row(WIKI[9]) | dict(answer=None)])
    for source in (tmp_path, tmp_path / 'train.json', tmp_path / 'dev.json'):
        assert [e.question for e in load_multihop(source, 'test', '2wiki')] == [e.question for e in WIKI[4:8]]
        assert [e.question for e in load_multihop(source, 'train', '2wiki')] == [e.question for e in WIKI[:4]]
    with pytest.raises(TracenbError, match='no usable row .*answer is None'):
        rows_left_out(tmp_path / 'test.json', 'test', '2wiki')
    write(tmp_path / 'dev.jsonl', [official_row(WIKI[4])], 'lines')
    with pytest.raises(TracenbError, match=r'several test files: dev\.json, dev\.jsonl'):
        load_multihop(tmp_path, 'test', '2wiki')
    write(tmp_path / 'rows.json', [official_row(WIKI[4])])
    with pytest.raises(TracenbError, match='does not say which split'):
        load_multihop(tmp_path / 'rows.json', 'test', '2wiki')
    with pytest.raises(TracenbError, match='unknown split'):
        load_multihop(tmp_path, 'dev', '2wiki')


def test_hotpot_prefers_the_distractor_setting(tmp_path):
    write(tmp_path / 'hotpot_dev_distractor_v1.json', [official_row(HOTPOT[0])])
    write(tmp_path / 'hotpot_dev_fullwiki_v1.json', [official_row(HOTPOT[1])])
    assert [e.question for e in load_multihop(tmp_path, 'test', 'hotpotqa')] == [HOTPOT[0].question]


def test_rows_that_are_not_verified_are_counted_and_shown(tmp_path):
    rows = [row | dict(_id=f'r{i}') for i, (_, row) in enumerate(BAD)]
    write(tmp_path / 'train.json', [*rows, rows[-1], 7])
    found, problems = rows_left_out(tmp_path, 'train', '2wiki')
    n = sum(name == 'verified' for name, _ in BAD)
    assert len(found) == n and len(problems) == len(BAD) - n + 2
    said = Counter(m[1] for p in problems if (m := re.search('not verified: (.*)', p.what)))
    assert said == Counter(HOP_CLASSES[name] for name, _ in BAD if name != 'verified')
    assert all(p.what.startswith(f'{tmp_path / "train.json"}[') for p in problems)


def test_aliases_of_the_official_file_are_answers(tmp_path):
    lines = [
        dict(Q_id='Q1', aliases=['Anna Lee', 'Ann Lee'], demonyms=[]),
        dict(Q_id='Q2', aliases=['Republic of Avolia'], demonyms=['Avolian']),
    ]
    row = ROW | dict(question='What nationality is the director of Blue Hill?', answer='Avolia', answer_id='Q2')
    row |= dict(evidences=[ROW['evidences'][0], ['Ann Lee', 'country of citizenship', 'Avolia']])
    row |= dict(evidences_id=[['Q9', 'director', 'Q1'], ['Q1', 'country of citizenship', 'Q2']])
    assert read_hops(row, True)[0] == 'no_answer'  # only an alias stands in the context
    write(tmp_path / 'train.json', [row])
    write(tmp_path / 'id_aliases.json', [*lines, dict(Q_id='Q3'), dict(Q_id='Q4', aliases=[3])], 'lines')
    [e], problems = rows_left_out(tmp_path, 'train', '2wiki')
    assert e.answers == ('Avolia', 'Republic of Avolia', 'Avolian') and e.meta['aliases']['Ann Lee'] == ['Anna Lee']
    assert [p.what.split(': ')[0][-1] for p in problems] == ['3', '4']
    said = ['Anna Lee | country of citizenship | Avolian', 'Blue Hill (1990 film) | director | Anna Lee']
    assert check_evidence(e, hop_steps(e), said) == ''
    assert implied_answer(e, Steps('', (), tuple(said))) == e.answers


def test_other_objects_come_from_other_rows(tmp_path):
    examples = [e for e in WIKI if e.meta['label'] == 'inference']
    write(tmp_path / 'train.json', list(map(official_row, examples)))
    objects = {(t.relation, t.object) for e in examples for t in map(read_triple, e.meta['work'])}
    for e in load_multihop(tmp_path, 'train', '2wiki'):
        own = {(t.relation, t.object) for t in map(read_triple, e.meta['work'])}
        others = {(r, x) for r, found in e.meta['others'].items() for x in found}
        assert others <= objects - own and all(len(x) <= 6 for x in e.meta['others'].values())
        assert wrong_evidence(e, hop_steps(e), random.Random(0)) and edit_hops(e, random.Random(0))
    assert load_multihop(tmp_path, 'train', '2wiki') == load_multihop(tmp_path, 'train', '2wiki')


# --- triples


@pytest.mark.parametrize(
    ('a', 'b', 'same'),
    [
        ('Blue Hill', 'blue hill', True),
        ('Blue Hill (1990 film)', 'Blue Hill', True),
        ('Blue Hill (1990 Film)', 'Blue Hill (1990 film)', True),
        ('Blue Hill (1990 film)', 'Blue Hill (2001 film)', False),
        ('(500) Days', '(500) Nights', False),
        ('(film)', '(song)', False),
        ('Ann', 'Anna', False),
    ],
)
def test_names_with_and_without_brackets(a, b, same):
    assert same_name(a, b) == same_name(b, a) == same


@pytest.mark.parametrize(
    ('text', 'names', 'stated'),
    [
        ('She was born on May 3, 1921.', ['3 May 1921'], True),
        ('She was born on 3 May 1921.', ['May 1921'], True),
        ('She was born on 4 May 1921.', ['3 May 1921'], False),
        ('Founded in 1921.', ['1921'], True),
        ('Founded in 19210.', ['1921'], False),
        ('It has 12,345 people.', ['12345'], True),
        ("L'Étoile: It is a film.", ["L'étoile"], True),
        ('Blue Hill: It is a film.', ['Blue Hill (1990 film)'], True),
        ('An American film.', ['America'], False),
        ('!', ['!'], False),
    ],
)
def test_what_a_sentence_states(text, names, stated):
    assert states(text, names) == stated


A, B = 'Blue Hill', 'The First Snow (film)'


@pytest.mark.parametrize(
    ('question', 'triples', 'answer'),
    [
        ('Who is the mother of the director of Blue Hill?', [(A, 'director', 'C'), ('C', 'mother', 'D')], 'D'),
        ('Who is the mother of the director of Blue Hill?', [('C', 'mother', 'D'), (A, 'director', 'C')], 'D'),
        ('?', [(A, 'director', 'C (actor)'), ('C', 'mother', 'D')], 'D'),
        ('?', [(A, 'director', 'C'), ('C (actor)', 'mother', 'D')], 'D'),
        ('?', [(A, 'director', 'C'), (A, 'director', 'D')], None),
        ('?', [(A, 'director', 'C'), ('C', 'film', A)], None),
        ('?', [], None),
        ('Which film came out first?', [(A, 'date', '1 May 1990'), (B, 'date', '1991')], A),
        ('Which came out later, Blue Hill or The First Snow?', [(A, 'date', '1 May 1990'), (B, 'date', '1991')], B),
        ('Which came out later?', [(A, 'date', '1 May 1991'), (B, 'date', '1991')], None),
        ('Which is nicer?', [(A, 'date', '1990'), (B, 'date', '1991')], None),
        ('Are both from the same country?', [(A, 'country', 'X'), (B, 'country', 'x')], 'yes'),
        ('Are both from the same country?', [(A, 'country', 'X'), (B, 'country', 'Y'), (B, 'country', 'X')], 'yes'),
        ('Do they share the same country?', [(A, 'country', 'X'), (B, 'country', 'Y')], 'no'),
        ('Are they from different countries?', [(A, 'country', 'X'), (B, 'country', 'Y')], None),
        (
            'Which film, Alice (1988 film) or Alice (1990 film), came out first?',
            [('Alice (1988 film)', 'date', '1988'), ('Alice (1990 film)', 'date', '1990')],
            'Alice (1988 film)',
        ),
    ],
)
def test_what_follows_from_triples(question, triples, answer):
    assert solve_triples(question, [Triple(*t) for t in triples]) == answer


@given(st.lists(st.text('ab| ', max_size=3), min_size=3, max_size=3), st.text('ab|\n ', max_size=9))
def test_lines_of_triples_are_read_or_refused(parts, text):
    t = read_triple(write_triple(parts))
    assert (t is None) == (any('|' in p or not p.strip() for p in parts)) or t.object.count('|') == 0
    found = read_triple(text)
    assert found is None or (text.count('|') == 2 and all(found))


# --- the simulator and its steps


@given(st.integers(0, 10**6), st.sampled_from(['2wiki', 'hotpotqa']), st.sampled_from([None, 120]))
def test_simulated_questions_keep_their_guarantee(seed, dataset, max_words):
    task = get_task(dataset)
    rows = check_examples(simulate_multihop(4, seed, dataset=dataset, max_words=max_words, labels=task.labels), task)
    for e in rows:
        assert split_of(e) == e.split == 'train' and e.meta['titles'] == [c.partition(': ')[0] for c in e.context]
        assert max_words is None or len(' '.join(e.context).split()) <= max_words
        assert set(hop_steps(e).facts) <= set(near_sentences(e))
        row = official_row(e)
        assert read_hops(row, dataset == '2wiki')[0] == 'verified'
        if dataset == '2wiki':
            triples = [read_triple(line) for line in e.meta['work']]
            assert certified_hops(e.context, e.question, triples) == (hop_steps(e).facts, e.answers[0])
        else:
            assert not {'work', 'aliases', 'others'} & set(e.meta) and len(e.answers) == 1


@given(st.sampled_from(WIKI), st.integers())
def test_wrong_evidence_differs_in_one_last_object_and_in_its_answer(e, seed):
    gold = hop_steps(e)
    lines = wrong_evidence(e, gold, random.Random(seed))
    pairs = [(a, b) for a, b in zip(map(read_triple, gold.work), map(read_triple, lines), strict=True) if a != b]
    [(a, b)] = pairs
    assert a[:2] == b[:2] and not any(same_name(a.object, read_triple(x).subject) for x in gold.work)
    assert (read_amount(a.object) is None) == (read_amount(b.object) is None)
    answers = implied_answer(e, replace(gold, work=lines))
    assert answers and not {x.lower() for x in answers} & {x.lower() for x in e.answers}
    assert 'not among the gold triples' in check_evidence(e, gold, lines)
    assert lines == wrong_evidence(e, gold, random.Random(seed))


@given(st.sampled_from(WIKI), st.integers())
def test_an_edit_is_told_in_one_gold_sentence_and_has_another_answer(e, seed):
    made, gold = edit_hops(e, random.Random(seed)), hop_steps(e)
    i = made.meta['edited']
    assert [k for k, (a, b) in enumerate(zip(e.context, made.context, strict=True)) if a != b] == [i]
    assert i in gold.facts and (made.id, made.question) == (e.id, e.question)
    edited = hop_steps(made)
    assert (edited.label, edited.facts) == (gold.label, gold.facts) and check_evidence(made, edited, edited.work) == ''
    assert {read_triple(x) for x in edited.work} == {read_statement(made.context[k]) for k in gold.facts}
    assert made.answers[0] not in e.answers and implied_answer(made, edited) == made.answers


@given(st.sampled_from(WIKI), st.data())
def test_evidence_is_right_in_any_order_and_never_with_a_part_missing(e, data):
    gold = hop_steps(e)
    assert check_evidence(e, gold, data.draw(st.permutations(gold.work))) == ''
    k = data.draw(st.integers(0, len(gold.work) - 1))
    assert 'is missing' in check_evidence(e, gold, gold.work[:k] + gold.work[k + 1 :])
    assert 'not a triple' in check_evidence(e, gold, (*gold.work, 'so it is'))
    t = read_triple(gold.work[k])
    assert check_evidence(e, gold, (*gold.work, write_triple(t._replace(object='Nobody'))))


def test_every_condition_says_what_it_should_of_each_step():
    for name in every_condition(two_wiki):
        for e, t in zip(WIKI[:60], build_traces(WIKI[:60], two_wiki, name, seed=1)):
            if t.steps is None:
                continue
            said, gold = parse_trace(t.text, e, two_wiki), hop_steps(e)
            assert (said.label, said.work) == (t.steps.label, t.steps.work)
            assert set(said.facts) == {e.context[i] for i in t.steps.facts}
            assert (check_evidence(e, gold, said.work) == '') == (
                name not in ('incorrect', 'wrong_work')
            ) or 'mix' in name
    assert 'wrong_work' not in every_condition(hotpotqa) and 'edited_facts' not in every_condition(hotpotqa)
    assert {'wrong_work', 'edited_facts', 'hard_facts'} <= set(every_condition(two_wiki))


# --- answers, scorers, guesses, audits


def answered(e, text):
    task = get_task(e.dataset)
    trace = build_traces([e], task, 'correct')[0].text
    out = Generation(id=e.id, text=f'<think>{trace}</think> <answer>{text}</answer>', n_tokens=1, finish_reason='stop')
    said = parse(out, e, task)
    return {s.scorer: s.value for s in score_response(said, e, task.decompose(e), fitting_scorers(task))}


def test_an_answer_is_the_whole_text_or_an_alias():
    e = next(e for e in WIKI if len(e.answers) > 1)
    for text in (*e.answers, f' {e.answers[0].upper()}. '):
        scores = answered(e, text)
        assert scores['answer_exact'] == scores['answer_squad_exact'] == scores['answer_squad_f1'] == 1, text
        assert scores['work_valid'] == scores['trace_correct_exact'] == 1
    scores = answered(e, f'{e.answers[0]}, {e.answers[0]} Smith')
    assert scores['answer_exact'] == scores['answer_squad_exact'] == 0 and 0 < scores['answer_squad_f1'] < 1
    scores = answered(HOTPOT[0], HOTPOT[0].answers[0])
    assert scores['answer_squad_f1'] == 1 and 'work_valid' not in scores
    assert hotpotqa.read_answers('Rome, Italy') == ('Rome, Italy',) and hotpotqa.read_answers(' ') == ()


@pytest.mark.parametrize(
    ('said', 'gold', 'f1'),
    [
        ('the Blue Hill', 'Blue Hill.', 1),
        ('Blue Lake', 'Blue Hill', 0.5),
        ('blue blue', 'blue', 2 / 3),
        ('yes', 'yes', 1),
        ('yes it is', 'yes', 0),
        ('no', 'no one', 0),
        ('', '', 0),
        ('the', 'a', 0),
    ],
)
def test_squad_f1(said, gold, f1):
    assert squad_f1(said, gold) == pytest.approx(f1) and squad_f1(gold, said) == pytest.approx(f1)


def test_squad_words_are_those_of_the_official_script():
    assert squad_words("The U.S.A.'s an a-team, the Anthem") == ['usas', 'ateam', 'anthem']


def test_a_question_of_comparison_offers_answers():
    told = {e.question: offered_answers(e) for e in BOTH}
    for e in BOTH:
        offered = told[e.question]
        assert (len(offered) == 2) == ('comparison' in e.meta['label'])
        if offered:
            assert e.answers[0] in offered
            if e.answers[0] not in ('yes', 'no'):
                assert e.question.index(offered[0]) < e.question.index(offered[1])
    table = guess_scores(WIKI, two_wiki)
    by = {e.id: e.meta['label'] for e in WIKI}
    shares = table.guess_option.groupby(by).mean()
    assert shares['compositional'] == shares['inference'] == 0 and 0.3 < shares['comparison'] < 0.7
    assert 'guess_option' not in guess_scores(get_task('babi').simulate(n=22, seed=0), get_task('babi'))


def test_a_label_of_two_data_sets_is_asked_for():
    with pytest.raises(TracenbError, match="label 'comparison' belongs to 2wiki and hotpotqa") as e:
        dataset_of(dict(label='comparison'), '')
    assert 'dataset' in e.value.remedy and '2wiki' in e.value.remedy
    assert dataset_of(dict(label='bridge'), '') is hotpotqa and dataset_of({}, 'inference') is two_wiki
    assert dataset_of(dict(label='comparison', dataset='2wiki'), '') is two_wiki


@pytest.mark.parametrize('names', [('comparison', 'bridge'), ('comparison', 'inference', 'compositional')])
@pytest.mark.parametrize('other', ['mix', ''])
def test_files_of_a_label_of_two_data_sets_go_with_the_other_files(tmp_path, names, other):
    files = [tmp_path / f'answers_{label}.json' for label in (*names, *filter(None, [other]))]
    for path in files:
        path.write_text('[{"prediction": "a"}]')
    assert group_files(files) == [files[: len(names)], *([files[-1:]] if other else [])]
    assert group_files([files[0], files[0]]) == [files[:1]]


@pytest.mark.parametrize('name', ['2wiki', 'hotpotqa'])
def test_an_audit_takes_official_rows_and_official_ids(tmp_path, name):
    task, asked = get_task(name), simulate_multihop(12, dataset=name, split='test')
    said = [completion_text(e, t, task) for e, t in zip(asked, build_traces(asked, task, 'mix:0.5', seed=1))]
    write(
        tmp_path / 'rows.jsonl', [official_row(e) | dict(dataset=name, prediction=x) for e, x in zip(asked, said)], ''
    )
    write(tmp_path / 'ids.jsonl', [dict(_id=e.id, prediction=x) for e, x in zip(asked, said)], '')
    write(tmp_path / 'source' / 'dev.json', list(map(official_row, asked)))
    whole = audit([tmp_path / 'rows.jsonl'], tmp_path / 'a')
    joined = audit([tmp_path / 'ids.jsonl'], tmp_path / 'b', dataset=name, source=tmp_path / 'source')
    for figures in (whole, joined):
        by = figures.set_index('scoring')
        assert (by.loc['ours'].n, by.loc['ours'].answer_accuracy, by.loc['ours'].trace_accuracy) == (12, 1, 0.5)
        assert ('own_work' in by.index) == (name == '2wiki')


def test_both_names_are_one_module():
    assert get_task('2wiki') is two_wiki and get_task('hotpotqa') is hotpotqa and two_wiki.labels == TYPES
    for name in ('2wiki', 'hotpotqa'):
        rows = load_examples(get_task(name), DataConfig(n_test=8), 'test')
        assert Counter(e.dataset for e in rows) == {name: 8} and {e.split for e in rows} == {'test'}
    assert Response(id='a', label=None, facts=(), answers=()).work == ()
