"bAbI: the loader on files in the official format, guarantees of the simulator, the solvers, definitions of the paper."

import gzip
import json
import random
import re
import warnings
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracenb.core.records import Example, TracenbError, normalize
from tracenb.core.rows import RowsLeftOut
from tracenb.tasks.babi import (
    BABI_TASKS,
    babi,
    load_babi,
    quoted_facts,
    read_babi_row,
    read_row_file,
    read_story_file,
)
from tracenb.tasks.babi_sim import SIMULATORS, Story, simulate_babi
from tracenb.tasks.babi_solver import SOLVERS, check_gold, gold_table, read_events, solve
from tracenb.tasks.task import DataConfig, check_examples, get_task, load_examples, read_list, split_of

FULL = {
    'single-supporting-fact': (200, 20),
    'two-supporting-facts': (200, 20),
    'two-arg-relations': (1000, 100),
    'counting': (200, 20),
    'lists-sets': (200, 20),
    'conjunction': (200, 20),
    'time-reasoning': (200, 20),
    'basic-deduction': (250, 25),
    'basic-induction': (1000, 100),
    'positional-reasoning': (125, 12),
    'size-reasoning': (198, 19),
}  # Real rows: label -> train, test


def possible(context):
    "Whether the events of a household story can happen: people change places, and take only what is there and free."
    place, holder, lies = {}, {}, {}
    for kind, who, what, to in read_events(context):
        if kind == 'move' and place.get(who) == what:
            return False
        if kind == 'move':
            place[who] = what
        elif kind == 'take':
            if what in holder or None not in (lies.get(what), place.get(who)) and lies[what] != place[who]:
                return False
            holder[what] = who
        elif holder.get(what) != who:
            return False
        elif kind == 'drop':
            lies[what] = place.get(holder.pop(what))
        elif None not in (place.get(who), place.get(to)) and place[who] != place[to] or to == who:
            return False
        else:
            holder[what] = to
    return True


def later_first(items):
    "The share of time stories in which the later of the two supporting visits is told first."
    return sum(
        'yesterday' in e.context[e.meta['facts'][1]].lower() or 'afternoon' in e.context[e.meta['facts'][0]]
        for e in items
    ) / len(items)


HOUSEHOLD = ('two-supporting-facts', 'counting', 'lists-sets')


# --- Solvers: answers derived from the text alone


@pytest.mark.parametrize('label', list(BABI_TASKS.values()))
@pytest.mark.parametrize('split', ['train', 'test'])
def test_simulated_answers_follow_from_the_text(label, split):
    assert [why for e in simulate_babi(400, seed=7, split=split, labels=(label,)) if (why := check_gold(e).why)] == []


@pytest.mark.parametrize('label', list(BABI_TASKS.values()))
def test_the_check_notices_a_wrong_answer_and_a_wrong_fact(label):
    for e in simulate_babi(50, seed=8, labels=(label,)):
        wrong = replace(e, answers=('no',) if e.answers == ('yes',) else ('yes',))
        assert check_gold(wrong)[:2] == (False, True) and e.id in check_gold(wrong).why
        for facts in (e.meta['facts'][1:], sorted({*e.meta['facts'], *range(len(e.context))} ^ {e.meta['facts'][0]})):
            assert check_gold(replace(e, meta={**e.meta, 'facts': facts}))[:2] == (True, False)


def test_answers_are_compared_in_order_and_whole():
    e = next(e for e in simulate_babi(200, seed=1, labels=('lists-sets',)) if len(e.answers) > 1)
    for answers in (e.answers[::-1], e.answers[:1], (*e.answers, 'hat'), e.answers * 2):
        assert not check_gold(replace(e, answers=answers)).answers


@pytest.mark.parametrize('label', list(BABI_TASKS.values()))
def test_solvers_do_not_look_at_gold(label):
    for e in simulate_babi(20, seed=9, labels=(label,)):
        assert solve(replace(e, answers=('?',), meta={}), label) == solve(e, label)


@pytest.mark.parametrize('label', list(BABI_TASKS.values()))
def test_a_strange_sentence_and_a_strange_question_are_named(label):
    for e in simulate_babi(20, seed=10, labels=(label,)):
        for i in range(len(e.context)):
            with pytest.raises(TracenbError, match=f'{e.id} .*It rained in May.'):
                solve(replace(e, context=(*e.context[:i], 'It rained in May.', *e.context[i + 1 :])), label)
        with pytest.raises(TracenbError, match=r'Who\?.* is not of the form'):
            solve(replace(e, question='Who?'), label)


def test_facts_are_needed():
    "In these tasks nothing follows from the rest of the story."
    for label in ('two-arg-relations', 'positional-reasoning', 'basic-deduction'):
        for e in simulate_babi(40, seed=11, labels=(label,)):
            for gone in e.meta['facts']:
                with pytest.raises(TracenbError, match='does not settle'):
                    solve(replace(e, context=tuple(s for i, s in enumerate(e.context) if i != gone)), label)


