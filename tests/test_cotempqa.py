"CoTempQA: dates and relations, the loader on good and bad files, both decompositions, the simulator, the real rows."

import calendar
import gzip
import json
import random
import re
import warnings
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracenb.core.records import Example, TracenbError, normalize_paper
from tracenb.core.rows import RowsLeftOut
from tracenb.runs.grids import get_grid
from tracenb.tasks.cotempqa import (
    COTEMPQA_LABELS,
    COUNTS,
    ELEMENTS,
    FIRST,
    computed_label,
    cotempqa,
    cotempqa_steps,
    load_cotempqa,
    paper_steps,
    read_cotempqa_answers,
    read_cotempqa_row,
    released_order,
    right_answer,
)
from tracenb.tasks.cotempqa_sim import QUESTION_KINDS, SHORT, DatedStory, simulate_cotempqa, tell
from tracenb.tasks.dates import (
    MEANWHILE,
    PHRASES,
    READINGS,
    Date,
    Fact,
    Interval,
    answer_facts,
    asked_facts,
    co_temporal,
    event_facts,
    joint_relation,
    read_date,
    read_fact,
    read_interval,
    read_question,
    relation,
)
from tracenb.tasks.task import DataConfig, check_examples, get_task, load_examples, split_of

# --- Dates


@st.composite
def dates(draw, first=1, last=2100):
    year, month = draw(st.integers(first, last)), draw(st.integers(0, 12))
    return Date(year, month, draw(st.integers(0, calendar.monthrange(year, month)[1])) if month else 0)


@st.composite
def intervals(draw, first=1990, last=2000):
    a, b = draw(dates(first, last)), draw(dates(first, last))
    return next(i for i in (Interval(a, b), Interval(b, a), Interval(a, a)) if i.possible)


readings = st.sampled_from(list(READINGS))


@given(dates())
def test_dates_round_trip(d):
    assert read_date(str(d)) == d and d.precision == ('day' if d.day else 'month' if d.month else 'year')


@given(intervals(1, 2100))
def test_intervals_round_trip(i):
    assert read_interval(str(i)) == i


@pytest.mark.parametrize(
    'text, reason',
    [
        ('February 31, 2001', 'February 2001 has no day 31'),
        ('February 29, 1900', 'has no day 29'),
        ('June 0, 1999', 'has no day 0'),
        ('March', 'a month without a year'),
        ('March, ', 'a month without a year'),
        ('Juny, 1999', "unknown month 'Juny'"),
        ('0', 'unknown year 0'),
        ('', 'not a day'),
        ('12345', 'not a day'),
        ('1999-06-01', 'not a day'),
        ('3 June, 1999', 'not a day'),
    ],
)
def test_unreadable_dates_are_named_with_the_reason(text, reason):
    with pytest.raises(TracenbError, match=re.escape(repr(text)) + '.*' + re.escape(reason)):
        read_date(text)


@pytest.mark.parametrize(
    'text',
    [
        'from 2001 to 2000',
        'from March 2, 2001 to March 1, 2001',
        'from 2001',
        'in 2001 to 2002',
        'since 2001',
        'in',
        'from May to 2002',
    ],
)
def test_unreadable_intervals(text):
    with pytest.raises(TracenbError):
        read_interval(text)


def test_a_coarse_end_may_hold_its_start():
    assert read_interval('from March 5, 2001 to 2001').possible and read_interval('from 2001 to March 5, 2001').possible
    assert not read_interval('from 2001 to 2000', ordered=False).possible


@given(intervals(), intervals(), readings)
def test_relations_are_symmetric(a, b, reading):
    assert relation(a, b, reading) == relation(b, a, reading) and relation(a, a, reading) == 'equal'


@given(st.integers(1, 9), st.integers(0, 5), st.integers(1, 9), st.integers(0, 5), st.integers(-8, 8))
def test_relations_of_years_are_those_of_numbers_and_do_not_move(a, n, b, m, shift):
    def relations(by):
        "Relations under all readings, with both intervals moved by a number of years."
        first = Interval(Date(1990 + a + by), Date(1990 + a + n + by))
        second = Interval(Date(1990 + b + by), Date(1990 + b + m + by))
        return {relation(first, second, r) for r in READINGS}

    x, y = set(range(a, a + n + 1)), set(range(b, b + m + 1))
    expected = 'overlap' if x & y else 'none'
    if x <= y or y <= x:
        expected = 'equal' if x == y else 'during'
    assert relations(0) == {expected} == relations(shift)


@given(intervals(), intervals())
def test_whole_periods_share_what_first_days_share(a, b):
    if relation(a, b, 'first_day') != 'none':
        assert relation(a, b, 'whole_period') != 'none'


@given(st.lists(st.sampled_from(['equal', 'during', 'overlap', 'none'])))
def test_joint_relation(found):
    assert (
        joint_relation(found)
        == joint_relation(found[::-1])
        == joint_relation(found + ['none'])
        == ('mix' if len(set(found) - {'none'}) > 1 else next(iter(set(found) - {'none'}), 'none'))
    )


