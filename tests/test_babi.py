"bAbI: the loader on files in the official format, the simulator's promises, and a check of every answer from the text alone."
import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracenb.babi import LABELS, babi, load, quoted_facts, read_story_file
from tracenb.babi_sim import SIMULATORS, Story, simulate, split_of
from tracenb.core import Example, TracenbError
from tracenb.task import DataConfig, check_examples, get_task, load_examples

REAL = Path(__file__).resolve().parents[2] / 'shared' / 'data' / 'babi'
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason=f'the real bAbI rows are not part of this repository: no folder {REAL}')
FULL = {'single-supporting-fact': (200, 20), 'two-supporting-facts': (200, 20), 'two-arg-relations': (1000, 100), 'counting': (200, 20), 'lists-sets': (200, 20),
        'conjunction': (200, 20), 'time-reasoning': (200, 20), 'basic-deduction': (250, 25), 'basic-induction': (1000, 100), 'positional-reasoning': (125, 12),
        'size-reasoning': (198, 19)}  # Real rows: label -> train, test


# --- Answers and supporting sentences, worked out again from the text: each function returns (answers, [acceptable sets of supporting sentences])

def events(context):
    "(kind, person, place or object, receiver) of each sentence of a household story."
    found = []
    for s in context:
        for kind, pattern in (('move', r'(\w+) (?:went|went back|journeyed|moved|travelled) to the (\w+)\.'), ('take', r'(\w+) (?:took|got|grabbed|picked up) the (\w+) there\.'),
                              ('drop', r'(\w+) (?:dropped|left|discarded|put down) the (\w+)(?: there)?\.'), ('give', r'(\w+) (?:handed|gave|passed) the (\w+) to (\w+)\.')):
            if m := re.fullmatch(pattern, s): found.append((kind, m[1], m[2], m[3] if kind == 'give' else None))
    assert len(found) == len(context), context
    return found

def sentences(context, *where): return {context[i] for i in where}

def solve_person(context, question):
    who = re.fullmatch(r'Where is (\w+)\?', question)[1]
    i = max(i for i, s in enumerate(context) if who in s.split(' to the ')[0].split())
    return (context[i].rstrip('.').split()[-1],), [sentences(context, i)]

def solve_object(context, question):
    what, told = re.fullmatch(r'Where is the (\w+)\?', question)[1], events(context)
    i = max(i for i, e in enumerate(told) if e[2] == what)
    kind, who, *_ = told[i]
    assert kind in ('take', 'drop')
    moves = [j for j, e in enumerate(told) if e[0] == 'move' and e[1] == who and (j < i if kind == 'drop' else True)]
    return (told[moves[-1]][2],), [sentences(context, i, moves[-1])]

def held(context, who):
    things, mine = [], []
    for i, (kind, actor, what, to) in enumerate(events(context)):
        if kind == 'move' or who not in (actor, to): continue
        mine.append(i)
        if kind == 'take' or to == who: things.append(what)
        else: things.remove(what)
    return things, [sentences(context, *mine)]

def solve_counting(context, question):
    things, facts = held(context, re.fullmatch(r'How many objects is (\w+) carrying\?', question)[1])
    return (('none', 'one', 'two', 'three')[len(things)],), facts

def solve_lists(context, question):
    things, facts = held(context, re.fullmatch(r'What is (\w+) carrying\?', question)[1])
    return tuple(things) or ('nothing',), facts

def solve_direction(context, question):
    back = {'north': 'south', 'south': 'north', 'east': 'west', 'west': 'east'}
    m = re.fullmatch(r'What is (\w+) of the (\w+)\?|What is the (\w+) (\w+) of\?', question)
    way, place = (m[1], m[2]) if m[1] else (back[m[4]], m[3])
    rows = [re.fullmatch(r'The (\w+) is (\w+) of the (\w+)\.', s).groups() for s in context]
    hits = [(a, i) for i, (a, r, b) in enumerate(rows) if (b, r) == (place, way)] + [(b, i) for i, (a, r, b) in enumerate(rows) if (a, back[r]) == (place, way)]
    assert len(hits) == 1
    return (hits[0][0],), [sentences(context, hits[0][1])]

