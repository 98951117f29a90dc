"""A study of one's own: from a table of items and scales of any kind to scores, in any of the shipped languages."""

import csv
import json
import re
import sqlite3
from contextlib import closing
from dataclasses import replace

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from tracenb.cli.main import app
from tracenb.core.records import TracenbError
from tracenb.fieldwork.load_test import attentive
from tracenb.ratings.contrasts import omnibus, pairwise
from tracenb.ratings.effects import Effects
from tracenb.ratings.figures import likert_figure, means_figure
from tracenb.ratings.ordinal import fit_ordinal
from tracenb.ratings.reliability import reliability
from tracenb.ratings.scales import check_answers, mean_ratings, outcome_names, participant_table, rules_of, score_trials
from tracenb.ratings.simulated import simulate_answers
from tracenb.study.answers import open_answers, read_answers
from tracenb.study.build import RESERVED, compile_study, reserved_names, study_template
from tracenb.study.design import LANGUAGES, Scale, Study, demo_study, parse_yaml, wording
from tracenb.study.items import own_items
from tracenb.study.participants import Store, enter, step_page, store_answer
from tracenb.study.sampling import choose_questions, pool_of_items, read_config
from tracenb.study.steps import page_of

HEAD = ['id', 'question', 'context', 'condition', 'trace', 'answer', 'right', 'label']


def rows(n=6, conditions=('kurz', 'lang', 'mittel')):
    "n items under each condition, every second one answered wrongly."
    return [
        [f'i{k}', f'Wo ist Ding {k}?', 'Öl; "gut"\nZwei', c, f'{c} Grund {k}', 'hier', 'no' if k % 2 else 'yes', 'ort']
        for k in range(n)
        for c in conditions
    ]


def items_file(at, rows, head=HEAD, delimiter=',', encoding='utf-8'):
    with open(at / 'items.csv', 'w', newline='', encoding=encoding) as f:
        csv.writer(f, delimiter=delimiter).writerows([head, *rows])
    return at / 'items.csv'


def config_file(at, **more):
    (at / 'study.yaml').write_text(yaml.safe_dump(dict(name='own', contact='a@b.org', items='items.csv') | more))
    return at / 'study.yaml'


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'latin-1'])
@pytest.mark.parametrize('delimiter', [',', ';', '\t'])
def test_a_table_of_items_is_read_in_every_form(tmp_path, delimiter, encoding):
    items, left_out = own_items(items_file(tmp_path, rows(), delimiter=delimiter, encoding=encoding))
    assert left_out == {} and [i.id for i in items] == [f'i{k}' for k in range(6)]
    assert items[1].context == ('Öl; "gut"', 'Zwei') and [*items[1].shown] == ['kurz', 'lang', 'mittel']
    assert [i.shown['lang'].right for i in items] == [True, False] * 3


def test_json_lines_without_ids_join_by_question_and_context(tmp_path):
    found = [dict(zip(HEAD, r)) | dict(context=['Öl', 'Zwei'], right=r[6] == 'yes') for r in rows(2)]
    for row in found:
        del row['id'], row['label']
    (tmp_path / 'items.jsonl').write_text('\n'.join(map(json.dumps, found)))
    items, _ = own_items(tmp_path / 'items.jsonl')
    assert [len(i.shown) for i in items] == [3, 3] and items[0].context == ('Öl', 'Zwei')
    assert own_items(tmp_path / 'items.jsonl', ('lang', 'kurz'))[0][0].shown.keys() == {'lang', 'kurz'}


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({3: 'Chain of Thought'}, "line 4: condition: 'Chain of Thought' is not a name\n.*: chain_of_thought"),
        ({6: 'vielleicht'}, "line 4: right is 'vielleicht'"),
        ({4: ' '}, 'line 4: trace is empty'),
        ({1: 'Eine andere Frage?'}, "line 5: question is 'Wo ist Ding 1.', but 'Eine andere Frage"),
        ({0: 'i0', 1: 'Wo ist Ding 0?', 3: 'kurz'}, "line 4: the item has a row of condition 'kurz' already"),
    ],
)
def test_rows_that_cannot_be_meant_are_refused_with_their_line(tmp_path, change, message):
    table = [[r[0], r[1], '', *r[3:]] for r in rows(2, ('kurz', 'lang'))]
    table[2] = [change.get(k, cell) for k, cell in enumerate(table[2])]
    with pytest.raises(TracenbError, match=message):
        own_items(items_file(tmp_path, table))