def test_unknown_reading_and_impossible_times():
    a, b = read_interval('in 2001'), read_interval('from 2002 to 1999', ordered=False)
    with pytest.raises(TracenbError, match="did you mean 'first_day'"):
        relation(a, a, 'first_days')
    assert {relation(a, b, r) for r in READINGS} == {'none'}


# --- Facts and questions

names = st.sampled_from(
    [
        'Ada Marlow',
        'Piet in Rosmer',
        "D'Arcy (junior)",
        'Éva Ős, 3rd Baron of X',
        'Union in Exile',
        'envoy from Arkwell',
        'X. from Y to Z',
        'Nyhaven, Osterby',
    ]
)


@given(names, st.sampled_from(list(PHRASES)), names, intervals(1, 2100))
def test_facts_round_trip_whatever_their_objects_hold(subject, kind, thing, when):
    f = Fact(subject, kind, thing, when)
    assert read_fact(str(f)) == f
    assert read_fact(str(f).replace(' ', '\xa0')) == f


def test_tenses_are_one_relation():
    assert {read_fact(f'Ada Marlow {p} Arkwell in 1999.').relation for p in PHRASES['employer'] + ('works for',)} == {
        'employer'
    }


@pytest.mark.parametrize(
    'text',
    [
        '',
        'Ada sings in 1999.',
        'Ada Marlow works for Arkwell.',
        'Ada Marlow works for in 1999.',
        'Ada Marlow works for Arkwell in Nyhaven.',
        'Ada Marlow works for Arkwell in June.',
    ],
)
def test_unreadable_facts(text):
    with pytest.raises(TracenbError, match=re.escape(repr(text))):
        read_fact(text)


@pytest.mark.parametrize(
    'ask, who, asked, shared',
    [
        ('which position did Ada Marlow', 'Ada Marlow', 'position', 'S1_R2_O2'),
        ('which political party did Piet Rosmer belong to', 'Piet Rosmer', 'party', 'S2_R2_O2'),
        ('which school was Piet Rosmer attending', 'Piet Rosmer', 'school', 'S2_R2_O2'),
        ('which employer did Ada Marlow work for', 'Ada Marlow', 'employer', 'S1_R1_O2'),
        ('which employer did Piet Rosmer work for', 'Piet Rosmer', 'employer', 'S2_R1_O2'),
        ('who also worked for Arkwell, Lower Town', None, 'employer', 'S2_R1_O1'),
    ],
)
@pytest.mark.parametrize('when', MEANWHILE)
def test_questions(ask, who, asked, shared, when):
    q = read_question(f'While Ada Marlow was working for Arkwell, Lower Town, {ask} {when}?')
    assert q == ('Ada Marlow', 'employer', 'Arkwell, Lower Town', who, asked) and q.shared == shared


# --- Which facts answer

ASK = 'While Ada Marlow was working for Arkwell, which position did Ben Okoro hold at the same time?'
EVENT = 'Ada Marlow works for Arkwell from 1920 to 1930.'


@pytest.mark.parametrize(
    'answers, facts',
    [
        (('reeve',), (1,)),  # whole objects: not `deputy reeve`; the asked person: not Ada; in time: not 1950
        (
            ('deputy reeve',),
            (3,),
        ),  # in two times, neither shared: no, this one is alone and counts though it shares none
        (('Fennick College',), (5,)),  # of a relation that is not asked for
        (('Ada Marlow',), (0, 4)),  # found as a subject, of the two ways left
        (('Fennick',), (5,)),  # part of a name, if no whole name matches
        (('reeve', 'Fennick College'), (1, 5)),
    ],
)
def test_which_facts_answer(answers, facts):
    context = (
        EVENT,
        'Ben Okoro holds the position of reeve in 1925.',
        'Ben Okoro holds the position of reeve in 1950.',
        'Ben Okoro holds the position of deputy reeve in 1960.',
        'Ada Marlow holds the position of reeve in 1925.',
        'Ben Okoro attended Fennick College from 1921 to 1929.',
    )
    assert answer_facts(context, ASK, answers) == facts
    shuffled = random.Random(1).sample(range(6), 6)
    assert answer_facts(tuple(context[i] for i in shuffled), ASK, answers) == tuple(
        sorted(shuffled.index(i) for i in facts)
    )


@pytest.mark.parametrize(
    'question, asked',
    [
        (ASK, (1, 2, 3)),
        (ASK.replace('did Ben Okoro', 'did Ada Marlow'), (4,)),
        (ASK.replace('which position did Ben Okoro hold', 'who also worked for Arkwell'), (6,)),
        (ASK.replace('which position did Ben Okoro hold', 'which employer did Ada Marlow work for'), (7,)),
        (ASK.replace('which position did Ben Okoro hold', 'which school did Cy Dee attend'), ()),
    ],
)
def test_which_facts_have_the_form_that_is_asked_for(question, asked):
    context = (
        EVENT,
        'Ben Okoro holds the position of reeve in 1925.',
        'Ben Okoro held the position of reeve in 1950.',
        'Ben Okoro holds the position of deputy reeve in 1960.',
        'Ada Marlow holds the position of reeve in 1925.',
        'Ben Okoro attended Fennick College from 1921 to 1929.',
        'Cy Dee works for Arkwell in 1999.',
        'Ada Marlow works for Fennick in 1922.',
    )
    assert asked_facts(context, question) == asked


