"""Runs in lm-evaluation-harness and Inspect: the real packages, on texts of runs, and their logs read back."""

import importlib
import json
import shutil
from collections import defaultdict

import pandas as pd
import pytest

from tracenb.audit.page import audit
from tracenb.audit.published import read_all
from tracenb.core.files import read_jsonl
from tracenb.core.records import Example, Generation, TracenbError
from tracenb.runs.folders import find_runs
from tracenb.runs.stages import load_run
from tracenb.scoring.tables import score_all
from tracenb.sharing.exports import export_to
from tracenb.sharing.manifest import changed_files
from tracenb.sharing.questions import question_rows, score_row
from tracenb.tasks.task import get_task
from tracenb.traces.parsing import parse

TRACE = '<think>{}{}</think> <answer>{}</answer>'


@pytest.fixture(scope='module')
def grid(smoke, tmp_path_factory):
    """
    The smoke grid with texts as a tuned model would write them, some right, some wrong, one cut off; two samples each
    in one run. Scored again as a run scores itself.
    """
    from tracenb.runs.stages import measure, scores_of
    from tracenb.scoring.tables import tabulate

    folder = shutil.copytree(smoke, tmp_path_factory.mktemp('harness') / 'grid')
    for at in find_runs(folder):
        run, examples = load_run(at), read_jsonl(at / 'examples.jsonl', Example)
        task, n = get_task(run.dataset), 1
        if run.condition == 'incorrect':
            record, n = json.loads((at / 'run.json').read_text()), 2
            record['settings']['generate'] |= dict(num_return_sequences=2, do_sample=True)
            (at / 'run.json').write_text(json.dumps(record))
            run = load_run(at)
        made = [
            Generation(e.id, *_text(task, e, k, run.condition), sample=s)
            for k, e in enumerate(examples)
            for s in range(n)
        ]
        with open(at / 'generations.jsonl', 'w') as f:
            f.writelines(g.to_json() + '\n' for g in made)
        scores = scores_of(run, examples, made)
        with open(at / 'scores.jsonl', 'w') as f:
            f.writelines(s.to_json() + '\n' for s in scores)
        metrics = measure(tabulate(scores, examples, task), made, {})
        (at / 'metrics.json').write_text(json.dumps(metrics))
    return folder


def _text(task, example, k, condition):
    "(text, tokens, end): right, with a wrong answer, without tags, or cut off in its thought, in turn."
    answer = task.write_answers(example.answers)
    if condition in ('vanilla', 'zero_shot'):
        return (answer if k % 3 else 'nothing'), 3, 'stop'
    steps = task.decompose(example)
    trace = task.trace_text(example, steps)
    text = [TRACE.format(trace, '', answer), TRACE.format(trace, '', 'nothing'), answer][k % 3]
    return (f'<think>{trace} The answer is: {answer}', 40, 'length') if k == 4 else (text, 20, 'stop')


def ours(at):
    "Scorer -> mean, as the run recorded it, without those that scored nothing."
    metrics = json.loads((at / 'metrics.json').read_text())['metrics']
    return {k: m['mean'] for k, m in metrics.items() if m['mean'] is not None and not k.endswith('_pass')}


def by_condition(folder):
    return {load_run(at).condition: at for at in find_runs(folder)}


# ---- lm-eval


@pytest.fixture(scope='module')
def lm_eval():
    package = pytest.importorskip('lm_eval', reason='lm-eval is not installed: pip install "tracenb[harness]"')
    for name in ('lm_eval.api.model', 'lm_eval.tasks'):
        importlib.import_module(name)
    return package


def stored_model(lm_eval, at):
    "A model of lm-eval that writes what the run wrote, and keeps the prompts."
    texts = defaultdict(list)
    for g in read_jsonl(at / 'generations.jsonl', Generation):
        texts[g.id].append(g.text)

    class Stored(lm_eval.api.model.LM):
        prompts, tokenizer_name = {}, 'stored'

        def generate_until(self, requests):
            left = {k: list(v) for k, v in texts.items()}
            self.prompts |= {r.doc['id']: r.args[0] for r in requests}
            return [left[r.doc['id']].pop(0) for r in requests]

        def apply_chat_template(self, chat, add_generation_prompt=True):
            return json.dumps(chat)

        def loglikelihood(self, requests): ...
        def loglikelihood_rolling(self, requests): ...

    return Stored()


def evaluate(lm_eval, folder, at, name, log=None):
    model = stored_model(lm_eval, at)
    manager = lm_eval.tasks.TaskManager(include_path=str(folder), include_defaults=False)
    done = lm_eval.simple_evaluate(
        model, tasks=[name], task_manager=manager, apply_chat_template=True, bootstrap_iters=0, log_samples=True
    )
    if log:
        from lm_eval.loggers import EvaluationTracker

        tracker = EvaluationTracker(output_path=str(log / 'samples.json'))
        tracker.date_id = '2026-11-29'
        tracker.save_results_samples(name, done['samples'][name])
    return done, model