def test_items_without_a_condition_are_counted_and_columns_are_named(tmp_path):
    _, left_out = own_items(items_file(tmp_path, rows()[:-1]))
    assert left_out == {'without a row of mittel': 1}
    with pytest.raises(TracenbError, match="no column 'right'"):
        own_items(items_file(tmp_path, [r[:6] for r in rows()], HEAD[:6]))


def test_questions_are_chosen_by_right_and_wrong(tmp_path):
    items_file(tmp_path, rows(9))

    def right(**more):
        config = read_config(config_file(tmp_path, **more))
        return [i.shown['kurz'].right for i in choose_questions(pool_of_items(config), config)]

    assert sorted(right()) == [False] * 4 + [True] * 5
    assert sorted(right(answers='balanced')) == [False] * 4 + [True] * 4
    assert sorted(right(questions=4)) == [False] * 2 + [True] * 2
    assert right(answers='right') == [True] * 5
    with pytest.raises(TracenbError, match='ort, wrong: 4 of 6'):
        right(questions=12)


# --- scales


@pytest.mark.parametrize('name', sorted(RESERVED - {'within'}))
def test_reserved_names_are_refused_at_build_and_harm_no_analysis(tmp_path, name):
    scale = dict(name=name, prompt='p', low='l', high='h')
    items_file(tmp_path, rows(2))
    with pytest.raises(TracenbError, match=f'{name!r} is the name of a column'):
        compile_study(read_config(config_file(tmp_path, scales=[scale])))
    scales = (Scale(**scale), Scale(**scale | dict(name='follow')), Scale(**scale | dict(name='hard', kind='load')))
    study = demo_study(trials=2, n_per_condition=3, scales=scales)
    means = {c: {name: m, 'follow': 3.0, 'hard': 2.5} for c, m in zip(study.conditions, (4.5, 3.5, 2.5, 1.5))}
    effects = Effects(means=means, dimensions={s.name: s.kind for s in scales}, dropout=0.0, inattentive_rate=0.0)
    answers, rules = simulate_answers(study, effects, 3, seed=1), rules_of(study)
    checked = check_answers(answers, rules)
    table = score_trials(checked, participant_table(checked, rules), rules)
    found = mean_ratings(table, outcome_names(table, rules), 20).set_index(['outcome', 'condition'])['mean']
    own = checked[(checked.kind == 'trial') & (checked.dimension == name) & checked.participant.isin(table.participant)]
    truth = own.groupby('condition').value.apply(lambda v: v.astype(float).mean())
    for c in study.conditions:
        assert found[name, c] == pytest.approx(truth[c])


def test_a_scale_called_like_another_kind_is_refused_and_kept_apart(tmp_path):
    scale = Scale(name='load', prompt='p', low='l', high='h')
    study = replace(demo_study(), scales=(scale, replace(scale, name='effort', kind='load')))
    assert [what for what, _ in reserved_names(study)] == ["scales: 'load' is also the name of a kind"]
    assert list(reserved_names(replace(study, scales=(replace(scale, kind='load'),)))) == []


MIXED = (
    Scale(name='clear', prompt='p', low='l', high='h', points=7, kind='quality'),
    Scale(name='muddled', prompt='p', low='l', high='h', points=3, kind='quality', reverse=True),
    Scale(name='extent', prompt='p', points=2, kind='amount', labels=('too little', 'enough')),
    Scale(name='eleven', prompt='p', low='l', high='h', points=11, kind='load'),
)


