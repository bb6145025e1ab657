"""What faults are done to: a group, its members and the links between hosts.

`jepsen_like.sim` and `jepsen_like.real` offer the same verbs, one in virtual time and one with
processes, namespaces and file systems, so that a fault is written once.

A fault has to prove that it took effect.  Members and links therefore tell what shows of it
(`Member.traces`, `Links.traces`): the pid that is gone, bytes that were lost, packets dropped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Sequence

    import trio

TraceKind = Literal[
    "kill", "power", "pause", "stop", "wipe", "step", "transfer",
    "slow", "stall", "full", "failed-sync", "rot", "clock", "limit",
]  # fmt: skip
FileKind = Literal["commitlog", "index", "derived", "vote", "checkpoint"]
Way = tuple[str, str]  # from one host's address to another's


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a link treats what passes one way; probabilities are per packet."""

    delay: float = 0.0  # seconds on top of what the link takes anyway
    jitter: float = 0.0  # seconds, more or less
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    corrupt: float = 0.0
    rate_bits: int = 0  # bits a second; 0 for no limit


class Member(Protocol):
    """A machine that runs a node, or does not."""

    @property
    def name(self) -> str:
        """Its node id."""

    @property
    def address(self) -> str:
        """Its IP address."""

    @property
    def is_up(self) -> bool:
        """Whether a node runs here and takes connections."""

    @property
    def is_running(self) -> bool:
        """Whether there is a process, however far it has come."""

    def expect(self, error: type[BaseException]) -> None:
        """Take *error* as a last word for the work of a fault from now on."""

    async def traces(self, of: TraceKind) -> list[str]:
        """Return what shows of such faults so far, oldest first."""

    async def kill(self) -> None:
        """End its process at once; it is started again unless held down."""

    async def pause(self) -> None:
        """Stop its process in the middle of whatever it does (SIGSTOP)."""

    async def resume(self) -> None:
        """Let it go on (SIGCONT)."""

    async def stop_gracefully(self) -> None:
        """Have it stop as SIGTERM does, and wait until it has."""

    def hold_down(self) -> None:
        """Start no process until `start`."""

    def start(self) -> None:
        """Let a process run here from now on."""

    async def wipe(self) -> None:
        """Put an empty disk in the place of this one."""

    async def die_in_steps(self, step_count: int, *, power: bool) -> None:
        """Die at that many changes to the disk from now, in the middle of the last one."""

    async def transfer(self, target: str | None) -> None:
        """Ask it to hand its lead to *target*, or to whom it likes."""

    async def slow_disk(self, factor: float) -> None:
        """Make its disk that many times slower; 1 for as it was."""

    async def stall_disk(self) -> None:
        """Let nothing come back from its disk."""

    async def unstall_disk(self) -> None:
        """Take back one `stall_disk`."""

    async def fill_disk(self, *, room: int) -> None:
        """Leave so many bytes of room on its disk."""

    async def empty_disk(self) -> None:
        """Give it its room back."""

    async def fail_next_sync(self) -> None:
        """Have its next sync fail, and the dirty pages forgotten."""

    async def rot(self, kind: FileKind, chance: random.Random) -> str:
        """Kill it and turn bits in one of its files; return which, "" when there is none."""

    async def shift_wall_clock(self, milliseconds: int) -> None:
        """Set its wall clock forwards or backwards."""


class Links(Protocol):
    """The ways between hosts, each direction by itself."""

    async def cut(self, source: str, target: str) -> None:
        """Let nothing pass; one heal is needed for each cut."""

    async def heal(self, source: str, target: str) -> None:
        """Take back one `cut`."""

    async def shape(self, source: str, target: str, shape: Shape) -> None:
        """Let all pass in that shape."""

    async def unshape(self, source: str, target: str) -> None:
        """Let all pass as usual."""

    async def traces(self, ways: Iterable[Way]) -> str:
        """Return what shows that these ways are cut or shaped, "" when nothing does."""


class Group(Protocol):
    """All members, and what is known of how whole they are."""

    unsound: set[str]  # members that may lack what they once promised
    nursery: trio.Nursery | None  # for what faults do over time

    @property
    def members(self) -> Sequence[Member]:
        """All of them, whether they run or not."""

    @property
    def leader(self) -> Member | None:
        """The running member that leads in the highest term, as far as is known."""

    @property
    def links(self) -> Links:
        """The ways between the hosts of members and clients."""

    async def may_harm(self, member: Member) -> bool:
        """Whether *member*'s disk may lose what it holds: every other one is whole and caught up.

        The atlas of the good copies: one member at a time, and only while all others hold
        everything that this one may have promised.
        """

    async def lose_power(self, members: Sequence[Member]) -> None:
        """Let the power of all *members* fail at the same time."""

    async def may_lose_disk(self, member: Member) -> bool:
        """Whether *member*'s disk may be gone: no other was, and every other member may vote.

        Others may be down or behind: a member that knows that it has lost its disk neither votes
        nor counts until it has everything, so what it had promised is safe with those who remain.
        """

    def client_addresses(self) -> list[str]:
        """Return where clients are."""


def majority(group: Group) -> int:
    """Return how many members make a majority."""
    return len(group.members) // 2 + 1