def test_an_event_stated_twice_is_not_compared_with_itself():
    context = (
        'Ada Marlow holds the position of reeve from 1920 to 1940.',
        'Ada Marlow holds the position of reeve in 1930.',
    )
    question = 'While Ada Marlow was holding the position of reeve, which position did Ada Marlow simultaneously?'
    assert (
        event_facts(context, question) == (0, 1)
        and answer_facts(context, question, ('reeve',)) == (0, 1)
        and co_temporal(context, question, (0, 1)) == 'during'
    )


def test_the_paper_counts_substrings_and_keeps_case():
    e = read_cotempqa_row(
        row(
            facts=[
                EVENT,
                'Ada Marlow holds the position of reeve in 1925.',
                'Ada Marlow holds the position of deputy reeve in 1910.',
                'Ada Marlow holds the position of Reeve in 1912.',
            ]
        ),
        'train',
    )
    assert (
        cotempqa_steps(e).facts == (1,) and paper_steps(e).facts == (1, 2) and cotempqa.paper.decompose is paper_steps
    )


# --- Rows


def row(**change):
    return {
        'question': 'While Ada Marlow was working for Arkwell, which position did Ada Marlow hold at the same time?',
        'answer': ['reeve'],
        'triple_element': 'S1_R2_O2',
        'label': 'during',
        'facts': [
            EVENT,
            'Ada Marlow holds the position of reeve in 1925.',
            'Ada Marlow attended Fennick College in 1911.',
        ],
        'row_id': 7,
    } | change


def test_the_three_forms_of_a_row_are_one_example():
    official = row()
    published = {'gold': official['answer'], 'category': 'during', 'prediction': 'x'} | {
        k: v for k, v in official.items() if k not in ('answer', 'label')
    }
    forms = [
        official,
        published,
        row(answer="['reeve']", facts=repr(official['facts'])),
        row(row_id=None, index=7),
        row(index=7),
        row(row_id=7.0),
    ]
    assert [read_cotempqa_row(f, 'test') for f in forms] == [read_cotempqa_row(official, 'test')] * len(forms)
    e = read_cotempqa_row(official, 'test')
    assert (
        e.id == 'cotempqa-during-0007'
        and e.meta == {'label': 'during', 'triple_element': 'S1_R2_O2', 'row_id': 7}
        and Example.from_json(e.to_json()) == e
    )
    assert read_cotempqa_row(row(label='mix', row_id=3532 + 41), 'test').id == 'cotempqa-mix-0041'


def test_a_row_without_a_number_is_named_by_its_content():
    a, b = (
        read_cotempqa_row(row(row_id=None, question=row()['question'].replace('at the same time', w)), 'train').id
        for w in ('at the same time', 'concurrently')
    )
    assert (
        a != b
        and re.fullmatch(r'cotempqa-during-[0-9a-f]{12}', a)
        and a == read_cotempqa_row(row(row_id=None), 'test').id
    )


@pytest.mark.parametrize(
    'change, reason',
    [
        ({'question': None}, "'question' is missing"),
        ({'question': 5}, "'question' is not text"),
        ({'question': ' '}, "'question' is not text"),
        ({'answer': None}, "'answer' is missing"),
        ({'answer': 'reeve'}, "'answer' is not a list"),
        ({'answer': "['reeve"}, "'answer' is not a list"),
        ({'answer': [3]}, "'answer' is not a list"),
        ({'answer': []}, "'answer' is empty"),
        ({'answer': ['reeve', '']}, 'contains an empty string'),
        ({'answer': ['warden']}, "'warden' occurs in no fact"),
        ({'facts': None}, "'facts' is missing"),
        ({'facts': []}, "'facts' is empty"),
        ({'facts': 'x'}, "'facts' is not a list"),
        ({'facts': {'a': 1}}, "'facts' is not a list"),
        ({'facts': [EVENT, 'reeve of nothing']}, 'not a dated fact'),
        ({'facts': ['Ada Marlow holds the position of reeve in February 30, 1925.']}, 'has no day 30'),
        ({'label': None}, "'label' is missing"),
        ({'label': 'durin'}, "did you mean 'during'"),
        ({'label': ['during']}, "'label' is not text"),
        ({'triple_element': None}, "'triple_element' is missing"),
        ({'triple_element': 'S1_R1_O1'}, 'unknown triple_element'),
        ({'row_id': 3096}, 'is not one of during'),
        ({'row_id': 'x'}, 'is not a row number'),
        ({'row_id': None, 'index': -1}, 'is not a row number'),
        ({'row_id': None, 'index': True}, 'is not a row number'),
        ({'index': 8}, 'contradict each other'),
    ],
)
def test_bad_rows(change, reason):
    with pytest.raises(TracenbError, match=re.escape(reason)):
        read_cotempqa_row(row(**change), 'train')


