"Models behind a server as subjects: real servers on this machine, the same prompts, stops and records as built-in."

import json
import socket
from dataclasses import replace

import pytest
from faulty_server import FaultyServer

from tracenb.core.files import read_jsonl
from tracenb.core.records import Example, Generation, TracenbError
from tracenb.models.generation import GenerateConfig, VllmModel, generate
from tracenb.report.page import served_notice
from tracenb.report.results import gather
from tracenb.runs.engine import plan_grid
from tracenb.runs.finished import TrainedRun, verify
from tracenb.runs.grids import get_grid
from tracenb.runs.stages import answer, build, finish, make_run, open_run, score, tune
from tracenb.tasks.babi import babi
from tracenb.tasks.task import DataConfig, load_examples
from tracenb.teacher import client
from tracenb.teacher.endpoint import Endpoint, Reply
from tracenb.teacher.serve import serve_embedded
from tracenb.teacher.served import (
    as_generation,
    check_model,
    compare_letters,
    prompt_difference,
    server_prompt,
    subject_endpoint,
)
from tracenb.traces.chat import choose_shots, question_chat
from tracenb.traces.conditions import get_condition
from tracenb.traces.loss_mask import chat_texts, encode, fixed_template

SECRET = 'sk-do-not-tell-5f2a9c'
TRAIN = dict(num_train_epochs=2, gradient_accumulation_steps=1, learning_rate=0.01, gradient_checkpointing=False)
SMALL = dict(dataset='toy', model='tiny-random', quantize='none', data=dict(n_train=12, n_test=6), train=TRAIN)
SHORT = dict(max_new_tokens=12, batch_size=1)


def free_port():
    with socket.create_server(('127.0.0.1', 0)) as free:
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def url():
    "The base URL of a real server of the tiny model."
    with serve_embedded('tiny-random', free_port()) as at:
        yield at


def test_a_server_that_is_late_is_stopped_and_named():
    with pytest.raises(TracenbError, match='did not come up within 0.1 s: it wrote nothing\n.*more time'):
        with serve_embedded('tiny-random', free_port(), timeout=0.1):
            pass


def run_all(out, **settings):
    "(run, generations) of a whole run."
    opened = open_run(make_run(**SMALL | settings), out)
    try:
        tune(opened, build(opened))
        made = answer(opened)
        finish(opened, score(opened, made))
    finally:
        opened.locked.release()
    return opened, made


def served(url, **more):
    return dict(generate=SHORT | dict(backend='endpoint', base_url=url) | more)


@pytest.mark.parametrize('condition', ['zero_shot', 'few_shot:2', 'correct'])
def test_a_server_answers_as_the_built_in_backend(condition, url, tmp_path, capsys):
    opened, made = run_all(tmp_path / 'served', condition=condition, **served(url))
    other, wanted = run_all(tmp_path / 'built-in', condition=condition, generate=SHORT)
    assert made == wanted and len(made) == 6 and {g.n_tokens for g in made} <= set(range(1, 13))
    assert (
        verify(opened.path) == [] and opened.file('scores.jsonl').read_text() == other.file('scores.jsonl').read_text()
    )
    told = opened.record()['server']
    assert (
        told['letters'] == dict(n=4, equal=4, first_difference={}) and told['prompt'] == 'the same as here, in 2 of 2'
    )
    assert (
        told['completion_tokens'] == sum({(g.text, g.n_tokens): g.n_tokens for g in made}.values()) or told['attempts']
    )
    said = '4 of 4 answers are those of the built-in backend, letter for letter'
    assert said in capsys.readouterr().out and said in served_notice(gather(tmp_path / 'served')).data
    assert told['model'] == ('tiny-random' if condition != 'correct' else f'correct-seed1-{opened.run.name[-8:]}')
    assert TrainedRun(opened.path).ask(opened.examples['test'][0]) == made[0]