@pytest.fixture(scope='module')
def tasks(grid, tmp_path_factory):
    "Exported tasks of the grid."
    out = tmp_path_factory.mktemp('lm') / 'tasks'
    assert export_to(grid, 'lm-eval', out)
    return out


def test_lm_eval_scores_the_same_texts_as_we_do(lm_eval, grid, tasks):
    runs = by_condition(grid)
    for condition, name in dict(correct='tracenb_toy_trace', vanilla='tracenb_toy_answer').items():
        done, model = evaluate(lm_eval, tasks, runs[condition], name)
        found = {k.partition(',')[0]: v for k, v in done['results'][name].items() if k.endswith(',none')}
        found = {k: v for k, v in found.items() if not k.endswith('_stderr')}
        whole = [g for g in read_jsonl(runs[condition] / 'generations.jsonl', Generation)]
        expected = means(runs[condition], [Generation(g.id, g.text, 0, 'stop') for g in whole])
        assert {k: found[k] for k in expected} == pytest.approx(expected) and expected
        chats = {r['id']: r['messages'] for r in read_jsonl(tasks / f'{name}.jsonl')}
        assert {k: json.loads(v) for k, v in model.prompts.items()} == chats  # what a run would send
    assert ours(runs['vanilla']) == pytest.approx(expected)  # no text was cut off: the run's own figures


def means(at, made):
    "Scorer -> mean over questions."
    run, examples = load_run(at), {e.id: e for e in read_jsonl(at / 'examples.jsonl', Example)}
    task, steps = get_task(run.dataset), run.condition == 'correct'
    responses = [parse(g, examples[g.id], task, trace=steps, steps=steps) for g in made]
    table = pd.DataFrame(
        [dict(k=s.scorer, v=s.value) for s in score_all(responses, [*examples.values()], task, trace=steps)]
    )
    return table.dropna().groupby('k').v.mean().to_dict()


@pytest.mark.exhaustive
def test_lm_eval_takes_the_samples_of_a_run(lm_eval, grid, tmp_path):
    at = by_condition(grid)['incorrect']
    export_to(at, 'lm-eval', tmp_path / 'one')
    done, _ = evaluate(lm_eval, tmp_path / 'one', at, 'tracenb_toy_trace')
    found = done['results']['tracenb_toy_trace']
    assert found['answer_exact,every_sample'] == pytest.approx(ours(at)['answer_exact'])
    samples = done['samples']['tracenb_toy_trace']
    assert [len(text) for s in samples for text in s['resps']] == [2] * len(samples)


def test_a_log_of_lm_eval_is_audited(lm_eval, grid, tasks, tmp_path):
    at = by_condition(grid)['vanilla']
    evaluate(lm_eval, tasks, at, 'tracenb_toy_answer', log=tmp_path / 'log')
    [log] = (tmp_path / 'log').rglob('samples_*.jsonl')
    [found], problems = read_all([log])
    assert problems == [] and found.dataset == 'toy'
    assert {c.example.id: c.text for c in found.cases} == {
        g.id: g.text for g in read_jsonl(at / 'generations.jsonl', Generation)
    }
    assert [c.example for c in found.cases] == read_jsonl(at / 'examples.jsonl', Example)


# ---- Inspect


@pytest.fixture(scope='module')
def inspect_ai():
    return pytest.importorskip('inspect_ai', reason='inspect-ai is not installed: pip install "tracenb[harness]"')


@pytest.fixture(scope='module')
def exported(grid, inspect_ai, tmp_path_factory):
    "Tasks and logs of the grid."
    out = tmp_path_factory.mktemp('inspect') / 'out'
    assert export_to(grid, 'inspect', out)
    return out


def test_logs_of_finished_runs_have_their_figures(inspect_ai, grid, exported):
    from inspect_ai.log import read_eval_log

    logs = {log.eval.metadata['settings']['condition']: log for log in map(read_eval_log, exported.glob('logs/*.eval'))}
    assert set(logs) == set(by_condition(grid))
    for condition, at in by_condition(grid).items():
        log = logs[condition]
        found = {s.name: s.metrics['mean'].value for s in log.results.scores}
        expected = ours(at)
        assert {k: found[k] for k in expected} == pytest.approx(expected)
        texts = {(str(s.id), s.epoch - 1): s.output.completion for s in log.samples}
        assert texts == {(g.id, g.sample): g.text for g in read_jsonl(at / 'generations.jsonl', Generation)}
        assert (log.status, log.eval.model) == ('success', 'tiny-random')
    assert [s.output.stop_reason for s in logs['correct'].samples].count('max_tokens') == 1


def test_logs_have_the_paired_analysis(inspect_ai, grid, exported):
    from inspect_ai.log import read_eval_log

    from tracenb.report.results import gather
    from tracenb.report.tables import pairs

    table = pd.read_csv(exported / 'paired.csv')
    pd.testing.assert_frame_equal(
        table[['a', 'b', 'difference', 'low', 'high']],
        pairs(gather(grid).rows)[['a', 'b', 'difference', 'low', 'high']],
    )
    [log] = [read_eval_log(p) for p in exported.glob('logs/*_correct_*.eval')]
    lines = log.eval.metadata['paired']
    assert len(lines) == (table[['a', 'b']] == 'correct').any(axis=1).sum() > 0
    assert all('correct' in (x['a'], x['b']) for x in lines)


