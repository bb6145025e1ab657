"""Three nodes, a year of real temperatures, and the leader killed in mid-stream.

    make demo        or:  python examples/demo.py

Starts three node processes in a temporary folder, sends the 8,759 rows of data/seattle-temps.csv
while a consumer reads them, kills the leader with SIGKILL when half of them are acknowledged,
starts it again, and then holds what was sent, acknowledged, consumed and found on every node
against each other.  Exit code 0 only when nothing is lost, doubled or out of order and all logs
are identical.
"""

from __future__ import annotations

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trio
from demo_screen import Screen
from demo_verdict import Place, Row, Verdict, judge, longest_gap

import broker
from broker.cli.ask import ask_group, ask_node
from broker.cli.local_group import GroupPlan, LocalGroup, find_base_port
from broker.cli.log_commands import verify_logs
from broker.cli.node_reader import read_topic
from broker.cli.output import first_leaf
from broker.errors import BrokerError
from dledger.config import MIB
from dledger.errors import LedgerError
from dledger.remoting.errors import RemotingError

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.cli.ask import GroupView, NodeAnswer

DATA = Path(__file__).parent / "data" / "seattle-temps.csv"
TOPIC = "temperatures"
QUEUE_COUNT = 8
ROWS_PER_SECOND = 1_200  # a pace to watch; the group itself is much faster
START_SECONDS = 20.0
SETTLE_SECONDS = 20.0
DEAD_SECONDS = 1.5  # how long the killed node stays away
LIMIT_SECONDS = 58.0

_POLL_SECONDS = 0.05  # each poll costs the nodes a connection: not too often
_IN_FLIGHT_SECONDS = 0.005  # answers on their way when the leader dies still arrive


class DemoError(Exception):
    """The demonstration cannot go on; the text says why."""


_EXPECTED = (DemoError, BrokerError, LedgerError, RemotingError)


