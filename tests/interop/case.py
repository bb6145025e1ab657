"""One client in one scenario: a topic and a group of its own, and what it found out.

A scenario runs on a group that is left alone, or with others side by side on one whose leader is
killed when all of them are in the middle of what they do.
"""

from __future__ import annotations

import contextlib
import itertools
import zlib
from typing import TYPE_CHECKING, Any

import trio

from broker.config import RouteMode
from tests.interop import clients

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable
    from pathlib import Path

    import broker
    from tests.interop.clients import Client, Kind
    from tests.process.kit import ProcessGroup

QUEUES = 4
ENOUGH = 30  # messages before the middle, and after
INTERVAL = 0.02  # seconds between two messages
PULSE = 0.1  # seconds between two looks at the clock
STILL_SECONDS = 1.0  # a machine that stands still for longer uses up its clients' patience
ZLIB = b"\x78\x9c"  # how what is compressed begins, and no body of ours

_numbers = itertools.count(1)


class Middle:
    """Where all scenarios wait for one another, until the leader is dead."""

    def __init__(self, count: int) -> None:
        self._missing = count
        self._complete = trio.Event()
        self._passed = trio.Event()
        self.passed_at = 0.0  # trio's time

    async def reached(self) -> None:
        """Wait here until the leader has been killed."""
        self.leave()
        await self._passed.wait()

    def leave(self) -> None:
        """One less to wait for."""
        self._missing -= 1
        if self._missing <= 0:
            self._complete.set()

    async def complete(self) -> None:
        """Wait until all are there."""
        await self._complete.wait()

    def open(self) -> None:
        """Let all go on."""
        self.passed_at = trio.current_time()
        self._passed.set()


class Pulse:
    """For how long this machine stood still, or had no time for this process.

    Clients wait for 3 s and then ask again: what they do twice was not the broker's doing.
    """

    def __init__(self) -> None:
        self.longest = 0.0  # seconds

    async def beat(self) -> None:
        """Look at the clock until cancelled."""
        while True:
            before = trio.current_time()
            await trio.sleep(PULSE)
            self.longest = max(self.longest, trio.current_time() - before - PULSE)


