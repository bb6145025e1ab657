"""RocketMQ's own clients as subprocesses: installed once, told what to do, listened to.

Each runs in a process and an environment of its own: the C++ core of PyPI's rocketmq may crash,
and neither may find anything of ours.  What they do is in ``scripts/``; they tell it in JSON lines.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

SCRIPTS = Path(__file__).parent / "scripts"
CACHE = Path(
    os.environ.get("INTEROP_CACHE", Path(__file__).parents[2] / ".interop")
)  # what was installed, kept between runs
PYTHON_PACKAGE = "rocketmq==0.4.4"
NODE_PACKAGES = ("ali-ons@3.12.0", "urllib@2")
INSTALL_SECONDS = 240.0
SECONDS = 45.0  # RocketMQ's clients ask for a new route every 30 s

PYTHON = CACHE / "python" / "bin" / "python"
NODE_MODULES = CACHE / "node" / "node_modules"


@functools.cache
def why_no_python_client() -> str:
    """Install PyPI's rocketmq; return why it cannot be had, "" when it can."""
    stamp = CACHE / "python" / PYTHON_PACKAGE
    if stamp.exists():
        return ""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "PyPI's rocketmq brings a library for Linux on x86_64 only"
    made = _run([sys.executable, "-m", "venv", "--clear", CACHE / "python"])
    made = made or _run([PYTHON, "-m", "pip", "install", "--quiet", PYTHON_PACKAGE])
    if not made:
        stamp.touch()
    return made


@functools.cache
def why_no_node_client() -> str:
    """Install npm's ali-ons; return why it cannot be had, "" when it can."""
    stamp = CACHE / "node" / "-".join(NODE_PACKAGES)
    if stamp.exists():
        return ""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "node and npm are not installed"
    stamp.parent.mkdir(parents=True, exist_ok=True)
    (stamp.parent / "package.json").write_text('{"private": true}')
    made = _run(
        ["npm", "install", "--no-audit", "--no-fund", "--silent", *NODE_PACKAGES], stamp.parent
    )
    if not made:
        stamp.touch()
    return made


def _run(command: list[Any], folder: Path | None = None) -> str:
    """Run an installer; return why it failed, "" when it has not."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{' '.join(words)}: {error}"
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        return f"{' '.join(words)}: {said[-1] if said else done.returncode}"
    return ""


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
        raise AssertionError(
            f"{self.name}: not within {seconds:g} s: {what}; it told\n"
            + "\n".join(map(str, [*self.events[-15:], *self.noise[-15:]]))
        )

    async def started(self) -> None:
        """Wait until it is connected."""
        await self.until("started", lambda client: client.of("started"))

    async def ended(self, *, seconds: float = SECONDS) -> None:
        """Wait until the script is through with what it was told."""
        await self.until("the end", lambda client: client.of("ended"), seconds=seconds)

    async def stop(self) -> None:
        """Let a consumer shut down in good order."""
        assert self.process.stdin is not None
        await self.process.stdin.aclose()
        with trio.move_on_after(10.0):
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


@contextlib.asynccontextmanager
async def running(script: str, told: dict[str, Any], *, home: Path) -> AsyncIterator[Client]:
    """Run one of the scripts until the block is left.

    Args:
        script: file name in ``scripts/``.
        told: what it is told; see there.
        home: its home folder, where the C++ core writes logs and both keep local offsets.
    """
    is_python = script.endswith(".py")
    command = [str(PYTHON) if is_python else "node", str(SCRIPTS / script), json.dumps(told)]
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], "NODE_PATH": str(NODE_MODULES)}
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        cwd=home,
    )
    client = Client(process, f"{script} {told.get('instance', '')}")
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.listen)
            yield client
            nursery.cancel_scope.cancel()
    finally:
        client.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