def answered(tmp_path, study, n=12):
    "Answers of participants who rate at random, through the store."
    store, says = Store(tmp_path / 'a.sqlite', study, b'k' * 32), attentive(study)
    do = lambda work, *args: store.submit(work, store, *args).result(20)
    with closing(store):
        for number in range(1, n + 1):
            who = do(enter, {})
            for step in who['steps']:
                values = says(step, do(step_page, who['token'], step), number)
                do(store_answer, who['token'], step, values, 20.0, 'attempt-1')
    return read_answers(tmp_path / 'a.sqlite')


def test_mixed_points_reversed_scales_and_own_kinds_go_through_store_and_analysis(tmp_path):
    study, rules = (s := demo_study(trials=2, n_per_condition=3, scales=MIXED)), rules_of(s)
    assert Study.from_json(study.to_json()) == study
    assert page_of(study, 1, 'r1', 'trial:0')['scales'][2]['labels'] == ['too little', 'enough']
    assert not {'reverse', 'kind'} & set(page_of(study, 1, 'r1', 'trial:0')['scales'][0])
    answers = answered(tmp_path, study)
    checked = check_answers(answers, rules)
    table = score_trials(checked, participant_table(checked, rules), rules)
    raw = checked[checked.kind == 'trial'].pivot(index=['participant', 'step'], columns='dimension', values='value')
    raw = raw.loc[pd.MultiIndex.from_frame(table[['participant', 'step']])].astype(float)
    turned = 4 - raw.muddled.to_numpy()  # 1..3, turned around
    assert table['scale:muddled'].tolist() == turned.tolist()
    assert table['kind:quality'].to_numpy() == pytest.approx((raw.clear.to_numpy() + 1 + (turned - 1) * 3) / 2)
    kinds = ['quality', 'amount', 'load']
    assert outcome_names(table, rules)[:3] == kinds
    assert fit_ordinal(table, 'quality', rules).note == 'scales of different points: they share no steps'
    assert {r.outcome: r.n for r in map(pd.Series, [omnibus(table, k, rules) for k in kinds])} == dict.fromkeys(
        kinds, 12
    )
    assert len(pairwise(table, kinds, rules, 20)) == 18 and set(reliability(table, rules).kind) == set(kinds)
    data = likert_figure(table, rules)[1]
    assert data.groupby('scale').answer.max().to_dict() == dict(clear=7, muddled=3, extent=2, eleven=11)
    given = data[(data.scale == 'muddled') & (data.answer == 1)].n.sum()
    assert given == (raw.muddled == 1).sum()  # As it was answered
    assert means_figure(table, mean_ratings(table, kinds, 20), rules)[1].outcome.nunique() == 3


def test_yaml_takes_words_as_they_are_written(tmp_path):
    items_file(tmp_path, rows(2))
    text = (
        'name: own\ncontact: a@b.org\nitems: items.csv\npanel: {name: prolific, keep_ids: yes}\n'
        'free: [{name: why, prompt: Warum, required: on}]\n'
        'scales: [{name: klar, prompt: 12:30, low: no, high: off, points: 3, labels: [no, off, 3]}]\n'
    )
    (tmp_path / 'study.yaml').write_text(text)
    study, _ = compile_study(read_config(tmp_path / 'study.yaml'))
    [scale] = study.scales
    assert (scale.prompt, scale.low, scale.high, scale.labels) == ('12:30', 'no', 'off', ('no', 'off', '3'))
    assert study.panel.keep_ids is True and study.free[0].required is True
    assert parse_yaml('[y, no, true, 0123, 1_000, 2026-01-02, 7, 1.5]', 'x') == [
        *('y', 'no', True, '0123', '1_000', '2026-01-02', 7, 1.5)
    ]