STORIES_OF = [
    (
        'two-supporting-facts',
        (
            'Mary went to the office.',
            'Mary got the milk there.',
            'Mary went to the garden.',
            'Mary dropped the milk.',
            'Mary moved to the kitchen.',
        ),
        'Where is the milk?',
        ('garden',),
        ((2, 3),),
    ),
    (
        'two-supporting-facts',
        ('John went to the hallway.', 'Mary got the milk there.', 'Mary gave the milk to John.'),
        'Where is the milk?',
        ('hallway',),
        ((0, 2),),
    ),
    (
        'lists-sets',
        ('Mary got the milk there.', 'Mary took the apple there.', 'Mary handed the milk to John.'),
        'What is John carrying?',
        ('milk',),
        ((2,),),
    ),
    (
        'lists-sets',
        ('Mary got the milk there.', 'Mary left the milk there.'),
        'What is Mary carrying?',
        ('nothing',),
        ((0, 1),),
    ),
    (
        'size-reasoning',
        (
            'The box fits inside the chest.',
            'The chest is bigger than the box.',
            'The suitcase is bigger than the chest.',
            'The box fits inside the suitcase.',
        ),
        'Is the box bigger than the suitcase?',
        ('no',),
        ((0, 2), (1, 2)),
    ),
    (
        'positional-reasoning',
        ('The triangle is above the pink rectangle.', 'The pink rectangle is to the left of the red square.'),
        'Is the triangle to the right of the red square?',
        ('no',),
        ((0, 1),),
    ),
    (
        'basic-induction',
        ('Lily is a swan.', 'Greg is a swan.', 'Brian is a swan.', 'Lily is white.', 'Brian is gray.'),
        'What color is Greg?',
        ('gray',),
        ((1, 2, 4),),
    ),
]


@pytest.mark.parametrize('label, context, question, answers, facts', STORIES_OF)
def test_known_solutions(label, context, question, answers, facts):
    assert solve(
        Example(id='x', dataset='babi', split='test', context=context, question=question, answers=('?',)), label
    ) == (answers, facts)


@pytest.mark.parametrize(
    'label, context, question, message',
    [
        (
            'counting',
            ('Mary left the milk.',),
            'How many objects is Mary carrying?',
            "'Mary left the milk.': Mary does not hold the milk",
        ),
        ('counting', ('Mary got the milk there.',), 'How many objects is John carrying?', 'does not settle'),
        (
            'counting',
            tuple(f'Mary got the {x} there.' for x in 'abcd'),
            'How many objects is Mary carrying?',
            '4 objects are carried, a, b, c, d',
        ),
        (
            'two-arg-relations',
            ('The office is north of the garden.', 'The kitchen is south of the garden.'),
            'What is east of the garden?',
            'does not settle',
        ),
        (
            'size-reasoning',
            ('The box fits inside the chest.', 'The chest fits inside the box.'),
            'Does the box fit in the chest?',
            'does not settle',
        ),
        (
            'time-reasoning',
            ('Yesterday Mary went to the park this morning.',),
            'Where was Mary before the park?',
            "'Yesterday Mary went to the park this morning.' does not give one time",
        ),
        ('time-reasoning', ('Yesterday Mary went to the park.',), 'Where was Mary before the park?', 'does not settle'),
    ],
)
def test_stories_without_an_answer(label, context, question, message):
    with pytest.raises(TracenbError, match=re.escape(message)):
        solve(Example(id='x', dataset='babi', split='test', context=context, question=question, answers=('?',)), label)


def test_gold_table_counts():
    good = simulate_babi(22, seed=1)
    table = gold_table(
        good
        + [
            replace(good[0], answers=('nowhere',)),
            replace(good[0], context=('Nothing of use.',), meta={**good[0].meta, 'facts': [0]}),
        ]
    )
    assert (
        table.loc[good[0].meta['label']].tolist() == [4, 2, 3]
        and table.loc['all'].tolist() == [24, 22, 23]
        and len(table) == 12
    )
    with pytest.raises(TracenbError, match='no examples'):
        gold_table([])
    with pytest.raises(TracenbError, match="did you mean 'counting'"):
        solve(good[0], 'countin')


# --- Simulator


@pytest.mark.parametrize('label', HOUSEHOLD)
def test_households_are_possible(label):
    assert [e for e in simulate_babi(1000, seed=3, labels=(label,)) if not possible(e.context)] == []


def test_impossible_households_are_noticed():
    for story in (
        ('Mary went to the office.', 'Mary moved to the office.'),
        ('Mary took the milk there.', 'John got the milk there.'),
        ('Mary dropped the milk.',),
        (
            'Mary went to the office.',
            'Mary took the milk there.',
            'Mary left the milk.',
            'John went to the garden.',
            'John took the milk there.',
        ),
        (
            'Mary went to the office.',
            'John went to the garden.',
            'Mary took the milk there.',
            'Mary gave the milk to John.',
        ),
    ):
        assert possible(story[:-1]) and not possible(story)


