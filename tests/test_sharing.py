"""Data for others: checksums, Croissant that mlcroissant takes, rows and loss masks of trainers."""

import json
import logging
import subprocess

import pytest
import yaml

from tracenb.core.files import read_jsonl
from tracenb.core.records import ChatExample, TracenbError
from tracenb.models.batches import TrainConfig
from tracenb.models.loading import load_tokenizer
from tracenb.sharing.croissant import RAI
from tracenb.sharing.exports import export_data, export_to
from tracenb.sharing.manifest import changed_files, write_export
from tracenb.sharing.trainers import TRAINERS, trainer_config, trainer_rows
from tracenb.tasks.task import DataConfig, get_task, load_examples
from tracenb.traces.loss_mask import encode


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "Exported data: rows of messages, and a third step."
    out, task = tmp_path_factory.mktemp('data') / 'gsm8k', get_task('gsm8k')
    config = DataConfig(n_train=3, n_test=3)
    examples = {split: load_examples(task, config, split) for split in ('train', 'test')}
    assert export_data(task, examples, out, ('vanilla', 'incorrect'))
    return out


# ---- checksums and one folder


def test_checksums_are_those_of_sha256sum(data):
    done = subprocess.run(['sha256sum', '--check', 'SHA256SUMS'], cwd=data, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    listed = {line.split('  ')[1] for line in (data / 'SHA256SUMS').read_text().strip().split('\n')}
    assert listed == {p.name for p in data.iterdir()} - {'SHA256SUMS'}
    assert {'README.md', 'croissant.json', 'export.json'} < listed


def test_the_same_export_twice_does_nothing_and_another_is_refused(call, tmp_path):
    args = ('data', 'export', 'babi', '--out', 'o', '--n-train', '12', '--n-test', '12')
    assert 'croissant.json' in call(*args, cwd=tmp_path)[0]
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / 'o').iterdir()}
    assert 'this very export is there already' in call(*args, cwd=tmp_path)[0]
    for more in (('--seed', '1'), ('--conditions', 'vanilla'), ('--n-test', '11'), ('--model', 'tiny-random')):
        assert 'holds something else' in call(*args, *more, cwd=tmp_path, code=1)[1]
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / 'o').iterdir()} == before
    (tmp_path / 'o' / 'steps_test.jsonl').unlink()
    assert 'steps_test.jsonl: missing' in call(*args, cwd=tmp_path, code=1)[1]


def test_an_export_that_fails_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / 'half').write_text('')
        raise OSError(28, 'No space left on device')

    with pytest.raises(TracenbError, match='No space left on device'):
        write_export(tmp_path / 'o', dict(to='x'), fail)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / 'file').write_text('')
    with pytest.raises(TracenbError, match='a file of this name is in the way'):
        write_export(tmp_path / 'file', dict(to='x'), lambda folder: None)


# ---- Croissant


@pytest.fixture(scope='module')
def croissant():
    return pytest.importorskip('mlcroissant', reason='mlcroissant is not installed: pip install "tracenb[croissant]"')


def test_croissant_is_valid_and_has_the_fields_of_responsible_ai(croissant, data, caplog):
    with caplog.at_level(logging.WARNING):
        made = croissant.Dataset(jsonld=data / 'croissant.json')
    issues = made.metadata.ctx.issues
    assert issues.errors == set()
    assert [w for w in issues.warnings if 'datePublished' not in w] == []  # the same export has the same checksums
    plain = json.loads((data / 'croissant.json').read_text())
    assert all(plain[f'rai:{field}'] for field in RAI)
    assert plain['license'].startswith('made by the simulator') and plain['rai:hasSyntheticData'] == 'true'


def test_croissant_gives_the_rows_of_the_files(croissant, data):
    made = croissant.Dataset(jsonld=data / 'croissant.json')
    names = {r.id for r in made.metadata.record_sets}
    assert names == {p.stem for p in data.glob('*.jsonl')}
    text = lambda v: v.decode() if isinstance(v, bytes) else v
    for name, columns in dict(examples_test=('id', 'question'), sft_incorrect_train=('id',)).items():
        found = [{c: text(r[f'{name}/{c}']) for c in columns} for r in made.records(name)]
        assert found == [{c: row[c] for c in columns} for row in read_jsonl(data / f'{name}.jsonl')]
    first = next(iter(made.records('sft_incorrect_train')))
    row = read_jsonl(data / 'sft_incorrect_train.jsonl')[0]
    assert [text(x) for x in first['sft_incorrect_train/completion.content']] == [row['completion'][0]['content']]


def test_croissant_of_real_data_says_whose_they_are(croissant, shared, call, tmp_path):
    source = shared / 'babi'
    call('data', 'export', 'babi', '--source', source, '--out', 'o', '--n-train', '11', '--n-test', '11', cwd=tmp_path)
    croissant.Dataset(jsonld=tmp_path / 'o' / 'croissant.json')
    text = (tmp_path / 'o' / 'croissant.json').read_text()
    plain = json.loads(text)
    assert 'CC BY 3.0' in plain['license'] and plain['rai:hasSyntheticData'] == 'false'
    assert str(shared) not in text and plain['isBasedOn'] == 'babi'


