"""The design of a study: who sees what, what may come back, which questions are chosen, and which jsPsych is pinned."""

import base64
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from tracenb.core.files import write_jsonl, write_text
from tracenb.core.npm import Pinned, fetch, npm_registry
from tracenb.core.records import Example, Generation, Score, TracenbError
from tracenb.runs.stages import make_run
from tracenb.study import build
from tracenb.study.build import JSPSYCH, build_study, compile_study, in_words, page_files, script
from tracenb.study.design import Study, demo_study, read_study, wording
from tracenb.study.preregister import preregister, prolific_draft
from tracenb.study.sampling import read_config
from tracenb.study.steps import page_of, step_sequence, trials, value_problems, williams_square

DEMO, WITHIN = demo_study(), demo_study(layout='within')


# --- who sees what


@given(number=st.integers(0, 10**6), within=st.booleans(), n=st.integers(1, 8))
def test_a_sequence_holds_every_step_once_and_is_the_same_each_time(number, within, n):
    study = replace(WITHIN, trials=4 * (1 + n % 2)) if within else replace(DEMO, trials=n)
    group = study.groups[number % len(study.groups)]
    steps = step_sequence(study, number, group)
    assert steps == step_sequence(study, number, group) and len(set(steps)) == len(steps)
    assert steps[:3] == ('consent', 'instructions', 'comprehension') and steps[-1] == 'debrief'
    assert [s for s in steps if s.startswith('trial')] == [f'trial:{k}' for k in range(study.trials)]
    assert {s for s in steps if s.startswith('attention')} == {'attention:attention_low', 'attention:attention_high'}
    shown = trials(study, number, group)
    assert len({i for i, _ in shown}) == study.trials
    if within:
        assert set(Counter(c for _, c in shown).values()) == {study.trials // 4}
    else:
        assert {c for _, c in shown} == {group}


def test_attention_checks_come_between_trials():
    for number in range(20):
        steps = step_sequence(DEMO, number, 'r1')
        places = [steps.index(s) for s in steps if s.startswith('attention')]
        assert all(steps[p - 1].startswith('trial') and steps[p + 1].startswith('trial') for p in places)
        assert abs(places[0] - places[1]) > 1


@pytest.mark.parametrize('n', range(1, 9))
def test_the_square_is_latin_and_balances_what_follows_what(n):
    rows = williams_square(n)
    assert all(sorted(r) == list(range(n)) for r in rows)
    assert all(sorted(r[p] for r in rows) == sorted(list(range(n)) * (len(rows) // n)) for p in range(n))
    follows = Counter(pair for row in rows for pair in zip(row, row[1:]))
    assert len(set(follows.values())) <= 1 and len(follows) == n * (n - 1)


def test_within_every_item_is_seen_under_every_condition_and_in_every_place():
    seen = Counter((i, c) for number in range(160) for i, c in trials(WITHIN, number, 'within'))
    assert set(seen.values()) == {40} and len(seen) == 32
    places = Counter((p, c) for number in range(160) for p, (_, c) in enumerate(trials(WITHIN, number, 'within')))
    assert set(places.values()) == {40}


def test_a_subset_of_the_items_is_balanced_over_labels():
    study = replace(DEMO, trials=4)
    counts = Counter(i for number in range(400) for i, _ in trials(study, number, 'r1'))
    assert all(
        Counter(DEMO.items[i].label for i, _ in trials(study, n, 'r1')) == {'location': 2, 'owner': 2}
        for n in range(50)
    )
    assert min(counts.values()) > 150, 'every item is shown about as often'


def leaves(value):
    if isinstance(value, dict):
        for k, v in value.items():
            yield str(k)
            yield from leaves(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from leaves(v)
    else:
        yield value


HIDDEN = {'right', 'shown', 'condition', 'model', 'label', 'id', 'decomposition', 'r1_summary', 'post_hoc'}


def test_the_page_is_told_nothing_it_may_not_know():
    for study, group in ((DEMO, 'r1'), (WITHIN, 'within')):
        for step in step_sequence(study, 7, group):
            page = page_of(study, 7, group, step)
            found = list(leaves(page))
            assert json.loads(json.dumps(page)) == page
            assert not HIDDEN & set(map(str, found)), step
            if step.startswith('trial'):
                index, condition = trials(study, 7, group)[int(step[6:])]
                others = {s.trace for c, s in study.items[index].shown.items() if c != condition}
                assert page['trace'] == study.items[index].shown[condition].trace and not others & set(found)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | st.floats() | st.text(max_size=8),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3),
    max_leaves=5,
)


@given(
    step=st.sampled_from([*step_sequence(DEMO, 1, 'r1')]),
    values=st.dictionaries(
        st.sampled_from(
            ['agree', 'comment', 'age', *(s.name for s in DEMO.scales), *(c.name for c in DEMO.checks), 'x']
        ),
        VALUES,
    )
    | VALUES,
)
def test_any_values_get_a_verdict_and_what_passes_can_be_stored(step, values):
    found = value_problems(DEMO, step, values)
    assert all(isinstance(p, str) for p in found)
    if found:
        return
    assert all(isinstance(v, (bool, int, str)) for v in values.values())
    json.dumps(values, ensure_ascii=False).encode()
    if step.startswith('trial'):
        assert set(values) == {s.name for s in DEMO.scales} and all(1 <= v <= 5 for v in values.values())


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(trials=9), 'there are 8 items'),
        (dict(conditions=('r1', 'r1')), 'is a duplicate'),
        (dict(layout='within', trials=6), 'use a multiple'),
        (dict(attention_allowed=3), '3 of 2 checks'),
        (dict(texts={**DEMO.texts, 'constent': ''}), "'constent' is unknown"),
        (dict(texts={}), 'is missing'),
        (dict(checks=(replace(DEMO.checks[0], right=7),)), 'at most 2'),
        (dict(scales=DEMO.scales * 2), 'is a duplicate'),
        (dict(scales=(replace(DEMO.scales[0], labels=('no', 'yes')),)), '2 labels for 5 points'),
        (dict(scales=(replace(DEMO.scales[0], low=''),)), 'low or high is missing'),
        (dict(name='../x'), 'pattern'),
        (dict(language='german'), 'pattern'),
        (dict(words={**DEMO.words, 'agre': 'Ja'}), "did you mean 'agree'"),
        (dict(words={**DEMO.words, 'place': 'Seite {n}'}), 'needs {n} and {total}'),
        (dict(words={**DEMO.words, 'copy': ' '}), 'copy is blank'),
        (dict(words={}), 'agree is missing'),
    ],
)
def test_a_design_that_contradicts_itself_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        replace(DEMO, **change)


