"""Links that are cut, slow or lossy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.faults.fault import Fault
from jepsen_like.faults.group import Shape, majority

if TYPE_CHECKING:
    import random

    from jepsen_like.faults.fault import Target
    from jepsen_like.faults.group import Group, Way


class _Cut(Fault):
    """Cuts links until healed."""

    nodes_min = 3

    def __init__(self, group: Group, chance: random.Random, *, target: Target = "") -> None:
        super().__init__(group, chance, target=target)
        self._cut: list[Way] = []

    async def cut(self, one: str, other: str, *, both: bool = True) -> None:
        """Cut one link, in both directions or from *one* to *other* only."""
        for pair in ((one, other), (other, one)) if both else ((one, other),):
            await self.group.links.cut(*pair)
            self._cut.append(pair)

    async def evidence(self) -> str:
        """See `Fault`."""
        return await self.group.links.traces(self._cut)

    async def heal(self) -> None:
        """See `Fault`."""
        for pair in self._cut:
            await self.group.links.heal(*pair)


class Isolate(_Cut):
    """One member hears no other and is heard by none (N4)."""

    name = "isolate"

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        for other in self.group.members:
            if other is not member:
                await self.cut(member.address, other.address)
        return member.name


class Halves(_Cut):
    """A majority and the rest (N4)."""

    name = "halves"

    async def inject(self) -> str:
        """See `Fault`."""
        shuffled = self.chance.sample(list(self.group.members), len(self.group.members))
        here, there = shuffled[: majority(self.group)], shuffled[majority(self.group) :]
        for one in here:
            for other in there:
                await self.cut(one.address, other.address)
        return "|".join(",".join(m.name for m in side) for side in (here, there))


class OneWay(_Cut):
    """What one member sends to others is lost, or what they send to it (N4)."""

    name = "one-way"

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        is_deaf = self.chance.random() < 0.5
        others = [other for other in self.group.members if other is not member]
        for other in self.chance.sample(others, self.chance.randint(1, len(others))):
            pair = (other, member) if is_deaf else (member, other)
            await self.cut(pair[0].address, pair[1].address, both=False)
        return f"{'to' if is_deaf else 'from'} {member.name}"


class Ring(_Cut):
    """Everybody hears a majority, and no two the same one (N4)."""

    name = "ring"
    nodes_min = 3

    async def inject(self) -> str:
        """See `Fault`."""
        members = self.chance.sample(list(self.group.members), len(self.group.members))
        count = len(members)
        if count == 3:
            await self.cut(members[0].address, members[1].address)
        else:
            for at, member in enumerate(members):
                await self.cut(member.address, members[(at + 2) % count].address)
        return ",".join(member.name for member in members)


class ClientCut(_Cut):
    """Clients do not reach one member, or do not hear it (N4, client to leader only)."""

    name = "client-cut"
    nodes_min = 1

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        direction = self.chance.choice(("both", "to", "from"))
        for address in self.group.client_addresses():
            if direction in ("both", "to"):
                await self.cut(address, member.address, both=False)
            if direction in ("both", "from"):
                await self.cut(member.address, address, both=False)
        return f"{direction} {member.name}"


class Flapping(_Cut):
    """Links cut one by one and healed one by one (swizzle-clog, N14)."""

    name = "swizzle"

    async def inject(self) -> str:
        """See `Fault`."""
        pairs = [
            (one.address, other.address)
            for one in self.group.members
            for other in self.group.members
            if one is not other and self.chance.random() < 0.6
        ]
        self.chance.shuffle(pairs)
        self.in_turn(self.chance.uniform(0.02, 0.3), pairs, self._cut_one)
        return f"{len(pairs)} ways"

    async def _cut_one(self, pair: Way) -> None:
        if not self._is_healed:
            await self.cut(*pair, both=False)

    _is_healed = False

    async def heal(self) -> None:
        """See `Fault`."""
        self._is_healed = True
        pairs = list(self._cut)
        self._cut.clear()
        self.chance.shuffle(pairs)
        self.in_turn(0.05, pairs, lambda pair: self.group.links.heal(*pair))


class BadWire(Fault):
    """Delay and loss on some ways (N5)."""

    name = "wire"

    _ways: list[Way]

    async def inject(self) -> str:
        """See `Fault`."""
        hosts = [member.address for member in self.group.members]
        hosts += self.group.client_addresses()
        self._ways = [
            (one, other)
            for one in hosts
            for other in hosts
            if one != other and self.chance.random() < 0.4
        ]
        for way in self._ways:
            delay = self.chance.choice((0.0, 0.02, 0.06))
            loss = self.chance.choice((0.0, 0.02, 0.2))
            await self.group.links.shape(*way, Shape(delay=delay, jitter=delay / 5, loss=loss))
        return f"{len(self._ways)} ways"

    async def evidence(self) -> str:
        """See `Fault`."""
        return await self.group.links.traces(self._ways)

    async def heal(self) -> None:
        """See `Fault`."""
        for way in self._ways:
            await self.group.links.unshape(*way)