def solve_position(context, question):
    shift = {'above': (0, 1), 'below': (0, -1), 'to the left of': (-1, 0), 'to the right of': (1, 0)}
    form = r'(.+?) (?:is )?(above|below|to the left of|to the right of) the (.+)'
    rows, cell = [re.fullmatch(f'The {form}\\.', s).groups() for s in context], {}
    cell[rows[0][0]] = (0, 0)
    for a, r, b in rows + rows:
        dx, dy = shift[r]
        if a in cell: cell[b] = (cell[a][0] - dx, cell[a][1] - dy)
        elif b in cell: cell[a] = (cell[b][0] + dx, cell[b][1] + dy)
    a, r, b = re.fullmatch(f'Is the {form}\\?', question).groups()
    assert cell[a] != cell[b]
    ahead = sum((cell[a][k] - cell[b][k]) * shift[r][k] for k in (0, 1)) > 0
    return ('yes' if ahead else 'no',), [set(context)]

def solve_size(context, question):
    told = {}
    for s in context:
        m = re.fullmatch(r'The (.+) fits inside the (.+)\.', s)
        small, large = m.groups() if m else re.fullmatch(r'The (.+) is bigger than the (.+)\.', s).groups()[::-1]
        told.setdefault((small, large), set()).add(s)
    m = re.fullmatch(r'Does the (.+) fit in the (.+)\?', question)
    a, b = m.groups() if m else re.fullmatch(r'Is the (.+) bigger than the (.+)\?', question).groups()[::-1]
    things = {x for pair in told for x in pair}
    chains = {yes: [{s, t} for m in things for s in told.get((x, m), ()) for t in told.get((m, y), ())] for yes, (x, y) in (('yes', (a, b)), ('no', (b, a)))}
    assert bool(chains['yes']) != bool(chains['no'])
    answer = 'yes' if chains['yes'] else 'no'
    return (answer,), chains[answer]

def solve_time(context, question):
    order = ['yesterday', 'this morning', 'this afternoon']
    who, place = re.fullmatch(r'Where was (\w+) before the (\w+)\?', question).groups()
    visits = sorted((next(t for t, word in enumerate(order) if word in s.lower()), re.search(r'to the (\w+)', s)[1], s) for s in context if who in re.findall(r'\w+', s))
    k = max(k for k, visit in enumerate(visits) if visit[1] == place)
    return (visits[k - 1][1],), [{visits[k - 1][2], visits[k][2]}]

def solve_deduction(context, question):
    one = {'cats': 'cat', 'mice': 'mouse', 'sheep': 'sheep', 'wolves': 'wolf'}
    who = re.fullmatch(r'What is (\w+) afraid of\?', question)[1].capitalize()
    case = next(s for s in context if s.startswith(f'{who} is a '))
    rule = next(s for s in context if ' are ' in s and one[s.split()[0].lower()] == case.rstrip('.').split()[-1])
    return (one[rule.rstrip('.').split()[-1]],), [{case, rule}]

def solve_induction(context, question):
    who = re.fullmatch(r'What color is (\w+)\?', question)[1]
    kinds = {m[1]: (m[2], s) for s in context if (m := re.fullmatch(r'(\w+) is an? (\w+)\.', s))}
    colours = {m[1]: (m[2], s) for s in context if (m := re.fullmatch(r'(\w+) is (\w+)\.', s))}
    mate = [w for w in kinds if kinds[w][0] == kinds[who][0] and w != who][-1]  # in the order told
    return (colours[mate][0],), [{kinds[mate][1], colours[mate][1], kinds[who][1]}]

SOLVERS = {'single-supporting-fact': solve_person, 'conjunction': solve_person, 'two-supporting-facts': solve_object, 'counting': solve_counting, 'lists-sets': solve_lists,
           'two-arg-relations': solve_direction, 'positional-reasoning': solve_position, 'size-reasoning': solve_size, 'time-reasoning': solve_time,
           'basic-deduction': solve_deduction, 'basic-induction': solve_induction}

def verdict(e):
    "(answer right, supporting sentences right) of one example."
    answers, facts = SOLVERS[e.meta['label']](e.context, e.question)
    return e.answers == answers, sentences(e.context, *e.meta['facts']) in facts


def possible(context):
    "Whether the events of a household story can happen: nobody goes where they are, and only what is there and free is taken."
    place, holder, lies = {}, {}, {}
    for kind, who, what, to in events(context):
        if kind == 'move' and place.get(who) == what: return False
        if kind == 'move': place[who] = what
        elif kind == 'take':
            if what in holder or None not in (lies.get(what), place.get(who)) and lies[what] != place[who]: return False
            holder[what] = who
        elif holder.get(what) != who: return False
        elif kind == 'drop': lies[what] = place.get(holder.pop(what))
        elif None not in (place.get(who), place.get(to)) and place[who] != place[to] or to == who: return False
        else: holder[what] = to
    return True

