"""The study's store: places are counted correctly in any order of arrivals; acknowledged answers are stored once."""

import csv
import io
import json
import os
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracenb.core.records import TracenbError
from tracenb.fieldwork.load_test import attentive
from tracenb.fieldwork.source import read_source
from tracenb.ratings.scales import check_answers, participant_flow, participant_table, rules_of
from tracenb.study.answers import (
    COLUMNS,
    _parse_csv_row,
    answer_rows,
    backup,
    csv_lines,
    guard_cell,
    json_lines,
    open_answers,
    read_answers,
    read_participants,
    restore,
    unguard_cell,
)
from tracenb.study.design import Panel, demo_study
from tracenb.study.participants import (
    Refused,
    Store,
    Unavailable,
    enter,
    finish_participation,
    hashed,
    next_group,
    participant_state,
    step_page,
    store_answer,
    token_hash,
)
from tracenb.study.steps import step_sequence, trials

KEY = b'k' * 32
STUDY = demo_study(trials=4, n_per_condition=5)


class Clock:
    "A clock that a test sets."

    now = 1e6

    def __call__(self):
        return self.now


@contextmanager
def opened(path, study=STUDY, key=KEY, clock=None):
    store = Store(path, study, key, clock or time.time)
    store.do = lambda work, *args: store.submit(work, store, *args).result(20)
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'study.sqlite'


def content(path):
    "All bytes of the file of answers and of what SQLite keeps beside it."
    return b''.join(p.read_bytes() for p in path.parent.glob(f'{path.name}*'))


def refusal(work, *args):
    with pytest.raises(Refused) as e:
        work(*args)
    return e.value.status, e.value.body['error']


def take_steps(store, who, until=None, told=None):
    "Answer the remaining steps, up to `until`; adds the (step, values) that were acknowledged to `told`."
    says, now, told = attentive(store.study), store.do(participant_state, who['token']), [] if told is None else told
    for step in now['steps'][len(now['done']) :]:
        if step == until:
            break
        values = says(step, store.do(step_page, who['token'], step), 1)
        opened_context = [step == 'trial:1'] if step.startswith('trial') and step != 'trial:2' else []
        store.do(store_answer, who['token'], step, values, 9.5, 'attempt-1', *opened_context)
        told.append((step, values))
    return told


# --- places


@pytest.mark.parametrize('layout', ['between', 'within'])
def test_many_at_once_get_balanced_places(path, layout):
    study = demo_study(trials=4, n_per_condition=8, layout=layout)
    places = study.n_per_condition * len(study.groups)
    with opened(path, study) as store, ThreadPoolExecutor(16) as pool:
        came = list(
            pool.map(lambda k: store.do(enter, {'PROLIFIC_PID': f'p{k % (places + 8)}'}), range(3 * (places + 8)))
        )  # Everybody enters three times at once
        assert store.held() == dict.fromkeys(study.groups, 8)
        for c in came:
            if 'token' in c:
                store.do(store_answer, c['token'], 'consent', {'agree': True}, 1.0, 'attempt-1')
    people = read_participants(path)
    assert len(people) == places and people.participant.is_unique and people.PROLIFIC_PID.is_unique
    assert Counter('token' in c for c in came) == {True: 3 * places, False: 24}


