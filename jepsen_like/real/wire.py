"""The network between the nodes and their clients, and all that can be done to it."""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from jepsen_like.real.proof import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jepsen_like.real.namespaces import Namespace

_ANSWER_SECONDS = 10.0
_SWITCH = Path(__file__).with_name("switch.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What happens to the packets of one directed link; the switch tosses for each packet."""

    cut: bool = False  # nothing passes
    delay_ms: float = 0.0
    jitter_ms: float = 0.0  # the delay is even in delay ± jitter; the order is kept
    loss: float = 0.0  # share of packets that vanish, 0 to 1
    duplicate: float = 0.0  # share that arrives twice
    reorder: float = 0.0  # share that is held back for *reorder_ms*, so that others overtake
    reorder_ms: float = 10.0
    corrupt: float = 0.0  # share with one changed byte behind the Ethernet header
    rate_bits: float = 0.0  # bits per second; 0 is no limit
    queue_bytes: int = 256 * 1024  # waiting for the rate; what finds it full vanishes


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkCounters:
    """What has happened to the packets of a directed link; they only grow."""

    received: int = 0  # packets that came in
    forwarded: int = 0  # and went out; a duplicate counts again
    forwarded_bytes: int = 0
    cut: int = 0  # dropped by a cut
    lost: int = 0  # dropped by chance
    overrun: int = 0  # dropped by a full queue
    delayed: int = 0  # went out later than they could have
    duplicated: int = 0
    corrupted: int = 0
    reordered: int = 0  # went out after one that came in later

    @property
    def dropped(self) -> int:
        """All that came in and never went out."""
        return self.cut + self.lost + self.overrun

    def __sub__(self, before: LinkCounters) -> LinkCounters:
        """What happened since *before*."""
        return LinkCounters(
            **{
                field.name: getattr(self, field.name) - getattr(before, field.name)
                for field in dataclasses.fields(self)
            }
        )

    def __add__(self, other: LinkCounters) -> LinkCounters:
        return LinkCounters(
            **{
                field.name: getattr(self, field.name) + getattr(other, field.name)
                for field in dataclasses.fields(self)
            }
        )


Link = tuple[str, str]  # from, to


class Wire:
    """The handle of the lab's switch.  Every change holds when the call returns."""

    def __init__(
        self, *, ports: dict[str, tuple[str, str]], namespace: Namespace, log_path: Path, seed: int
    ) -> None:
        """Describe it; `open` starts it.

        Args:
            ports: for each end the switch's interface and the end's MAC address.
            namespace: the switch's.
            log_path: where it tells of its own troubles.
            seed: of its dice.
        """
        self.ends = list(ports)
        self._ports = ports
        self._namespace = namespace
        self._log_path = log_path
        self._seed = seed
        self._process: subprocess.Popen[bytes] | None = None
        self._requests = itertools.count(1)
        self._lock = trio.Lock()
        self._missed = 0

    async def cut(self, source: str, target: str) -> None:
        """Let nothing pass from *source* to *target*; the other direction is not touched."""
        await self.shape_links([(source, target)], Shape(cut=True))

    async def heal(self, source: str, target: str) -> None:
        """Let everything pass at once from *source* to *target*."""
        await self.shape_links([(source, target)], Shape())

    async def shape(self, source: str, target: str, shape: Shape) -> None:
        """Treat what goes from *source* to *target* as *shape* says, instead of as before."""
        await self.shape_links([(source, target)], shape)

    async def shape_links(self, links: Iterable[Link], shape: Shape) -> None:
        """Do `shape` to many links in the same instant."""
        await self._ask("shape", links=[list(link) for link in links], **dataclasses.asdict(shape))

    async def partition(self, *sides: Iterable[str]) -> list[Link]:
        """Cut every link between the *sides*, both ways; return the links."""
        groups = [list(side) for side in sides]
        links = [
            (source, target)
            for here, there in itertools.permutations(groups, 2)
            for source in here
            for target in there
        ]
        await self.shape_links(links, Shape(cut=True))
        return links

    async def clear(self) -> None:
        """Let everything pass at once on all links; the counters stay."""
        await self.shape_links(itertools.permutations(self.ends, 2), Shape())

    async def counters(self) -> dict[Link, LinkCounters]:
        """Return what has happened so far on every directed link."""
        answer = await self._ask("counters")
        self._missed += int(answer["missed"])
        return {(item[0], item[1]): LinkCounters(**item[2]) for item in answer["links"]}

    async def strays(self) -> int:
        """Return how many packets came to the switch that it could not or did not forward.

        Not by a rule: to an address nobody has, or faster than it could look at them.  In a sound
        run none.
        """
        answer = await self._ask("counters")
        self._missed += int(answer["missed"])  # the kernel counts from the last look
        return int(answer["strays"]) + self._missed

    # -- the switch's process -------------------------------------------------------------------

    async def open(self) -> None:
        """Start the switch; returns when it forwards.

        Raises:
            LabError: it does not.
        """
        self._start()
        await self._ask("open", ports=self._ports, seed=self._seed)

    def _start(self) -> None:
        with self._log_path.open("ab") as log:
            self._process = self._namespace.start(
                [sys.executable, "-I", str(_SWITCH)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    async def close(self) -> None:
        """End the switch."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            await trio.to_thread.run_sync(process.wait)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    async def _ask(self, verb: str, **arguments: Any) -> dict[str, Any]:  # noqa: ANN401
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise LabError("the switch does not run")
        request = {"id": next(self._requests), "do": verb, **arguments}
        async with self._lock:
            line = b""
            # Shielded, as an answer nobody has read would be taken for that to the next question;
            # only a switch that has lost its way is given up, and the run with it.
            with trio.move_on_after(_ANSWER_SECONDS, shield=True):
                line = await trio.to_thread.run_sync(
                    _exchange,
                    process,
                    json.dumps(request).encode() + b"\n",
                    abandon_on_cancel=True,
                )
        if not line:
            said = self._log_path.read_text(errors="replace").strip()
            raise LabError(f"the switch does not answer: {said}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer or answer["id"] != request["id"]:
            raise LabError(f"the switch refuses {verb}: {answer.get('error', answer)}")
        return answer


def _exchange(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()
