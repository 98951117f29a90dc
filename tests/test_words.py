"""The words of the package: plain technical English, the field's names, no private metaphors (CONTRIBUTING.md)."""

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT

# Old word -> what to write. Regular expressions on whole words, any case.
WORDS = {
    r'houses?|rooms?|floors?(?! *\()|storeys?': 'package, module, layer',
    r'arms?': 'condition',
    r'rungs?|climb(s|ed|ing)?': 'variant, score_variants',
    r'nursery|nurses?': 'ForkServer',
    r'rehears(al|als|e|es|ed|ing)': 'simulated study, trial run',
    r'mend(s|ed|ing)?': 'fix, correct',
    r'heedless|careless|confused': 'attention_miss_rate, inattentive_rate, check_failure_rate',
    r'leanings?': 'participant_effect',
    r'hands(?! (?:it|them|over))': 'item_blocks, or say who does it',
    r'sieves?|askers?': 'RowCollector, EndpointClient, RequestPlan',
    r'heedful|wherein|whereof|thereof|therein|whence|thence|hence|lest|ere|besides': 'modern English',
    r'(?<!there )(?:is|are|was) no (?!longer|more|less|need|such|way)\w+': 'is not a ...',
    r'a row an? \w+|a page an? \w+|a line an? \w+': 'one row per ...',
    r'stands? (twice|aside|there)': 'is duplicated, is stored',
    r'grey': 'gray',
    r'(?:colour|behaviour|normalis|tokenis|quantis|summaris|optimis|licence|analyse[ds])\w*': 'US spelling',
    r'unlearnt|learnt': 'learned, trained on',
    r'anew|stand-?ins?': 'again, new; simulated server',
    r'told from chance|by the hand of|of its own accord|at hand': 'plain English',
}
PATTERN = re.compile('|'.join(rf'(?P<w{i}>\b(?:{p})\b)' for i, p in enumerate(WORDS)), re.I)

# Where such a word is right: text of a data set, a name that others gave, a setting of version 0.1, the rule itself.
ALLOWED = re.compile(
    r'floor\(|floordiv|hands? (?:it|them|over)|(?:bath|bed|class|living )rooms?'
    + r"|'?(?:quantise|optimiser|careless|heedless|confused)(?:': |=)(?:'|0)"
    + r"|thus\|hence|'Hence: red'"  # cues of a conclusion in free text
)

SKIP = ('tests/test_words.py', 'CHANGELOG.md')  # the rule itself, and the list of what was renamed
DATA = ('nbs/01_tasks/', 'tracenb/tasks/')  # vocabularies of the simulators: only the prose of notebooks is checked


def sources():
    "(place, text) of every code and prose cell, test, page and text file."
    for path in sorted((ROOT / 'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts:
            continue
        name = path.relative_to(ROOT).as_posix()
        for c in json.loads(path.read_text())['cells']:
            if c['cell_type'] == 'markdown' or not name.startswith(DATA):
                yield f'{name}: {c["id"]}', ''.join(c['source'])
    files = [*(ROOT / 'tests').glob('*.py'), *(ROOT / 'nbs' / 'site').rglob('*.md'), *ROOT.glob('*.md')]
    files += [p for kind in ('yaml', 'js', 'j2', 'html', 'css') for p in (ROOT / 'tracenb').rglob(f'*.{kind}')]
    files += [*(ROOT / 'nbs' / 'site').glob('*.py'), *(ROOT / 'nbs' / 'site' / '_static').glob('*.css')]
    for path in [*files, ROOT / 'Makefile', ROOT / 'outputs' / 'README.md']:
        name = path.relative_to(ROOT).as_posix()
        if name not in SKIP and not name.startswith(DATA):
            yield name, Path(path).read_text()


def old_words(text):
    "(word, line, what to write) for each old word in `text`."
    for line in text.splitlines():
        for m in PATTERN.finditer(ALLOWED.sub('', line)):
            yield m[0], line.strip()[:100], list(WORDS.values())[int(m.lastgroup[1:])]


@pytest.mark.parametrize(
    ('text', 'word'),
    [
        ('the rooms below', 'rooms'),
        ('mend this row', 'mend'),
        ('this is no date', 'is no date'),
        ('one row per run', ''),
    ],
)
def test_the_rule_finds_old_words(text, word):
    assert [w for w, *_ in old_words(text)] == ([word] if word else [])


def test_no_old_words():
    found = [
        f'{place}: {w!r} in {line!r}: write {new}' for place, text in sources() for w, line, new in old_words(text)
    ]
    assert found == [], f'{len(found)} old words:\n' + '\n'.join(found[:400])
