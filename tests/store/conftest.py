"""An empty log on a disk that forgets what was not synced."""

from __future__ import annotations

import pytest

from tests.fakes.disk import FakeDisk
from tests.store.model import open_store


@pytest.fixture
def disk():
    return FakeDisk()


@pytest.fixture
def store(disk):
    return open_store(disk)
