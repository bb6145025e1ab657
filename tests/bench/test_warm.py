"""Memory at hand: filled and let go before a load, but for a little of it."""

from __future__ import annotations

import pytest

from bench.warm import taken_at_most, warm_memory
from dledger.machine import resident_size

MIB = 1024 * 1024


def test_a_little_of_each_block_is_kept_while_the_load_runs():
    before = resident_size()
    with warm_memory(95 * MIB) as kept:
        assert kept == 48 * 128 * 1024
        assert kept <= resident_size() - before + MIB < 32 * MIB, "the rest is let go of"


def test_nothing_is_filled_for_nothing(monkeypatch):
    monkeypatch.setattr("mmap.mmap", None)
    with warm_memory(0) as kept:
        assert kept == 0


def test_what_cannot_be_filled_is_told():
    with pytest.raises(OSError, match="are not to be had"), warm_memory(1 << 62):
        pytest.fail("it must not begin")


def test_machines_that_keep_their_memory_need_none(monkeypatch):
    monkeypatch.setattr("bench.warm.gives_memory_back", lambda: False)
    assert taken_at_most(100, 3.0) == 0
    monkeypatch.setattr("bench.warm.gives_memory_back", lambda: True)
    assert 0 < taken_at_most(100, 3.0) <= taken_at_most(1024, 3.0)