def test_every_label_is_simulated_and_registered():
    assert set(SIMULATORS) == set(BABI_TASKS.values()) == set(SOLVERS) and len(BABI_TASKS) == 11
    assert get_task('babi') is babi and babi.labels == tuple(BABI_TASKS.values())


key = lambda e: (e.context, e.question)


@given(
    n=st.integers(1, 60),
    more=st.integers(0, 60),
    seed=st.integers(),
    labels=st.sets(st.sampled_from(sorted(SIMULATORS)), min_size=1),
    split=st.sampled_from(['train', 'test']),
)
def test_simulation_guarantees(n, more, seed, labels, split):
    labels = tuple(sorted(labels))
    items = simulate_babi(n, seed, split, labels)
    assert items == simulate_babi(n + more, seed, split, labels)[:n]  # more examples change none
    assert [e.meta['label'] for e in items] == [labels[k % len(labels)] for k in range(n)]
    assert len({key(e) for e in items}) == len({e.id for e in items}) == n
    check_examples(items, babi)
    for e in items:
        assert e.meta['simulated'] is True and e.split == split and Example.from_json(e.to_json()) == e
        assert e.meta['facts'] == sorted(set(e.meta['facts']))
        assert babi.read_answers(babi.write_answers(e.answers)) == e.answers


@settings(max_examples=10)
@given(a=st.integers(), b=st.integers(), n=st.integers(1, 150))
def test_train_and_test_never_share_an_item(a, b, n):
    assert {key(e) for e in simulate_babi(n, a)}.isdisjoint(key(e) for e in simulate_babi(n, b, 'test'))


def test_a_small_space_is_shared_out_not_overlapped():
    # nearly all two-arg-relations items there are: overlap would be certain if splits were drawn independently
    train, test = (
        simulate_babi(n, split=s, labels=('two-arg-relations',)) for n, s in ((3000, 'train'), (1000, 'test'))
    )
    assert {key(e) for e in train}.isdisjoint(map(key, test))
    assert len({key(e) for e in train + test}) == 4000
    assert all(split_of(Story(e.context, e.question, e.answers, ())) == e.split for e in train + test)


def test_other_labels_do_not_matter():
    alone = simulate_babi(9, seed=2, labels=('counting',))
    assert [
        e
        for e in simulate_babi(33, seed=2, labels=('conjunction', 'counting', 'lists-sets'))
        if e.meta['label'] == 'counting'
    ][:9] == alone


def test_seeds_differ_and_repeat():
    assert simulate_babi(22, seed=1) == simulate_babi(22, seed=1)
    assert {key(e) for e in simulate_babi(220, seed=1)} != {key(e) for e in simulate_babi(220, seed=2)}


KNOWN = (('Sandra went back to the office.', 'Mary journeyed to the garden.'), 'Where is Sandra?', ('office',))


def test_known_story():
    # the exact draw belongs to a seed: a change of the simulator must be noticed
    e = simulate_babi(1, seed=0, labels=('single-supporting-fact',))[0]
    assert e.id == 'babi-sim-single-supporting-fact-4ddadf795e42'
    assert (e.context, e.question, e.answers) == KNOWN


def test_max_words():
    items = simulate_babi(66, max_words=36, split='test')
    assert len(items) == 66 and max(len(' '.join(e.context).split()) for e in items) <= 36
    with pytest.raises(TracenbError, match='of basic-deduction of at most 35 words were asked for, only 0'):
        simulate_babi(11, max_words=35)


def test_a_space_that_is_too_small_is_an_error():
    with pytest.raises(TracenbError, match='different test stories of two-arg-relations were asked for, only'):
        simulate_babi(2000, split='test', labels=('two-arg-relations',))


@pytest.mark.parametrize(
    'kw, message',
    [
        (dict(n=0), 'n is 0'),
        (dict(n=1, split='dev'), "unknown split 'dev'"),
        (dict(n=1, labels=('listsets',)), "did you mean 'lists-sets'"),
    ],
)
def test_bad_simulations(kw, message):
    with pytest.raises(TracenbError, match=message):
        simulate_babi(**kw)


def test_through_load_examples():
    config = DataConfig(n_train=22, n_test=11, max_words=60)
    train, test = (load_examples(babi, config, s) for s in ('train', 'test'))
    assert Counter(babi.decompose(e).label for e in train) == dict.fromkeys(BABI_TASKS.values(), 2) and len(test) == 11


# --- Official text files

STORIES = """1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went back to the office.
5 Where is Mary? \toffice\t4
1 Daniel went to the garden.
2 Daniel moved to the kitchen.
3 Where is Daniel? \tkitchen\t2
"""


def write(folder, text, name='qa1_single-supporting-fact_train.txt'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding='utf-8', newline='')
    return folder / name