def test_a_model_that_the_server_lacks(url, tmp_path):
    with pytest.raises(TracenbError, match="has no model 'tiny-rando'; it has .*tiny-random") as e:
        run_all(tmp_path, condition='zero_shot', **served(url, model='tiny-rando'))
    assert "did you mean 'tiny-random'" in e.value.remedy
    endpoint = Endpoint(base_url=url, model='mine')
    with pytest.raises(TracenbError, match="has no model 'mine'") as e:  # an adapter that cannot be loaded there
        check_model(endpoint, tmp_path)
    assert '--lora-modules mine=' in e.value.remedy
    with pytest.raises(TracenbError, match='no server answers at http://127.0.0.1:9/v1'):
        check_model(replace(endpoint, base_url='http://127.0.0.1:9/v1'))


def test_another_template_is_refused(url, tmp_path):
    opened = open_run(make_run(**SMALL | dict(condition='zero_shot') | served(url)), tmp_path)
    opened.tokenizer.chat_template = opened.tokenizer.chat_template.replace("m['content'] +", "m['content'].upper() +")
    build(opened)
    with pytest.raises(TracenbError, match='gets another prompt there than here') as e:
        answer(opened)
    opened.locked.release()
    assert 'from character' in e.value.what and '--chat-template' in e.value.remedy
    assert opened.file('chat_template.jinja').read_text() == fixed_template(opened.tokenizer)
    assert not opened.file('generations.jsonl').exists()


def test_prompts_are_compared_as_text_or_tokens():
    opened = open_run.__globals__['RunInputs'](make_run(**SMALL))
    chat, tok = question_chat(opened.examples['test'][0], opened.task), opened.tokenizer
    text, ids = chat_texts(chat, tok)[0], list(encode(chat, tok, prompt_only=True).input_ids)
    assert prompt_difference(text, chat, tok) == prompt_difference(ids, chat, tok) == ''
    assert prompt_difference(ids + ids[-1:], chat, tok) and prompt_difference(text + '!', chat, tok)


def test_a_server_that_tells_its_prompt_as_text():
    "As llama.cpp does, by `/apply-template`; a server that tells nothing is not taken for one that agrees."
    messages = [dict(role='user', content='Where is Ann?')]
    for told, wanted in (
        ({'prompt': '<s>Where is Ann?'}, '<s>Where is Ann?'),
        ({'tokens': [1, 2]}, [1, 2]),
        ({}, None),
    ):
        with FaultyServer(lambda question, attempt, told=told: told) as server:
            assert server_prompt(Endpoint(base_url=server.url, model='m'), messages) == wanted


def test_failures_are_kept_apart_and_asked_again(tmp_path, monkeypatch):
    "A server without tokenizer and weights here: one question is refused at first, another has to wait."
    monkeypatch.setattr(client, 'BACKOFF', 0.02)
    monkeypatch.setenv('ENDPOINT_API_KEY', SECRET)
    seen, gone = [], ['401']

    def plan(question, attempt):
        seen.append(question)
        if 'Cora' in question or question == seen[0]:
            return gone[0]
        return '429 with Retry-After' if attempt == 1 and len(set(seen)) == 2 else None

    data = dict(data=dict(n_train=12, n_test=8))
    with FaultyServer(plan) as server:
        how = dict(model='some-api-model', condition='few_shot:1', **data) | served(server.url)
        with pytest.raises(TracenbError, match=r'of 8 questions got no answer from .*: status 401') as e:
            run_all(tmp_path, **how)
        opened = open_run(make_run(**SMALL | how), tmp_path)
        opened.locked.release()
        failed = read_jsonl(opened.file('failures.jsonl'))
        kept = read_jsonl(opened.file('generations.jsonl'), Generation)
        assert len(failed) + len(kept) == 8 and failed and not opened.file('metrics.json').exists()
        assert 'failures.jsonl' in e.value.remedy and not {f['id'] for f in failed} & {g.id for g in kept}
        gone[0], n = None, dict(server.answered)
        opened, made = run_all(tmp_path, **how)
        assert [g.id for g in made] == [x.id for x in opened.examples['test']]
        assert all(server.answered[q] == k for q, k in n.items())  # what was answered is not asked again
        assert all('hmm' in g.text and g.text.startswith('<think>') and g.n_tokens == 5 for g in made)
    record = opened.record()
    assert record['chat_template'] is None and 'tokenizer of the model is not here' in record['round_trip']
    assert 'weights of some-api-model are not here' in record['server']['comparison']
    assert record['server']['prompt_tokens'] > 0 and not opened.file('failures.jsonl').exists()
    assert not [p for p in tmp_path.rglob('*') if p.is_file() and SECRET.encode() in p.read_bytes()]
    assert verify(opened.path) == [] and server.keys == {f'Bearer {SECRET}'}