def test_a_question_of_another_wording_keeps_its_row():
    e = read_cotempqa_row(row(question='Which office had Ada Marlow then?'), 'train')
    assert cotempqa_steps(e).facts == (1,)
    with pytest.raises(TracenbError, match='not worded like'):
        computed_label(e)


# --- Files


def test_the_draw_of_the_paper():
    assert list(released_order(436))[:5] == [395, 78, 278, 305, 325] and {
        label: len(released_order(n)) for label, n in COUNTS.items()
    } == {'during': 619, 'equal': 87, 'mix': 113, 'overlap': 131}


def write(path, rows):
    data = ''.join(json.dumps(r) + '\n' for r in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)
    return path


def official(e):
    return {
        'question': e.question,
        'facts': list(e.context),
        'answer': list(e.answers),
        'triple_element': e.meta['triple_element'],
    }


def both(source):
    return load_cotempqa(source, 'train') + load_cotempqa(source, 'test')


@pytest.fixture(scope='module')
def simulated():
    return {
        label: [official(e) for e in simulate_cotempqa(25, labels=(label,), max_words=60)] for label in COTEMPQA_LABELS
    }


@pytest.fixture
def folder(tmp_path, simulated):
    for label, rows in simulated.items():
        write(tmp_path / f'{label}.json', rows)
    return tmp_path


def loudly(source):
    "Both splits, and the problems of the training split."
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        examples = both(source)
    return examples, [p for w in caught if issubclass(w.category, RowsLeftOut) for p in w.message.problems]


def test_official_folder(folder, simulated):
    train, test = load_cotempqa(folder, 'train'), load_cotempqa(folder, 'test')
    assert [e.meta['label'] for e in test] == [label for label in COTEMPQA_LABELS for _ in range(5)] and len(
        train
    ) == 80
    assert [e.question for e in test] == [
        simulated[label][i]['question'] for label in COTEMPQA_LABELS for i in released_order(25)
    ]
    assert [e.id for e in train] == [
        f'cotempqa-{label}-{i:04}' for label in COTEMPQA_LABELS for i in range(25) if i not in released_order(25)
    ]
    assert check_examples(train + test, cotempqa) and {e.split for e in train} == {'train'}


@pytest.mark.parametrize('suffix', ['.jsonl', '.jsonl.gz', '.json.gz'])
def test_other_suffixes(tmp_path, folder, simulated, suffix):
    (there := tmp_path / 'other').mkdir()
    for label, rows in simulated.items():
        write(there / f'{label}{suffix}', rows)
    assert both(there) == both(folder)
    assert load_cotempqa(there / f'mix{suffix}', 'test') == [
        e for e in load_cotempqa(folder, 'test') if e.meta['label'] == 'mix'
    ]


def test_one_file_whose_rows_have_labels(tmp_path, folder, simulated):
    rows = [r | {'category': label} for label, group in simulated.items() for r in group]
    assert both(write(tmp_path / 'all.jsonl', rows)) == both(folder)
    random.Random(0).shuffle(rows)
    assert len(both(write(tmp_path / 'all.jsonl', rows))) == 100
    with pytest.raises(TracenbError, match="'label' is missing|neither split"):
        load_cotempqa(write(tmp_path / 'none.jsonl', simulated['mix']), 'train')


def test_splits_in_the_rows_are_used(tmp_path, simulated):
    rows = [r | {'split': 'test' if i < 3 else 'train'} for i, r in enumerate(simulated['equal'])]
    assert [e.question for e in load_cotempqa(write(tmp_path / 'equal.json', rows), 'test')] == [
        r['question'] for r in rows[:3]
    ]
    with pytest.warns(RowsLeftOut, match="unknown split 'dev'"):
        assert len(load_cotempqa(write(tmp_path / 'equal.json', [rows[3], rows[4] | {'split': 'dev'}]), 'train')) == 1
    with pytest.warns(RowsLeftOut, match='neither split nor index'):
        assert len(load_cotempqa(write(tmp_path / 'equal.json', [rows[3], simulated['equal'][4]]), 'train')) == 1


def test_numbered_rows_take_the_released_split(tmp_path, simulated):
    order = list(released_order(COUNTS['mix']))
    rows = [
        r | {'row_id': FIRST['mix'] + i}
        for r, i in zip(simulated['mix'], [*sorted(order[:10]), *(i for i in range(40) if i not in order)])
    ]
    test = load_cotempqa(write(tmp_path / 'mix.json', rows), 'test')
    assert [e.meta['row_id'] - FIRST['mix'] for e in test] == order[:10] and len(
        load_cotempqa(tmp_path / 'mix.json', 'train')
    ) == 15


def test_bad_rows_are_named_and_the_others_keep_their_ids_and_splits(folder, simulated):
    before = {e.question: e for e in both(folder)}
    lines = (folder / 'mix.json').read_text().splitlines()
    lines[0], lines[4], lines[9], lines[-1] = '{torn', '[1]', json.dumps(simulated['mix'][9] | {'answer': []}), '"x"'
    (folder / 'mix.json').write_text('\n'.join(lines))
    examples, problems = loudly(folder)
    assert len(examples) == 96 and all(before[e.question] == e for e in examples)
    named = {re.search(r'mix\.json:(\d+): ', p.what)[1] for p in problems}
    assert named == {'1', '5', '10', '25'} and all(p.remedy for p in problems)


