"""The files around the library say the same thing."""

import configparser
import re

import yaml
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def settings():
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini')
    return config['DEFAULT']


def names(requirements):
    return {re.split('[<>=]', need)[0].lower().replace('_', '-') for need in requirements.split()}


def test_environment_yml_installs_what_settings_and_constraints_say():
    env = yaml.safe_load((ROOT / 'environment.yml').read_text())
    pip = next(d['pip'] for d in env['dependencies'] if isinstance(d, dict))
    assert pip == ['--constraint constraints.txt', '--editable .[dev]']
    assert f'python>={settings()["min_python"]},<3.14' in env['dependencies']


def test_constraints_fix_a_version_in_the_range_of_every_requirement():
    pins = [line for line in (ROOT / 'constraints.txt').read_text().splitlines() if line and not line.startswith('#')]
    versions = {canonicalize_name(name): version for name, version in (line.split('==') for line in pins)}
    assert 'vllm' not in versions  # brings its own torch and transformers, and was not tested with the others
    for key in (k for k in settings() if k.endswith('requirements') and k != 'vllm_requirements'):
        for need in map(Requirement, settings()[key].split()):
            assert need.specifier.contains(versions[canonicalize_name(need.name)]), f'{key}: {need}'


# Packages with an upper bound: settings.ini says why above each line
WITH_REASON = {'nbdev', 'execnb', 'ghapi', 'fastgit', 'fastcore', 'ruff'}


def test_upper_bounds_have_a_reason():
    for key in (k for k in settings() if k.endswith('requirements')):
        bounded = [n for n in settings()[key].split() if not re.fullmatch(r'[\w-]+>=[\d.]+', n)]
        assert {re.split('[=<>]', n)[0] for n in bounded} <= WITH_REASON, f'{key}: {bounded}'


def test_the_base_install_is_light():
    heavy = {'nbdev', 'execnb', 'ghapi', 'fastgit', 'jupyterlab', 'fastapi', 'openai', 'distributed', 'trl', 'sphinx'}
    assert not names(settings()['requirements']) & heavy


def test_ci_runs_the_test_command_of_the_readme():
    assert 'make test' in (ROOT / 'README.md').read_text()
    assert 'make test' in (ROOT / '.ci' / 'run').read_text()


def test_outputs_is_tracked_and_explained():
    text = (ROOT / 'outputs' / 'README.md').read_text()
    for name in (
        'run.json',
        'chat.jsonl',
        'adapter/',
        'train_log.jsonl',
        'generations.jsonl',
        'scores.jsonl',
        'run.ipynb',
        'metrics.json',
        'report.html',
    ):
        assert name in text


def test_pages_name_folders_as_seen_from_a_checkout():
    "A page made of an executed notebook keeps its parameters: `out` is relative, wherever it was executed."
    pages = {p.name: re.findall(r'"out = (.*?)"', p.read_text()) for p in (ROOT / 'nbs' / 'site').rglob('*.ipynb')}
    assert pages['demo_run.ipynb']
    assert [name for name, outs in pages.items() if any(out.strip('\\\'"').startswith('/') for out in outs)] == []
