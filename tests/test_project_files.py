"""The files around the library say the same thing."""

import configparser

from conftest import ROOT


def settings():
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini')
    return config['DEFAULT']


def test_environment_yml_equals_settings():
    import yaml

    env = yaml.safe_load((ROOT / 'environment.yml').read_text())
    pip = next(d['pip'] for d in env['dependencies'] if isinstance(d, dict))
    assert sorted(pip) == sorted(settings()['requirements'].split() + settings()['dev_requirements'].split())
    assert f'python>={settings()["min_python"]},<3.14' in env['dependencies']


def test_constraints_fix_every_requirement():
    plain = lambda name: name.lower().replace('_', '-')
    pins = {
        plain(n): v
        for n, v in (
            x.split('==') for x in (ROOT / 'constraints.txt').read_text().splitlines() if x and not x.startswith('#')
        )
    }
    for key in ('requirements', 'dev_requirements', 'bench_requirements'):
        for need in settings()[key].split():
            name, version = need.split('==')
            assert pins[plain(name)] == version, name


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


def test_readme_is_the_index_notebook(tmp_path):
    from tracenb.report.page import write_readme

    assert (
        write_readme(ROOT / 'nbs' / 'index.ipynb', tmp_path / 'README.md').read_text()
        == (ROOT / 'README.md').read_text()
    )