def test_first_questions(tmp_path):
    items = read_story_file(write(tmp_path, STORIES))
    assert [(e.id, e.context, e.question, e.answers, e.meta) for e in items] == [
        (
            'babi-qa1-train-0000',
            ('Mary moved to the bathroom.', 'John went to the hallway.'),
            'Where is Mary?',
            ('bathroom',),
            {'label': 'single-supporting-fact', 'facts': [0], 'line': 3},
        ),
        (
            'babi-qa1-train-0001',
            ('Daniel went to the garden.', 'Daniel moved to the kitchen.'),
            'Where is Daniel?',
            ('kitchen',),
            {'label': 'single-supporting-fact', 'facts': [1], 'line': 8},
        ),
    ]
    check_examples(items, babi)


def test_all_questions(tmp_path):
    path = write(tmp_path, STORIES)
    items = read_story_file(path, first_only=False)
    assert [e.id for e in items] == ['babi-qa1-train-0000', 'babi-qa1-train-0000-2', 'babi-qa1-train-0001']
    assert items[1].context[items[1].meta['facts'][0]] == 'Mary went back to the office.'  # ID 4 is the third sentence
    assert [e for e in items if e.id.count('-') == 3] == read_story_file(path)


def test_windows_lines_a_byte_order_mark_and_blank_lines(tmp_path):
    plain = read_story_file(write(tmp_path, STORIES))
    assert read_story_file(write(tmp_path, '\ufeff' + STORIES.replace('\n', '\r\n') + '\r\n')) == plain


def test_several_answers_and_facts(tmp_path):
    e = read_story_file(write(tmp_path, '1 A.\n2 B.\n3 C.\n4 What? \tmilk,apple\t3 1\n', 'qa8_lists-sets_test.txt'))[0]
    assert (e.split, e.answers, e.meta['facts']) == ('test', ('milk', 'apple'), [0, 2])


@pytest.mark.parametrize(
    'text, message',
    [
        ('', 'no usable row'),
        ('1 A.\n2 B.\n', 'txt:1: no question in this story'),
        ('1 A.\n2 Where? \thome 1\n', 'txt:2: .*two tabs.*has 1'),
        ('1 A.\n2 Where? home 1\n', 'txt:2: .*a question without the tabs'),
        ('1 A.\n2 Where is Mary?\n', 'txt:2: .*a question without the tabs'),
        ('1 A.\n2 Where?\thome\tone\n', 'txt:2: .*supporting IDs separated'),
        ('1 A.\n2 Where?\t\t1\n', 'txt:2: .*answer'),
        ('1 A.\n2 Where?\thome\t3\n', 'txt:2: supporting ID 3 is not a sentence'),
        ('1 A.\n2 Where?\thome\t2\n', 'txt:2: supporting ID 2 is not a sentence'),
        ('1 Where?\thome\t1\n', 'txt:1: supporting ID 1 is not a sentence'),
        ('1 A.\nB.\n3 Where?\thome\t1\n', 'txt:2: .*does not begin with an ID'),
        ('2 A.\n3 Where?\thome\t2\n', 'txt:1: ID 2 does not follow'),
        ('2 Where?\thome\t1\n', 'txt:1: ID 2 does not follow'),
    ],
)
def test_malformed_files(tmp_path, text, message):
    "A file with nothing usable is an error; the same story after a good one is left out and reported."
    with pytest.raises(TracenbError, match=message):
        read_story_file(write(tmp_path, text))
    if not text:
        return
    n = STORIES.count('\n')
    with pytest.warns(RowsLeftOut) as caught:
        items = read_story_file(write(tmp_path, STORIES + text))
    assert items == read_story_file(write(tmp_path, STORIES))
    place = re.sub(r'txt:(\d+)', lambda m: f'txt:{int(m[1]) + n}', message)
    assert (
        len(caught) == 1
        and re.search(place, str(caught[0].message))
        and '2 rows kept, 1 left out' in str(caught[0].message)
    )


def test_a_damaged_story_changes_no_other(tmp_path):
    """Whichever line of the first story is damaged, the second keeps its id.
    A lost first line costs the story before it too, because it seems to belong there."""
    whole, lines = read_story_file(write(tmp_path, STORIES * 3), first_only=False), (STORIES * 3).splitlines()
    for k in range(len(lines)):
        with pytest.warns(RowsLeftOut):
            left = read_story_file(write(tmp_path, '\n'.join([*lines[:k], '???', *lines[k + 1 :]])), first_only=False)
        assert set(left) < set(whole) and len({e.id[:19] for e in whole} - {e.id[:19] for e in left}) == (
            2 if k and lines[k].startswith('1 ') else 1
        )


def test_a_file_that_breaks_off(tmp_path):
    with pytest.warns(RowsLeftOut, match='txt:6: no question in this story'):
        assert len(read_story_file(write(tmp_path, STORIES[: STORIES.index('3 Where is Daniel')]))) == 1


def test_not_text(tmp_path):
    path = write(tmp_path, '')
    path.write_bytes(b'1 \xff\xfe')
    with pytest.raises(TracenbError, match='cannot be read'):
        load_babi(path, 'train')


