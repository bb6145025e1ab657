"""A group that only writes down what faults ask of it."""

from __future__ import annotations

from dataclasses import dataclass, field


class FakeMember:
    """Every verb leaves the trace of its kind, unless the fake is to ignore it."""

    def __init__(self, group, name: str) -> None:
        self.group = group
        self.name = name
        self.address = f"10.0.0.{name[1:]}"
        self.is_up = self.is_running = True
        self.expected: list[type[BaseException]] = []
        self.found: dict[str, list[str]] = {}

    def _done(self, verb: str, of: str) -> None:
        self.group.calls.append(f"{self.name} {verb}")
        if of not in self.group.ignored:
            self.found.setdefault(of, []).append(verb)

    def expect(self, error) -> None:
        self.expected.append(error)

    async def traces(self, of):
        return list(self.found.get(of, ()))

    async def kill(self):
        self._done("kill", "kill")

    async def pause(self):
        self._done("pause", "pause")

    async def resume(self):
        self._done("resume", "-")

    async def stop_gracefully(self):
        self._done("stop", "stop")

    def hold_down(self):
        self._done("hold down", "-")

    def start(self):
        self._done("start", "-")

    async def wipe(self):
        self._done("wipe", "wipe")

    async def die_in_steps(self, step_count, *, power):
        self._done(f"die{' with power' if power else ''}", "step")

    async def die_at(self, place, step_count, *, power):
        self._done(f"die{' with power' if power else ''}", "step")

    async def transfer(self, target):
        self._done(f"transfer to {target}", "transfer")

    async def slow_disk(self, factor):
        self._done(f"slow {factor:g}", "slow" if factor != 1 else "-")

    async def stall_disk(self):
        self._done("stall", "stall")

    async def unstall_disk(self):
        self._done("go on", "-")

    async def fill_disk(self, *, room):
        self._done("fill", "full")

    async def empty_disk(self):
        self._done("empty", "-")

    async def crowd_disk(self, percent):
        self._done(f"crowd {percent:g}", "full")
        return True

    async def uncrowd_disk(self):
        self._done("uncrowd", "-")

    async def fail_next_sync(self):
        self._done("fail sync", "failed-sync")

    async def rot(self, kind, chance):
        self._done("rot", "rot")
        return "" if "rot" in self.group.impossible else f"{kind}/0"

    async def shift_wall_clock(self, milliseconds):
        self._done("clock", "clock")

    async def limit(self, what, chance):
        self._done(f"limit {what}", "limit")
        return what

    async def lift_limits(self):
        self._done("lift limits", "-")

    async def set_clock_rate(self, rate, *, monotonic):
        self._done(f"rate {rate:g}", "clock" if rate != 1 else "-")

    async def damage(self, how, kind, chance):
        self._done(how, "rot")
        return f"{kind}/0"

    async def break_disk(self):
        self._done("break", "failed-sync")

    async def remount_disk(self):
        self._done("remount", "-")


class FakeLinks:
    def __init__(self, group) -> None:
        self.group = group
        self.cuts: list[tuple[str, str]] = []
        self.shapes: dict[tuple[str, str], object] = {}

    async def cut(self, source, target):
        self.cuts.append((source, target))

    async def heal(self, source, target):
        self.cuts.remove((source, target))

    async def shape(self, source, target, shape):
        self.shapes[source, target] = shape

    async def unshape(self, source, target):
        del self.shapes[source, target]

    async def traces(self, ways):
        hit = sum(way in self.cuts or way in self.shapes for way in ways)
        return f"{hit} ways" if hit and "links" not in self.group.ignored else ""


@dataclass
class FakeGroup:
    node_count: int = 3
    leads: str | None = "n1"
    ignored: set[str] = field(default_factory=set)  # kinds of faults without effect
    impossible: set[str] = field(default_factory=set)
    may_be_harmed: bool = True
    calls: list[str] = field(default_factory=list)
    unsound: set[str] = field(default_factory=set)
    nursery: object = None

    def __post_init__(self) -> None:
        self.members = [FakeMember(self, f"n{n + 1}") for n in range(self.node_count)]
        self.links = FakeLinks(self)

    @property
    def leader(self):
        return next((m for m in self.members if m.name == self.leads), None)

    def client_addresses(self):
        return ["10.0.1.1", "10.0.1.2"]

    async def may_harm(self, member):
        return self.may_be_harmed

    async def may_lose_disk(self, member):
        return self.may_be_harmed

    async def lose_power(self, members):
        for member in members:
            member._done("power", "power")
