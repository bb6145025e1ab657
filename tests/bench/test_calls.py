"""What one message costs, counted: a bound, so that it does not creep up again unseen."""

from __future__ import annotations

import trio

from bench.calls import CallCounter, StoppableClock, count_calls
from dledger.config import FlushDiskType
from dledger.remoting.readiness import HotSockets
from dledger.remoting.tcp_stream import TcpStream

MESSAGES = 20


def test_a_message_by_itself_costs_no_more_calls_than_it_did(tmp_path):
    """With the bounds a sixth above what is counted; who needs more says why, and raises them."""

    async def run() -> tuple[CallCounter, str]:
        return await count_calls(tmp_path, flush=FlushDiskType.ASYNC_FLUSH, message_count=MESSAGES)

    counter, leader = trio.run(run, clock=StoppableClock())

    costs = {whose: places.total() / MESSAGES for whose, places in counter.calls.items()}
    followers = [costs[whose] for whose in ("n1", "n2", "n3") if whose != leader]
    assert 300 < costs[leader] < 1_000, costs
    assert 100 < sum(followers) < 830, costs
    # A poll for each receive and one for what dispatch is woken by, all nodes and the client taken
    # together; a step for each of them, too.
    assert counter.step_count / MESSAGES < 10.5


def test_counting_leaves_no_trace():
    """Later tests of the same process read as ever."""
    before = TcpStream.receive_each, HotSockets.after_reads
    counter = CallCounter()
    with counter.attributing_reads():
        assert (TcpStream.receive_each, HotSockets.after_reads) != before
    assert (TcpStream.receive_each, HotSockets.after_reads) == before