def later_first(items):
    "In which share of the time stories the later of the two supporting visits is told first."
    return sum('yesterday' in e.context[e.meta['facts'][1]].lower() or 'afternoon' in e.context[e.meta['facts'][0]] for e in items) / len(items)

HOUSEHOLD = ('two-supporting-facts', 'counting', 'lists-sets')


# --- Simulator

@pytest.mark.parametrize('label', HOUSEHOLD)
def test_households_are_possible(label):
    assert [e for e in simulate(1000, seed=3, labels=(label,)) if not possible(e.context)] == []

def test_impossible_households_are_noticed():
    for story in (('Mary went to the office.', 'Mary moved to the office.'), ('Mary took the milk there.', 'John got the milk there.'), ('Mary dropped the milk.',),
                  ('Mary went to the office.', 'Mary took the milk there.', 'Mary left the milk.', 'John went to the garden.', 'John took the milk there.'),
                  ('Mary went to the office.', 'John went to the garden.', 'Mary took the milk there.', 'Mary gave the milk to John.')):
        assert possible(story[:-1]) and not possible(story)

@pytest.mark.parametrize('label', list(LABELS.values()))
@pytest.mark.parametrize('split', ['train', 'test'])
def test_simulated_answers_follow_from_the_text(label, split):
    for e in simulate(400, seed=7, split=split, labels=(label,)):
        assert verdict(e) == (True, True), e

@pytest.mark.parametrize('label', list(LABELS.values()))
def test_the_check_notices_a_wrong_answer_and_a_wrong_fact(label):
    for e in simulate(50, seed=8, labels=(label,)):
        wrong = Example(**{**e.__dict__, 'answers': ('no',) if e.answers == ('yes',) else ('yes',)})
        assert not verdict(wrong)[0]
        assert not verdict(Example(**{**e.__dict__, 'meta': {**e.meta, 'facts': e.meta['facts'][1:]}}))[1]

def test_every_label_is_simulated_and_registered():
    assert set(SIMULATORS) == set(LABELS.values()) == set(SOLVERS) and len(LABELS) == 11
    assert get_task('babi') is babi and babi.labels == tuple(LABELS.values())

key = lambda e: (e.context, e.question)

@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 60), more=st.integers(0, 60), seed=st.integers(), labels=st.sets(st.sampled_from(sorted(SIMULATORS)), min_size=1), split=st.sampled_from(['train', 'test']))
def test_simulation_promises(n, more, seed, labels, split):
    labels = tuple(sorted(labels))
    items = simulate(n, seed, split, labels)
    assert items == simulate(n + more, seed, split, labels)[:n]                      # more examples change none
    assert [e.meta['label'] for e in items] == [labels[k % len(labels)] for k in range(n)]
    assert len({key(e) for e in items}) == len({e.id for e in items}) == n
    check_examples(items, babi)
    for e in items:
        assert e.meta['simulated'] is True and e.split == split and Example.from_json(e.to_json()) == e
        assert e.meta['facts'] == sorted(set(e.meta['facts']))
        assert babi.read_answers(babi.write_answers(e.answers)) == e.answers

@settings(max_examples=10, deadline=None)
@given(a=st.integers(), b=st.integers(), n=st.integers(1, 150))
def test_train_and_test_never_share_an_item(a, b, n):
    assert {key(e) for e in simulate(n, a)}.isdisjoint(key(e) for e in simulate(n, b, 'test'))

def test_a_small_space_is_shared_out_not_overlapped():
    # nearly all two-arg-relations items there are: overlap would be certain if splits were drawn independently
    train, test = (simulate(n, split=s, labels=('two-arg-relations',)) for n, s in ((3000, 'train'), (1000, 'test')))
    assert {key(e) for e in train}.isdisjoint(map(key, test))
    assert len({key(e) for e in train + test}) == 4000
    assert all(split_of(Story(e.context, e.question, e.answers, ())) == e.split for e in train + test)

def test_other_labels_do_not_matter():
    alone = simulate(9, seed=2, labels=('counting',))
    assert [e for e in simulate(33, seed=2, labels=('conjunction', 'counting', 'lists-sets')) if e.meta['label'] == 'counting'][:9] == alone