def test_one_file_that_cannot_be_read_stops_no_other(tmp_path):
    "Case data/28: it names itself and its line; so does a file with a wrong name."
    write(tmp_path, STORIES)
    bad = write(tmp_path, '', 'qa12_conjunction_train.txt')
    whole = STORIES.encode()
    bad.write_bytes(whole.replace(b'bathroom', b'caf\xe9') + whole.replace(b'\n', b'\x0c\xe2\x80\xa8\n'))
    write(tmp_path, STORIES, 'qa14_counting_train.txt')
    with pytest.warns(RowsLeftOut) as caught:
        items = load_babi(tmp_path, 'train')
    assert [e.id for e in items][:2] == ['babi-qa1-train-0000', 'babi-qa1-train-0001']
    said = str(caught[0].message)
    assert len(caught) == 1 and 'qa12_conjunction_train.txt:1: cannot be read as UTF-8' in said
    assert 'qa14_counting_train.txt: task 14 is time-reasoning' in said


@pytest.mark.parametrize(
    'name, message',
    [
        ('qa21_x_train.txt', 'no task 21'),
        ('qa0_x_train.txt', 'no task 0'),
        ('qa3_three-supporting-facts_train.txt', 'task 3 is not used'),
        ('qa1_counting_train.txt', 'task 1 is single-supporting-fact, the name says counting'),
        ('story_train.txt', 'does not give task and split'),
    ],
)
def test_wrong_file_names(tmp_path, name, message):
    with pytest.raises(TracenbError, match=message):
        load_babi(write(tmp_path, STORIES, name), 'train')


def test_folders(tmp_path):
    root = tmp_path / 'tasks_1-20_v1-2'
    for name in ('en', 'en-10k', 'shuffled', 'hn'):
        write(root / name, STORIES.replace('bathroom', name))
    assert load_babi(root, 'train')[0].answers == ('en',) == load_babi(str(root / 'en'), 'train')[0].answers
    assert load_babi(root / 'hn', 'train')[0].answers == ('hn',)
    (root / 'en' / 'qa1_single-supporting-fact_train.txt').unlink()
    assert load_babi(root, 'train')[0].answers == ('en-10k',)
    (root / 'en-10k' / 'qa1_single-supporting-fact_train.txt').unlink()
    with pytest.raises(TracenbError, match='several folders: hn, shuffled'):
        load_babi(root, 'train')


def test_unused_tasks_are_skipped_and_tasks_come_in_order(tmp_path):
    for name in ('qa14_time-reasoning', 'qa2_two-supporting-facts', 'qa3_three-supporting-facts'):
        write(tmp_path, STORIES, f'{name}_train.txt')
    assert [e.id for e in load_babi(tmp_path, 'train')] == [
        'babi-qa2-train-0000',
        'babi-qa2-train-0001',
        'babi-qa14-train-0000',
        'babi-qa14-train-0001',
    ]
    write(tmp_path, STORIES, 'qa2_train.txt')
    with pytest.raises(TracenbError, match='a second train file of task 2'):
        load_babi(tmp_path, 'train')


def test_missing_sources(tmp_path):
    with pytest.raises(TracenbError, match='no such file or folder'):
        load_babi(tmp_path / 'nowhere', 'train')
    with pytest.raises(TracenbError, match='no train file of the tasks'):
        load_babi(tmp_path, 'train')
    path = write(tmp_path, STORIES)
    with pytest.raises(TracenbError, match='qa1_single-supporting-fact_test.txt: no such file'):
        load_babi(path, 'test')
    with pytest.raises(TracenbError, match='unknown split'):
        load_babi(path, 'dev')
    write(tmp_path, '{}\n', 'rows.jsonl')
    with pytest.raises(TracenbError, match='does not say which split'):
        load_babi(tmp_path / 'rows.jsonl', 'train')


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), label=st.sampled_from(sorted(BABI_TASKS)))
def test_simulated_stories_survive_the_official_format(tmp_path_factory, seed, label):
    items, lines = simulate_babi(5, seed, labels=(BABI_TASKS[label],)), []
    for e in items:
        lines += [f'{i} {s}' for i, s in enumerate(e.context, 1)]
        lines.append(
            '\t'.join(
                (
                    f'{len(e.context) + 1} {e.question} ',
                    ','.join(e.answers),
                    ' '.join(str(i + 1) for i in e.meta['facts']),
                )
            )
        )
    back = load_babi(
        write(tmp_path_factory.mktemp('en'), '\n'.join(lines), f'qa{label}_{BABI_TASKS[label]}_train.txt'), 'train'
    )
    assert [(e.context, e.question, e.answers, e.meta['facts']) for e in back] == [
        (e.context, e.question, e.answers, e.meta['facts']) for e in items
    ]


# --- The order of basic induction

# The 2,000 official stories of qa16 (train and test, first questions): which of the five introductions is the asked
# animal's, and the share of stories where each of the nine sentences supports the answer
ASKED_AT = (0.058, 0.079, 0.099, 0.183, 0.581)
SUPPORTS = (0.255, 0.266, 0.277, 0.31, 0.299, 0.34, 0.349, 0.385, 0.52)


