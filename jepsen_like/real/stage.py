"""What a script plays on: it harms by hand, and says of every state whether it was reached."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence

    from jepsen_like.faults.group import TraceKind
    from jepsen_like.history import History
    from jepsen_like.real.real_group import RealGroup
    from jepsen_like.real.real_member import RealMember

REACH_SECONDS = 20.0  # for a state that a healthy group comes to within a few seconds
_LOOK_SECONDS = 0.05


class NotReachedError(Exception):
    """A state that the script is about did not come: it has shown nothing."""


class Stage:
    """The group, and the book that is kept of what was done to it."""

    def __init__(self, group: RealGroup, history: History, chance: random.Random) -> None:
        self.group = group
        self.history = history
        self.chance = chance
        self.unproven: list[str] = []  # faults that did not show on all whom they hit

    @property
    def members(self) -> list[RealMember]:
        """All members."""
        return self.group.members

    def others(self, *members: RealMember) -> list[RealMember]:
        """Return all but *members*."""
        return [member for member in self.members if member not in members]

    async def reach(
        self, what: str, holds: Callable[[], bool], *, seconds: float = REACH_SECONDS
    ) -> None:
        """Wait until *holds*, and note that it came to it.

        Raises:
            NotReachedError: it did not, in time.
        """
        with trio.move_on_after(seconds):
            while True:
                if holds():
                    self.history.note("reached", v=what)
                    return
                await trio.sleep(_LOOK_SECONDS)
        raise NotReachedError(f"not within {seconds:g} s: {what}")

    async def leader(
        self, among: Iterable[RealMember] | None = None, *, above_term: int = 0
    ) -> RealMember:
        """Wait for one of *among* to lead in a term above *above_term*."""
        candidates = list(self.members if among is None else among)
        names = ", ".join(member.name for member in candidates)

        def leading() -> RealMember | None:
            found = [m for m in candidates if m.is_leader and m.term > above_term]
            return max(found, key=lambda member: member.term, default=None)

        await self.reach(f"one of {names} leads after term {above_term}", lambda: bool(leading()))
        found = leading()
        return found if found is not None else await self.leader(among, above_term=above_term)

    async def all_up(self) -> None:
        """Wait until every member serves."""
        await self.reach("all members serve", lambda: all(m.is_up for m in self.members))

    @asynccontextmanager
    async def fault(
        self, name: str, members: Sequence[RealMember], of: TraceKind | None = None
    ) -> AsyncIterator[list[str]]:
        """Note a fault that lasts as long as the block; it has to leave traces.

        Args:
            name: of the fault.
            members: whom it hits.
            of: what must show of it on each of them; else the block puts evidence into the list.
        """
        text = f"{name} {','.join(member.name for member in members)}"
        before = {m: len(await m.traces(of)) for m in members} if of else {}
        evidence: list[str] = []
        self.history.note("fault", v=text)
        try:
            yield evidence
        finally:
            with trio.CancelScope(shield=True):
                unproven = []
                for member, count in before.items():
                    assert of is not None
                    new = (await member.traces(of))[count:]
                    evidence += new
                    unproven += [member.name] if not new else []
                err = f"nothing showed of it on {', '.join(unproven)}" if unproven else None
                if not evidence:
                    err = "nothing showed of it"
                if err:
                    self.unproven.append(f"{text}: {err}")
                self.history.note("effect", v=[text, "; ".join(evidence)], err=err)
                self.history.note("heal", v=text)

    @asynccontextmanager
    async def partition(
        self, one: Sequence[RealMember], others: Sequence[RealMember], *, name: str = "partition"
    ) -> AsyncIterator[None]:
        """Cut *one* off from *others*, both ways, as long as the block lasts."""
        links = self.group.links
        ways = [
            way
            for here in one
            for there in others
            for way in ((here.address, there.address), (there.address, here.address))
        ]
        async with self.fault(name, one) as evidence:
            for way in ways:
                await links.cut(*way)
            try:
                yield
            finally:
                with trio.CancelScope(shield=True):
                    evidence += filter(None, [await links.traces(ways)])
                    for way in ways:
                        await links.heal(*way)

    async def at_once(self, actions: Iterable[Callable[[], object]]) -> None:
        """Do all *actions*, each an async function, at the same time."""
        async with trio.open_nursery() as nursery:
            for action in actions:
                nursery.start_soon(action)  # type: ignore[arg-type]
