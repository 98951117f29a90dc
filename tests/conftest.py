"""What all tests share: the checkout, the optional research data, and one cache folder for models."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent/'shared'/'data'

os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
os.environ.setdefault('GOMP_SPINCOUNT', '10000')  # before torch is loaded: as the command sets it
os.environ.setdefault('HF_HUB_OFFLINE', '1')  # nothing here may wait for a hub


@pytest.fixture
def shared() -> Path:
    "The research copies of CoTempQA, bAbI and the published generations; they cannot be redistributed, so most checkouts lack them."
    if not SHARED.is_dir(): pytest.skip('../shared/data is absent: research copies that are not redistributed')
    return SHARED
