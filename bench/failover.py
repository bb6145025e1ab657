"""How long a running client waits when the leader dies.

    python -m bench.failover --kills 20
    python -m bench.failover --kills 10 --signal STOP
    python -m bench.failover --kills 10 --transfer

Three nodes with default settings, one client that keeps sending with ordering keys.  Again and
again the leader's process gets SIGKILL (or SIGSTOP); the time from the signal to the first message
that another node acknowledges is what is reported.  A killed node is started again and has to catch
up before the next one is killed; a stopped one goes on.

Nothing may be lost on the way: at the end every node is read, and every message that was
acknowledged must be there, once.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import trio

import broker
from bench.scratch import scratch_folder
from broker.cli.ask import ask_group
from broker.cli.local_group import GroupPlan, LocalGroup, find_base_port
from broker.cli.node_reader import read_topic
from broker.cli.output import first_leaf
from broker.errors import BrokerError
from dledger.config import MIB, FlushDiskType

if TYPE_CHECKING:
    from broker.cli.ask import GroupView, NodeAnswer
    from broker.client.connect import Client
    from broker.client.producer import Producer

TOPIC = "failover"
QUEUE_COUNT = 8
SENDER_COUNT = 16
PACE_SECONDS = 0.010  # between two sends of one task: about 1,300 messages a second in all
SETTLE_SECONDS = 30.0  # longest time the group may need to be whole again
POLL_SECONDS = 0.05
CALM_SECONDS = 1.0  # load between the group being whole and the next signal, at the least


class Unsettled(Exception):  # noqa: N818 - says what it is
    """The group did not become what it had to be; the text says what was waited for."""


class FailoverBench:
    """One run: a group, a load on it, and what the load saw."""

    def __init__(
        self, group: LocalGroup, number: signal.Signals | None, chance: random.Random
    ) -> None:
        """Make one.

        Args:
            group: not started.
            number: what the leader gets; None: its lead is handed over instead.
            chance: when.
        """
        self.group = group
        group.end_with_us()
        self.number = number
        self.chance = chance
        self.acknowledged: list[bytes] = []
        self.last_ack: dict[str, float] = {}  # by node: trio seconds
        self.first_ack: dict[str, float] = {}  # by node, since `_forget_acks`
        self.failures: list[str] = []
        self.times: list[float] = []  # seconds from signal to first ack, or of the slowest request
        self.calm_times: list[float] = []  # seconds of the slowest request just before a transfer
        self._requests: list[tuple[float, float]] = []  # ended at, took
        self._heard = trio.Event()
        self._load = trio.CancelScope()

    async def run(self, kills: int) -> None:
        """Measure *kills* failovers and check what is left of the messages."""
        self.group.start_missing()
        await self._settled("a leader and all members")
        async with broker.connect(self.group.addresses) as mq:
            await mq.admin.create_topic(TOPIC, queue_count=QUEUE_COUNT)
            async with trio.open_nursery() as nursery:
                async with mq.producer("failover", send_timeout=SETTLE_SECONDS) as producer:
                    with self._load:
                        async with trio.open_nursery() as senders:
                            for number in range(SENDER_COUNT):
                                senders.start_soon(self._send, producer, number)
                            for turn in range(kills):
                                if self.number is None:
                                    await self._transfer_once(turn, mq)
                                else:
                                    await self._kill_once(turn, self.number)
                            self._load.cancel()
                nursery.cancel_scope.cancel()
        await self._settled("all members equal")
        await self._check()

    async def _send(self, producer: Producer, number: int) -> None:
        count = 0
        while True:
            body = b"%d:%d" % (number, count)
            count += 1
            began = trio.current_time()
            try:
                with trio.CancelScope(shield=True):  # so that every message has an outcome
                    result = await producer.send(TOPIC, body, ordering_key=str(number))
            except BrokerError as error:
                self.failures.append(str(error))
            else:
                self.acknowledged.append(body)
                if result.node not in self.first_ack:
                    self.first_ack[result.node] = trio.current_time()
                    self._heard.set()
            ended = trio.current_time()
            self._requests.append((ended, ended - began))
            await trio.sleep(PACE_SECONDS)

    async def _transfer_once(self, turn: int, mq: Client) -> None:
        leader = await self._settled("a leader and all members")
        self._requests.clear()
        await trio.sleep(CALM_SECONDS * (1 + self.chance.random()))
        began = trio.current_time()
        await mq.admin.transfer_leadership()
        await trio.sleep(CALM_SECONDS)
        self.calm_times.append(max(took for ended, took in self._requests if ended < began))
        self.times.append(max(took for ended, took in self._requests if ended >= began))
        print(
            f"  {turn + 1:3}  {leader.node_id}  slowest {1000 * self.times[-1]:7.1f} ms, "
            f"{1000 * self.calm_times[-1]:.1f} before",
            flush=True,
        )

    async def _kill_once(self, turn: int, number: signal.Signals) -> None:
        leader = await self._settled("a leader and all members")
        await trio.sleep(CALM_SECONDS * (1 + self.chance.random()))
        node = self.group.node(leader.node_id)
        self.first_ack.clear()
        mark = node.send_signal(number)
        began = trio.current_time()
        if mark is None:
            raise Unsettled(f"{leader.node_id} leads, but its process does not run")
        with trio.move_on_after(SETTLE_SECONDS):
            while not any(address != leader.address for address in self.first_ack):
                self._heard = trio.Event()
                await self._heard.wait()
        others = [at for address, at in self.first_ack.items() if address != leader.address]
        if not others:
            raise Unsettled(f"nothing was acknowledged within {SETTLE_SECONDS:g} s")
        self.times.append(min(others) - began)
        print(f"  {turn + 1:3}  {leader.node_id}  {1000 * self.times[-1]:7.1f} ms", flush=True)
        await trio.sleep(CALM_SECONDS)
        if number == signal.SIGSTOP:
            mark.send_signal(signal.SIGCONT)
        else:
            node.start()

    async def _settled(self, what: str) -> NodeAnswer:
        """Wait until a leader serves and every member has (nearly) all it has; return the leader.

        Raises:
            Unsettled: a member has ended, or it took too long.
        """
        with trio.move_on_after(SETTLE_SECONDS):
            while True:
                view = await ask_group(self.group.addresses)
                if _is_whole(view, len(self.group.nodes)):
                    assert view.leader is not None
                    return view.leader
                for node in self.group.nodes:
                    if node.started is not None and node.started.poll() is not None:
                        raise Unsettled(f"{node.node_id} has ended: {node.last_words()}")
                await trio.sleep(POLL_SECONDS)
        raise Unsettled(f"not within {SETTLE_SECONDS:g} s: {what}")

    async def _check(self) -> None:
        wanted = set(self.acknowledged)
        for node in self.group.nodes:
            messages = await read_topic(node.address, TOPIC, queue_count=QUEUE_COUNT)
            found = Counter(bytes(message.body) for message in messages)
            if missing := wanted - found.keys():
                self.failures.append(f"{node.node_id} lacks {len(missing)} acknowledged messages")
            if doubled := [body for body, count in found.items() if count > 1]:
                self.failures.append(f"{node.node_id} has {len(doubled)} messages twice")


def _is_whole(view: GroupView, count: int) -> bool:
    leader = view.leader
    if leader is None or leader.status is None or len(view.answering) != count:
        return False
    return all(
        answer.status is not None
        and answer.status.leader_id == leader.node_id
        and answer.status.commit_index + 100 >= leader.status.commit_index
        for answer in view.answering
    )


async def _run(bench: FailoverBench, kills: int) -> None:
    try:
        await bench.run(kills)
    finally:
        with trio.CancelScope(shield=True):
            await bench.group.stop()


def measure(
    folder: Path, number: signal.Signals | None, *, flush: FlushDiskType, kills: int
) -> dict[str, Any]:
    """Run it with a new group in *folder*; return the figures.

    Raises:
        Unsettled: the group did not become what it had to be.
    """
    plan = GroupPlan(
        node_count=3,
        base_port=find_base_port(3),
        segment_size=64 * MIB,
        flush_disk_type=flush,
    )
    bench = FailoverBench(LocalGroup.find_or_create(folder, plan), number, random.Random())
    try:
        trio.run(_run, bench, kills)
    except BaseExceptionGroup as error:
        cause = first_leaf(error)
        if not isinstance(cause, Unsettled):
            raise
        raise cause from error
    times = sorted(bench.times)
    found: dict[str, Any] = {
        "signal": number.name if number is not None else "transfer",
        "flush": flush.value,
        "kills": len(times),
        "p50_ms": round(1000 * median(times), 1),
        "max_ms": round(1000 * times[-1], 1),
        "times_ms": [round(1000 * time, 1) for time in bench.times],
        "acknowledged": len(bench.acknowledged),
        "failed_sends": len(bench.failures),
        "failures": bench.failures[:5],
    }
    if bench.calm_times:
        found["before_ms"] = round(1000 * max(bench.calm_times), 1)
    return found


def main(arguments: list[str] | None = None) -> int:
    """Measure, print, and return the exit code: 1 when anything was lost, doubled or refused."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.failover",
        description="time from a leader's death to the next acknowledgement",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--kills", type=int, default=20, help="leaders that die")
    parser.add_argument(
        "--signal", choices=("KILL", "STOP"), default="KILL", help="what they are sent"
    )
    parser.add_argument("--transfer", action="store_true", help="hand the lead over instead")
    parser.add_argument(
        "--flush", choices=("sync", "async"), default="sync", help="what an ack stands on"
    )
    parser.add_argument("--keep", type=Path, help="use this folder, and leave it behind")
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args(arguments)
    number = None if options.transfer else signal.Signals[f"SIG{options.signal}"]
    flush = FlushDiskType(f"{options.flush.upper()}_FLUSH")
    what = "the lead handed over" if number is None else f"{number.name} to the leader"
    print(f"{what}, {options.kills} times, {options.flush} flush")
    kept = contextlib.nullcontext(options.keep) if options.keep else None
    with kept or scratch_folder("dledger-failover-") as folder:
        try:
            result = measure(folder, number, flush=flush, kills=options.kills)
        except Unsettled as error:
            print(f"stopped: {error}", file=sys.stderr)
            sys.exit(1)
    figures = f"p50 {result['p50_ms']} ms, max {result['max_ms']} ms"
    if number is None:
        print(f"slowest request {figures}; {result['before_ms']} ms just before at most")
    else:
        print(f"first acknowledgement after {figures}")
    print(f"{result['acknowledged']} messages acknowledged")
    for failure in result["failures"]:
        print(failure)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if result["failed_sends"] else 0


if __name__ == "__main__":
    sys.exit(main())