# --- choosing from runs


def generated(condition, example, right):
    "What a model wrote: `right` is None for a text without tags."
    if right is None:
        return 'no tags'
    return f'<think>{condition} on {example}</think> <answer>{"red" if right else "blue"}</answer>'


def run_folder(at, condition, rights, context='The cup is red.', **files):
    "A finished run of the toy task; `rights` says whether its answers to q0, q1, ... are right."
    run = make_run(dataset='toy', condition=condition, model='tiny-random', data=dict(n_train=4, n_test=4))
    examples = [
        Example(
            id=f'q{k}',
            dataset='toy',
            split='test',
            context=(context,),
            question=f'What color is cup {k}?',
            answers=('red',),
            meta={'label': 'color', 'facts': [0]},
        )
        for k in range(len(rights))
    ]
    folder = at / run.name
    write_text(folder / 'run.json', json.dumps(dict(settings=run.to_dict())))
    write_jsonl(folder / 'examples.jsonl', examples)
    write_jsonl(
        folder / 'generations.jsonl',
        [
            Generation(id=e.id, text=generated(condition, e.id, r), n_tokens=9, finish_reason='stop')
            for e, r in zip(examples, rights)
        ],
    )
    write_jsonl(
        folder / 'scores.jsonl',
        [
            Score(id=e.id, scorer=s, value=float(bool(r)))
            for e, r in zip(examples, rights)
            for s in ('answer_exact', 'answer_contains')
        ],
    )
    write_text(folder / 'metrics.json', '{}')
    return folder


@pytest.fixture
def toy_labels(monkeypatch):
    "Labels of the toy task are read from `meta` of its examples."
    from tracenb.core.records import Steps
    from tracenb.tasks.task import TASKS

    monkeypatch.setitem(
        TASKS,
        'toy',
        replace(TASKS['toy'], decompose=lambda e: Steps(label=e.meta['label'], facts=tuple(e.meta['facts']))),
    )


def teacher_files(*conditions):
    "Condition -> file of its demo traces."
    return {c: str(ROOT / 'nbs' / 'data' / 'teacher_demo' / f'{c}.jsonl') for c in conditions}