# --- templates and languages


@pytest.mark.parametrize('language', LANGUAGES)
def test_a_template_is_a_study_in_its_language(tmp_path, language):
    done = CliRunner().invoke(app, ['study', 'template', '--out', str(tmp_path), '--language', language])
    assert done.exit_code == 0, done.output
    study, made_from = compile_study(read_config(tmp_path / 'study.yaml'))
    assert study.language == language and made_from['answers'] == {'right': 2, 'not right': 2}
    with pytest.raises(TracenbError, match='is there already'):
        study_template(tmp_path, language)


def texts_of(value):
    "All texts of a wording, without names."
    if isinstance(value, dict):
        return [t for key, v in value.items() if key not in ('name', 'kind') for t in texts_of(v)]
    return (
        [t for v in value for t in texts_of(v)]
        if isinstance(value, list)
        else [value]
        if isinstance(value, str)
        else []
    )


ENGLISH = set(
    'the and of your you this that is are was with from have please answer model reasoning not been'
    ' read will for study'.split()
)


@pytest.mark.parametrize('language', [x for x in LANGUAGES if x != 'en'])
def test_a_shipped_language_is_complete_and_holds_no_english(language):
    own, english = wording(language), wording()
    assert own.keys() == english.keys()
    for key in ('texts', 'words'):
        assert own[key].keys() == english[key].keys()
        for name, text in own[key].items():
            holes = lambda t: sorted(re.findall(r'\{(\w+)\}', t))
            assert holes(text) == holes(english[key][name]), (key, name)
    for key in ('scales', 'checks', 'free', 'demographics'):
        assert len(own[key]) == len(english[key])
    assert [c['right'] for c in own['checks']] == [c['right'] for c in english['checks']]
    same = set(texts_of(own)) & set(texts_of(english))
    assert {t for t in same if re.search('[A-Za-z]', t)} <= {'Question', '{n}'}, same
    found = [t for t in texts_of(own) if len(ENGLISH & set(re.findall('[a-z]+', t.lower()))) > 1]
    assert found == [], found


def test_the_consent_says_what_the_server_does(tmp_path):
    items_file(tmp_path, rows(2))
    consent = lambda **more: compile_study(read_config(config_file(tmp_path, **more)))[0].texts['consent']
    assert 'No name, no address and no ID are stored' in consent()
    assert 'pseudonym' in (text := consent(panel=dict(name='prolific'))) and 'holds the key' in text
    assert 'is stored with your answers' in consent(panel=dict(name='prolific', keep_ids=True))
    assert 'whether you opened the text' in consent()
    with pytest.raises(TracenbError, match='does not hold {ids}'):
        consent(texts=dict(consent='Ja?'))
    with pytest.raises(TracenbError, match='keep_ids without a panel'):
        consent(panel=dict(name='none', keep_ids=True))


def test_a_study_and_a_file_of_before_stay_readable(tmp_path):
    old = json.loads(demo_study(trials=2).to_json())
    for scale in old['scales']:
        del scale['labels'], scale['reverse']
    for word in ('busy', 'unsaved_open', 'idle_open', 'no_storage', 'place_lost', 'next_person'):
        del old['words'][word]
    study = Study.from_json(json.dumps(old))
    store = Store(tmp_path / 'a.sqlite', study, b'k' * 32)
    store.submit(enter, store, {}).result(20)
    store.close()
    with closing(sqlite3.connect(tmp_path / 'a.sqlite')) as db:
        db.execute('UPDATE participants SET person = \'x\', panel = \'{"PROLIFIC_PID": "h"}\'')
        db.commit()
    with closing(open_answers(tmp_path / 'a.sqlite')) as db:
        assert db.execute('SELECT count(*) FROM participants').fetchone() == (1,)
    Store(tmp_path / 'a.sqlite', study, b'k' * 32).close()
    assert len(read_answers(tmp_path / 'a.sqlite')) == 1