@pytest.mark.exhaustive
def test_a_log_of_inspect_is_audited_as_its_run(inspect_ai, grid, exported, tmp_path):
    made = audit([exported / 'logs'], tmp_path / 'logs')
    runs = audit([grid], tmp_path / 'runs')
    columns = ['condition', 'scoring', 'n', 'answer_right', 'low', 'high']
    columns = [c for c in columns if c in made]
    key = lambda t: t[columns].sort_values(['condition', 'scoring']).reset_index(drop=True)
    pd.testing.assert_frame_equal(key(made), key(runs))
    assert set(made.condition) == {'vanilla', 'correct', 'incorrect', 'zero_shot'}


def test_an_exported_task_runs(inspect_ai, exported, tmp_path, monkeypatch):
    from inspect_ai.model import ModelOutput, ModelUsage, get_model

    asked = read_jsonl(exported / 'tracenb_toy_trace.jsonl')
    rows = {r['messages'][-1]['content']: r for r in asked}

    def write(messages, *more):
        row = rows[messages[-1].content]
        assert [dict(role=m.role, content=m.content) for m in messages] == row['messages']
        made = ModelOutput.from_content('mock', f'<answer>{", ".join(row["answers"])}</answer>')
        made.usage = ModelUsage(output_tokens=3)  # or it would fetch a tokenizer to count them
        return made

    model = get_model('mockllm/model', custom_outputs=write)
    monkeypatch.chdir(exported)
    [log] = inspect_ai.eval('tracenb_toy_trace.py', model=model, log_dir=str(tmp_path / 'logs'), display='none')
    assert log.status == 'success', log.error
    assert {s.name: s.metrics['mean'].value for s in log.results.scores}['answer_exact'] == 1
    [found], problems = read_all(sorted((tmp_path / 'logs').glob('*.eval')))
    assert problems == [] and len(found.cases) == len(asked)


# ---- both


def test_harnesses_score_published_texts_as_we_do(shared):
    "Real texts of another package's models: one by one, by what both harnesses call."
    from tracenb.runs.stages import Run

    for file in ('babi_Qwen3-1.7B_correct.jsonl.gz', 'cotempqa_Qwen3-1.7B_perturbed.jsonl.gz'):
        [found], _ = read_all([shared / 'published' / file])
        cases = found.cases[::25]
        task = get_task(found.dataset)
        rows = question_rows([c.example for c in cases], Run(dataset=found.dataset, condition='correct'))
        for row, c in zip(rows, cases):
            response = parse(Generation(c.example.id, c.text, 0, 'stop'), c.example, task, trace=True, steps=True)
            scores = score_all([response], [c.example], task, trace=True)
            assert score_row(json.loads(json.dumps(row)), [c.text]) == {
                s.scorer: s.value for s in scores if s.value is not None
            }


def test_an_export_is_whole_and_left_alone(grid, tasks, call, tmp_path):
    assert changed_files(tasks) == []
    assert {'README.md', 'croissant.json', 'export.json', 'utils.py'} < {p.name for p in tasks.iterdir()}
    out, _ = call('export', grid, '--to', 'lm-eval', '--out', tasks, cwd=tmp_path)
    assert 'this very export is there already' in out
    one = by_condition(grid)['correct']
    assert 'holds something else' in call('export', one, '--to', 'lm-eval', '--out', tasks, cwd=tmp_path, code=1)[1]
    assert 'did you mean' in call('export', grid, '--to', 'lm-evl', '--out', 'a', cwd=tmp_path, code=1)[1].lower()
    (tmp_path / 'empty').mkdir()
    for source in ('empty', 'absent'):
        _, err = call('export', source, '--to', 'lm-eval', '--out', 'a', cwd=tmp_path, code=1)
        assert 'no ' in err and not (tmp_path / 'a').exists()


@pytest.mark.exhaustive
def test_a_missing_harness_is_named(grid, base_only, tmp_path):
    import subprocess
    import sys

    code = f'from tracenb.sharing import export_to; export_to({str(grid)!r}, "inspect", "o")'
    done = subprocess.run([sys.executable, '-c', code], env=base_only, cwd=tmp_path, capture_output=True, text=True)
    assert 'pip install "tracenb[harness]"' in done.stderr and not list(tmp_path.iterdir())


def test_what_a_harness_row_lacks_is_said(tmp_path):
    row = dict(
        doc_id=0, resps=[['x']], doc=dict(id='a', dataset='toy', split='test', context=[], question='q', answers=['b'])
    )
    for meta, words in (('{', 'meta is not JSON text'), ('[]', 'meta')):
        (tmp_path / 'samples_x.jsonl').write_text(json.dumps(row | dict(doc=row['doc'] | dict(meta=meta))) + '\n')
        with pytest.raises(TracenbError, match=words):
            audit([tmp_path / 'samples_x.jsonl'], tmp_path / 'out')