def test_a_server_elsewhere_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv('ENDPOINT_API_KEY', raising=False)
    with pytest.raises(TracenbError, match='ENDPOINT_API_KEY is not set'):
        run_all(tmp_path, condition='zero_shot', **served('https://example.org/v1'))


def test_names_of_runs_stay_and_say_which_server():
    plain = make_run(data=dict(n_train=4, n_test=2))
    assert plain.name == 'toy/tiny-random/correct/seed1-4e8ca878'
    at = lambda **more: make_run(**SMALL | served('http://localhost:1/v1', **more)).name
    assert at() == at(compare=0) == at(key_name='K') == at(requests_per_minute=3)
    assert len({at(), at(model='m'), at(adapter='a'), at(extra_body='{"top_k": 2}'), make_run(**SMALL).name}) == 5


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(backend='endpont', base_url=''), "did you mean 'endpoint'"),
        (dict(base_url=''), 'base_url is not set'),
        (dict(backend='built-in'), 'base_url is set, and no server is asked'),
        (dict(backend='vllm'), 'base_url is set, and no server is asked'),
        (dict(base_url='http://me:secret@host/v1'), 'it would be stored'),
        (dict(base_url='http://host/v1?key=secret'), 'it would be stored'),
        (dict(extra_body='{top_k: 2}'), 'cannot be used'),
        (dict(extra_body='[1]'), 'a JSON object is expected'),
        (dict(adapter='{conditon}'), 'cannot be used'),
        (dict(compare=-1), 'too small'),
        (dict(requests_per_minute=0), 'too small'),
    ],
)
def test_settings_that_cannot_be_used(settings, message):
    with pytest.raises(TracenbError) as e:
        make_run(**SMALL | served('http://localhost:1/v1', **settings))
    assert message in str(e.value) and 'secret' not in str(e.value)


def test_a_tuned_run_never_asks_the_base_model():
    fields = dict(dataset='babi', model='org/base', condition='mix:0.5', seed=2, hash='1234abcd')
    how = GenerateConfig(backend='endpoint', base_url='http://h/v1/', model='base')
    assert subject_endpoint(how, fields, tuned=False).model == 'base'
    assert subject_endpoint(how, fields, tuned=True).model == 'mix_0.5-seed2-1234abcd'
    named = replace(how, adapter='{model}.{condition}', model='')
    assert subject_endpoint(named, fields, tuned=True).model == 'org_base.mix_0.5'
    assert subject_endpoint(named, fields, tuned=False).model == 'org/base'


@pytest.mark.parametrize(
    'error, reason',
    [
        (
            "status 400: This model's maximum context length is 2048 tokens. However, you requested 3000 tokens",
            'too_long',
        ),
        ('status 400: the request exceeds the available context size', 'too_long'),
        ('status 413: prompt is too long: 9000 tokens > 8192 maximum', 'too_long'),
        ('status 500: context length', None),
        ('status 400: unknown field', None),
    ],
)
def test_a_prompt_can_be_too_long_for_the_server(error, reason):
    made = as_generation(Reply(id='q', key='', state='failed', error=error))
    assert (made and made.finish_reason) == reason


def test_records_of_replies():
    cut = as_generation(Reply(id='q', key='', state='length', text='a b', reasoning='r'), 2, lambda text: 7)
    assert cut == Generation('q', '<think>r</think>a b', 7, 'length', sample=2)
    a, b = (Generation('q', text, 1, 'stop') for text in ('abc', 'abd'))
    assert compare_letters([a, a], [a, b]) == dict(n=2, equal=1, first_difference={'q': 2})


# --- few_shot


