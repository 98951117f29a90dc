"""Comparison by kind of trace, on run folders whose numbers are known."""

import json
from pathlib import Path

import pandas as pd

from tracenb.core.files import write_jsonl
from tracenb.core.records import Trace
from tracenb.report.results import Results
from tracenb.report.trace_types import (
    by_type,
    read_training,
    studied,
    summarize_types,
    trace_types_section,
    type_figure,
    unmatched_questions,
)
from tracenb.runs.stages import make_run
from tracenb.tasks.task import get_task
from tracenb.traces.chat import render

TEXTS = {
    'r1': 'Hmm, maybe the hat. Wait, the context says it. Therefore, the answer is blue.',
    'post_hoc': 'It is blue.',
    'vanilla': '',
}
RIGHT = {'vanilla': 2, 'r1': 6, 'post_hoc': 4}


def results(folder, ids=None, conditions=RIGHT):
    "A run a condition, 8 questions each; `ids` says how many chats a condition was trained on."
    task, runs, rows = get_task('toy'), {}, []
    for condition in conditions:
        path = Path(folder, condition)
        examples = task.simulate(n=(ids or {}).get(condition, 4), seed=0, split='train')
        write_jsonl(
            path / 'chat.jsonl',
            [
                render(
                    e,
                    Trace(id=e.id, condition=condition, text=TEXTS.get(condition, ''), steps=None, source='written'),
                    task,
                )
                for e in examples
            ],
        )
        (path / 'train.json').write_text(json.dumps(dict(loss_tokens=200, ids_too_long=[])))
        (path / 'run.json').write_text(json.dumps(dict(teachers=['smollm2-135m@main'])))
        data = dict(n_train=4, n_test=8) | (dict(traces=['traces.jsonl']) if condition in ('r1', 'post_hoc') else {})
        runs[path] = make_run(dataset='toy', model='tiny-random', condition=condition, seed=1, data=data)
        rows += [
            dict(
                dataset='toy',
                model='tiny-random',
                condition=condition,
                seed=1,
                id=f'q{i}',
                answer_exact=float(i < RIGHT.get(condition, 0)),
            )
            for i in range(8)
        ]
    return Results(Path(folder), runs, pd.DataFrame(rows), {}, pd.DataFrame(), pd.DataFrame(), [])


def test_performance_and_prices(tmp_path):
    table = by_type(results(tmp_path)).set_index('condition')
    assert table['mean'].to_dict() == {'vanilla': 0.25, 'r1': 0.75, 'post_hoc': 0.5}
    assert (table.loc['r1', 'points_per_example'], table.loc['r1', 'points_per_1000_tokens']) == (75 / 4, 375)
    assert (table.loc['r1', 'words'], table.loc['post_hoc', 'words']) == (14, 3) and pd.isna(
        table.loc['vanilla', 'words']
    )
    assert table.loc['r1', 'low'] < 0.75 < table.loc['r1', 'high']


def test_conditions_with_other_questions_are_named(tmp_path):
    found = results(tmp_path, ids={'r1': 3})
    said = unmatched_questions(found, read_training(studied(found))[0])
    assert said == [
        'toy, tiny-random: the conditions are not trained on the same questions: 3 to 4 each, 3 in all of them.'
    ]
    assert said[0] in summarize_types(type_figure(by_type(found))[1], said)[1]
    assert said[0] in trace_types_section(found).data
    assert unmatched_questions(results(tmp_path / 'same'), read_training(studied(results(tmp_path / 'same')))[0]) == []


def test_other_test_questions_are_named(tmp_path):
    found = results(tmp_path)
    found.rows.drop(index=found.rows.index[-1], inplace=True)
    assert (
        'not tested on the same questions: 7 to 8 each'
        in unmatched_questions(found, read_training(studied(found))[0])[0]
    )


def test_the_section(tmp_path):
    page = trace_types_section(results(tmp_path)).data
    assert (
        'Written by smollm2-135m@main. A teacher of 135 million parameters shows the mechanics, not the finding.'
        in page
    )
    assert (
        'r1 75 % (14 words), post hoc 50 % (3 words), vanilla 25 %' in page
        and 'trained and tested on the same questions' in page
    )
    assert {'trace_types.csv', 'trace_texts.csv'} <= {p.name for p in tmp_path.iterdir()} and (
        tmp_path / 'figures' / 'trace_types.svg'
    ).exists()
    how = pd.read_csv(tmp_path / 'trace_texts.csv').set_index('condition')
    assert (how.concludes['r1'], how.concludes['post_hoc']) == (1, 0) and how.hedging['r1'] > 0


def test_nothing_is_read_without_teacher_traces(tmp_path):
    found = results(tmp_path, conditions=('vanilla', 'correct'))
    for p in tmp_path.rglob('chat.jsonl'):
        p.unlink()
    assert (
        trace_types_section(found).data == '' and by_type(found).empty and not (tmp_path / 'trace_types.csv').exists()
    )
