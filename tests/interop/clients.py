"""RocketMQ's own clients as subprocesses: told what to do, and listened to.

Each runs in a process and an environment of its own: the C++ cores may crash, and none may find
anything of ours.  What they do is in ``scripts/``; they tell it in JSON lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from tests.interop import installs

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

SECONDS = 45.0  # RocketMQ's clients ask for a new route every 30 s
NOISE_LINES = 50
# A program that lives for seconds: nothing of it is worth the second compiler, or a second core.
_JAVA = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx128m")


@dataclass(frozen=True, eq=False)
class Kind:
    """One of the clients, and what it cannot do by itself."""

    name: str
    package: str
    why_not: Callable[[], str]  # installs it; "" when it is there
    cannot: Mapping[str, str] = field(default_factory=dict)  # by scenario, the reason
    # Its consumer crashes when it is shut down, so that it gives nothing back: no last commit, no
    # queue locks, which last for RocketMQ's 60 s.
    crashes_at_end: bool = False
    # Of messages pulled at once the first that fails takes the others along, untried.
    fails_together: bool = False
    # It does not keep what it cannot give back: no answer for 3 s, or its own table of connections
    # is busy.
    forgets: bool = False
    # A message that it has to send again is compressed once more, and does not say so.
    compresses_in_place: bool = False
    times_max: int = 1  # how often a message comes again that may do so once

    def __str__(self) -> str:
        return self.name

    def command(self, role: str, told: str, home: Path) -> list[str]:
        """Return the command for *role*: producer, consumer or puller."""
        script = installs.SCRIPTS / f"{self.name}_{role}"
        if self.name == "java":
            verb = {"producer": "produce", "consumer": "consume", "puller": "pull"}[role]
            place = ["-cp", installs.java_class_path(), f"-Duser.home={home}"]
            return [*_JAVA, *place, "Interop", verb, told]
        if self.name == "ali":
            return ["node", f"{script}.js", told]
        python = installs.STOCK_PYTHON if self.name == "stock" else installs.RCP_PYTHON
        return [str(python), f"{script}.py", told]


_NOT_LITE = "only Java's client has one"
STOCK = Kind(
    "stock",
    f"PyPI {installs.STOCK_PACKAGE.replace('==', ' ')}",
    installs.why_no_stock,
    {"async": "its callbacks come in threads of its core", "lite": _NOT_LITE},
    fails_together=True,
    forgets=True,
)
RCP = Kind(
    "rcp",
    f"PyPI {installs.RCP_PACKAGE.replace('==', ' ')}",
    installs.why_no_rcp,
    {
        "async": "its package has no callbacks for sends",
        "pull": "its package has no pull consumer",
        "lite": _NOT_LITE,
    },
    crashes_at_end=True,
    fails_together=True,
    times_max=16,  # it asks for so many, whatever its group says
)
ALI = Kind(
    "ali",
    f"npm {installs.NODE_PACKAGES[0].replace('@', ' ')}",
    installs.why_no_ali,
    {
        "async": "every send of it is: `sync` awaits each",
        "oneway": "it waits for every answer",
        "batch": "it has no batches",
        "pull": "it has no pull consumer",
        "lite": _NOT_LITE,
        "orderly": "it knows no queue locks",
    },
    compresses_in_place=True,
)
JAVA = Kind("java", f"Java {installs.JAVA_VERSION}", installs.why_no_java)
KINDS = (STOCK, RCP, ALI, JAVA)


class Client:
    """One running script, and what it has told so far."""

    def __init__(self, process: trio.Process, name: str) -> None:
        self.process = process
        self.name = name
        self.events: list[dict[str, Any]] = []
        self.noise: list[str] = []
        self._changed = trio.Event()

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events of some kinds, in order."""
        return [event for event in self.events if event["event"] in kinds]

    @property
    def bodies(self) -> list[str]:
        """Bodies of the messages that were consumed, in order."""
        return [event["body"] for event in self.of("got")]

    @property
    def sent(self) -> list[str]:
        """Bodies of the messages that were acknowledged, in order."""
        return [body for event in self.of("sent") for body in event["bodies"]]

    async def until(
        self, what: str, holds: Callable[[Client], object], *, seconds: float = SECONDS
    ) -> Any:
        """Wait until *holds* of this client; return what it came to."""
        with trio.move_on_after(seconds):
            while not (found := holds(self)):
                self._changed = trio.Event()
                await self._changed.wait()
            return found
        raise AssertionError(f"{self.name}: not within {seconds:g} s: {what}; it told\n{self.told}")

    @property
    def told(self) -> str:
        """What it has told last, for people."""
        return "\n".join(str(line)[:300] for line in [*self.events[-12:], *self.noise[-12:]])

    async def started(self) -> None:
        """Wait until it is connected."""
        await self.until("started", lambda client: client.of("started"))

    async def ended(self, *, seconds: float = SECONDS) -> None:
        """Wait until the script is through with what it was told."""
        await self.until("the end", lambda client: client.of("ended"), seconds=seconds)

    async def sends_no_more(self) -> None:
        """Tell a producer to end, and wait until it has heard of all it sent."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        await self.until("its last send", lambda client: client.of("through"))

    async def stop(self) -> None:
        """Tell it to end in good order, and wait until its process has."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.move_on_after(SECONDS):
            await self.process.wait()

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    async def listen(self) -> None:
        """Take in what it tells until it ends."""
        assert self.process.stdout is not None
        rest = b""
        async for piece in self.process.stdout:
            *lines, rest = (rest + piece).split(b"\n")
            for line in lines:
                try:
                    event = json.loads(line)
                except ValueError:
                    event = None
                if isinstance(event, dict) and "event" in event:
                    self.events.append(event | {"seen": trio.current_time()})
                else:  # the C++ core prints as it likes
                    self.noise.append(line.decode(errors="replace"))
            self._changed.set()

    async def hear_noise(self) -> None:
        """Keep what it says of its troubles."""
        assert self.process.stderr is not None
        async for piece in self.process.stderr:
            self.noise += piece.decode(errors="replace").splitlines()
            del self.noise[:-NOISE_LINES]


@contextlib.asynccontextmanager
async def running(
    kind: Kind, role: str, told: dict[str, Any], *, home: Path
) -> AsyncIterator[Client]:
    """Run one of the scripts until the block is left.

    Args:
        kind: whose.
        role: producer, consumer or puller.
        told: what it is told; see ``scripts/telling.py``.
        home: its home folder, where the cores write logs and all keep local offsets.
    """
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "NODE_PATH": str(installs.NODE_MODULES),
    }
    process = await trio.lowlevel.open_process(
        kind.command(role, json.dumps(told), home),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=home,
    )
    client = Client(process, f"{kind} {role} {told.get('instance', '')}")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.listen)
            nursery.start_soon(client.hear_noise)
            yield client
            nursery.cancel_scope.cancel()
    finally:
        client.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