@settings(max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_conditions_stay_balanced_over_drop_outs(tmp_path, seed):
    "People enter, leave, expire and return; in the end every condition is full, and none ever had too many people."
    rng, clock, path = random.Random(seed), Clock(), tmp_path / f'{seed}-{time.monotonic_ns()}.sqlite'
    study = demo_study(trials=1, n_per_condition=4)
    with opened(path, study, clock=clock) as store:
        people = []
        for k in range(120):
            clock.now += rng.choice([1, 60, 3000])
            if people and rng.random() < 0.5:  # Somebody continues, up to a step or to the end
                who = rng.choice(people)
                if store.do(participant_state, who['token'])['state'] == 'active':
                    take_steps(store, who, rng.choice(['trial:0', 'free', None]))
            elif (who := store.do(enter, {'PROLIFIC_PID': f'p{k}'})).get('token'):
                people.append(who)
                held, group = store.held(), group_of(store, who)
                assert held[group] - 1 == min(
                    held.get(g, 0) - (g == group) for g in study.groups
                )  # The new person was assigned where fewest people were
            assert max(store.held().values(), default=0) <= 4
        for k in range(60):
            who = store.do(enter, {'PROLIFIC_PID': f'last{k}'})
            if not who.get('token'):
                clock.now += 3601
                continue
            take_steps(store, who)
        states = Counter(store.db.execute("SELECT condition FROM participants WHERE state = 'complete'").fetchall())
        assert set(states.values()) == {4} and len(states) == 4


def group_of(store, who):
    return store.db.execute(
        'SELECT condition FROM tokens JOIN participants USING (number) WHERE hash = ?', (token_hash(who['token']),)
    ).fetchone()[0]


def test_within_subjects_stays_counterbalanced_over_drop_outs(path):
    study, clock, rng = demo_study(trials=4, n_per_condition=16, layout='within'), Clock(), random.Random(1)
    with opened(path, study, clock=clock) as store:
        for k in range(80):
            who = store.do(enter, {})
            if who.get('token') and rng.random() < 0.6:
                take_steps(store, who)
            clock.now += 3601  # The place of whoever has not finished expires
    numbers = [int(p[1:]) for p in read_participants(path).query("status == 'complete'").participant]
    assert len(numbers) == 16
    seen = Counter(pair for n in numbers for pair in trials(study, n, 'within'))
    assert set(seen.values()) == {4} and len(seen) == 16  # Every item equally often under every condition


def test_the_order_of_groups_is_not_the_same_in_each_round():
    assert len({next_group(STUDY, dict.fromkeys(STUDY.groups, k)) for k in range(5)}) > 1


def test_expired_places_are_given_again_and_their_owners_may_return(path):
    clock, study = Clock(), demo_study(trials=2, n_per_condition=1)
    with opened(path, study, clock=clock) as store:
        people = [store.do(enter, {'PROLIFIC_PID': f'p{k}'}) for k in range(4)]
        told = take_steps(store, people[0], 'trial:1')
        assert store.do(enter, {'PROLIFIC_PID': 'late'}) == {'state': 'full'}
        clock.now += 60 * study.minutes_timeout + 1
        late = store.do(enter, {'PROLIFIC_PID': 'late'})
        lost = next(p for p in people if group_of(store, p) == group_of(store, late))
        back = next(p for p in people if p is not lost and p is not people[0])
        assert (
            store.do(participant_state, lost['token'])['state'] == 'full'
            and store.do(finish_participation, lost['token']) == 'full'
        )
        assert refusal(store.do, step_page, lost['token'], 'consent') == (409, 'full')
        assert refusal(store.do, store_answer, lost['token'], 'consent', {'agree': True}, 1.0, 'attempt-1')[0] == 409
        assert store.do(participant_state, back['token'])['state'] == 'active'
        if people[0] is not lost:
            assert store.do(participant_state, people[0]['token'])['done'] == [s for s, _ in told]
        assert store.held() == dict.fromkeys(
            [group_of(store, p) for p in [late, back, *([people[0]] if people[0] is not lost else [])]], 1
        )


# --- answers


def test_a_repeated_request_is_one_answer(path):
    with opened(path) as store, ThreadPoolExecutor(8) as pool:
        who = store.do(enter, {})
        same = list(
            pool.map(
                lambda _: store.do(store_answer, who['token'], 'consent', {'agree': True}, 3.5, 'attempt-1'), range(20)
            )
        )
        assert same == [same[0]] * 20
        assert refusal(store.do, store_answer, who['token'], 'consent', {'agree': True}, 3.6, 'attempt-1') == (
            409,
            'stored',
        )
        assert refusal(store.do, store_answer, who['token'], 'consent', {'agree': True}, 3.5, 'attempt-2') == (
            409,
            'stored',
        )
        take_steps(store, who)
        assert (
            store.do(store_answer, who['token'], 'consent', {'agree': True}, 3.5, 'attempt-1') == same[0]
        )  # Also after the end
    assert len(read_answers(path).query("step == 'consent'")) == 1


def test_of_several_tabs_only_one_is_stored(path):
    with opened(path) as store, ThreadPoolExecutor(8) as pool:
        who = store.do(enter, {})

        def send(k):
            try:
                return store.do(store_answer, who['token'], 'consent', {'agree': True}, float(k), f'attempt-{k}')
            except Refused as e:
                return e.body['error']

        assert Counter(isinstance(r, dict) for r in pool.map(send, range(8))) == {True: 1, False: 7}


def test_codes_are_earned_step_by_step(path):
    with opened(path) as store:
        who = store.do(enter, {})
        for step in step_sequence(STUDY, 1, STUDY.groups[0])[1:]:
            assert refusal(store.do, store_answer, who['token'], step, {}, 1.0, 'attempt-1')[1] in ('early', 'unknown')
        assert refusal(store.do, step_page, who['token'], 'trial:99') == (404, 'unknown')
        for step in who['steps']:
            assert refusal(store.do, finish_participation, who['token']) == (409, 'unfinished')
            take_steps(store, who, step)
        take_steps(store, who)
        assert store.do(finish_participation, who['token']) == 'complete'


def test_what_was_stored_is_in_the_table(path):
    with opened(path) as store:
        told = take_steps(store, store.do(enter, {'simulated': True}))
        group = read_participants(path).condition[0]
    table = read_answers(path)
    assert list(table.columns) == list(COLUMNS) and table.simulated.all() and set(table.status) == {'complete'}
    rated = {(r.step, r.dimension): r for r in table.query("kind == 'trial'").itertuples()}
    for step, values in told:
        kind, _, k = step.partition(':')
        if kind != 'trial':
            continue
        item = STUDY.items[trials(STUDY, 1, group)[int(k)][0]]
        for dimension, value in values.items():
            row = rated[step, dimension]
            assert (row.value, row.id, row.label, row.condition, row.seconds) == (
                value,
                item.id,
                item.label,
                group,
                9.5,
            )
            assert str(row.context_opened) == {'trial:1': 'True', 'trial:2': '<NA>'}.get(step, 'False'), (
                'the page of trial 2 did not report it'
            )
            assert (row.answer_right, row.trace_words) == (
                item.shown[group].right,
                len(item.shown[group].trace.split()),
            )
    assert len(rated) == 4 * len(STUDY.scales)
    assert table.query("kind == 'attention'").right.all() and table.query("kind != 'trial'").context_opened.isna().all()
    assert table.position.is_monotonic_increasing


def test_ids_of_the_panel_are_hashed_unless_asked_otherwise(tmp_path):
    ids = dict(
        PROLIFIC_PID='5f3a9c0123456789abcdef01',
        STUDY_ID='60aa9c0123456789abcdef02',
        SESSION_ID='70bb9c0123456789abcdef03',
    )
    for keep in (False, True):
        path = tmp_path / f'{keep}.sqlite'
        with opened(path, demo_study(trials=2, panel=Panel(name='prolific', keep_ids=keep))) as store:
            token = store.do(enter, ids)['token']
            before = content(path)
            assert not any(v.encode() in before for v in ids.values()) and 'PROLIFIC_PID' not in read_participants(path)
            store.do(store_answer, token, 'consent', {'agree': True}, 1.0, 'attempt-1')
            stored = content(path)
            assert [v.encode() in stored for v in ids.values()] == [keep] * 3
            assert token.encode() not in stored
        row = read_participants(path).iloc[0]
        assert (row.PROLIFIC_PID == ids['PROLIFIC_PID']) is keep


# --- the disk


def test_every_commit_is_forced_to_disk(path):
    with opened(path) as store:
        assert [store.db.execute(f'PRAGMA {p}').fetchone()[0] for p in ('journal_mode', 'synchronous')] == ['wal', 2]
        assert path.stat().st_mode & 0o777 == 0o600


@contextmanager
def small_disk(tmp_path):
    "A file system of 400 kB, where this process may mount one."
    disk = tmp_path / 'disk'
    disk.mkdir()
    if (
        sys.platform != 'linux'
        or subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=400k', 'tmpfs', disk], capture_output=True).returncode
    ):
        pytest.skip('no file system can be mounted here')
    try:
        yield disk
    finally:
        subprocess.run(['umount', disk], check=True)


def fill_until_full(store, told):
    "Participants store answers until the disk is full; adds what was acknowledged to `told`, returns the error."
    for k in range(2000):
        said = []
        try:
            take_steps(store, store.do(enter, {'PROLIFIC_PID': f'p{k}'}), told=said)
        except Unavailable as e:
            return str(e)
        finally:
            told += [(k + 1, step) for step, _ in said]
    raise AssertionError('the disk was never full')


@pytest.mark.parametrize('kind', ['limit', 'file system'])
def test_a_full_disk_loses_nothing(tmp_path, kind):
    study, told = demo_study(trials=8, n_per_condition=500), []

    def run(folder):
        with opened(folder / 'study.sqlite', study) as store:
            if kind == 'limit':
                store.submit(lambda: store.db.execute('PRAGMA max_page_count = 60')).result()
            for k in range(3):
                assert 'full' in fill_until_full(store, told)  # The disk stays full, and the store stays open
            with closing(open_answers(folder / 'study.sqlite')) as db:
                kept = db.execute('SELECT number, step FROM answers').fetchall()
            assert len(told) > 20 and set(told) <= set(kept)
            if kind == 'limit':
                store.db.execute('PRAGMA max_page_count = 100000')  # There is free space again
                take_steps(store, store.do(enter, {'PROLIFIC_PID': 'one more'}))
                assert (
                    Counter(r.status for r in read_participants(folder / 'study.sqlite').itertuples())['complete'] > 1
                )

    if kind == 'limit':
        run(tmp_path)
    else:
        with small_disk(tmp_path) as disk:
            run(disk)


def test_a_locked_file_loses_nothing(path):
    with opened(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as other:
        who = store.do(enter, {})
        store.db.execute('PRAGMA busy_timeout = 50')
        other.execute('BEGIN IMMEDIATE')
        with pytest.raises(Unavailable):
            store.do(store_answer, who['token'], 'consent', {'agree': True}, 1.0, 'attempt-1')
        other.execute('COMMIT')
        assert store.do(store_answer, who['token'], 'consent', {'agree': True}, 1.0, 'attempt-1')['stored']


def test_a_file_belongs_to_one_study_one_key_one_process(path, tmp_path):
    with opened(path):
        with pytest.raises(TracenbError, match='served by another process'):
            Store(path, STUDY, KEY)
    with pytest.raises(TracenbError, match='another study'):
        Store(path, demo_study(trials=4, n_per_condition=6), KEY)
    with pytest.raises(TracenbError, match='another key'):
        Store(path, STUDY, b'l' * 32)
    with opened(path):
        pass
    with closing(sqlite3.connect(tmp_path / 'other.db')) as db:
        db.execute('CREATE TABLE notes (x)')
    before = (tmp_path / 'other.db').read_bytes()
    with pytest.raises(TracenbError, match='something else'):
        Store(tmp_path / 'other.db', STUDY, KEY)
    assert (tmp_path / 'other.db').read_bytes() == before
    (tmp_path / 'text').write_text('These are notes. ' * 99)
    with pytest.raises(TracenbError, match='not a database'):
        Store(tmp_path / 'text', STUDY, KEY)
    assert (tmp_path / 'text').read_text() == 'These are notes. ' * 99
    with pytest.raises(TracenbError, match='name a file with --db|name another file'):
        Store(tmp_path / 'text' / 'a.sqlite', STUDY, KEY)
    with pytest.raises(TracenbError, match='name another file'):
        Store(tmp_path, STUDY, KEY)
    with opened(path):
        pass  # Every refusal released the lock


def test_a_copy_is_made_while_answers_come_and_can_be_served(path, tmp_path):
    told, stop = [], threading.Event()
    with opened(path, demo_study(trials=4, n_per_condition=200)) as store:

        def answer_all():
            for k in range(400):
                if stop.is_set():
                    return
                told.append(store.do(enter, {'PROLIFIC_PID': f'p{k}'}))
                take_steps(store, told[-1])

        thread = threading.Thread(target=answer_all)
        thread.start()
        while len(told) < 10:
            time.sleep(0.01)
        for k in range(3):
            before = len(told) - 1  # These have finished
            copy = backup(path, tmp_path / 'copy.sqlite')
            assert (read_participants(copy).status == 'complete').sum() >= before > 0
        stop.set()
        thread.join()
    assert sorted(p.name for p in tmp_path.iterdir() if p.suffix != '.lock') == ['copy.sqlite', 'study.sqlite']
    with pytest.raises(TracenbError, match='is there'):
        restore(copy, path)
    path.unlink()
    restore(copy, path)
    with opened(path, demo_study(trials=4, n_per_condition=200)) as store:
        assert store.do(participant_state, told[0]['token'])['state'] == 'complete'  # Tokens stay valid
        take_steps(store, store.do(enter, {'PROLIFIC_PID': 'after'}))


# --- files

TEXTS = (
    st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\0'), max_size=30)
    | st.text('\'" ;|,\t\r\n=+-@＝a', max_size=12)
    | st.sampled_from(['=1+1', "'=1", '@SUM(A1)', "''''-x", "=cmd|' /C calc'!A0", 'fine; "=cmd|x', 'a;"";\'=1'])
)


def cells(text, comma):
    "Each cell that a spreadsheet may read, splitting at `comma` and line breaks, with and without regard to quotes."
    yield from (cell for line in csv.reader(io.StringIO(text, newline=''), delimiter=comma) for cell in line)
    yield from (cell for line in re.split('[\r\n]', text) for cell in line.split(comma))


@given(TEXTS)
def test_text_goes_through_csv_and_json_and_cannot_run(text):
    assert unguard_cell(guard_cell(text)) == text
    row = dict.fromkeys(COLUMNS, '') | dict(
        position=1,
        kind='free',
        value=text,
        right=None,
        answer_right=None,
        trace_words=None,
        context_opened=None,
        seconds=1.5,
        simulated=False,
    )
    lines = ''.join(csv_lines([row]))
    for comma in ';|\t':
        assert not [c for c in cells(lines, comma) if c.lstrip('" ')[:1] in tuple('=+-@＝')], comma
    (cell,) = (r['value'] for r in csv.DictReader(io.StringIO(lines, newline='')))
    assert not cell or cell[0] not in '=+-@\t\r\n＝＋－＠'
    assert _parse_csv_row(next(iter(csv.DictReader(io.StringIO(lines, newline='')))), 'the test')['value'] == text
    assert json.loads(next(json_lines([row])))['value'] == text


def test_each_kind_of_file_is_the_same_table(path, tmp_path):
    with opened(path) as store:
        take_steps(store, store.do(enter, {}))
        who = store.do(enter, {'simulated': True})
        take_steps(store, who, 'free')
        text = '=HYPERLINK("http://x")\r\n"quoted", and; more\n\u2028 \x85 end'
        store.do(store_answer, who['token'], 'free', {STUDY.free[0].name: text}, 0.0, 'attempt-1')
    table = read_answers(path)
    assert text in set(table.value)
    with closing(open_answers(path)) as db:
        for name, lines in (('a.csv', csv_lines), ('a.jsonl', json_lines)):
            with open(tmp_path / name, 'w', encoding='utf-8', newline='') as f:
                f.writelines(lines(answer_rows(db)))
            pd.testing.assert_frame_equal(read_answers(tmp_path / name), table)
    (tmp_path / 'other.csv').write_text('a,b\n1,2\n')
    (tmp_path / 'other.jsonl').write_text('{"a": 1}\n')
    for name in ('other.csv:2', 'other.jsonl:1'):
        with pytest.raises(TracenbError, match=f'{name}: not a row of answers'):
            read_answers(tmp_path / name.partition(':')[0])


@pytest.mark.parametrize('layout', ['between', 'within'])
def test_each_kind_of_file_counts_the_same_people(path, tmp_path, layout):
    "Of seven people one declined, one left midway, and two stored nothing; every file gives the same participant flow."
    study = demo_study(trials=4, n_per_condition=7, layout=layout)
    with opened(path, study) as store:
        people = [store.do(enter, {}) for _ in range(7)]
        for who in people[:3]:
            take_steps(store, who)
        store.do(store_answer, people[3]['token'], 'consent', {'agree': False}, 1.0, 'attempt-1')
        take_steps(store, people[4], 'trial:2')
    with closing(open_answers(path)) as db:
        for name, lines in (('a.csv', csv_lines), ('a.jsonl', json_lines)):
            with open(tmp_path / name, 'w', encoding='utf-8', newline='') as f:
                f.writelines(lines(answer_rows(db)))
    flows = {}
    for file in (path, tmp_path / 'a.csv', tmp_path / 'a.jsonl'):
        table = read_source(file, study)[0]
        assert table[table.kind == 'enter'].participant.tolist() == [f'p{n:04}' for n in range(1, 8)]
        rules = rules_of(study)
        flows[file.name] = participant_flow(participant_table(check_answers(table, rules), rules), rules)
    for found in flows.values():
        pd.testing.assert_frame_equal(found, flows['study.sqlite'])
    assert flows['a.csv'].set_index('stage').n[
        ['entered', 'did not consent', 'did not finish', 'analyzed']
    ].tolist() == [7, 1, 3, 3]


def test_a_study_without_participants_is_an_empty_table(path):
    with opened(path):
        pass
    assert read_answers(path).empty and list(read_answers(path).columns) == list(COLUMNS)
    assert read_participants(path).empty and 'status' in read_participants(path)


# --- consent, and the file while it is served


@pytest.mark.parametrize('keep', [False, True])
def test_nothing_is_kept_of_those_who_decline(path, keep):
    study = demo_study(trials=2, panel=Panel(name='prolific', keep_ids=keep))
    pid, clock = '5f3a9c0123456789abcdef01', Clock()
    with opened(path, study, clock=clock) as store:
        token = store.do(enter, {'PROLIFIC_PID': pid})['token']
        clock.now += 70
        reply = store.do(store_answer, token, 'consent', {'agree': False}, 61.25, 'attempt-1')
        assert reply == store.do(store_answer, token, 'consent', {'agree': False}, 61.25, 'attempt-1')
        assert reply['state'] == 'declined' and store.do(finish_participation, token) == 'declined'
        assert store.pending == {}
    kept = content(path)
    for trace in (pid, hashed(KEY, 'PROLIFIC_PID', pid), '61.25'):
        assert trace.encode() not in kept
    [row] = read_participants(path).itertuples()
    assert row.status == 'declined' and row.entered_at == row.last_at == '1970-01-12T00:00:00.000+00:00'
    assert set(read_answers(path).seconds) == {0.0}


def test_a_person_who_enters_again_after_a_restart_is_the_same_person(path):
    study = demo_study(trials=2, panel=Panel(name='prolific'))
    ids = {'PROLIFIC_PID': '5f3a9c0123456789abcdef01'}
    with opened(path, study) as store:
        first = store.do(enter, ids)['token']
    with opened(path, study) as store:  # The ids of `first` were in memory only
        second = store.do(enter, ids)['token']
        consent = 'consent', {'agree': True}, 1.0, 'attempt-1', None, ids
        assert store.do(store_answer, first, *consent)['next'] == 'instructions'
        assert store.do(store_answer, second, *consent) == dict(stored=True, state='active', next='instructions')
        assert store.do(participant_state, second)['done'] == ['consent']
        assert sum(store.held().values()) == 1
    assert len(read_participants(path)) == 1


def test_a_place_without_consent_is_free_again_after_a_quarter_of_an_hour(path):
    clock = Clock()
    with opened(path, demo_study(trials=2, n_per_condition=1), clock=clock) as store:
        tokens = [store.do(enter, {})['token'] for _ in range(4)]
        store.do(store_answer, tokens[0], 'consent', {'agree': True}, 1.0, 'attempt-1')
        assert store.do(enter, {}) == {'state': 'full'}
        clock.now += 16 * 60
        assert ['token' in store.do(enter, {}) for _ in range(4)] == [True, True, True, False]
        assert store.do(participant_state, tokens[0])['state'] == 'active'


def test_one_address_holds_a_bounded_number_of_places_and_a_lab_gets_on(path):
    study = demo_study(trials=1, n_per_condition=50)
    with opened(path, study) as store:
        store.places = 40
        lab = [store.do(enter, {}, '192.0.2.1') for _ in range(40)]
        assert refusal(store.do, enter, {}, '192.0.2.1') == (429, 'often')
        assert 'token' in store.do(enter, {}, '192.0.2.2')
        for who in lab[:3]:
            take_steps(store, who)
        assert ['token' in store.do(enter, {}, '192.0.2.1') for _ in range(3)] == [True] * 3
        assert refusal(store.do, enter, {}, '192.0.2.1') == (429, 'often')


def test_a_plain_copy_of_an_idle_file_is_whole(path, tmp_path):
    with opened(path) as store:
        take_steps(store, store.do(enter, {}))
        time.sleep(1)
        shutil.copy(path, tmp_path / 'copy.sqlite')
        assert list(read_participants(tmp_path / 'copy.sqlite').status) == ['complete']
        assert len(read_answers(tmp_path / 'copy.sqlite')) == len(read_answers(path))


@pytest.mark.parametrize('what', ['moved', 'wal'])
def test_a_file_that_is_moved_or_loses_its_wal_takes_no_more_answers(path, what):
    with opened(path) as store:
        who = store.do(enter, {})
        file, place = (path, 'moved') if what == 'moved' else (path.with_name(f'{path.name}-wal'), 'deleted')
        os.rename(file, f'{file}.away')
        with pytest.raises(Unavailable, match=f'{file.name} was .*{place}'):
            store.do(store_answer, who['token'], 'consent', {'agree': True}, 1.0, 'attempt-1')
        with pytest.raises(Unavailable):
            store.do(finish_participation, who['token'])
        os.rename(f'{file}.away', file)
        assert store.do(store_answer, who['token'], 'consent', {'agree': True}, 1.0, 'attempt-1')['stored']


def test_a_simulated_store_marks_all_and_a_live_one_what_the_server_says(path, tmp_path):
    store = Store(path, STUDY, KEY, simulated=True)
    store.submit(enter, store, {}).result(20)
    store.close()
    assert read_participants(path).simulated.tolist() == [True]
