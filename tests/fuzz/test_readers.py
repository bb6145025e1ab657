"""Every reader of bytes, given bytes that nobody should send or write.

The same targets as ``python -m jepsen_like fuzz``, which is guided by coverage and runs for as long
as it is told; here a fixed lot of inputs runs with every change of the code.
"""

from __future__ import annotations

import functools
import logging
import tracemalloc

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jepsen_like.fuzz.targets import TARGETS
from tests.fuzz.strategies import near

# Those that open files take some ten milliseconds for each input.
SLOW = {"checkpoint", "vote", "state", "index", "queue", "identity", "folder", "config", "raft"}
NAMES = sorted(TARGETS)


@functools.cache
def seeds_of(name):
    return TARGETS[name].seeds()


@pytest.fixture(autouse=True)
def _quiet():
    """What a start warns of, a thousand times over, is of no use to anybody."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_valid_is_read(name):
    for seed in seeds_of(name)[:60]:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_nearly_valid_is_read_or_refused(name):
    @settings(
        derandomize=True,
        max_examples=60 if name in SLOW else 300,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(data=near(seeds_of(name)))
    @example(data=b"")
    @example(data=b"\xff" * 100)
    def run(data):
        TARGETS[name].run(data)

    run()


# A claim of four billion elements, records or bytes, wherever a length may stand.
GREEDY = [b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xdd" + b"\xff" * 4, b"\xdf\x7f\xff\xff\xff"]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in SLOW])
def test_no_claim_of_a_length_is_worth_memory(name):
    """What a reader takes follows from what has arrived, not from what it is told will come."""
    run = TARGETS[name].run
    for seed in seeds_of(name)[:8]:
        run(seed)  # caches, imports
    tracemalloc.start()
    try:
        for seed in seeds_of(name)[:8]:
            for at in range(0, min(len(seed), 120), 3):
                for claim in GREEDY:
                    data = seed[:at] + claim + seed[at + len(claim) :]
                    tracemalloc.reset_peak()
                    before, _ = tracemalloc.get_traced_memory()
                    run(data)
                    _, peak = tracemalloc.get_traced_memory()
                    assert peak - before < 512 * 1024 + 64 * len(data), (at, claim)
    finally:
        tracemalloc.stop()


@settings(derandomize=True, max_examples=30, deadline=None, database=None)
@given(
    depth=st.integers(100, 200_000),
    opening=st.sampled_from([b"[", b'{"":', b"\x91", b"\x81\xa1a"]),
)
def test_brackets_without_end_are_refused_everywhere(depth, opening):
    for name in ("header", "command", "body", "metadata", "peer", "config", "identity"):
        for first in (b"", b"\0", b"\2"):
            TARGETS[name].run(first + opening * (min(depth, 20_000) if name in SLOW else depth))
