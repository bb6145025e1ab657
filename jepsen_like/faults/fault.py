"""What every fault offers."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, TypeVar

import trio

from jepsen_like.faults.group import majority

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Iterable

    from jepsen_like.faults.group import Group, Member, TraceKind

T = TypeVar("T")
Target = Literal["", "one", "leader", "majority", "all"]


class Fault:
    """One fault; an object of it is one occurrence, injected once and healed once.

    Nothing here waits by itself: under the simulator an occurrence is over in the step it began.
    """

    name: ClassVar[str]
    where: ClassVar[Literal["both", "sim", "real"]] = "both"
    nodes_min: ClassVar[int] = 1
    allows_async: ClassVar[bool] = True  # whether ASYNC_FLUSH promises to survive it
    weight: ClassVar[float] = 1.0
    is_drawn: ClassVar[bool] = True  # or happens only where it is asked for by name
    needs_whole: ClassVar[bool] = False  # happens only while every other member is whole

    def __init__(self, group: Group, chance: random.Random, *, target: Target = "") -> None:
        """Prepare it.

        Args:
            group: whom to harm.
            chance: draws all that is left open.
            target: who is hit; drawn when "".
        """
        self.group = group
        self.chance = chance
        self._target = target
        self._watched: list[tuple[Member, TraceKind, int]] = []

    @classmethod
    def fits(cls, *, node_count: int, is_async: bool) -> bool:
        """Whether a group of that kind has to survive it."""
        return node_count >= cls.nodes_min and (cls.allows_async or not is_async)

    async def inject(self) -> str:
        """Make it happen; return what was hit, or "" when it cannot happen now."""
        raise AssertionError(f"{type(self).__name__} has no inject()")

    async def evidence(self) -> str:
        """Return what shows that it took effect, asked before it is healed; "" for nothing."""
        found = []
        for member, of, before in self._watched:
            new = (await member.traces(of))[before:]
            found += [f"{member.name} {of}: {trace}" for trace in new]
        return "; ".join(found)

    async def heal(self) -> None:
        """End it; what needs no end does nothing."""

    async def watch(self, member: Member, of: TraceKind) -> None:
        """Take what shows of such a fault on *member* from now on for evidence of this one."""
        self._watched.append((member, of, len(await member.traces(of))))

    # -- who is hit -----------------------------------------------------------------------------

    def pick(self) -> Member:
        """Return a member that runs if there is one, the leader more often than others."""
        leader = self.group.leader
        if self._target == "leader" and leader is not None:
            return leader
        if self._target != "one" and leader is not None and self.chance.random() < 0.45:
            return leader
        running = [member for member in self.group.members if member.is_up]
        return self.chance.choice(running or list(self.group.members))

    def pick_some(self) -> list[Member]:
        """Return one member, the leader, a majority or all of them."""
        kind = self._target or self.chance.choice(("one", "one", "majority", "all"))
        if kind in ("one", "leader"):
            return [self.pick()]
        shuffled = self.chance.sample(list(self.group.members), len(self.group.members))
        return shuffled if kind == "all" else shuffled[: majority(self.group)]

    # -- what takes a while ---------------------------------------------------------------------

    def in_turn(
        self, seconds: float, items: Iterable[T], action: Callable[[T], Awaitable[object]]
    ) -> None:
        """Do *action* to one item after another, every so many seconds, in the background."""

        async def work() -> None:
            for item in items:
                await action(item)
                await trio.sleep(seconds)

        assert self.group.nursery is not None
        self.group.nursery.start_soon(work)
