"""What tests of the store share."""

from __future__ import annotations

import pytest

from broker.store import compiled
from tests.broker_store.derived_node import SEGMENT, Node, fill
from tests.broker_store.helpers import MemoryLog

# Where nothing is compiled there is one way only; `test_compiled.py` says so.
WAYS = {"python": None} | ({} if compiled.loops is None else {"compiled": compiled.loops})


@pytest.fixture(params=WAYS)
def both_ways(request, monkeypatch):
    """Run a test with the loops over every record compiled, and in Python."""
    monkeypatch.setattr(compiled, "loops", WAYS[request.param])


@pytest.fixture
def log():
    log = MemoryLog(segment_size=SEGMENT)
    fill(log)
    assert log.end.position > 5 * SEGMENT
    return log


@pytest.fixture
def node(tmp_path, log):
    node = Node(tmp_path / "derived", log)
    node.start()
    yield node
    node.derived.close()