def test_shots_are_balanced_nested_and_never_asked():
    data = DataConfig(labels=('counting', 'lists-sets', 'conjunction'), n_train=30, n_test=12, max_words=60)
    train, test = (load_examples(babi, data, split) for split in ('train', 'test'))
    six = choose_shots(train + test, test, babi, 6, seed=1)
    assert sorted(babi.decompose(e).label for e in six) == sorted(2 * list(data.labels))
    assert (
        six[:3] == choose_shots(train[::-1] + test, test, babi, 3, seed=1) != choose_shots(train, test, babi, 3, seed=2)
    )
    same = replace(test[0], id='another', split='train')  # a training question that is also asked
    for shots in (six, choose_shots([*train, same], test, babi, 20, seed=3)):
        assert not {babi.prompt(e) for e in shots} & {babi.prompt(e) for e in test}
    with pytest.raises(TracenbError, match='few_shot:99 needs 99 training examples'):
        choose_shots(train, test, babi, 99)


def test_shots_are_stored_and_shown(tmp_path):
    opened, _ = run_all(tmp_path, condition='few_shot:2', generate=SHORT)
    shots = read_jsonl(opened.file('shots.jsonl'), Example)
    assert [e.id for e in shots] == opened.record()['few_shot']['ids'] and {e.split for e in shots} == {'train'}
    turns = question_chat(opened.examples['test'][0], opened.task, shots=shots).prompt
    assert [t['role'] for t in turns] == ['system', *['user', 'assistant'] * 2, 'user']
    assert turns[2]['content'] == opened.task.completion(shots[0], '') and 'think' not in turns[2]['content']
    zero = open_run(make_run(**SMALL | dict(condition='few_shot:1', generate=SHORT)), tmp_path)
    zero.locked.release()
    assert zero.shots == shots[:1]


@pytest.mark.parametrize(
    'name', ['few_shot', 'few_shot:0', 'few_shot:1.5', 'few_shot:many', 'few_shot:-2', 'few_shot:nan']
)
def test_the_number_of_shots_is_checked(name):
    with pytest.raises(TracenbError, match='needs the number of examples') as e:
        get_condition(name)
    assert "'few_shot:3'" in e.value.remedy


# --- grid and vLLM


def test_the_grid_endpoint_is_planned(tmp_path):
    grid = get_grid('endpoint')
    assert [r.condition for r in grid.runs] == ['zero_shot', 'few_shot:3', 'correct']
    assert {r.generate.backend for r in grid.runs} == {'endpoint'} and len(plan_grid(grid, tmp_path)) == 3


def test_vllm_is_named_where_it_is_missing(tmp_path):
    try:
        import vllm  # noqa: F401
    except ImportError:
        with pytest.raises(TracenbError) as e:
            run_all(tmp_path, condition='zero_shot', generate=SHORT | dict(backend='vllm'))
        assert e.value.remedy == 'pip install "tracenb[vllm]"'
    else:
        pytest.skip('vLLM is installed')


@pytest.mark.gpu
def test_vllm_answers_as_the_built_in_backend(tmp_path):
    "Needs a GPU and vLLM. Kernels round differently: most answers are equal, and prompts and ends are the same."
    pytest.importorskip('vllm')
    from tracenb.models.loading import load_model, load_tokenizer
    from tracenb.models.presets import model_source

    tok, inputs = load_tokenizer('smollm2-135m'), open_run.__globals__['RunInputs'](make_run(**SMALL))
    prompts = [encode(question_chat(e, inputs.task), tok, prompt_only=True) for e in inputs.examples['test']]
    how = GenerateConfig(max_new_tokens=16)
    wanted = generate(load_model('smollm2-135m', quantize='none'), tok, prompts, how)
    made = generate(VllmModel(model_source('smollm2-135m'), 'none'), tok, prompts, how)
    assert compare_letters(wanted, made)['equal'] >= len(prompts) / 2


@pytest.mark.exhaustive
def test_the_grid_endpoint_equals_the_built_in_backend(tmp_path):
    "The shipped grid on the embedded model, its adapter served by name."
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    with serve_embedded(port=port) as url:
        for run in get_grid('endpoint', limit=8).runs:
            settings = json.loads(run.to_json())
            settings['generate'] |= dict(base_url=url)
            _, made = run_all(tmp_path / 'served', **settings)
            settings['generate'] = dict(max_new_tokens=run.generate.max_new_tokens, batch_size=1)
            _, wanted = run_all(tmp_path / 'built-in', **settings)
            assert compare_letters(wanted, made)['equal'] == len(made) == 8, run.condition