class Demo:
    """One run: what was sent, acknowledged and read, and when."""

    def __init__(self, group: LocalGroup, rows: list[Row], screen: Screen) -> None:
        self.group = group
        self.rows = rows
        self.screen = screen
        self.row_of = {row.body: row.number for row in rows}
        self.sent_count = 0
        self.acknowledged: list[Place] = []
        self.acknowledged_at: list[float] = []
        self.failures: list[str] = []
        self.consumed: list[Place] = []
        self.foreign = {"consumer": 0}
        self.first_term = 0
        self.killed_at = 0.0
        self.half = trio.Event()  # half of the rows are acknowledged
        self.is_whole_again = trio.Event()  # the killed node is back

    async def run(self) -> Verdict:
        """Tell the whole story and judge it."""
        await self._start()
        with self.screen.bars(len(self.rows)):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._consume)
                nursery.start_soon(self._show)
                nursery.start_soon(self._kill_and_restart)
                await self._produce()
                self.screen.say(f"all {len(self.rows):,} rows are sent")
                await self._until("the consumer has read every row", self._is_all_consumed)
                await self.is_whole_again.wait()
                self._update_bars()
                nursery.cancel_scope.cancel()
        # Nobody writes any more: once all nodes have the last entry their logs must be equal.
        await self._wait_until_equal()
        found = await self._read_every_node()
        logs_identical = await trio.to_thread.run_sync(self._compare_logs)
        return judge(
            rows=self.rows,
            acknowledged=self.acknowledged,
            found={**found, "consumer": self.consumed},
            foreign=self.foreign,
            logs_identical=logs_identical,
        )

    async def _start(self) -> None:
        names = ", ".join(f"{node.node_id} {node.address}" for node in self.group.nodes)
        self.screen.say(f"three node processes start: {names}")
        self.group.start_missing()
        view = await self._wait_for_leader(self.group.addresses, above_term=0)
        leader = _leader(view)
        self.first_term = _term(leader)
        self.screen.say(f"{leader.node_id} leads in term {_term(leader)}")
        async with broker.connect(self.group.addresses) as mq:
            await mq.admin.create_topic(TOPIC, queue_count=QUEUE_COUNT)
        self.screen.say(f"topic {TOPIC} with {QUEUE_COUNT} queues; one message a row, a key a day")

    async def _produce(self) -> None:
        """Send every row at its time; return when all have an outcome."""
        async with (
            broker.connect(self.group.addresses) as mq,
            mq.producer("demo") as producer,
            trio.open_nursery() as nursery,
        ):

            async def send(row: Row) -> None:
                try:
                    result = await producer.send(
                        TOPIC, row.body, key=row.key, tag=row.tag, ordering_key=row.key
                    )
                except BrokerError as error:
                    self.failures.append(f"row {row.number}: {error}")
                    return
                self.acknowledged.append(Place(row.number, result.queue_id, result.queue_offset))
                self.acknowledged_at.append(trio.current_time())
                if 2 * len(self.acknowledged) >= len(self.rows):
                    self.half.set()

            began = trio.current_time()
            for row in self.rows:
                # One task a tick: tasks started in the same one would send in any order.
                await trio.sleep_until(began + row.number / ROWS_PER_SECOND)
                self.sent_count += 1
                if row.number == 0:
                    await send(row)  # alone: it also asks for the topic's queues
                else:
                    nursery.start_soon(send, row)

    async def _consume(self) -> None:
        async with (
            broker.connect(self.group.addresses) as mq,
            mq.consumer("demo", TOPIC, start="first") as consumer,
        ):
            async for message in consumer:
                self._note(
                    "consumer", self.consumed, bytes(message.body),
                    message.queue_id, message.queue_offset,
                )  # fmt: skip

    async def _kill_and_restart(self) -> None:
        await self.half.wait()
        leader = _leader(await ask_group(self.group.addresses))
        if _term(leader) != self.first_term:  # a busy machine may cost a leader its lead
            self.screen.say(f"{leader.node_id} leads in term {_term(leader)} by now")
        node = self.group.node(leader.node_id)
        mark = node.send_signal(signal.SIGKILL)
        self.killed_at = trio.current_time()
        if mark is None:
            raise DemoError(f"{leader.node_id} leads, but is no process of this demonstration")
        self.screen.say(
            f"kill -9 {leader.node_id} (pid {mark.pid}), the leader, "
            f"after {len(self.acknowledged):,} acknowledged rows"
        )
        others = [other.address for other in self.group.nodes if other is not node]
        now = _leader(await self._wait_for_leader(others, above_term=_term(leader)))
        self.screen.say(f"{now.node_id} leads in term {_term(now)}")
        await self._until(
            "rows are acknowledged again",
            lambda: self.acknowledged_at[-1] > self.killed_at + _IN_FLIGHT_SECONDS,
        )
        gap = longest_gap(
            self.acknowledged_at, since=self.killed_at, until=self.killed_at + LIMIT_SECONDS
        )
        self.screen.say(f"rows are acknowledged again; time without service: {gap:.3f} s")
        await trio.sleep_until(self.killed_at + DEAD_SECONDS)

        now = _leader(await ask_group(others))
        node.start()
        missed = _end(now) - _end(leader)
        self.screen.say(f"{node.node_id} starts again; it has missed {missed:,} entries")
        began = trio.current_time()
        while _commit(await ask_node(node.address)) < _end(now):
            if node.process is None:
                raise DemoError(f"{node.node_id} ended again: {node.last_words()}")
            if trio.current_time() - began > START_SECONDS:
                raise DemoError(f"{node.node_id} does not catch up; see {node.log_path}")
            await trio.sleep(_POLL_SECONDS)
        seconds = trio.current_time() - began
        self.screen.say(f"{node.node_id} has caught up, {seconds:.2f} s after its start")
        self.is_whole_again.set()

    async def _wait_for_leader(self, addresses: list[str], *, above_term: int) -> GroupView:
        with trio.move_on_after(START_SECONDS):
            while True:
                view = await ask_group(addresses)
                if view.leader is not None and _term(view.leader) > above_term:
                    return view
                for node in self.group.nodes:
                    if node.address in addresses and node.process is None:
                        raise DemoError(f"{node.node_id} ended: {node.last_words()}")
                await trio.sleep(_POLL_SECONDS)
        raise DemoError(f"nobody leads after {START_SECONDS:g} s; see {self.group.folder}/*/*.log")

    async def _wait_until_equal(self) -> None:
        """Return once every node has committed and indexed the leader's last entry."""
        with trio.move_on_after(SETTLE_SECONDS):
            while True:
                view = await ask_group(self.group.addresses)
                if view.leader is not None and len(view.answering) == len(self.group.nodes):
                    end = _end(view.leader)
                    if all(
                        answer.status is not None
                        and answer.status.end_index == end
                        and answer.status.commit_index == end
                        and answer.status.dispatched_index == end
                        for answer in view.answering
                    ):
                        return
                await trio.sleep(_POLL_SECONDS)
        raise DemoError(f"the nodes are not equal after {SETTLE_SECONDS:g} s")

    async def _read_every_node(self) -> dict[str, list[Place]]:
        """Read the topic from each node by itself."""
        found = {}
        for node in self.group.nodes:
            places: list[Place] = []
            self.foreign[node.node_id] = 0
            messages = await read_topic(node.address, TOPIC, queue_count=QUEUE_COUNT)
            for message in messages:
                self._note(
                    node.node_id, places, message.body, message.queue_id, message.queue_offset
                )
            found[node.node_id] = places
        counts = ", ".join(f"{node_id} {len(places):,}" for node_id, places in found.items())
        self.screen.say(f"read back from every node: {counts}; by the consumer {self._read:,}")
        return found

    def _compare_logs(self) -> bool:
        """Hold the nodes' files against each other, byte for byte."""
        first, *others = (node.folder for node in self.group.nodes)
        result = verify_logs(first, tuple(others))
        ends = {result["end_index"]} | {item["end_index"] for item in result["against"]}
        same = {item["identical_index"] for item in result["against"]} == ends
        identical = result["ok"] and same and len(ends) == 1
        self.screen.say(
            f"logs of {result['entries']:,} entries in {result['bytes']:,} bytes, terms "
            f"{' '.join(map(str, result['terms']))}: {'identical' if identical else 'DIFFERENT'}"
        )
        for problem in result["problems"]:
            self.screen.say(f"  {problem}")
        return bool(identical)

    def _note(
        self, reader: str, places: list[Place], body: bytes, queue_id: int, queue_offset: int
    ) -> None:
        number = self.row_of.get(body)
        if number is None:
            self.foreign[reader] += 1
        else:
            places.append(Place(number, queue_id, queue_offset))

    @property
    def _read(self) -> int:
        return len(self.consumed)

    def _is_all_consumed(self) -> bool:
        return self._read >= len(self.acknowledged)

    async def _until(self, what: str, is_so: Callable[[], bool]) -> None:
        with trio.move_on_after(SETTLE_SECONDS):
            while not is_so():  # noqa: ASYNC110 - some of it is state of another process
                await trio.sleep(_POLL_SECONDS)
            return
        self.screen.say(f"not within {SETTLE_SECONDS:g} s: {what}")

    async def _show(self) -> None:
        while True:
            self._update_bars()
            await trio.sleep(self.screen.seconds_between)

    def _update_bars(self) -> None:
        self.screen.update(
            sent=self.sent_count, acknowledged=len(self.acknowledged), read=self._read
        )