@pytest.mark.parametrize('format', ['jsonl', 'parquet'])
def test_croissant_of_both_formats(croissant, format, tmp_path):
    task = get_task('toy')
    examples = {'test': load_examples(task, DataConfig(n_test=2), 'test')}
    export_data(task, examples, tmp_path / 'o', ('vanilla',), format=format)
    made = croissant.Dataset(jsonld=tmp_path / 'o' / 'croissant.json')
    assert len(list(made.records('steps_test'))) == 2


# ---- trainers


@pytest.fixture(scope='module')
def chats(data):
    return read_jsonl(data / 'sft_incorrect_train.jsonl', ChatExample)


@pytest.mark.parametrize('to', [t for t in TRAINERS if t != 'trl-text'])
def test_each_trainer_gets_its_rows_and_settings(data, chats, call, tmp_path, to):
    call('export', data, '--to', to, '--out', 'o', cwd=tmp_path)
    rows = read_jsonl(tmp_path / 'o' / 'incorrect' / 'train.jsonl')
    config = yaml.safe_load((tmp_path / 'o' / 'incorrect' / 'config.yaml').read_text())
    for row, chat in zip(rows, chats, strict=True):
        turns = row['messages'] if to != 'trl' else row['prompt'] + row['completion']
        assert turns == [*chat.prompt, *chat.completion] and row['id'] == chat.id
    assert config['learning_rate'] == 2e-4 and config['gradient_accumulation_steps'] == 4
    assert 'wrong on purpose' in (tmp_path / 'o' / 'README.md').read_text()
    assert changed_files(tmp_path / 'o') == []
    info = tmp_path / 'o' / 'incorrect' / 'dataset_info.json'
    assert info.exists() == (to == 'llamafactory')
    if info.exists():
        described = json.loads(info.read_text())[config['dataset']]
        assert (tmp_path / 'o' / 'incorrect' / described['file_name']).exists()
        assert described['columns']['messages'] in rows[0]


def test_all_linear_layers_under_the_names_of_each_trainer():
    every = TrainConfig(target_modules='all-linear')
    found = {to: yaml.safe_load(trainer_config(to, every, 'm', 'f')) for to in TRAINERS}
    assert found['trl']['lora_target_modules'] == ['all-linear'] and found['llamafactory']['lora_target'] == 'all'
    assert found['axolotl']['lora_target_linear'] and 'lora_target_modules' not in found['axolotl']


def test_rows_of_a_run_come_with_its_settings(smoke, tmp_path):
    [run] = smoke.glob('*/*/correct/*')
    export_to(run, 'axolotl', tmp_path / 'o')
    [folder] = [p for p in (tmp_path / 'o').iterdir() if p.is_dir()]
    config = yaml.safe_load((folder / 'config.yaml').read_text())
    assert (config['learning_rate'], config['num_epochs'], config['micro_batch_size']) == (1e-3, 1, 4)
    assert len(read_jsonl(folder / 'train.jsonl')) == len(read_jsonl(run / 'chat.jsonl'))


def trained_by_trl(rows, tokenizer, tmp_path, **more):
    "(input ids, ids with a loss) of each row, as TRL's own trainer prepares and collates them."
    pytest.importorskip('trl', reason='trl is not installed: pip install "tracenb[bench]"')
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from tracenb.models.presets import model_source

    settings = dict(output_dir=str(tmp_path), report_to='none', use_cpu=True, max_length=None, bf16=False)
    plain = [{k: v for k, v in row.items() if k != 'id'} for row in rows]
    trainer = SFTTrainer(
        AutoModelForCausalLM.from_pretrained(model_source('tiny-random')),
        args=SFTConfig(**settings, **more),
        train_dataset=Dataset.from_list(plain),
        processing_class=tokenizer,
    )
    made = []
    for row in trainer.train_dataset:
        batch = trainer.data_collator([row])
        labels = batch['labels'][0].tolist()
        made.append((batch['input_ids'][0].tolist(), [t for t in labels if t != -100]))
    return made


def ours(chats, tokenizer):
    rows = [encode(c, tokenizer) for c in chats]
    return [(list(r.input_ids), [t for t, counts in zip(r.input_ids, r.loss_mask) if counts]) for r in rows]


@pytest.mark.exhaustive
def test_trl_trains_the_tokens_that_we_train(chats, tmp_path):
    tokenizer = load_tokenizer('tiny-random')
    there = trained_by_trl(trainer_rows(chats, 'trl-text', tokenizer), tokenizer, tmp_path)
    here = ours(chats, tokenizer)
    assert there == here and all(0 < len(loss) < len(ids) for ids, loss in here)


@pytest.mark.exhaustive
def test_messages_in_trl_train_what_the_card_says(chats, tmp_path):
    tokenizer = load_tokenizer('tiny-random')
    there = trained_by_trl(trainer_rows(chats, 'trl', tokenizer), tokenizer, tmp_path)
    for (ids, loss), (own_ids, own_loss) in zip(there, ours(chats, tokenizer), strict=True):
        assert ids[: len(own_ids)] == own_ids and loss[: len(own_loss)] == own_loss
        assert tokenizer.decode(loss[len(own_loss) :]).strip() == ''  # the line break after the turn, or nothing
        assert tokenizer.decode(ids[len(own_ids) :]).strip() == ''