def induction_order(items):
    "(shares of the place of the asked animal among the introductions, shares of sentences that support)."
    places, facts = Counter(), Counter()
    for e in items:
        introduced = [s.split()[0] for s in e.context if ' is a ' in s]
        places[introduced.index(e.question.split()[-1].rstrip('?'))] += 1
        facts.update(e.meta['facts'])
    return [places[k] / len(items) for k in range(5)], [facts[k] / len(items) for k in range(9)]


@pytest.mark.parametrize('split', ['train', 'test'])
def test_basic_induction_is_told_in_the_official_order(split):
    asked_at, supports = induction_order(simulate_babi(2000, seed=4, split=split, labels=('basic-induction',)))
    assert asked_at == pytest.approx(ASKED_AT, abs=0.04) and supports == pytest.approx(SUPPORTS, abs=0.04)


def test_the_asked_animal_is_the_one_without_a_color():
    for e in simulate_babi(100, seed=4, labels=('basic-induction',)):
        asked = e.question.split()[-1].rstrip('?')
        assert len(e.context) == 9 and sum(s.startswith(f'{asked} ') for s in e.context) == 1


def test_real_induction_has_that_order(real, shared):
    official = [e for s in ('train', 'test') for e in load_babi(shared / 'babi_official', s)]
    official = [e for e in official if e.meta['label'] == 'basic-induction']
    asked_at, supports = induction_order(official)
    assert len(official) == 2000
    assert [round(x, 3) for x in asked_at] == list(ASKED_AT) and supports == pytest.approx(SUPPORTS, abs=0.0006)
    rows = [e for e in real['train'] + real['test'] if e.meta['label'] == 'basic-induction']
    assert induction_order(rows)[0] == pytest.approx(ASKED_AT, abs=0.03) and len(rows) == 1100


# --- JSON lines

ROW = dict(
    row_id='train-0',
    passages=['A.', 'B.', 'A.'],
    question='Where?',
    query_type='counting',
    answer_passage=['A.'],
    answer='one',
)


def test_rows(tmp_path):
    write(tmp_path, json.dumps(ROW) + '\n', 'train.jsonl')
    e = load_babi(tmp_path, 'train')[0]
    assert (e.id, e.context, e.answers, e.meta) == (
        'babi-train-0',
        ('A.', 'B.', 'A.'),
        ('one',),
        {'label': 'counting', 'facts': [2]},
    )
    assert load_babi(tmp_path / 'train.jsonl', 'train') == [e]
    with pytest.raises(TracenbError, match='test.jsonl: no such file'):
        load_babi(tmp_path / 'train.jsonl', 'test')


BAD_ROWS = [
    ('{"row_id": 1', 'not JSON'),
    (json.dumps({**ROW, 'row_id': 'x', 'passages': 'A.'}), "passages is 'A.'"),
    (json.dumps({**ROW, 'row_id': 'x', 'query_type': 'count'}), "unknown label of babi 'count'"),
    (
        json.dumps({**ROW, 'row_id': 'x', 'answer_passage': ['C.']}),
        "a sentence of answer_passage is not in the story: 'C.'",
    ),
    (json.dumps(ROW), "id 'babi-train-0' was used before"),
    ('[1]', 'a JSON object is expected'),
]


@pytest.mark.parametrize('line, message', BAD_ROWS)
def test_a_bad_row_is_named_and_left_out(tmp_path, line, message):
    write(tmp_path, '\n'.join([json.dumps(ROW), line, json.dumps({**ROW, 'row_id': 'train-1'})]), 'train.jsonl')
    with pytest.warns(RowsLeftOut) as caught:
        items = load_babi(tmp_path, 'train')
    assert [e.id for e in items] == ['babi-train-0', 'babi-train-1']
    assert (
        len(caught) == 1
        and re.search(f'train.jsonl:2: .*{re.escape(message)}', str(caught[0].message))
        and '2 rows kept, 1 left out' in str(caught[0].message)
    )


def test_a_file_of_bad_rows_is_an_error(tmp_path):
    write(tmp_path, '\n'.join(line for line, _ in BAD_ROWS if line != json.dumps(ROW)), 'train.jsonl')
    with pytest.raises(TracenbError, match='no usable row .5 problems, the first: .*train.jsonl:1'):
        load_babi(tmp_path, 'train')
    write(tmp_path, '', 'train.jsonl')
    with pytest.raises(TracenbError, match='no usable row'):
        load_babi(tmp_path, 'train')


PUBLISHED = dict(
    passage=ROW['passages'], question='Where?', category='counting', answer_passage=['A.'], gold='one', prediction='...'
)