def read_rows(path: Path) -> list[Row]:
    """Return the rows of *path* (``2010/01/31 00:00,39.4``), the day as key, the month as tag."""
    lines = path.read_bytes().splitlines()[1:]
    return [
        Row(number, line[:10].decode(), line[:7].decode().replace("/", "-"), line)
        for number, line in enumerate(lines)
    ]


def _leader(view: GroupView) -> NodeAnswer:
    if view.leader is None:
        raise DemoError("nobody leads just when a leader was wanted; run the demonstration again")
    return view.leader


def _term(answer: NodeAnswer) -> int:
    return answer.status.term if answer.status else 0


def _end(answer: NodeAnswer) -> int:
    return answer.status.end_index if answer.status else 0


def _commit(answer: NodeAnswer) -> int:
    return answer.status.commit_index if answer.status else -1


async def _run(folder: Path, screen: Screen) -> tuple[Demo, Verdict]:
    plan = GroupPlan(node_count=3, base_port=find_base_port(3), segment_size=16 * MIB)
    group = LocalGroup.find_or_create(folder, plan)
    group.end_with_us()
    demo = Demo(group, read_rows(DATA), screen)
    verdict: Verdict | None = None
    try:
        with (
            trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals,
            trio.move_on_after(LIMIT_SECONDS),
        ):
            async with trio.open_nursery() as nursery:

                async def stop_on_signal() -> None:
                    number = await anext(signals)
                    raise DemoError(f"got {signal.Signals(number).name}")

                nursery.start_soon(stop_on_signal)
                verdict = await demo.run()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await demo.group.stop()
    if verdict is None:
        raise DemoError(f"not done after {LIMIT_SECONDS:g} s")
    return demo, verdict


def main() -> int:
    """Run the demonstration and return the exit code."""
    screen = Screen()
    folder = Path(tempfile.mkdtemp(prefix="dledger-demo-"))
    try:
        demo, verdict = trio.run(_run, folder, screen)
    except (*_EXPECTED, KeyboardInterrupt, BaseExceptionGroup) as error:
        cause = first_leaf(error)
        if isinstance(cause, KeyboardInterrupt):
            screen.say("interrupted; the nodes are stopped")
            shutil.rmtree(folder, ignore_errors=True)
            return 130
        if not isinstance(cause, _EXPECTED):
            raise
        screen.say(f"stopped: {cause}; the nodes' logs and data are kept in {folder}")
        return 1
    for failure in demo.failures[:5]:
        screen.say(failure)
    screen.show_verdict(verdict)
    if verdict.is_clean:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    screen.say(f"the nodes' logs and data are kept in {folder}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
