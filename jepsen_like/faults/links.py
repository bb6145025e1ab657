"""Links that are cut, slow or lossy."""

from __future__ import annotations

from jepsen_like.faults.fault import Fault


class _Cut(Fault):
    """Cuts links until healed."""

    nodes_min = 3

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self._cut: list[tuple[str, str]] = []

    def cut(self, one: str, other: str, *, both: bool = True) -> None:
        """Cut one link, in both directions or from *one* to *other* only."""
        for pair in ((one, other), (other, one)) if both else ((one, other),):
            self.cluster.network.cut(*pair)
            self._cut.append(pair)

    def heal(self) -> None:
        """See `Fault`."""
        for pair in self._cut:
            self.cluster.network.heal(*pair)


class Isolate(_Cut):
    """One member hears no other and is heard by none (N4)."""

    name = "isolate"

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        for other in self.cluster.members:
            if other is not member:
                self.cut(member.address, other.address)
        return member.name


class Halves(_Cut):
    """A majority and the rest (N4)."""

    name = "halves"

    def inject(self) -> str:
        """See `Fault`."""
        shuffled = self.chance.sample(self.cluster.members, len(self.cluster.members))
        here, there = shuffled[: self.cluster.majority], shuffled[self.cluster.majority :]
        for one in here:
            for other in there:
                self.cut(one.address, other.address)
        return "|".join(",".join(m.name for m in side) for side in (here, there))


class OneWay(_Cut):
    """What one member sends to others is lost, or what they send to it (N4)."""

    name = "one-way"

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        is_deaf = self.chance.random() < 0.5
        others = [other for other in self.cluster.members if other is not member]
        for other in self.chance.sample(others, self.chance.randint(1, len(others))):
            pair = (other, member) if is_deaf else (member, other)
            self.cut(pair[0].address, pair[1].address, both=False)
        return f"{'to' if is_deaf else 'from'} {member.name}"


class Ring(_Cut):
    """Everybody hears a majority, and no two the same one (N4)."""

    name = "ring"
    nodes_min = 3

    def inject(self) -> str:
        """See `Fault`."""
        members = self.chance.sample(self.cluster.members, len(self.cluster.members))
        count = len(members)
        if count == 3:
            self.cut(members[0].address, members[1].address)
        else:
            for at, member in enumerate(members):
                self.cut(member.address, members[(at + 2) % count].address)
        return ",".join(member.name for member in members)


class ClientCut(_Cut):
    """Clients do not reach one member, or do not hear it (N4, client to leader only)."""

    name = "client-cut"
    nodes_min = 1

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        direction = self.chance.choice(("both", "to", "from"))
        for address in self.cluster.client_addresses():
            if direction in ("both", "to"):
                self.cut(address, member.address, both=False)
            if direction in ("both", "from"):
                self.cut(member.address, address, both=False)
        return f"{direction} {member.name}"


class Flapping(_Cut):
    """Links cut one by one and healed one by one (swizzle-clog, N14)."""

    name = "swizzle"

    def inject(self) -> str:
        """See `Fault`."""
        pairs = [
            (one.address, other.address)
            for one in self.cluster.members
            for other in self.cluster.members
            if one is not other and self.chance.random() < 0.6
        ]
        self.chance.shuffle(pairs)
        self.cluster.in_turn(self.chance.uniform(0.02, 0.3), pairs, self._cut_one)
        return f"{len(pairs)} ways"

    def _cut_one(self, pair: tuple[str, str]) -> None:
        if not self._is_healed:
            self.cut(*pair, both=False)

    _is_healed = False

    def heal(self) -> None:
        """See `Fault`."""
        self._is_healed = True
        pairs = list(self._cut)
        self._cut.clear()
        self.chance.shuffle(pairs)
        self.cluster.in_turn(0.05, pairs, lambda pair: self.cluster.network.heal(*pair))


class BadWire(Fault):
    """Delay and loss on some ways (N5)."""

    name = "wire"

    def inject(self) -> str:
        """See `Fault`."""
        network = self.cluster.network
        hosts = [member.address for member in self.cluster.members]
        hosts += self.cluster.client_addresses()
        self._ways = [
            (one, other)
            for one in hosts
            for other in hosts
            if one != other and self.chance.random() < 0.4
        ]
        for way in self._ways:
            network.extra_delay[way] = self.chance.choice((0.0, 0.02, 0.06))
            network.loss[way] = self.chance.choice((0.0, 0.02, 0.2))
        return f"{len(self._ways)} ways"

    def heal(self) -> None:
        """See `Fault`."""
        for way in self._ways:
            self.cluster.network.extra_delay.pop(way, None)
            self.cluster.network.loss.pop(way, None)
