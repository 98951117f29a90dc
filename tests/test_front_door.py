"""What a stranger reads first: README, how to contribute, how to cite, what changed, what runs on GitHub."""

import configparser
import importlib
import re

import pytest
import yaml
from conftest import ROOT

TEXTS = [*ROOT.glob('*.md'), *(ROOT / 'nbs' / 'site').rglob('*.md'), ROOT / 'outputs' / 'README.md']


def settings():
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT / 'settings.ini')
    return config['DEFAULT']


def test_the_readme_is_one_page_with_the_two_commands():
    text = (ROOT / 'README.md').read_text()
    assert re.search(r'^make demo ', text, re.M) and re.search(r'^make test ', text, re.M)
    prose = re.sub(r'<!--.*?-->|^```.*?^```|^    .*?$|^\|.*?$|\]\([^)]*\)|<img[^>]*>', '', text, flags=re.M | re.S)
    assert len(prose.split()) < 500
    order = ['demo-accuracy.png', 'make demo', 'correct | incorrect', '| trained on', '**Caution.**', '## Where to go']
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    links = text[text.index('## Where to go') :]
    assert len(re.findall(r'^- \[', links, re.M)) == 6


@pytest.mark.parametrize('path', TEXTS, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_and_modules_that_a_text_names_exist(path):
    text = path.read_text()
    for link in re.findall(r'\]\(([^)\s]+)\)|<img src="([^"]+)"', text):
        target = ''.join(link).partition('#')[0]
        if target and not re.match(r'https?:', target) and not (target.endswith('.html') and 'site' in path.parts):
            assert (path.parent / target).exists(), target
    if path.name == 'CHANGELOG.md':
        text = re.sub(r'^\| `tracenb\.\w+` ', '', text, flags=re.M)  # first column of its table: the old modules
    for name in set(re.findall(r'`(tracenb(?:\.\w+)+)`', text)):
        package, *rest = name.split('.')
        found = importlib.import_module('.'.join([package, *rest[:2]]))
        assert not rest[2:] or hasattr(found, rest[2]), name


NOTEBOOKS = [p for p in (ROOT / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]


def test_a_link_that_names_a_module_leads_to_it():
    wrong = []
    for path in [*TEXTS, *NOTEBOOKS]:
        for package, module, target in re.findall(r'\[(\w+)/(\w+)\]\(([^)\s]+\.ipynb)\)', path.read_text()):
            notebook = (path.parent / target).resolve()
            name = '/'.join(re.sub(r'^[0-9]+_', '', part) for part in (notebook.parent.name, notebook.stem))
            wrong += [(path.name, target)] * (not notebook.is_file() or name != f'{package}/{module}')
    assert wrong == []


def test_contributing_names_the_commands():
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    targets = re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.M)
    named = set(re.findall(r'`?make ([a-z-]+)', text))
    assert {'quick', 'export', 'test', 'test-all'} <= named <= set(targets)


def test_the_citation_is_of_this_version_and_names_the_paper():
    cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert cited['cff-version'] == '1.2.0' and cited['type'] == 'software' and cited['license'] == 'Apache-2.0'
    assert cited['version'] == settings()['version']
    [paper] = cited['references']
    assert '2505.13792' in paper['url'] and len(paper['authors']) == 3


def test_the_changelog_has_this_version_and_what_comes():
    text = (ROOT / 'CHANGELOG.md').read_text()
    headings = re.findall(r'^## \[(.+?)\]', text, re.M)
    assert headings[0] == 'Unreleased' and settings()['version'] in headings


def test_github_runs_make_test_on_the_oldest_and_newest_python():
    job = yaml.safe_load((ROOT / '.github' / 'workflows' / 'test.yaml').read_text())['jobs']['test']
    assert any(step.get('run') == 'make test' for step in job['steps'])
    assert job['strategy']['matrix']['python'] == [settings()['min_python'], '3.13']