def test_seeds_differ_and_repeat():
    assert simulate(22, seed=1) == simulate(22, seed=1)
    assert {key(e) for e in simulate(220, seed=1)} != {key(e) for e in simulate(220, seed=2)}

KNOWN = (('Sandra went back to the office.', 'Mary journeyed to the garden.'), 'Where is Sandra?', ('office',))

def test_known_story():
    # the exact draw is part of what a seed promises: a change of the simulator must be noticed
    e = simulate(1, seed=0, labels=('single-supporting-fact',))[0]
    assert e.id == 'babi-sim-single-supporting-fact-4ddadf795e42'
    assert (e.context, e.question, e.answers) == KNOWN

def test_max_words():
    items = simulate(66, max_words=36, split='test')
    assert len(items) == 66 and max(len(' '.join(e.context).split()) for e in items) <= 36
    with pytest.raises(TracenbError, match='of basic-deduction of at most 35 words were asked for, only 0'): simulate(11, max_words=35)

def test_a_space_that_is_too_small_is_an_error():
    with pytest.raises(TracenbError, match='different test stories of two-arg-relations were asked for, only'):
        simulate(2000, split='test', labels=('two-arg-relations',))

@pytest.mark.parametrize('kw, message', [(dict(n=0), 'n is 0'), (dict(n=1, split='dev'), "unknown split 'dev'"), (dict(n=1, labels=('listsets',)), "did you mean 'lists-sets'")])
def test_bad_simulations(kw, message):
    with pytest.raises(TracenbError, match=message): simulate(**kw)

def test_through_load_examples():
    config = DataConfig(n_train=22, n_test=11, max_words=60)
    train, test = (load_examples(babi, config, s) for s in ('train', 'test'))
    assert Counter(babi.decompose(e).label for e in train) == dict.fromkeys(LABELS.values(), 2) and len(test) == 11


# --- Official text files

STORIES = '''1 Mary moved to the bathroom.
2 John went to the hallway.
3 Where is Mary? \tbathroom\t1
4 Mary went back to the office.
5 Where is Mary? \toffice\t4
1 Daniel went to the garden.
2 Daniel moved to the kitchen.
3 Where is Daniel? \tkitchen\t2
'''

def write(folder, text, name='qa1_single-supporting-fact_train.txt'):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding='utf-8', newline='')
    return folder / name

def test_first_questions(tmp_path):
    items = read_story_file(write(tmp_path, STORIES))
    assert [(e.id, e.context, e.question, e.answers, e.meta) for e in items] == [
        ('babi-qa1-train-0000', ('Mary moved to the bathroom.', 'John went to the hallway.'), 'Where is Mary?', ('bathroom',), {'label': 'single-supporting-fact', 'facts': [0], 'line': 3}),
        ('babi-qa1-train-0001', ('Daniel went to the garden.', 'Daniel moved to the kitchen.'), 'Where is Daniel?', ('kitchen',), {'label': 'single-supporting-fact', 'facts': [1], 'line': 8})]
    check_examples(items, babi)

def test_all_questions(tmp_path):
    path = write(tmp_path, STORIES)
    items = read_story_file(path, first_only=False)
    assert [e.id for e in items] == ['babi-qa1-train-0000', 'babi-qa1-train-0000-2', 'babi-qa1-train-0001']
    assert items[1].context[items[1].meta['facts'][0]] == 'Mary went back to the office.'   # ID 4 is the third sentence
    assert [e for e in items if e.id.count('-') == 3] == read_story_file(path)

def test_windows_lines_a_byte_order_mark_and_blank_lines(tmp_path):
    plain = read_story_file(write(tmp_path, STORIES))
    assert read_story_file(write(tmp_path, '\ufeff' + STORIES.replace('\n', '\r\n') + '\r\n')) == plain

def test_several_answers_and_facts(tmp_path):
    e = read_story_file(write(tmp_path, '1 A.\n2 B.\n3 C.\n4 What? \tmilk,apple\t3 1\n', 'qa8_lists-sets_test.txt'))[0]
    assert (e.split, e.answers, e.meta['facts']) == ('test', ('milk', 'apple'), [0, 2])

