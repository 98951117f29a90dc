"""Runs and data on the hub: against a server on this machine that answers as the hub does (tests/hub_server.py)."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hub_server import TOKENS, Repo, hub_server, problems
from huggingface_hub import ModelCard, constants

from tracenb.core import files as core_files
from tracenb.core.records import TracenbError
from tracenb.core.rows import local_folder
from tracenb.models.loading import load_model, load_skeleton, load_tokenizer
from tracenb.models.presets import base_record, model_source, resolve_commit
from tracenb.runs.finished import TrainedRun, verify
from tracenb.runs.folders import find_runs
from tracenb.runs.stages import answer, build, finish, make_run, open_run, score, tune
from tracenb.sharing.exports import export_data
from tracenb.sharing.hub import package_runs, pull, push_data, push_runs
from tracenb.sharing.manifest import changed_files, checksums
from tracenb.tasks.task import DataConfig, get_task, load_examples


@pytest.fixture
def hub(monkeypatch, tmp_path):
    "The server, as the hub of this process, and a token that may write."
    with hub_server() as server:
        template = server.url + '/{repo_id}/resolve/{revision}/{filename}'
        places = dict(ENDPOINT=server.url, HUGGINGFACE_CO_URL_TEMPLATE=template, HF_HUB_CACHE=str(tmp_path / 'cache'))
        for name, value in (places | dict(HF_HUB_OFFLINE=False, HF_HUB_DISABLE_XET=True)).items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(constants, 'HF_HUB_DISABLE_PROGRESS_BARS', True)
        monkeypatch.setenv('HF_TOKEN', 'hf_write')
        yield server


@pytest.fixture
def tuned(smoke):
    "A run with an adapter."
    [found] = smoke.glob('*/*/correct/*')
    return found


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "An exported data set."
    out, task = tmp_path_factory.mktemp('data') / 'toy', get_task('toy')
    examples = {split: load_examples(task, DataConfig(n_train=4, n_test=4), split) for split in ('train', 'test')}
    export_data(task, examples, out, ('vanilla', 'incorrect'))
    return out


def asks(hub, verb):
    return [line for line in hub.asked if line.startswith(verb)]


def test_a_run_goes_to_the_hub_and_comes_back(hub, tuned, call, tmp_path):
    out, _ = call('push', tuned, '--to', 'ann/toy', cwd=tmp_path)
    assert out == f'{hub.url}/ann/toy: sent\n'
    repo = hub.repos['model', 'ann/toy']
    assert repo.private and len(repo.commits) == 2  # that of a new repository, and one
    files = repo.head[1]
    assert {'adapter_config.json', 'adapter_model.safetensors', 'tokenizer.json', 'chat_template.jinja'} < set(files)
    assert json.loads(files['records/run.json']) == json.loads((tuned / 'run.json').read_text())
    assert json.loads(files['adapter_config.json'])['base_model_name_or_path'] == 'tiny-random'
    assert len(asks(hub, 'PUT /lfs/')) == 1  # the weights

    assert 'is there already' in call('push', tuned, '--to', 'ann/toy', cwd=tmp_path)[0]
    assert len(repo.commits) == 2

    call('pull', 'ann/toy', '--out', 'back', cwd=tmp_path)
    [back] = find_runs(tmp_path / 'back')
    assert verify(back) == []  # the same scores and metrics, and a folder named after its settings
    assert (back / 'adapter' / 'adapter_model.safetensors').read_bytes() == (
        tuned / 'adapter' / 'adapter_model.safetensors'
    ).read_bytes()
    assert 'is there already' in call('pull', 'ann/toy', '--out', 'back', cwd=tmp_path)[0]
    (back / 'metrics.json').write_text('{}')
    assert 'holds files already' in call('pull', 'ann/toy', '--out', 'back', cwd=tmp_path, code=1)[1]


@pytest.mark.exhaustive
def test_an_adapter_that_came_back_answers_as_before(hub, tuned, tmp_path):
    from transformers import AutoTokenizer

    push_runs(tuned, 'ann/toy')
    pull('ann/toy', tmp_path / 'back')
    [back] = find_runs(tmp_path / 'back')
    was, now = TrainedRun(tuned), TrainedRun(back)
    assert now.ask(now.examples[0]).text == was.ask(was.examples[0]).text != ''
    there = AutoTokenizer.from_pretrained(back / 'adapter')
    assert there.chat_template == was.tokenizer.chat_template


def test_a_card_says_what_the_hub_reads(hub, tuned):
    push_runs(tuned, 'ann/toy')
    text = hub.repos['model', 'ann/toy'].head[1]['README.md'].decode()
    metrics = json.loads((tuned / 'metrics.json').read_text())['metrics']
    results = {r.metric_type: r for r in ModelCard(text).data.eval_results}
    assert set(results) == {k for k, m in metrics.items() if m['mean'] is not None}
    one, m = results['answer_exact'], metrics['answer_exact']
    assert one.metric_value == round(m['mean'], 4) and one.dataset_split == 'test'
    assert one.metric_name == f'answer_exact, 95 % interval {m["low"]:.2f} to {m["high"]:.2f}, {m["n"]} questions'
    assert problems(text, 'model') == []
    for words in (
        'traces may be wrong on purpose',
        'condition: correct',
        'toy (simulated)',
        'Apache-2.0',
        '| r | 16 |',
    ):
        assert words in text
    assert '/cache/' not in text and str(tuned) not in text


@pytest.mark.exhaustive
def test_a_grid_goes_as_one_repository(hub, smoke, tmp_path):
    assert push_runs(smoke, 'ann/grid')[1]
    repo, runs = hub.repos['model', 'ann/grid'], list(find_runs(smoke))
    assert len(repo.commits) == 2
    adapters = [name for name in repo.head[1] if name.endswith('/adapter_model.safetensors')]
    assert len(adapters) == 3 and len(runs) == 4  # one condition trains nothing
    assert len(ModelCard(repo.head[1]['README.md'].decode()).data.eval_results) == 4
    pull('ann/grid', tmp_path / 'back')
    assert [verify(at) for at in find_runs(tmp_path / 'back')] == [[]] * 4


def test_data_goes_to_the_hub_and_comes_back(hub, data, call, tmp_path):
    from datasets import load_dataset

    assert 'sent' in call('push', 'data', data, '--to', 'ann/rows', cwd=tmp_path)[0]
    repo = hub.repos['dataset', 'ann/rows']
    assert {'README.md', 'croissant.json', 'sft_incorrect_train.jsonl', 'SHA256SUMS'} < set(repo.head[1])
    assert problems(repo.head[1]['README.md'].decode(), 'dataset') == []
    call('pull', 'data', 'ann/rows', '--out', 'back', cwd=tmp_path)
    assert checksums(tmp_path / 'back') == checksums(data)
    rows = load_dataset(str(tmp_path / 'back'), 'sft_incorrect', split='train', cache_dir=str(tmp_path / 'arrow'))
    assert len(rows) == 4


@pytest.mark.parametrize(
    ('prepare', 'words'),
    [
        (dict(token=''), ('no token', 'hf auth login')),
        (dict(token='hf_wrong'), ('does not take this token', 'HF_TOKEN')),
        (dict(token='hf_read'), ("'read token' may only read", 'one that may write')),
        (dict(repo='bob/toy'), ('may not write there', 'to this owner')),
        (dict(fault=('POST .*/commit/', 403)), ('may not write there', 'the new repository is empty')),
        (dict(fault=('PUT /lfs/', 400)), ('answers 400', 'the new repository is empty')),
        (dict(fault=('POST .*/commit/', 412)), ('somebody else wrote', 'looks again')),
        (dict(fault=('POST .*/repos/create', 429)), ('asks to wait', 'continues in some minutes')),
        (dict(fault=('POST .*/commit/', 500)), ('answers 500', 'nothing was committed')),
        (dict(offline=True), ('switched off', 'HF_HUB_OFFLINE')),
    ],
)
def test_what_goes_wrong_is_said_and_leaves_nothing(hub, tuned, monkeypatch, tmp_path, prepare, words):
    monkeypatch.setenv('HF_TOKEN', prepare.get('token', 'hf_write'))
    monkeypatch.setattr(constants, 'HF_TOKEN_PATH', str(tmp_path / 'none'))
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', prepare.get('offline', False))
    hub.faults |= dict([prepare['fault']]) if 'fault' in prepare else {}
    with pytest.raises(TracenbError) as e:
        push_runs(tuned, prepare.get('repo', 'ann/toy'))
    assert all(word in str(e.value) for word in words), str(e.value)
    assert all(len(repo.commits) == 1 for repo in hub.repos.values())  # the one that makes it
    hub.faults.clear()
    monkeypatch.setenv('HF_TOKEN', 'hf_write')
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', False)
    assert push_runs(tuned, 'ann/toy')[1]  # the same command again does it


def test_a_token_for_some_repositories_is_told_by_the_hub(hub, tuned, monkeypatch):
    monkeypatch.setitem(TOKENS, 'hf_fine', ('ann', 'fineGrained'))
    monkeypatch.setenv('HF_TOKEN', 'hf_fine')
    with pytest.raises(TracenbError, match='may not write there'):
        push_runs(tuned, 'ann/toy')
    assert hub.repos == {}


def test_a_repository_that_is_there_is_left_alone(hub, tuned, data, smoke):
    push_runs(tuned, 'ann/toy')
    repo = hub.repos['model', 'ann/toy']
    before = repo.head
    with pytest.raises(TracenbError, match='holds other files.*--update'.replace('.*', r'[\s\S]*')):
        push_runs(smoke, 'ann/toy')
    assert repo.head == before
    assert push_runs(smoke, 'ann/toy', update=True)[1]
    assert 'adapter_config.json' not in repo.head[1] and len(repo.commits) == 3  # replaced, by one commit
    repo.private = False
    with pytest.raises(TracenbError, match='is public'):
        push_runs(tuned, 'ann/toy', update=True)
    assert push_runs(tuned, 'ann/toy', update=True, private=False)[1]
    assert push_data(data, 'ann/toy')[1]  # a data set of that name is another repository


def test_what_cannot_be_sent_is_refused_before_anything_is_asked(hub, smoke, tuned, data, tmp_path):
    [untrained] = smoke.glob('*/*/zero_shot/*')
    with pytest.raises(TracenbError, match='no adapter'):
        push_runs(untrained, 'ann/toy')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(TracenbError, match='no run with a metrics.json'):
        push_runs(tmp_path / 'empty', 'ann/toy')
    with pytest.raises(TracenbError, match='no such folder'):
        push_runs(tmp_path / 'absent', 'ann/toy')
    changed = shutil.copytree(data, tmp_path / 'changed')
    (changed / 'steps_test.jsonl').write_text('{}\n')
    with pytest.raises(TracenbError, match='steps_test.jsonl: changed'):
        push_data(changed, 'ann/rows')
    with pytest.raises(TracenbError, match='not an exported data set'):
        push_data(tuned, 'ann/rows')
    other = shutil.copytree(tuned, tmp_path / 'other')
    record = json.loads((other / 'run.json').read_text())
    record['chat_template']['digest'] = '0' * 16
    (other / 'run.json').write_text(json.dumps(record))
    with pytest.raises(TracenbError, match='another chat template here'):
        push_runs(other, 'ann/toy')
    assert hub.asked == [] and hub.repos == {}


def test_rows_of_a_data_set_stay_here_unless_asked(tuned, tmp_path):
    own = shutil.copytree(tuned, tmp_path / 'own')
    record = json.loads((own / 'run.json').read_text())
    record['settings']['data']['source'] = '/home/ann/private/rows'
    (own / 'run.json').write_text(json.dumps(record))
    with pytest.warns(UserWarning, match='/home/ann/private/rows'):
        package_runs(own, tmp_path / 'without', 'ann/toy')
        package_runs(own, tmp_path / 'with', 'ann/toy', with_data=True)
    quoting = {'examples.jsonl', 'chat.jsonl', 'scores.jsonl'}
    names = lambda folder: {p.name for p in (tmp_path / folder / 'records').iterdir()}
    assert not quoting & names('without') and quoting < names('with')
    card = (tmp_path / 'without' / 'README.md').read_text()
    assert 'toy (rows)' in card and '/home/ann' not in card


def test_a_repository_that_is_not_whole_is_not_pulled(hub, tuned, tmp_path):
    push_runs(tuned, 'ann/toy')
    sha, files = hub.repos['model', 'ann/toy'].head
    hub.repos['model', 'ann/toy'].commits.append(('b' * 40, files | {'records/metrics.json': b'{}'}))
    with pytest.raises(TracenbError, match='not as it was pushed: records/metrics.json: changed'):
        pull('ann/toy', tmp_path / 'back')
    hub.repos['model', 'ann/toy'].commits.append(('c' * 40, {'model.bin': b'0'}))
    with pytest.raises(TracenbError, match='not a repository that tracenb pushed'):
        pull('ann/toy', tmp_path / 'back')
    with pytest.raises(TracenbError, match='no such repository'):
        pull('ann/nothing', tmp_path / 'back')
    assert not (tmp_path / 'back').exists()
    assert pull('ann/toy', tmp_path / 'back', revision=sha)
    assert changed_files(tmp_path / 'back') == []


# --- The commit of a base model


@pytest.fixture
def base(hub):
    "The tiny model on the hub, a name for each test: transformers remembers commits; `move` commits other weights."
    name = f'ann/base-{hub.server_port}'
    files = {p.name: p.read_bytes() for p in Path(model_source('tiny-random')).iterdir() if p.is_file()}
    repo = hub.repos['model', name] = Repo(False)
    repo.commits.append(('a' * 40, files))

    def move():
        weights = bytearray(files['model.safetensors'])
        weights[-64:] = bytes(64)
        repo.commits.append(('b' * 40, files | {'model.safetensors': bytes(weights)}))

    return SimpleNamespace(name=name, move=move)


PINNED = dict(
    data=dict(n_train=6, n_test=3),
    train=dict(num_train_epochs=1, gradient_accumulation_steps=1),
    generate=dict(max_new_tokens=4),
)


def test_a_branch_that_moves_between_training_and_answering_changes_no_run(hub, base, monkeypatch, tmp_path):
    run = make_run(**PINNED, model=base.name)
    opened = open_run(run, tmp_path / 'o')
    tune(opened, build(opened))
    opened.locked.release()
    base.move()
    assert resolve_commit(base.name) == 'b' * 40

    opened = open_run(run, tmp_path / 'o')
    finish(opened, score(opened, answer(opened)))
    kept = opened.record()['base']
    assert kept['commit'] == 'a' * 40 and kept['source'] == base.name
    assert all(len(kept[k]) == 16 for k in ('config', 'weights', 'tokenizer'))
    config = json.loads(opened.file('adapter/adapter_config.json').read_text())
    assert (config['base_model_name_or_path'], config['revision']) == (base.name, 'a' * 40)
    assert f'| commit of the base model | {"a" * 40} |' in opened.file('adapter/README.md').read_text()
    assert {line.split('/resolve/')[1].split('/')[0] for line in hub.asked if 'safetensors' in line} == {'a' * 40}
    other = open_run(make_run(**PINNED | dict(model=base.name, condition='vanilla')), tmp_path / 'o')
    assert other.commit == 'a' * 40  # runs of one grid are tuned on the same weights
    assert open_run(run, tmp_path / 'another').commit == 'b' * 40

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)  # all of it is in the cache, and the hub is not asked
    trained, n = TrainedRun(opened.path), len(hub.asked)
    assert trained.ask(trained.examples[0]).text == answer(opened)[0].text and len(hub.asked) == n


def test_without_a_network_the_commit_is_that_of_the_cache(hub, base, monkeypatch, tmp_path):
    load_tokenizer(base.name)
    base.move()
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    assert resolve_commit(base.name) == 'a' * 40
    known = base_record(base.name, '', 'a' * 40)
    assert known['tokenizer'] and known['weights'] == ''  # the weights were not fetched
    assert open_run(make_run(**PINNED, model=base.name), tmp_path / 'o').commit == 'a' * 40


@pytest.mark.parametrize('name', ['v2', 'c' * 40])
def test_a_revision_that_is_not_there_is_named(hub, base, tmp_path, name):
    assert make_run(**PINNED, model=base.name).name != make_run(**PINNED | dict(model=base.name, revision=name)).name
    with pytest.raises(TracenbError, match=f'{base.name}.*{name}'):
        open_run(make_run(**PINNED | dict(model=base.name, revision=name)), tmp_path / 'o')


def test_weights_that_changed_under_a_run_are_named(tmp_path):
    folder = shutil.copytree(model_source('tiny-random'), tmp_path / 'base')
    run = make_run(**PINNED | dict(model=str(folder)))
    opened = open_run(run, tmp_path / 'o')
    tune(opened, build(opened))
    opened.locked.release()
    path = folder / 'model.safetensors'
    weights = path.read_bytes()
    path.write_bytes(weights[:-64] + bytes(64))
    before, now = opened.record()['base']['weights'], base_record(str(folder))['weights']
    with pytest.raises(TracenbError, match=f'begun with another base model .weights {before}, now {now}.\n.*delete'):
        answer(open_run(run, tmp_path / 'o'))
    path.write_bytes(weights)
    ends = folder / 'generation_config.json'
    usual = ends.read_bytes()
    ends.write_text(json.dumps(json.loads(usual) | dict(eos_token_id=[2, 300])))
    with pytest.raises(TracenbError, match='begun with another base model .generation_config'):
        answer(open_run(run, tmp_path / 'o'))
    ends.write_bytes(usual)
    opened = open_run(run, tmp_path / 'o')
    finish(opened, score(opened, answer(opened)))
    path.write_bytes(weights[:-64] + bytes(64))
    with pytest.raises(TracenbError, match='begun with another base model'):
        TrainedRun(opened.path).load()


# --- Models and data sets that the hub does not give


def load_dense(name):
    return load_model(name, 'none', device='cpu')


GATED = {'X_Error_Code': 'GatedRepo', 'X_Error_Message': 'Access to it is restricted'}
REFUSALS = {
    'wait': ((429, dict(Retry_After='7')), 'the hub asks to wait', 'continues in 7 s; after `hf auth login`'),
    'limit': ((429, dict(RateLimit='"api";r=0;t=55')), 'the hub asks to wait', 'continues in 55 s'),
    'busy': (429, 'the hub asks to wait', 'continues in some minutes'),
    'down': (503, 'the hub answers 503', 'try later; HF_HUB_OFFLINE=1'),
    'gated': ((403, GATED), 'access to it is restricted', 'accept its terms at {page}, and log in (`hf auth login`)'),
    'unknown': ((401, GATED), 'access to it is restricted', 'accept its terms at {page}'),
    'token': (401, 'does not take this token', 'correct HF_TOKEN'),
    'right': (403, 'your token may not read it', '`hf auth login`'),
}


@pytest.mark.parametrize('load', [load_tokenizer, load_dense, load_skeleton, local_folder])
@pytest.mark.parametrize('fault, what, remedy', REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_said_at_once_and_in_one_way(hub, base, load, fault, what, remedy):
    hub.faults['.'] = fault
    page = f'{hub.url}/{"datasets/" if load is local_folder else ""}{base.name}'
    with pytest.raises(TracenbError) as e:
        load(base.name)
    assert base.name in e.value.what and what in e.value.what and remedy.format(page=page) in e.value.remedy
    assert e.value.__cause__ is not None and len(hub.asked) == 1


@pytest.mark.parametrize('load', [load_tokenizer, load_dense, load_skeleton])
def test_what_is_not_on_the_hub_is_named(hub, base, load):
    with pytest.raises(TracenbError, match='nobody/nothing: there is no such repository.*\n.*log in'):
        load('nobody/nothing')
    if load is not load_dense:
        with pytest.raises(
            TracenbError, match=f"{base.name}: it has no revision 'v9'\n.*commit of {hub.url}/{base.name}$"
        ):
            load(base.name, 'v9')
    del hub.repos['model', base.name].head[1]['config.json']
    with pytest.raises(TracenbError, match=f'{base.name}: it has no file config.json'):
        load(base.name)


@pytest.mark.parametrize(
    'load, file, part', [(load_tokenizer, 'tokenizer.json', 'tokenizer'), (load_dense, 'model.safetensors', 'weights')]
)
def test_a_file_that_does_not_come_is_told_from_one_that_is_not_there(hub, base, monkeypatch, load, file, part):
    monkeypatch.setattr('huggingface_hub.utils._http.time', SimpleNamespace(sleep=lambda seconds: None))
    hub.faults[f'/{file}$'] = 503
    with pytest.raises(TracenbError, match=f'{base.name} cannot be loaded: the hub answers 503.*{file}'):
        load(base.name)
    hub.faults.clear()
    del hub.repos['model', base.name].head[1][file]
    with pytest.raises(
        TracenbError, match=f'{base.name} cannot be loaded: it has no files of .*{part}: none of {file}'
    ):
        load(base.name)


def test_a_gated_run_and_a_missing_revision_are_told_when_pulling(hub, tuned, tmp_path):
    push_runs(tuned, 'ann/toy')
    with pytest.raises(TracenbError, match="ann/toy: it has no revision 'v9'"):
        pull('ann/toy', tmp_path / 'back', revision='v9')
    hub.faults['revision/main'] = (403, GATED)
    with pytest.raises(TracenbError, match=f'ann/toy: access to it is restricted\n.*{hub.url}/ann/toy,'):
        pull('ann/toy', tmp_path / 'back')


def test_a_hub_out_of_reach_is_not_waited_for_again_and_again(hub, base, monkeypatch, tmp_path):
    tried = []

    def refuse(address, timeout):
        tried.append(address)
        raise TimeoutError

    monkeypatch.setattr(core_files.socket, 'create_connection', refuse)
    how = dict(PINNED, model=base.name, condition='zero_shot')
    how['generate'] = dict(max_new_tokens=4, backend='endpoint', base_url=hub.url)
    for seed in (1, 2, 3):
        opened = open_run(make_run(**how, seed=seed), tmp_path / 'o')
        assert opened.own_tokenizer is None and opened.record()['base'] is None
        opened.locked.release()
    assert len(tried) == 1 and hub.asked == []
    core_files._DOWN[hub.url] -= 61
    assert not core_files.is_reachable(hub.url) and len(tried) == 2
