"""A process is told another time, and the rest of the machine is not."""

import sys
import time

import pytest
import trio

from tests.process.kit import eventually

_WATCH = """
import threading, time
waited = threading.Condition()
while True:
    begun = time.perf_counter()
    with waited:
        waited.wait(0.05)
    print(time.time_ns(), time.monotonic_ns(), round(time.perf_counter() - begun, 3), flush=True)
"""


async def more_lines(process, count):
    before = process.log.count("\n")

    async def are_there():
        return process.log.count("\n") >= before + count

    await eventually(f"{count} lines of {process.name}", are_there, seconds=20)


@pytest.fixture
def node(lab):
    return lab.nodes["n1"]


@pytest.fixture
def clock(node):
    return node.clock


async def test_the_wall_clock_of_a_running_process_jumps_both_ways(node, clock):
    process = node.process([sys.executable, "-c", _WATCH])
    process.start()
    for offset_ms in (3_600_000, -60_000):
        proof = await clock.shift(offset_ms)
        assert proof.took_effect, proof
        assert proof.figures["wall_offset_ms"] == pytest.approx(offset_ms, abs=1_000)
        told = clock.told
        await more_lines(process, 3)
        wall = int(process.log.splitlines()[-2].split()[0])
        assert (wall - time.time_ns()) / 1e6 == pytest.approx(offset_ms, abs=2_000)
        assert clock.told > told

    assert (await clock.clear()).took_effect
    await more_lines(process, 3)
    wall = int(process.log.splitlines()[-2].split()[0])
    assert abs(wall - time.time_ns()) < 2e9


async def test_a_rate_makes_no_jump_and_stays_when_it_ends(node, clock):
    assert (await clock.rate(1.5)).took_effect
    await trio.sleep(0.5)  # a quarter of a second; a busy machine hears of it late, as of less
    proof = await clock.rate(1.0)

    assert proof.took_effect, proof
    assert 50 <= proof.figures["wall_offset_ms"] <= 2_000
    assert proof.figures["monotonic_offset_ms"] in (-1, 0, 1, *range(-300, 0))


async def test_waits_last_what_they_should_on_a_monotonic_clock_that_went_ahead(node, clock):
    """Else the interpreter's own lock would wait for seconds: its instants are reckoned from it."""
    assert (await clock.monotonic_rate(100.0)).took_effect
    await trio.sleep(0.05)
    assert (await clock.monotonic_rate(1.1)).took_effect
    process = node.process([sys.executable, "-c", _WATCH])
    process.start()
    await more_lines(process, 20)

    found = [line.split() for line in process.log.splitlines()[:20]]
    told = [int(monotonic) for _, monotonic, _ in found]
    assert told == sorted(told)
    assert all(float(waited) >= 0.049 for *_, waited in found)
    assert sum(float(waited) < 0.15 for *_, waited in found) >= 15
    assert clock.told_monotonic > 20


async def test_nobody_else_s_clock_is_touched(lab, clock):
    await clock.shift(86_400_000)

    here = time.time_ns()
    other = lab.nodes["n2"]
    probe = await trio.run_process(["date", "+%s"], capture_stdout=True, env=other.shim.environment)
    assert abs(int(probe.stdout) - here // 10**9) <= 2


async def test_a_clock_that_is_not_told_is_noticed(node, clock):
    node.shim._library.write_bytes(b"")  # the loader goes on without it

    assert not (await clock.shift(60_000)).took_effect