def test_duplicate_rows_are_left_out_once(tmp_path, simulated):
    rows = [r | {'split': 'train'} for r in simulated['equal'][:4]]
    with pytest.warns(
        RowsLeftOut, match=r'3 rows kept, 1 left out:\n.*equal\.json:3: id .* was used before, at .*equal\.json:1'
    ):
        assert len(load_cotempqa(write(tmp_path / 'equal.json', [rows[0], rows[1], rows[0], rows[2]]), 'train')) == 3
    with pytest.warns(RowsLeftOut, match='was used before'):
        load_cotempqa(write(tmp_path / 'equal.json', [rows[0] | {'index': 3}, rows[1] | {'index': 3}]), 'train')


def test_a_truncated_archive_gives_its_rows(tmp_path, simulated):
    path = write(tmp_path / 'equal.jsonl.gz', simulated['equal'])
    path.write_bytes(path.read_bytes()[:-900])
    examples, problems = loudly(path)
    assert 5 < len(examples) < 25 and any('archive is damaged' in p.what for p in problems)
    place = {r['question']: i for i, r in enumerate(simulated['equal'])}
    for e in examples:  # numbered as in the whole archive, split as in the official one
        assert e.id == f'cotempqa-equal-{place[e.question]:04}' and e.split == (
            'test' if place[e.question] in released_order(COUNTS['equal']) else 'train'
        )


def test_unusable_folders(tmp_path, folder, simulated):
    (folder / 'mix.json').unlink()
    with pytest.warns(RowsLeftOut, match="no file of 'mix'"):
        assert len(load_cotempqa(folder, 'train')) == 60
    write(folder / 'equal.jsonl', simulated['equal'])
    with pytest.raises(TracenbError, match='a second file of equal'):
        load_cotempqa(folder, 'train')
    with pytest.raises(TracenbError, match='none of the files'):
        load_cotempqa((tmp_path / 'empty').mkdir() or tmp_path / 'empty', 'train')
    with pytest.raises(TracenbError, match='no such file or folder'):
        load_cotempqa(tmp_path / 'nowhere', 'train')
    with pytest.raises(TracenbError, match="unknown split 'dev'"):
        load_cotempqa(folder, 'dev')
    with pytest.warns(RowsLeftOut, match="the row says 'mix', the file 'overlap'"):
        load_cotempqa(
            write(tmp_path / 'overlap.json', [simulated['overlap'][0], simulated['overlap'][1] | {'label': 'mix'}]),
            'train',
        )


# --- Answers

nasty = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            'assistant professor',
            'thinker',
            "St Maud's, Lower Town (1921)",
            '["a", "b"]',
            "', '",
            'a "b", \'c\'',
            'Łódź\u2028\xa0',
            '[',
            "\\'",
            '</answer>',
            '\x00',
        ]
    ),
)


@given(st.lists(nasty, max_size=4).map(tuple))
def test_answers_round_trip(answers):
    assert cotempqa.read_answers(cotempqa.write_answers(answers)) == answers


@given(st.text(max_size=30))
def test_any_text_is_some_answers(text):
    assert all(isinstance(a, str) for a in read_cotempqa_answers(text))


@pytest.mark.parametrize(
    'text, answers',
    [
        ("['St Maud's', 'b, c']", ("St Maud's", 'b, c')),
        ("['a', 'b", ('a', 'b')),
        ('["a" , \'b\'', ('a', 'b')),
        ('a, b', ('a, b',)),
        ('[]', ()),
        ('', ()),
        ('[[1], None]', ('[1]', 'None')),
        ("('a', 'b')", ("('a', 'b')",)),
    ],
)
def test_broken_lists(text, answers):
    assert read_cotempqa_answers(text) == answers


@pytest.mark.parametrize(
    'prediction, right',
    [
        ("<answer>['reeve']</answer>", True),
        ("<answer>['REEVE', 'warden']</answer>", True),
        ("<answer>['warden']</answer>", False),
        ('reeve', True),
        ('It is the reeve of course', True),
        ("<think>['reeve']</think>", True),
        ("<answer>['reeve', 'Ada Marlow']</answer>", True),  # the first candidate that is in the question is dropped
        ('the answer reeve', True),
        ('Answer: reeve Answer the question based on: warden', True),
        ('warden </think> my answer warden answer reeve', False),
        ('', False),
    ],
)
def test_the_scorer_of_the_paper(prediction, right):
    e = read_cotempqa_row(row(), 'test')
    assert right_answer(prediction, e) is right is cotempqa.paper.right_answer(prediction, e)