@pytest.mark.parametrize(
    'other',
    [
        PUBLISHED,
        {**PUBLISHED, 'passage': "['A.', 'B.', 'A.']", 'answer_passage': "['A.']"},
        {**PUBLISHED, 'query_type': 'counting', 'row_id': None},
        {**ROW, 'row_id': None},
    ],
)
def test_both_sets_of_names(other):
    e, plain = read_babi_row(other, 'train'), read_babi_row(ROW, 'train')
    assert (
        replace(e, id=plain.id) == plain
        and re.fullmatch('babi-train-[0-9a-f]{12}', e.id)
        and e.id == read_babi_row(PUBLISHED, 'train').id
    )
    assert read_babi_row(other, 'test').id != e.id


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(passages=None), 'no field passages or passage'),
        (dict(question=None), 'no field question'),
        (dict(question=' '), "question is ' '"),
        (dict(question=3), "question is '3'"),
        (dict(query_type=None), 'no field query_type or category'),
        (dict(answer=None), 'no field answer or gold'),
        (dict(answer=['one']), 'answer is'),
        (dict(answer=''), "answer is ''"),
        (dict(answer=' , '), 'holds no answer'),
        (dict(answer_passage=None), 'no field answer_passage'),
        (dict(passages=[]), 'passages is empty'),
        (dict(answer_passage=[]), 'answer_passage is empty'),
        (dict(passages=['A.', 3]), 'passages is'),
        (dict(passages=['A.', '']), 'passages is'),
        (dict(passages='[1]'), "answer_passage is not in the story: 'A.'"),
        (dict(passages={'a': 'A.'}), 'passages is'),
        (dict(row_id=True), 'row_id is True'),
        (dict(row_id=1.5), 'row_id is 1.5'),
    ],
)
def test_bad_fields(change, message):
    with pytest.raises(TracenbError, match=re.escape(message)) as e:
        read_babi_row({**ROW, **change}, 'train')
    assert e.value.remedy


def test_repeats_without_ids_are_kept_apart(tmp_path):
    write(
        tmp_path,
        '\n'.join(map(json.dumps, [PUBLISHED, {**PUBLISHED, 'gold': 'two'}, PUBLISHED, PUBLISHED])),
        'test.jsonl',
    )
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        items = load_babi(tmp_path, 'test')
    check_examples(items, babi)
    assert len(items) == 4 and [e.id.rpartition('-')[2] for e in items][2:] == ['2', '3']


@pytest.mark.parametrize('name', ['train.json', 'train.jsonl.gz', 'train.parquet'])
def test_other_row_files(tmp_path, name):
    import pyarrow as pa
    import pyarrow.parquet

    rows = [ROW, {**ROW, 'row_id': 'train-1'}]
    if name.endswith('parquet'):
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / name)
    else:
        (tmp_path / name).write_bytes(
            gzip.compress('\n'.join(map(json.dumps, rows)).encode())
            if name.endswith('gz')
            else json.dumps(rows).encode()
        )
    assert (
        load_babi(tmp_path, 'train') == load_babi(tmp_path / name, 'train') == [read_babi_row(r, 'train') for r in rows]
    )


@pytest.mark.parametrize(
    'quoted, facts',
    [
        (('a', 'b'), (2, 3)),
        (('b', 'a'), (3, 4)),
        (('a', 'a'), (2, 4)),
        (('a',), (4,)),
        (('x',), None),
        (('b', 'b'), (3,)),
    ],
)
def test_quoted_facts(quoted, facts):
    assert quoted_facts(('a', 'c', 'a', 'b', 'a'), quoted) == facts


# --- Real rows

LOADED = {}


@pytest.fixture
def real(shared):
    if not LOADED:
        LOADED.update({split: load_babi(shared / 'babi', split) for split in ('train', 'test')})
    return LOADED


def test_all_real_rows_load(real):
    counts = {split: Counter(e.meta['label'] for e in items) for split, items in real.items()}
    assert {label: (counts['train'][label], counts['test'][label]) for label in BABI_TASKS.values()} == FULL
    assert len(check_examples(real['train'] + real['test'], babi)) == 4149


def test_real_answers_and_facts_follow_from_the_text(real):
    "The same check as for simulated stories: answers and supporting sentences follow the official convention."
    assert [why for e in real['train'] + real['test'] if (why := check_gold(e).why)] == []
    assert gold_table(real['train'] + real['test']).loc['all'].tolist() == [4149] * 3


def test_real_households_are_possible_and_times_are_told_alike(real):
    items = real['train'] + real['test']
    assert [e.id for e in items if e.meta['label'] in HOUSEHOLD and not possible(e.context)] == []
    times = [e for e in items if e.meta['label'] == 'time-reasoning']
    assert later_first(simulate_babi(1100, labels=('time-reasoning',))) == pytest.approx(later_first(times), abs=0.08)


@pytest.mark.parametrize('label', list(BABI_TASKS.values()))
def test_simulated_stories_are_like_the_real_ones(real, label):
    items, sim = (
        [e for e in real['train'] + real['test'] if e.meta['label'] == label],
        simulate_babi(1100, seed=5, labels=(label,)),
    )
    words = lambda xs: {
        w for e in xs for text in (*e.context, e.question, *e.answers) for w in re.findall(r'\w+', text)
    }
    mean = lambda xs, f: sum(map(f, xs)) / len(xs)
    share = lambda xs: Counter(a for e in xs for a in e.answers)
    assert words(sim) == words(items)
    assert mean(sim, lambda e: len(e.context)) == pytest.approx(mean(items, lambda e: len(e.context)), rel=0.1)
    assert mean(sim, lambda e: len(e.meta['facts'])) == pytest.approx(
        mean(items, lambda e: len(e.meta['facts'])), rel=0.05
    )
    for answer, n in share(items).items():
        assert share(sim)[answer] / len(sim) == pytest.approx(n / len(items), abs=0.08)


