"""Processes that die, stop for a while, are restarted or hand over."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from jepsen_like.faults.fault import Fault

if TYPE_CHECKING:
    from jepsen_like.faults.group import Member

_LOOK_SECONDS = 0.01
_WHOLE_SECONDS = 10.0  # for a member to stop, and for a group to be whole again
_ROLLING: set[trio.Nursery] = set()  # of the groups whose members are being restarted


class Kill(Fault):
    """SIGKILL; the page cache stays (N1)."""

    name = "kill"
    _members: list[Member]

    async def inject(self) -> str:
        """See `Fault`."""
        self._members = self.pick_some()
        stays_down = self.chance.random() < 0.6
        for member in self._members:
            await self.watch(member, "kill")
            if stays_down:
                member.hold_down()
            await member.kill()
        return ",".join(member.name for member in self._members)

    async def heal(self) -> None:
        """See `Fault`."""
        for member in self._members:
            member.start()


class CrashLoop(Fault):
    """Killed again as soon as it is up (N15)."""

    name = "crash-loop"
    weight = 0.5

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        await self.watch(member, "kill")
        self.in_turn(0.3, range(5), lambda _: member.kill())
        return member.name


class KillAtStep(Fault):
    """Dies in the middle of what it does to its disk, at any step of it (S6)."""

    name = "kill-at-step"
    _power = False

    async def inject(self) -> str:
        """See `Fault`."""
        member = self.pick()
        if not member.is_running:
            return ""
        await self.watch(member, "step")
        await member.die_in_steps(self.chance.randrange(60), power=self._power)
        return member.name


class PowerLossAtStep(KillAtStep):
    """The power fails in the middle of what it does to its disk."""

    name = "power-at-step"
    allows_async = False
    _power = True


class Pause(Fault):
    """SIGSTOP, then SIGCONT: time has passed and the process does not know (N2)."""

    name = "pause"
    _members: list[Member]

    async def inject(self) -> str:
        """See `Fault`."""
        self._members = [member for member in self.pick_some() if member.is_up]
        for member in self._members:
            await self.watch(member, "pause")
            await member.pause()
        return ",".join(member.name for member in self._members)

    async def heal(self) -> None:
        """See `Fault`."""
        for member in self._members:
            await member.resume()


class Restart(Fault):
    """SIGTERM and a start, one member after another (N12)."""

    name = "restart"
    weight = 0.5

    async def inject(self) -> str:
        """See `Fault`."""
        members = self.pick_some()
        for member in members:
            await self.watch(member, "stop")
        pause_seconds = self.chance.uniform(0.1, 1.5)
        self.in_turn(pause_seconds, members, lambda member: member.stop_gracefully())
        return ",".join(member.name for member in members)


class Rolling(Fault):
    """All members stopped well and started again, the next when all others are whole.

    Nobody is to notice, so it comes alone, and is asked for by name: `--only rolling`.
    """

    name = "rolling"
    where = "sim"
    nodes_min = 3
    is_drawn = False

    async def inject(self) -> str:
        """See `Fault`."""
        nursery = self.group.nursery
        assert nursery is not None
        if nursery in _ROLLING:
            return ""  # one at a time
        _ROLLING.add(nursery)
        members = self.chance.sample(list(self.group.members), len(self.group.members))
        for member in members:
            await self.watch(member, "stop")
        nursery.start_soon(self._roll, members, nursery)
        return "one by one"

    async def _roll(self, members: list[Member], nursery: trio.Nursery) -> None:
        try:
            for member in members:
                with trio.move_on_after(_WHOLE_SECONDS) as patience:
                    while not (member.is_up and await self.group.may_harm(member)):  # noqa: ASYNC110
                        await trio.sleep(_LOOK_SECONDS)
                if patience.cancelled_caught:
                    return
                await trio.sleep(self.chance.uniform(0, 1.0))
                await member.stop_gracefully()
                with trio.move_on_after(_WHOLE_SECONDS):
                    while member.is_running:  # noqa: ASYNC110 - nothing tells of its end
                        await trio.sleep(_LOOK_SECONDS)
        finally:
            _ROLLING.discard(nursery)


class Transfer(Fault):
    """The lead handed over, asked of the leader itself (N11)."""

    name = "transfer"
    nodes_min = 3

    async def inject(self) -> str:
        """See `Fault`."""
        leader = self.group.leader
        if leader is None:
            return ""
        await self.watch(leader, "transfer")
        others = [member.name for member in self.group.members if member is not leader]
        target = self.chance.choice([None, *others])
        await leader.transfer(target)
        return f"{leader.name} to {target or 'any'}"