def test_the_scorer_of_the_paper_has_its_faults():
    assert right_answer('assistant reeve', read_cotempqa_row(row(), 'test'))
    e = read_cotempqa_row(
        row(
            facts=[EVENT, 'Ada Marlow holds the position of assistant professor in 1925.'],
            answer=['assistant professor'],
        ),
        'test',
    )
    assert not right_answer("['assistant professor']", e)  # it deletes the word inside the answer
    who = read_cotempqa_row(
        row(
            question='While Ada Marlow was working for Arkwell, who also worked for Arkwell at the same time?',
            facts=[EVENT, 'Ben Okoro works for Arkwell in 1925.', 'Cy Dee works for Arkwell in 1950.'],
            answer=['Ben Okoro'],
            triple_element='S2_R1_O1',
        ),
        'test',
    )
    assert right_answer("['Ben Okoro', 'Cy Dee']", who) and not right_answer(
        "['Cy Dee']", who
    )  # wrong people are not candidates


@given(st.randoms())
def test_the_paper_quotes_one_fact_without_an_answer(rng):
    e = read_cotempqa_row(row(), 'train')
    drawn = cotempqa.paper.wrong_facts(e, rng)
    assert (
        len(drawn) == 1
        and drawn[0] in (0, 2)
        and cotempqa.paper.quote(tuple(e.context[i] for i in drawn)) == e.context[drawn[0]]
    )
    everywhere = read_cotempqa_row(row(facts=['Ada Marlow holds the position of reeve in 1925.']), 'train')
    assert cotempqa.paper.wrong_facts(everywhere, rng) == (0,)


def test_where_the_paper_looks_gold_up():
    place = cotempqa.paper.lookup(
        read_cotempqa_row(row(row_id=list(released_order(COUNTS['during']))[3], answer=['reeve', 'Arkwell']), 'test')
    )
    assert place == ('during', 3, "['reeve', 'Arkwell']", 'reeve')
    assert cotempqa.paper.lookup(simulate_cotempqa(1)[0]).rank == 87  # after all that have a place


# --- The task


def test_wording():
    e = read_cotempqa_row(row(), 'train')
    assert get_task('cotempqa') is cotempqa and cotempqa.labels == COTEMPQA_LABELS
    assert (
        cotempqa.prompt(e) == f'Answer the question based on the context:\n{list(e.context)!r}\nQuestion: {e.question} '
        'Only return the answer.\n'
    )
    assert cotempqa.trace_text(e, cotempqa.decompose(e)) == (
        'The temporal relation between the event in question and the event in context is: during.\n'
        "I need to use the following facts to answer the question: ['Ada Marlow holds the position of reeve in 1925.']"
    )


# --- The simulation


def test_simulation_guarantees():
    long, short = simulate_cotempqa(120, seed=3), simulate_cotempqa(17, seed=3)
    assert long[:17] == short and [e.meta['label'] for e in short] == [COTEMPQA_LABELS[i % 4] for i in range(17)]
    assert len({e.id for e in long}) == 120 and all(
        e.meta['simulated'] is True and e.dataset == 'cotempqa' for e in long
    )
    assert {e.id for e in simulate_cotempqa(20, seed=4)}.isdisjoint(e.id for e in long)
    test = simulate_cotempqa(60, seed=3, split='test')
    for e in long + test:
        assert split_of(DatedStory(e.context, e.question, e.answers, (), '')) == e.split
    assert {(e.context, e.question) for e in long}.isdisjoint((e.context, e.question) for e in test)


def test_one_story_in_five_is_for_testing():
    told = [
        split_of(tell(random.Random(i), COTEMPQA_LABELS[i % 4], 70) or tell(random.Random(-i), 'equal'))
        for i in range(300)
    ]
    assert 35 < told.count('test') < 85


@pytest.mark.parametrize('words', [40, 55, 150])
def test_simulation_respects_max_words(words):
    examples = simulate_cotempqa(12, max_words=words)
    assert all(sum(len(c.split()) for c in e.context) <= words for e in examples)
    assert all(
        len(cotempqa_steps(e).facts) + 1 < len(e.context) for e in examples
    )  # the event and another fact beside the gold ones


@pytest.mark.parametrize(
    'wrong, reason',
    [
        ({'n': 0}, 'n is 0'),
        ({'split': 'dev'}, 'unknown split'),
        ({'labels': ('equals',)}, "did you mean 'equal'"),
        ({'max_words': 15}, 'at most 15 words'),
    ],
)
def test_bad_settings_of_the_simulation(wrong, reason):
    with pytest.raises(TracenbError, match=reason):
        simulate_cotempqa(**({'n': 1} | wrong))


def test_simulated_labels_and_facts_follow_from_the_dates_alone():
    for e in simulate_cotempqa(200, seed=11):
        facts, q = [read_fact(c) for c in e.context], read_question(e.question)
        years = {
            r: [(first(f.when.start), max(first(f.when.start), last(f.when.end))) for f in facts]
            for r, (first, last) in READINGS.items()
        }
        event = [
            i for i, f in enumerate(facts) if (f.subject, f.relation, f.object) == (q.subject, q.relation, q.object)
        ]
        assert len(event) == 1 and len(set(e.context)) == len(e.context)
        slot = [
            i
            for i, f in enumerate(facts)
            if i not in event
            and f.relation == q.asked_relation
            and (f.object == q.object if q.asked_subject is None else f.subject == q.asked_subject)
        ]
        for spans in years.values():
            a, b = spans[event[0]]
            meets = [i for i in slot if spans[i][0] <= b and a <= spans[i][1]]
            assert meets == list(cotempqa_steps(e).facts) and {
                facts[i].subject if q.asked_subject is None else facts[i].object for i in meets
            } == set(e.answers)
            kinds = {
                'equal'
                if spans[i] == (a, b)
                else 'during'
                if (spans[i][0] <= a and b <= spans[i][1]) or (a <= spans[i][0] and spans[i][1] <= b)
                else 'overlap'
                for i in meets
            }
            assert e.meta['label'] == ('mix' if len(kinds) > 1 else kinds.pop())
        assert q.shared == e.meta['triple_element']