def config(at, **more):
    return write_text(at / 'study.yaml', yaml.safe_dump(dict(name='s', contact='a@b.org', **more), sort_keys=False))


def test_runs_give_questions_that_all_conditions_answer_alike(tmp_path, toy_labels):
    run_folder(tmp_path / 'a', 'correct', [1, 1, 1, 0, 0, 0, 1, None, 1])
    run_folder(tmp_path / 'b', 'incorrect', [1, 1, 1, 0, 0, 0, 0, 1, 1])
    runs = dict(decomposition='a', wrong='b')
    study, made_from = compile_study(read_config(config(tmp_path, runs=runs, questions=6)))
    assert Counter((i.shown['decomposition'].right, i.shown['wrong'].right) for i in study.items) == {
        (True, True): 3,
        (False, False): 3,
    }
    assert {i.id for i in study.items} <= {f'q{k}' for k in (0, 1, 2, 3, 4, 5, 8)}, (
        'without the one that differs and the one without a trace'
    )
    item = next(i for i in study.items if i.id == 'q3')
    wrong = item.shown['wrong']
    assert (wrong.trace, wrong.answer, wrong.model) == ('incorrect on q3', 'blue', 'tiny-random')
    assert made_from['unusable'] == {'decomposition': 1, 'wrong': 0}
    assert study == compile_study(read_config(tmp_path / 'study.yaml'))[0]
    counts = r'color, wrong: 3 of 4\. There are: color: 4 right, 3 wrong, 1 mixed; left out: 1 without'
    with pytest.raises(TracenbError, match=counts):
        compile_study(read_config(config(tmp_path, runs=runs, questions=8)))
    study, _ = compile_study(read_config(config(tmp_path, runs=runs, questions=8, answers='any')))
    assert len(study.items) == 8


def test_runs_that_do_not_belong_together_are_refused(tmp_path, toy_labels):
    run_folder(tmp_path / 'a', 'correct', [1, 1])
    run_folder(tmp_path / 'b', 'incorrect', [1, 1], context='The cup is blue.')
    with pytest.raises(TracenbError, match='q0: its question or context differs'):
        compile_study(read_config(config(tmp_path, runs=dict(x='a', y='b'), questions=2)))
    run_folder(tmp_path / 'a', 'incorrect', [1, 1])
    with pytest.raises(TracenbError, match='holds 2 finished runs'):
        compile_study(read_config(config(tmp_path, runs=dict(x='a', y='b'), questions=2)))
    with pytest.raises(TracenbError, match='no finished run'):
        compile_study(read_config(config(tmp_path, runs=dict(x='nowhere', y='b'), questions=2)))


# --- jsPsych


def tarball(text):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode='w:gz') as tar:
        info = tarfile.TarInfo('package/dist/index.browser.min.js')
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text))
    return data.getvalue()


@pytest.fixture
def registry():
    "An npm registry on this machine: path -> bytes; `asked` holds the paths of all requests."

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            server.asked.append(self.path)
            data = server.files.get(self.path)
            self.send_response(200 if data is not None else 404)
            self.end_headers()
            self.wfile.write(data or b'')

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.files, server.asked, server.url = {}, [], f'http://127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_package_is_fetched_from_the_users_registry_once_and_refused_if_it_is_another(
    registry, tmp_path, monkeypatch
):
    data = tarball(b'var it = 1;')
    pin = Pinned('@scope/thing', '1.2.3', 'sha512-' + base64.b64encode(hashlib.sha512(data).digest()).decode())
    path = '/npm/@scope/thing/-/thing-1.2.3.tgz'
    monkeypatch.setenv('npm_config_registry', f'{registry.url}/npm/')
    registry.files[path] = data + b'.'
    with pytest.raises(TracenbError, match='not @scope/thing 1.2.3 as pinned'):
        fetch(pin, cache=tmp_path / 'c')
    assert not any((tmp_path / 'c').rglob('*')), 'nothing is kept'
    registry.files[path] = data
    assert script(fetch(pin, cache=tmp_path / 'c')) == 'var it = 1;'
    registry.files.clear()
    assert fetch(pin, cache=tmp_path / 'c') == data and len(registry.asked) == 2, 'from the cache, without a request'
    (tmp_path / 'c' / '@scope+thing-1.2.3.tgz').write_bytes(b'broken')
    with pytest.raises(TracenbError, match='404|Not Found'):
        fetch(pin, cache=tmp_path / 'c')


