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

    await eventually(f"{count} lines of {process.name}", are_there)


def wall_offset_ms(process):
    """How far ahead the last time of day is that it told, by the monotonic clock beside it."""
    wall, monotonic, _ = map(float, process.log.splitlines()[-2].split())
    return (wall - monotonic - (time.time_ns() - time.monotonic_ns())) / 1e6


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
        told = clock.told
        await more_lines(process, 3)
        assert wall_offset_ms(process) == pytest.approx(offset_ms, abs=200)
        assert clock.told > told

    assert (await clock.clear()).took_effect
    await more_lines(process, 3)
    assert wall_offset_ms(process) == pytest.approx(0, abs=200)


async def test_a_rate_makes_no_jump_and_stays_when_it_ends(node, clock):
    begun = time.perf_counter()
    assert (await clock.rate(1.5)).took_effect
    await trio.sleep(0.5)
    proof = await clock.rate(1.0)
    took = time.perf_counter() - begun

    assert proof.took_effect, proof  # the probe was told this very offset, and no other
    assert 0.25 <= clock._offset_now(0) / 1e9 <= 0.5 * took


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
    assert min(float(waited) for *_, waited in found) < 2.0  # all for five seconds, it was
    assert clock.told_monotonic > 20


async def test_nobody_else_s_clock_is_touched(lab, clock):
    await clock.shift(86_400_000)

    other = lab.nodes["n2"]
    before = time.time_ns()
    probe = await trio.run_process(["date", "+%s"], capture_stdout=True, env=other.shim.environment)
    assert before // 10**9 <= int(probe.stdout) <= time.time_ns() // 10**9


async def test_a_clock_that_is_not_told_is_noticed(node, clock):
    node.shim._library.write_bytes(b"")  # the loader goes on without it

    assert not (await clock.shift(60_000)).took_effect