class Case:
    """What a scenario is given."""

    def __init__(
        self,
        kind: Kind,
        scenario: str,
        *,
        group: ProcessGroup,
        mq: broker.Session,
        producer: broker.Producer,
        home: Path,
        pulse: Pulse,
        servers: str = "",
        middle: Middle | None = None,
    ) -> None:
        self.kind = kind
        self.scenario = scenario
        self.mq = mq
        self.facts: dict[str, str] = {}  # for the table
        route = next(iter(group)).config.nameserver.route
        self.has_single_name = route is RouteMode.SINGLE  # with which sends fail over a failover
        self._name = f"{scenario}-{kind}-{next(_numbers)}"
        self.topic = f"T-{self._name}"
        self.readers = f"readers-{self._name}"
        self._servers = servers or ";".join(group.addresses)  # every node is a name server
        self._producer = producer
        self._home = home / self._name
        self._home.mkdir()
        self._pulse = pulse
        self._middle = middle
        self._is_past_middle = False

    @property
    def is_calm(self) -> bool:
        """Whether nobody is killed."""
        return self._middle is None

    async def middle(self) -> None:
        """Be in the middle of it: return when the leader is dead, or at once when none is to be."""
        if self._middle is not None:
            self._is_past_middle = True
            await self._middle.reached()

    def over(self) -> None:
        """Nobody need wait for this one any longer."""
        if self._middle is not None and not self._is_past_middle:
            self._middle.leave()

    async def create_topic(self) -> None:
        """Create the topic; not all nodes need know of it yet."""
        await self.mq.admin.create_topic(self.topic, QUEUES)

    async def settle_group(self, **settings: Any) -> None:
        """Give the consumer group settings of its own."""
        await self.mq.admin.create_group(self.readers, **settings)

    def run(self, role: str, **told: Any) -> contextlib.AbstractAsyncContextManager[Client]:
        """Run one of this client's scripts: ``async with case.run("consumer") as consumer``."""
        order = {
            "servers": self._servers,
            "topic": self.topic,
            "group": f"senders-{self._name}" if role == "producer" else self.readers,
            **told,
        }
        return clients.running(self.kind, role, order, home=self._home)

    async def produced(self, bodies: Iterable[str], **kinds: Any) -> None:
        """Send *bodies* with our own client, evenly over the queues."""
        for number, body in enumerate(bodies):
            await self._producer.send(self.topic, body.encode(), queue=number % QUEUES, **kinds)

    @contextlib.asynccontextmanager
    async def trickle(self, prefix: str = "m", **kinds: Any) -> AsyncIterator[Trickle]:
        """Send with our own client until the block is left, or it is stopped."""
        sent = Trickle()

        async def send() -> None:
            for number in itertools.count():
                body = f"{prefix}{number:05}"
                queue = number % QUEUES
                result = await self._producer.send(self.topic, body.encode(), queue=queue, **kinds)
                assert result.unique_id
                sent.ids[body] = result.unique_id
                sent.append(body)
                with trio.move_on_after(INTERVAL):
                    await sent.told_to_stop.wait()
                if sent.told_to_stop.is_set():
                    sent.has_stopped.set()
                    return

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            yield sent
            await sent.stop()

    def logged(self, part: str) -> list[str]:
        """Return the lines with *part* of what a C++ client writes into its home folder."""
        paths = self._home.glob("logs/rocketmq-cpp/*")
        lines = (line for path in paths for line in path.read_text(errors="replace").splitlines())
        return [line for line in lines if part in line]

    async def more(self, sent: list[str], count: int = ENOUGH) -> None:
        """Wait until *sent* has become longer by *count*."""
        end = len(sent) + count
        with trio.fail_after(clients.SECONDS):
            while len(sent) < end:  # noqa: ASYNC110
                await trio.sleep(INTERVAL)

    async def until_consumed(
        self, bodies: Iterable[str], *consumers: Client, seconds: float = clients.SECONDS
    ) -> None:
        """Wait until *consumers* together have consumed *bodies*."""
        wanted = set(bodies)

        def missing() -> set[str]:
            return wanted - {body for client in consumers for body in client.bodies}

        with trio.move_on_after(seconds):
            while missing():  # noqa: ASYNC110
                await trio.sleep(0.02)
            return
        told = "\n".join(client.told for client in consumers)
        raise AssertionError(f"{self._name}: never consumed: {sorted(missing())}; it told\n{told}")

    async def until_committed(self) -> None:
        """Wait until its group has committed all there is: clients do so every 5 s."""
        admin = self.mq.admin
        with trio.fail_after(clients.SECONDS):
            for queue in range(QUEUES):
                end = await admin.max_offset(self.topic, queue)
                while await admin.committed_offset(self.readers, self.topic, queue) != end:  # noqa: ASYNC110
                    await trio.sleep(0.1)

    @contextlib.asynccontextmanager
    async def read(self, topic: str = "") -> AsyncIterator[Reading]:
        """Read a topic with our own client until the block is left."""
        reading = Reading(f"{self._name} {topic}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, topic or self.topic, reading)
            yield reading
            nursery.cancel_scope.cancel()

    async def _read(self, topic: str, reading: Reading) -> None:
        async with self.mq.consumer(f"checkers-{self._name}", topic) as consumer:
            async for message in consumer:
                reading.messages.append(message)
                reading.times.append(trio.current_time())

    def same(self, found: list[str], expected: Iterable[str]) -> None:
        """Expect all of *expected* and nothing else: once each, unless somebody had to ask again.

        As where a leader died, or the machine stood still.
        """
        wanted = sorted(set(expected))
        lost, strange = set(wanted) - set(found), set(found) - set(wanted)
        assert not lost, f"{self._name}: acknowledged, and lost: {lost}"
        assert not strange, f"{self._name}: came, and was not sent: {strange}"
        if self.is_calm and self._pulse.longest < STILL_SECONDS:
            twice = {body for body in wanted if found.count(body) > 1}
            assert not twice, f"{self._name}: came more than once: {twice}"
            return
        if self.is_calm:
            self.facts["the machine stood still"] = f"{self._pulse.longest:.1f} s"
        self.facts["twice"] = str(len(found) - len(wanted))

    def tell_sends(self, producer: Client) -> None:
        """Note how sends went, for the table."""
        calls = producer.of("sent", "failed")
        begun = next(number for number, event in enumerate(calls) if event["event"] == "sent")
        # A program that has just begun on a busy machine may take longer than its own patience.
        failed = [event for event in calls[begun:] if event["event"] == "failed"]
        if begun:
            self.facts["failed before the first ack"] = str(begun)
        self.facts["calls"] = str(len(calls) - begun)
        self.facts["failed"] = str(len(failed))
        if failed:
            self.facts["why"] = str(failed[0]["why"]).split("\n")[0][:120]
        if self._middle is not None:
            killed_at = self._middle.passed_at
            acks = [event["seen"] for event in producer.of("sent") if event["seen"] > killed_at - 1]
            gap = max(later - earlier for earlier, later in itertools.pairwise(acks))
            slowest = max(event["seconds"] for event in producer.of("sent"))
            self.facts["without an ack"] = f"{gap:.2f} s"
            self.facts["slowest"] = f"{slowest:.2f} s"


class Trickle(list[str]):
    """The bodies that our own client has sent so far and that were acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: dict[str, str] = {}  # by body, the unique id of its message
        self.told_to_stop = trio.Event()
        self.has_stopped = trio.Event()

    async def stop(self) -> None:
        """Send no more; these are all."""
        self.told_to_stop.set()
        await self.has_stopped.wait()


class Reading:
    """What our own client has read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.messages: list[Any] = []
        self.times: list[float] = []  # trio's, when each came

    @property
    def bodies(self) -> list[str]:
        """The bodies, without what makes some of them long."""
        return [_plain(message.body).decode().rstrip("x") for message in self.messages]

    @property
    def twice_compressed(self) -> set[str]:
        """Bodies that came compressed, and with nothing that says so."""
        found = zip(self.messages, self.bodies, strict=True)
        return {body for message, body in found if message.body.startswith(ZLIB)}

    async def until(self, what: str, holds: Callable[[Reading], object]) -> None:
        """Wait until *holds* of this."""
        with trio.move_on_after(clients.SECONDS):
            while not holds(self):  # noqa: ASYNC110
                await trio.sleep(0.02)
            return
        raise AssertionError(f"{self.name}: {what}: {len(self.messages)}: {self.bodies[-20:]}")

    async def until_quiet(self) -> None:
        """Wait until nothing more has come for a second."""
        count = -1
        while count < len(self.messages):
            count = len(self.messages)
            await trio.sleep(1.0)

    async def until_there(self, bodies: Iterable[str]) -> None:
        """Wait until it has read all *bodies*."""
        wanted = set(bodies)
        await self.until(f"all of {len(wanted)}", lambda reading: wanted <= set(reading.bodies))


def _plain(body: bytes) -> bytes:
    """Return a body as it was meant: ali-ons compresses in place, and again what it sends again."""
    while body.startswith(ZLIB):
        body = zlib.decompress(body)
    return body