def test_simulation_has_every_kind_of_question():
    made = Counter((e.meta['label'], e.meta['triple_element']) for e in simulate_cotempqa(600, seed=1, max_words=90))
    assert set(made) >= {
        (label, kind) for label, kinds in QUESTION_KINDS.items() for kind, percent in kinds.items() if percent > 2
    } and set(ELEMENTS) == {kind for _, kind in made}
    assert all(
        s is None or s.kind in QUESTION_KINDS['equal'] for s in (tell(random.Random(i), 'equal', 80) for i in range(20))
    )


def test_a_simulated_set_is_requested_like_any_other():
    for split in ('train', 'test'):
        for e in load_examples(cotempqa, DataConfig(labels=('mix', 'equal'), n_train=6, n_test=4), split):
            assert Example.from_json(e.to_json()) == e and e.split == split


# --- Guesses that need no reading


def guesses(examples):
    "(first, last, every place): shares of exact answers where one fact of the asked form is always named."
    first, last, places = 0, 0, Counter()
    for e in examples:
        asked, who = asked_facts(e.context, e.question), read_question(e.question).asked_subject
        facts = [read_fact(e.context[i]) for i in asked]
        right = [{f.object if who else f.subject} == set(e.answers) for f in facts]
        first, last = first + right[0], last + right[-1]
        places.update(k for k, r in enumerate(right) if r)
    n = len(examples)
    return first / n, last / n, {k: places[k] / n for k in places}


REAL_FIRST, REAL_LAST = 0.066, 0.070  # Mean over the labels, as in the notebook


def test_guesses_on_real_rows(shared):
    real = load_cotempqa(shared / 'cotempqa', 'train') + load_cotempqa(shared / 'cotempqa', 'test')
    found = [guesses([e for e in real if e.meta['label'] == label]) for label in COTEMPQA_LABELS]
    assert round(sum(f[0] for f in found) / 4, 3) == REAL_FIRST and round(sum(f[1] for f in found) / 4, 3) == REAL_LAST
    places = [sum(f[2].get(k, 0) for f in found) / 4 for k in range(30)]
    assert max(places) < 0.071


@pytest.mark.parametrize('words, n, place', [(40, 200, 0.34), (50, 800, 0.24), (60, 800, 0.16), (90, 800, 0.11)])
def test_short_stories_are_no_more_open_to_a_guess_than_real_rows(words, n, place):
    first, last, places = guesses(simulate_cotempqa(n, seed=8, max_words=words))
    assert first < REAL_FIRST + 0.035 and last < REAL_LAST + 0.035  # 3.5 standard errors of 800
    assert max(places.values()) < place


@pytest.mark.parametrize('words', [SHORT - 1, SHORT, 150, None])
def test_longer_stories_are_as_hard_to_guess_as_real_rows(words):
    first, last, places = guesses(simulate_cotempqa(800, seed=8, max_words=words))
    assert first == pytest.approx(REAL_FIRST, abs=0.025) and last == pytest.approx(REAL_LAST, abs=0.025)
    assert max(places.values()) < 0.11


@pytest.mark.parametrize('split', ['train', 'test'])
def test_the_small_demo_is_not_open_to_the_first_candidate(split):
    data = get_grid('demo-cotempqa').runs[0].data
    assert data.max_words == 60
    first, last, places = guesses(load_examples(cotempqa, data, split))
    assert max(first, last) < 0.12 and max(places.values()) < 0.2  # 100 test questions


@pytest.mark.parametrize('words', [40, 60, SHORT - 1, 200])
def test_at_least_three_facts_of_the_asked_form_are_wrong(words):
    for e in simulate_cotempqa(40, seed=3, max_words=words):
        asked, right = set(asked_facts(e.context, e.question)), set(cotempqa_steps(e).facts)
        assert right <= asked and len(asked - right) >= 3


def test_only_short_contexts_have_short_names_and_dates():
    def form(words):
        facts = [read_fact(c) for e in simulate_cotempqa(80, seed=5, max_words=words) for c in e.context]
        return max(len(f.subject.split()) for f in facts), {f.when.start.precision for f in facts}

    assert form(SHORT - 1) == (1, {'year'}) and form(SHORT)[1] == {'year', 'month', 'day'} and form(None)[0] > 1


# --- The real rows


def test_the_paper_s_split_can_be_made_again_from_the_counts(shared):
    ids = json.loads((shared / 'cotempqa' / 'split_test_ids.json').read_text())
    assert {
        label: [FIRST[label] + i for i in released_order(COUNTS[label])] for label in COTEMPQA_LABELS
    } == ids and sum(map(len, ids.values())) == 950