# --- Definitions of the paper


@given(seed=st.integers(0, 10**6))
def test_paper_wrong_facts(seed):
    for e in simulate_babi(11, seed=seed):
        drawn, right = babi.paper.wrong_facts(e, random.Random(seed)), {e.context[i] for i in e.meta['facts']}
        others = [s for s in e.context if s not in right]
        assert len(drawn) == len(set(drawn)) == min(len(e.meta['facts']), len(others)) and not right & {
            e.context[i] for i in drawn
        }
        assert drawn == babi.paper.wrong_facts(e, random.Random(seed))
        assert read_list(babi.paper.quote(tuple(e.context[i] for i in drawn))) == tuple(
            e.context[i].lower() for i in drawn
        )


def test_paper_wrong_facts_come_in_the_order_drawn():
    e = simulate_babi(1, labels=('basic-induction',))[0]
    draws = [babi.paper.wrong_facts(e, random.Random(i)) for i in range(200)]
    assert 0.1 < sum(d == tuple(sorted(d)) for d in draws) / 200 < 0.25 and {i for d in draws for i in d} == set(
        range(9)
    ) - set(e.meta['facts'])


@pytest.mark.parametrize(
    'text, right',
    [
        ('milk,apple', True),
        ('<think>x</think> <answer>milk,apple</answer> and more', True),
        ('<answer> Milk,Apple. </answer>', True),
        ('<answer>apple,milk</answer>', False),
        ('<answer>milk, apple</answer>', False),
        ('<answer>milk</answer>', False),
        ('<answer>milk,apple,football</answer>', False),
        ('assistant milk,apple answer the question based on the context', True),
        ('the answer milk,apple', True),
        ('Answer: milk,apple', True),
        ('it is milk,apple', False),
        ('<answer></answer>', False),
        ('', False),
        ('<answer>milk.apple</answer>', False),
        ('assistant\n<think>\n\n</think>\n\nmilk,apple', True),
    ],
)
def test_paper_right_answer(text, right):
    e = Example(
        id='x',
        dataset='babi',
        split='test',
        context=('A.',),
        question='What?',
        answers=('milk', 'apple'),
        meta={'label': 'lists-sets', 'facts': [0]},
    )
    assert babi.paper.right_answer(text, e) is right


def published(shared, condition):
    with gzip.open(shared / 'published' / f'babi_Qwen3-1.7B_{condition}.jsonl.gz', 'rt') as f:
        rows = [json.loads(line) for line in f]
    return rows, [read_babi_row(row, 'test') for row in rows]


@pytest.mark.parametrize('condition, figure', [('vanilla', 96.12), ('correct', 94.34), ('perturbed', 92.06)])
def test_published_answers_by_the_papers_scorer(shared, condition, figure):
    rows, examples = published(shared, condition)
    by_label = {}
    for row, e in zip(rows, examples):
        by_label.setdefault(e.meta['label'], []).append(babi.paper.right_answer(row['prediction'], e))
    assert len(rows) == 376 and 100 * sum(sum(v) / len(v) for v in by_label.values()) / len(by_label) == pytest.approx(
        figure, abs=0.005
    )


def test_published_rows_are_the_test_rows(shared, real):
    _, examples = published(shared, 'correct')
    assert [replace(e, id='') for e in examples] == [replace(e, id='') for e in real['test']]
    assert len(read_row_file(shared / 'published' / 'babi_Qwen3-1.7B_correct.jsonl.gz', 'test')) == 376


def test_published_incorrect_traces_quote_as_ours_do(shared):
    "They list lower-case sentences, as many as there are supporting ones, mostly wrong."
    rows, examples = published(shared, 'perturbed')
    quoted = [read_list(row['prediction'].split('to answer the question: ')[1].split('\n')[0]) for row in rows]
    count = sum(len(q) == len(babi.paper.wrong_facts(e, random.Random(0))) for q, e in zip(quoted, examples))
    assert None not in quoted and all(s == s.lower() for q in quoted for s in q) and count >= 372


def test_paper_lookup_finds_other_rows(real):
    keys = [babi.paper.lookup(e) for e in real['test']]
    assert [k.rank for k in keys] == list(range(376)) and {k.file for k in keys} == {'test'}
    assert (
        sum(next(i for i, row in enumerate(keys) if key.sought in row.column) != n for n, key in enumerate(keys)) == 350
    )  # 93.1 %
    assert (
        babi.paper.lookup(replace(real['test'][0], id='babi-test-0123456789ab')).rank == 0
        and babi.paper.label_sentence == 1
    )
    assert all(normalize(k.column) for k in keys) and babi.paper.decompose(real['test'][0]) == babi.decompose(
        real['test'][0]
    )