@pytest.mark.parametrize('text, message', [
    ('', 'no question in this file'),
    ('1 A.\n2 B.\n', 'no question in this file'),
    ('1 A.\n2 Where? \thome 1\n', 'txt:2: .*two tabs.*has 1'),
    ('1 A.\n2 Where? home 1\n', 'txt:2: .*a question without the tabs'),
    ('1 A.\n2 Where is Mary?\n', 'txt:2: .*a question without the tabs'),
    ('1 A.\n2 Where?\thome\tone\n', 'txt:2: .*supporting IDs separated'),
    ('1 A.\n2 Where?\t\t1\n', 'txt:2: .*answer'),
    ('1 A.\n2 Where?\thome\t3\n', 'txt:2: supporting ID 3 is no sentence'),
    ('1 A.\n2 Where?\thome\t2\n', 'txt:2: supporting ID 2 is no sentence'),
    ('1 Where?\thome\t1\n', 'txt:1: supporting ID 1 is no sentence'),
    ('1 A.\nB.\n3 Where?\thome\t1\n', 'txt:2: .*does not begin with an ID'),
    ('2 A.\n3 Where?\thome\t2\n', 'txt:1: ID 2 does not follow'),
    ('1 A.\n3 B.\n2 Where?\thome\t1\n', 'txt:3: ID 2 does not follow')])
def test_malformed_files(tmp_path, text, message):
    with pytest.raises(TracenbError, match=message): read_story_file(write(tmp_path, text))

def test_not_text(tmp_path):
    path = write(tmp_path, '')
    path.write_bytes(b'1 \xff\xfe')
    with pytest.raises(TracenbError, match='cannot be read'): load(path, 'train')

@pytest.mark.parametrize('name, message', [('qa21_x_train.txt', 'no task 21'), ('qa0_x_train.txt', 'no task 0'), ('qa3_three-supporting-facts_train.txt', 'task 3 is not used'),
                                           ('qa1_counting_train.txt', 'task 1 is single-supporting-fact, the name says counting'), ('story_train.txt', 'does not give task and split')])
def test_wrong_file_names(tmp_path, name, message):
    with pytest.raises(TracenbError, match=message): load(write(tmp_path, STORIES, name), 'train')

def test_folders(tmp_path):
    root = tmp_path / 'tasks_1-20_v1-2'
    for name in ('en', 'en-10k', 'shuffled', 'hn'): write(root / name, STORIES.replace('bathroom', name))
    assert load(root, 'train')[0].answers == ('en',) == load(str(root / 'en'), 'train')[0].answers
    assert load(root / 'hn', 'train')[0].answers == ('hn',)
    (root / 'en' / 'qa1_single-supporting-fact_train.txt').unlink()
    assert load(root, 'train')[0].answers == ('en-10k',)
    (root / 'en-10k' / 'qa1_single-supporting-fact_train.txt').unlink()
    with pytest.raises(TracenbError, match='several folders: hn, shuffled'): load(root, 'train')

def test_unused_tasks_are_passed_over_and_tasks_come_in_order(tmp_path):
    for name in ('qa14_time-reasoning', 'qa2_two-supporting-facts', 'qa3_three-supporting-facts'): write(tmp_path, STORIES, f'{name}_train.txt')
    assert [e.id for e in load(tmp_path, 'train')] == ['babi-qa2-train-0000', 'babi-qa2-train-0001', 'babi-qa14-train-0000', 'babi-qa14-train-0001']
    write(tmp_path, STORIES, 'qa2_train.txt')
    with pytest.raises(TracenbError, match='a second train file of task 2'): load(tmp_path, 'train')

def test_missing_sources(tmp_path):
    with pytest.raises(TracenbError, match='no such file or folder'): load(tmp_path / 'nowhere', 'train')
    with pytest.raises(TracenbError, match='no train file of the tasks'): load(tmp_path, 'train')
    path = write(tmp_path, STORIES)
    with pytest.raises(TracenbError, match='qa1_single-supporting-fact_test.txt: no such file'): load(path, 'test')
    with pytest.raises(TracenbError, match='unknown split'): load(path, 'dev')
    write(tmp_path, '{}\n', 'rows.jsonl')
    with pytest.raises(TracenbError, match='does not say which split'): load(tmp_path / 'rows.jsonl', 'train')

@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), label=st.sampled_from(sorted(LABELS)))
def test_simulated_stories_survive_the_official_format(tmp_path_factory, seed, label):
    items, lines = simulate(5, seed, labels=(LABELS[label],)), []
    for e in items:
        lines += [f'{i} {s}' for i, s in enumerate(e.context, 1)]
        lines.append(f"{len(e.context) + 1} {e.question} \t{','.join(e.answers)}\t{' '.join(str(i + 1) for i in e.meta['facts'])}")
    back = load(write(tmp_path_factory.mktemp('en'), '\n'.join(lines), f'qa{label}_{LABELS[label]}_train.txt'), 'train')
    assert [(e.context, e.question, e.answers, e.meta['facts']) for e in back] == [(e.context, e.question, e.answers, e.meta['facts']) for e in items]


