"""What one message costs, counted: a bound, so that it does not creep up again unseen."""

from __future__ import annotations

import trio

from bench.calls import CallCounter, StoppableClock, count_calls
from broker.store import compiled
from dledger.config import FlushDiskType
from dledger.remoting.readiness import HotSockets
from dledger.remoting.tcp_stream import TcpStream

MESSAGES = 100  # several of the reserve's goes: where one ends, twenty would count it or not


def test_a_message_by_itself_costs_no_more_calls_than_it_did(tmp_path):
    """With the bounds a sixth above what is counted; who needs more says why, and raises them.

    What is counted where the reserve is sent each entry, as it is where answers came late before
    (see `dledger.raft.reserve`): 366 calls on the leader, 111 on each follower.  With the reserve
    held back it is 336, 111 and 49, and without compiled loops 472 and 207.  Below, it is only
    seen that each was counted at all.
    """

    async def run() -> tuple[CallCounter, str]:
        return await count_calls(tmp_path, flush=FlushDiskType.ASYNC_FLUSH, message_count=MESSAGES)

    counter, leader = trio.run(run, clock=StoppableClock())

    costs = {whose: places.total() / MESSAGES for whose, places in counter.calls.items()}
    followers = [costs[whose] for whose in ("n1", "n2", "n3") if whose != leader]
    leader_most, followers_most = (430, 260) if compiled.loops is not None else (550, 485)
    assert 100 < costs[leader] < leader_most, costs
    assert min(followers) > 10, costs
    assert sum(followers) < followers_most, costs
    # Nodes read and answer out of the poll; the client's task alone takes a step.
    assert counter.step_count / MESSAGES < 1.2


def test_counting_leaves_no_trace():
    """Later tests of the same process read as ever."""
    before = TcpStream.receive_each, HotSockets.after_reads
    counter = CallCounter()
    with counter.attributing_reads():
        assert (TcpStream.receive_each, HotSockets.after_reads) != before
    assert (TcpStream.receive_each, HotSockets.after_reads) == before
