"""What tests of the store share."""

from __future__ import annotations

import pytest

from broker.store import compiled

# Where nothing is compiled there is one way only; `test_compiled.py` says so.
WAYS = {"python": None} | ({} if compiled.loops is None else {"compiled": compiled.loops})


@pytest.fixture(params=WAYS)
def both_ways(request, monkeypatch):
    """Run a test with the loops over every record compiled, and in Python."""
    monkeypatch.setattr(compiled, "loops", WAYS[request.param])
