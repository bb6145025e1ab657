"""How long a group with many messages needs to start, and a member to catch up.

    python -m bench.restart --messages 1000000
    python -m bench.restart --messages 10000000 --flush async

A group of three is filled with batches, and then
  stopped and started:        processes to the first acknowledgement;
  killed, all, and started:   the same, with what was not checkpointed to be read;
  its derived state removed:  to the same, everything derived from the log again;
  a follower emptied:         to the moment it has all that the leader has, while nobody sends,
                              and again under load, with the group's rate before, as long as it
                              is behind, and afterwards.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import statistics
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click
import trio

import broker
from bench import raw_load
from bench.frames import FrameRing
from bench.group import BenchGroup
from bench.measured import LoadError
from bench.scratch import check_writable, scratch_folder
from bench.warm import taken_at_most, warm_memory
from broker.cli.ask import ask_group, ask_node
from broker.cli.output import first_leaf
from dledger.config import MIB, FlushDiskType, parse_address

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from broker.cli.ask import GroupView
    from broker.cli.local_node import LocalNode

TOPIC = "restart"
QUEUE_COUNT = 8
BATCH_COUNT = 256
SEGMENT_SIZE = 64 * MIB
_LOOK_SECONDS = 0.02
_LONGEST_SECONDS = 600.0
_LOAD_SECONDS = 5.0
_SLICE_SECONDS = 0.5  # of load, one after another
_SECONDS_MAX = 60.0  # of load while a follower is behind
_WARM_SECONDS = 20.0  # of catching up for which memory is at hand, if there is so much
_ASK_SECONDS = 0.25  # how often a follower is asked how far it is


class RestartBench:
    """One group, and what it took."""

    def __init__(
        self,
        folder: Path,
        *,
        flush: FlushDiskType,
        body_size: int,
        segment_size: int = SEGMENT_SIZE,
    ) -> None:
        self.group = BenchGroup(folder, flush=flush, segment_size=segment_size)
        self.seconds: dict[str, float] = {}
        self.rates: dict[str, float] = {}
        self.written = 0
        self._body_size = body_size
        self._ring = FrameRing(
            topic=TOPIC,
            queue_count=QUEUE_COUNT,
            body_size=body_size,
            batch_count=BATCH_COUNT,
            producer_id=7,
            chance=random.Random(body_size),
            frame_count_min=8,
        )

    async def run(self, message_count: int) -> None:
        """Measure all of it; every start has to end with all messages there.

        Raises:
            LoadError: it takes too long, or a message is missing.
        """
        await self.group.start()
        async with broker.connect(self.group.addresses) as client:
            await client.admin.create_topic(TOPIC, queue_count=QUEUE_COUNT)
        began = perf_counter()
        while self.written < message_count:
            await self._load(min(2.0, _LOAD_SECONDS))
        self.rates["filling"] = self.written / (perf_counter() - began)
        await self.group.wait_until_equal()

        await self.group.stop()
        self.seconds["start after a stop"] = await self._start()
        self._signal_all(signal.SIGKILL)
        self.seconds["start after a kill of all"] = await self._start()
        await self.group.stop()
        for node in self.group.nodes:
            shutil.rmtree(node.folder / "data" / "derived")
        self.seconds["start with nothing derived"] = await self._start()

        follower = await self._empty_follower()
        began = perf_counter()
        follower.start()
        await self._until_equal()
        self.seconds["an emptied follower, idle group"] = perf_counter() - began

        # Before and after: what comes first finds more of the machine's memory at hand.
        self.rates["with three members, before"] = await self._rate(_LOAD_SECONDS)
        follower = await self._empty_follower()
        self.rates["with two members"] = await self._rate(_LOAD_SECONDS)
        began = perf_counter()
        self.rates["while it catches up"] = await self._rate_until_near(follower)
        await self._until_equal()
        self.seconds["an emptied follower, under load at first"] = perf_counter() - began
        self.rates["with three members, after"] = await self._rate(_LOAD_SECONDS)
        await self._check()

    async def _load(self, seconds: float) -> float:
        host, port = await self.group.leader_address()
        with raw_load.connect(host, port) as connected:
            return await self._slice(connected, seconds)

    async def _slice(self, connected: socket.socket, seconds: float) -> float:
        measured = await trio.to_thread.run_sync(
            lambda: raw_load.run_sends(
                connected,
                self._ring,
                in_flight=8,
                batch_count=BATCH_COUNT,
                seconds=seconds,
                warm_up_seconds=0.0,
            )
        )
        self.written += measured.written_count
        return measured.rate

    async def _rate(self, seconds: float) -> float:
        """Send for *seconds*, in slices as `_rate_until_near`; return the rate."""
        rates: list[float] = []
        with warm_memory(taken_at_most(self._body_size, seconds)):
            host, port = await self.group.leader_address()
            with raw_load.connect(host, port) as connected:
                while len(rates) * _SLICE_SECONDS < seconds:
                    rates.append(await self._slice(connected, _SLICE_SECONDS))
        return statistics.fmean(rates)

    async def _rate_until_near(self, follower: LocalNode) -> float:
        """Start *follower* and send until it is near the leader, or for long; return the rate.

        What comes after that is the rate of a group in which nobody catches up.  While it is sent,
        only the follower is asked how far it is, and the leader between two slices, which do not
        count what passes between them.
        """
        rates: list[float] = []
        end, leader_end = [0], 1
        with warm_memory(taken_at_most(self._body_size, _WARM_SECONDS)):
            leader = await self.group.leader()
            host, port = parse_address(leader.address)
            follower.start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, follower, end)
                with raw_load.connect(host, port) as connected:
                    # Near is who has what the leader had a slice before.
                    while end[0] < leader_end and len(rates) * _SLICE_SECONDS < _SECONDS_MAX:
                        status = (await ask_node(leader.address)).status
                        if status is not None:
                            leader_end = status.end_position
                        rates.append(await self._slice(connected, _SLICE_SECONDS))
                nursery.cancel_scope.cancel()
        return statistics.fmean(rates)

    async def _watch(self, node: LocalNode, end: list[int]) -> None:
        """Keep where the log of *node* ends in *end*; a busy one takes its time to say."""
        while True:
            status = (await ask_node(node.address)).status
            if status is not None:
                end[0] = status.end_position
            await trio.sleep(_ASK_SECONDS)

    async def _start(self) -> float:
        """Start all; return the seconds to the first acknowledgement, all messages being there."""
        began = perf_counter()
        await self.group.start()
        async with (
            broker.connect(self.group.addresses) as client,
            client.producer("restart", send_timeout=_LONGEST_SECONDS) as producer,
        ):
            await producer.send(TOPIC, b"first", queue=0)
        spent = perf_counter() - began
        self.written += 1
        await self._until_equal()
        await self._check()
        return spent

    async def _empty_follower(self) -> LocalNode:
        leader = await self.group.leader()
        follower = next(node for node in self.group.nodes if node is not leader)
        follower.send_signal(signal.SIGKILL)
        await self._until(lambda view: len(view.answering) == len(self.group.nodes) - 1)
        shutil.rmtree(follower.folder / "data")
        return follower

    def _signal_all(self, number: signal.Signals) -> None:
        for node in self.group.nodes:
            node.send_signal(number)
        for node in self.group.nodes:
            if node.started is not None:
                node.started.wait()

    async def _until_equal(self) -> None:
        def is_equal(view: GroupView) -> bool:
            ends = {
                (answer.status.commit_index, answer.status.dispatched_index)
                for answer in view.answering
                if answer.status is not None
            }
            return len(view.answering) == len(self.group.nodes) and len(ends) == 1

        await self._until(is_equal)

    async def _until(self, is_so: Callable[[GroupView], bool]) -> None:
        with trio.move_on_after(_LONGEST_SECONDS):
            while True:
                if is_so(await ask_group(self.group.addresses)):
                    return
                await trio.sleep(_LOOK_SECONDS)
        raise LoadError(f"not within {_LONGEST_SECONDS:g} s")

    async def _check(self) -> None:
        async with broker.connect(self.group.addresses) as client:
            ends = [await client.admin.max_offset(TOPIC, queue) for queue in range(QUEUE_COUNT)]
        if sum(ends) != self.written:
            raise LoadError(f"{sum(ends)} messages are there, {self.written} were acknowledged")


def measure(
    folder: Path,
    *,
    flush: FlushDiskType,
    body_size: int,
    message_count: int,
    segment_size: int = SEGMENT_SIZE,
) -> dict[str, Any]:
    """Run it with a new group in *folder*; return the figures.

    Raises:
        LoadError: it takes too long, or a message is missing.
    """
    bench = RestartBench(folder, flush=flush, body_size=body_size, segment_size=segment_size)
    try:
        trio.run(_run, bench, message_count)
    except BaseExceptionGroup as error:
        cause = first_leaf(error)
        if not isinstance(cause, LoadError):
            raise
        raise cause from error
    return {"messages": bench.written, "seconds": bench.seconds, "rates": bench.rates}


@click.command()
@click.option("--messages", type=click.IntRange(1), default=1_000_000, help="To fill it with.")
@click.option("--body", type=click.IntRange(1, 1 << 16), default=100, help="Size of bodies.")
@click.option("--flush", type=click.Choice(["sync", "async"]), default="async")
@click.option("--segment", type=click.IntRange(1), default=64, help="Size of a segment in MiB.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder for the nodes' data.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write figures there.")
def main(
    messages: int, body: int, flush: str, segment: int, data: Path | None, json_path: Path | None
) -> None:
    """Measure how long a group needs to start and to fill a member again."""
    check_writable(json_path)
    kind = FlushDiskType(f"{flush.upper()}_FLUSH")
    with scratch_folder("dledger-restart-", where=data) as folder:
        try:
            found = measure(
                folder,
                flush=kind,
                body_size=body,
                message_count=messages,
                segment_size=segment * MIB,
            )
        except LoadError as error:
            print(f"stopped: {error}", file=sys.stderr)
            sys.exit(1)
    print(f"{found['messages']:,} messages of {body} bytes, {flush} flush")
    for what, seconds in found["seconds"].items():
        print(f"  {seconds:8.2f} s  {what}")
    for what, rate in found["rates"].items():
        print(f"  {rate:10,.0f} messages/s  {what}")
    if json_path is not None:
        json_path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


async def _run(bench: RestartBench, messages: int) -> None:
    try:
        await bench.run(messages)
    finally:
        with trio.CancelScope(shield=True):
            await bench.group.stop()


if __name__ == "__main__":
    main()