def test_without_node_and_settings_the_registry_is_the_public_one(monkeypatch):
    for name in ('npm_config_registry', 'NPM_CONFIG_REGISTRY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('PATH', '')
    assert npm_registry() == 'https://registry.npmjs.org'


def test_a_build_that_cannot_have_jspsych_writes_nothing(registry, tmp_path, monkeypatch):
    monkeypatch.setenv('npm_config_registry', registry.url)
    monkeypatch.setenv('TRACENB_CACHE', str(tmp_path / 'cache'))
    files = teacher_files('r1', 'post_hoc')
    with pytest.raises(TracenbError, match='npm_config_registry'):
        build_study(config(tmp_path, traces=files, questions=2), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_all_of_jspsych_is_pinned_and_the_page_names_it():
    page = (ROOT / 'tracenb' / 'study' / 'page' / 'index.html').read_text()
    assert all(f'{p.name.rpartition("/")[2]}.js' in page for p in JSPSYCH)
    assert all(len(base64.b64decode(p.integrity.removeprefix('sha512-'))) == 64 for p in JSPSYCH)
    assert 'http' not in page and 'innerHTML =' not in (ROOT / 'tracenb' / 'study' / 'page' / 'survey.js').read_text()


# --- words


def test_every_default_word_is_used_and_the_page_has_none_of_its_own():
    html, js = ((ROOT / 'tracenb' / 'study' / 'page' / name).read_text() for name in ('index.html', 'survey.js'))
    code = re.sub(r'(?m)(^|\s)//.*', '', js)
    used = set(re.findall('<<([a-z_]+)>>', html)) - {'language', 'direction', 'title', 'words'}
    used |= set(re.findall(r'SAY\.(\w+)', code))
    used |= {'ids_none', 'ids_kept', 'ids_hashed', 'paid', 'task_rate', 'task_compare'}  # for the consent text
    assert used == set(wording()['words'])
    own = {a or b for a, b in re.findall(r"'([^'\n]*)'|`([^`\n]*)`", code) if re.match('[A-Z][a-z]', a or b)}
    assert own == {'Content-Type', 'Retry-After', 'Bearer ${shelf.held.token}', 'Enter'}, (
        'any other text that begins like a sentence is a header or a key'
    )
    assert not re.search('[A-Za-z]', re.sub('<[^>]*>', '', re.sub(r'<<\w+>>', '', html)))


def test_a_config_replaces_words_one_by_one(tmp_path):
    files = teacher_files('r1', 'post_hoc')
    words = dict(agree='</script><b>Ja', place='{total}/{n}')
    study, _ = compile_study(read_config(config(tmp_path, traces=files, questions=2, language='en-GB', words=words)))
    assert study.words == wording()['words'] | words and Study.from_json(study.to_json()) == study
    page = in_words((ROOT / 'tracenb' / 'study' / 'page' / 'index.html').read_text(), replace(study, language='ar-EG'))
    assert '<html lang="ar-EG" dir="rtl">' in page and '<b>' not in page and '<<' not in page
    assert json.loads(re.search('id="words">(.*?)</script>', page)[1]) == study.words
    for wrong, message in (
        (dict(words=dict(agre='Ja')), "did you mean 'agree'"),
        (dict(words=dict(wrong_many='Falsch.')), r'study.yaml: words: wrong_many: \'Falsch.\'\n.*needs \{left\}'),
        (dict(words=dict(send='{n}')), 'leave the braces out'),
        (dict(words=dict(copy=True)), "this is 'True'"),
        (dict(language='Deutsch'), "this is 'Deutsch'"),
    ):
        with pytest.raises(TracenbError, match=message):
            read_config(config(tmp_path, traces=files, **wrong))


def test_a_study_in_another_language_holds_no_english(tmp_path):
    "A config that leaves a part in English is refused; one that replaces all parts is compiled with its own words."
    defaults, files = wording(), teacher_files('r1', 'post_hoc')
    italian = dict(
        language='it',
        title='Titolo',
        texts=dict.fromkeys(defaults['texts'], '{minutes} Minuten. {ids} {pay}'),
        words=dict(
            defaults['words'],
            paid='Bezahlt wird über Prolific.',
            ids_kept='Die ID bleibt.',
            ids_hashed='Die ID wird verschlüsselt.',
            ids_none='Niemand wird gefragt.',
        ),
        **{part: defaults[part] for part in ('scales', 'checks', 'free', 'demographics')},
    )
    for panel, wanted in (
        (dict(name='prolific'), 'Die ID wird verschlüsselt. Bezahlt wird über Prolific.'),
        (dict(name='prolific', keep_ids=True), 'Die ID bleibt. Bezahlt wird über Prolific.'),
        (dict(name='none'), 'Niemand wird gefragt. '),
    ):
        study, _ = compile_study(read_config(config(tmp_path, traces=files, questions=2, panel=panel, **italian)))
        assert {re.sub(r'^\d+ Minuten\. ', '', text) for text in study.texts.values()} == {wanted}
        assert study.language == 'it'
    for part, left in (
        ('title', '1 parts would be in English: title'),
        ('scales', ': scales'),
        ('words', 'words: agree, '),
    ):
        with pytest.raises(TracenbError, match=left):
            read_config(config(tmp_path, traces=files, questions=2, **{k: v for k, v in italian.items() if k != part}))
    half = italian | dict(texts={k: v for k, v in italian['texts'].items() if k != 'debrief'})
    with pytest.raises(TracenbError, match='English: texts: debrief'):
        read_config(config(tmp_path, traces=files, questions=2, **half))


# --- the built folder


@pytest.fixture(scope='module')
def built(tmp_path_factory):
    "A study built from a config, with page files that need no network."
    at = tmp_path_factory.mktemp('built')
    files = teacher_files('r1', 'r1_summary', 'post_hoc')
    path = config(
        at,
        traces=dict(decomposition='rule', **files),
        questions=6,
        panel=dict(name='prolific'),
        codes=dict(complete='C0MPLETE', screened_out='SCR33N', full='FU11'),
    )
    before, build.page_files = build.page_files, lambda: {'index.html': '<body>'}
    try:
        return build_study(path, at / 'out')
    finally:
        build.page_files = before


def test_a_build_holds_design_codes_page_and_where_it_came_from(built):
    study = read_study(built)
    assert (len(study.items), study.conditions) == (6, ('decomposition', 'r1', 'r1_summary', 'post_hoc'))
    private = built / 'private.json'
    assert json.loads(private.read_text())['codes']['complete'] == 'C0MPLETE' and private.stat().st_mode & 0o077 == 0
    public = ''.join(p.read_text() for p in built.rglob('*') if p.is_file() and p.name != 'private.json')
    assert 'C0MPLETE' not in public and 'SCR33N' not in public and '{minutes}' not in public
    assert 'keyed hash' in study.texts['consent'] and study.panel.complete_url.startswith('https://app.prolific.com/')
    assert json.loads((built / 'made_from.json').read_text())['files']['r1']['r1.jsonl']
    text = json.dumps(json.loads((built / 'study.json').read_text()))
    assert Study.from_json(text) == study


def test_preregistration_and_draft_say_what_the_study_does(built):
    text, study = preregister(built), read_study(built)
    quoted = [question.prompt for question in (*study.scales, *study.checks)]
    quoted += ['Kruskal-Wallis', 'Holm', 'H1.', '100 in all', 'r1.jsonl', f'Seed of the study: {study.seed}']
    for words in quoted:
        assert words in text, words
    assert 'C0MPLETE' not in text
    draft = prolific_draft(built, 'https://study.example.org/s?lang=en')
    assert draft['external_study_url'].startswith(
        'https://study.example.org/s?lang=en&PROLIFIC_PID={{%PROLIFIC_PID%}}&'
    )
    assert [c['code'] for c in draft['completion_codes']] == ['C0MPLETE', 'SCR33N', 'FU11']
    assert draft['reward'] > 0 and draft['total_available_places'] == 100


@pytest.mark.slow
def test_the_real_jspsych_is_what_was_pinned(tmp_path):
    try:
        files = page_files()
    except TracenbError as e:
        pytest.skip(f'jsPsych is neither in the cache nor available: {e}')
    assert 'jsPsychSurveyLikert' in files['plugin-survey-likert.js'] and 'initJsPsych' in files['jspsych.js']
    assert not any('sourceMappingURL' in text for text in files.values())


def test_reading_a_design_needs_no_torch():
    "The server reads designs; it must start fast and small."
    modules = ', '.join(f'tracenb.study.{name}' for name in ('design', 'sampling', 'build', 'preregister'))
    code = f"import sys; import {modules}; print('torch' in sys.modules, 'matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.stdout.split() == ['False', 'False']