# --- JSON lines

ROW = dict(row_id='train-0', passages=['A.', 'B.', 'A.'], question='Where?', query_type='counting', answer_passage=['A.'], answer='one')

def test_rows(tmp_path):
    write(tmp_path, json.dumps(ROW) + '\n', 'train.jsonl')
    e = load(tmp_path, 'train')[0]
    assert (e.id, e.context, e.answers, e.meta) == ('babi-train-0', ('A.', 'B.', 'A.'), ('one',), {'label': 'counting', 'facts': [2]})
    assert load(tmp_path / 'train.jsonl', 'train') == [e]
    with pytest.raises(TracenbError, match='test.jsonl: no such file'): load(tmp_path / 'train.jsonl', 'test')

@pytest.mark.parametrize('line, message', [
    ('{"row_id": 1', 'train.jsonl:2: not a valid BabiRow'), (json.dumps({**ROW, 'passages': 'A.'}), 'train.jsonl:2: .*passages'),
    (json.dumps({**ROW, 'query_type': 'count'}), "unknown label of babi .*row train-0.*'count'"), (json.dumps({**ROW, 'answer_passage': ['C.']}), 'row train-0: a sentence of answer_passage')])
def test_bad_rows(tmp_path, line, message):
    write(tmp_path, json.dumps(ROW) + '\n' + line + '\n', 'train.jsonl')
    with pytest.raises(TracenbError, match=message): load(tmp_path, 'train')

@pytest.mark.parametrize('quoted, facts', [(('a', 'b'), (2, 3)), (('b', 'a'), (3, 4)), (('a', 'a'), (2, 4)), (('a',), (4,)), (('x',), None), (('b', 'b'), (3,))])
def test_quoted_facts(quoted, facts):
    assert quoted_facts(('a', 'c', 'a', 'b', 'a'), quoted) == facts


# --- Real rows

@pytest.fixture(scope='module')
def real(): return {split: load(REAL, split) for split in ('train', 'test')}

@needs_real
def test_all_real_rows_load(real):
    counts = {split: Counter(e.meta['label'] for e in items) for split, items in real.items()}
    assert {label: (counts['train'][label], counts['test'][label]) for label in LABELS.values()} == FULL
    assert len(check_examples(real['train'] + real['test'], babi)) == 4149

@needs_real
@pytest.mark.parametrize('label', list(LABELS.values()))
def test_real_answers_and_facts_follow_from_the_text(real, label):
    "The same check as for simulated stories: answers, and the choice of supporting sentences, follow the official convention."
    items = [e for e in real['train'] + real['test'] if e.meta['label'] == label]
    assert [e.id for e in items if verdict(e) != (True, True)] == []

@needs_real
def test_real_households_are_possible_and_times_are_told_alike(real):
    items = real['train'] + real['test']
    assert [e.id for e in items if e.meta['label'] in HOUSEHOLD and not possible(e.context)] == []
    times = [e for e in items if e.meta['label'] == 'time-reasoning']
    assert later_first(simulate(1100, labels=('time-reasoning',))) == pytest.approx(later_first(times), abs=.08)

@needs_real
@pytest.mark.parametrize('label', list(LABELS.values()))
def test_simulated_stories_are_like_the_real_ones(real, label):
    items, sim = [e for e in real['train'] + real['test'] if e.meta['label'] == label], simulate(1100, seed=5, labels=(label,))
    words = lambda xs: {w for e in xs for text in (*e.context, e.question, *e.answers) for w in re.findall(r'\w+', text)}
    mean = lambda xs, f: sum(map(f, xs)) / len(xs)
    share = lambda xs: Counter(a for e in xs for a in e.answers)
    assert words(sim) == words(items)
    assert mean(sim, lambda e: len(e.context)) == pytest.approx(mean(items, lambda e: len(e.context)), rel=.1)
    assert mean(sim, lambda e: len(e.meta['facts'])) == pytest.approx(mean(items, lambda e: len(e.meta['facts'])), rel=.05)
    for answer, n in share(items).items(): assert share(sim)[answer] / len(sim) == pytest.approx(n / len(items), abs=.08)