def test_real_rows_are_all_read_in_the_released_order(shared, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        train, test = load_cotempqa(shared / 'cotempqa', 'train'), load_cotempqa(shared / 'cotempqa', 'test')
    ids = json.loads((shared / 'cotempqa' / 'split_test_ids.json').read_text())
    assert [e.meta['row_id'] for e in test] == [i for label in COTEMPQA_LABELS for i in ids[label]] and len(
        train
    ) == 2399
    assert sum('row_id' not in e.meta for e in train) == 66 and len({e.id for e in train + test}) == 3349
    check_examples(train + test, cotempqa)
    for rows, split in ((train, 'train'), (test, 'test')):  # without `split`, place decides
        some = [json.loads(line) for line in (shared / 'cotempqa' / 'mix.jsonl').open(encoding='utf-8')]
        bare = [{k: r[k] for k in ('question', 'facts', 'answer', 'triple_element')} | {'label': 'mix'} for r in some]
        assert [e.id for e in rows if e.meta['label'] == 'mix'] == [
            e.id for e in load_cotempqa(write(tmp_path / 'mix.json', bare), split)
        ]


def test_rule_and_official_labels(shared):
    real = load_cotempqa(shared / 'cotempqa', 'train') + load_cotempqa(shared / 'cotempqa', 'test')
    agree = lambda reading, steps: Counter(
        e.meta['label'] for e in real if computed_label(e, reading, steps(e)) == e.meta['label']
    )
    assert agree('written', cotempqa_steps) == {'equal': 436, 'during': 1696, 'mix': 551, 'overlap': 650}
    assert agree('first_day', cotempqa_steps) == {'equal': 436, 'during': 1696, 'mix': 550, 'overlap': 648}
    assert agree('whole_period', cotempqa_steps) == {'equal': 436, 'during': 1673, 'mix': 538, 'overlap': 591}
    assert agree('written', paper_steps) == {'equal': 436, 'during': 1687, 'mix': 551, 'overlap': 650}
    assert all(cotempqa_steps(e).facts and set(cotempqa_steps(e).facts) <= set(paper_steps(e).facts) for e in real)
    assert sum(cotempqa_steps(e) != paper_steps(e) for e in real) == 144
    assert all(
        read_question(e.question).shared == e.meta['triple_element'] and event_facts(e.context, e.question)
        for e in real
    )


def predictions(shared, condition):
    with gzip.open(shared / 'published' / f'cotempqa_Qwen3-1.7B_{condition}.jsonl.gz', 'rt', encoding='utf-8') as f:
        rows = list(map(json.loads, f))
    return [(r['prediction'], read_cotempqa_row(r, 'test')) for r in rows]


def own_answers(text):
    "The answers of a published prediction, read as in the method notes."
    text = re.sub(r'^\s*assistant\b', '', text)
    rest = text.rpartition('</think>')[2].replace('<think>', '')
    tag, lines = (
        re.search(r'<answer>(.*?)(?:</answer>|\Z)', rest, re.S),
        re.findall(r'(?im)(?:^\s*answer:|answer is:)(.*)$', rest),
    )
    return read_cotempqa_answers(tag[1] if tag else lines[-1] if lines else rest)


@pytest.mark.parametrize(
    'condition, mean, right, exact',
    [('vanilla', 58.08, 545, 498), ('correct', 54.47, 512, 430), ('perturbed', 57.09, 532, 400)],
)
def test_published_answers_scored_both_ways(shared, condition, mean, right, exact):
    rows = predictions(shared, condition)
    hits, n = Counter(e.meta['label'] for p, e in rows if right_answer(p, e)), Counter(e.meta['label'] for _, e in rows)
    assert (
        hits.total() == right and round(100 * sum(hits[label] / n[label] for label in COTEMPQA_LABELS) / 4, 2) == mean
    )
    same = lambda said, gold: set(map(normalize_paper, said)) == set(map(normalize_paper, gold))
    assert sum(same(own_answers(p), e.answers) for p, e in rows) == exact


def test_published_files_are_a_source_like_any_other(shared):
    path = shared / 'published' / 'cotempqa_Qwen3-1.7B_correct.jsonl.gz'
    assert load_cotempqa(path, 'test') == load_cotempqa(shared / 'cotempqa', 'test')


def test_the_paper_s_confusion_table(shared):
    paper = pytest.importorskip('tracenb.tasks.paper')
    rows = predictions(shared, 'correct')
    gold, table = paper.lookup_gold([e for _, e in rows], cotempqa.paper), Counter()
    for p, e in rows:
        span, row = paper.think_span(p), gold[e.id]
        trace = (
            span is not None
            and paper.says_label(span, row.meta['label'], cotempqa.paper.label_sentence)
            and paper.quotes_any(span, row.context)
        )
        table[bool(trace), right_answer(p, e)] += 1
    assert [table[t, a] for t, a in ((True, True), (True, False), (False, True), (False, False))] == [
        258,
        201,
        254,
        237,
    ]
    assert round(100 * sum(gold[e.id].id != e.id for _, e in rows) / 950, 1) == 32.9
