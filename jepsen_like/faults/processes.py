"""Processes that die, stop for a while, are restarted or hand over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.faults.fault import Fault

if TYPE_CHECKING:
    from jepsen_like.sim.member import SimMember


class Kill(Fault):
    """SIGKILL; the page cache stays (N1)."""

    name = "kill"
    _members: list[SimMember]

    def inject(self) -> str:
        """See `Fault`."""
        self._members = self.cluster.pick_some(self.chance)
        stays_down = self.chance.random() < 0.6
        for member in self._members:
            if stays_down:
                member.hold_down()
            member.kill()
        return ",".join(member.name for member in self._members)

    def heal(self) -> None:
        """See `Fault`."""
        for member in self._members:
            member.start()


class CrashLoop(Fault):
    """Killed again as soon as it is up (N15)."""

    name = "crash-loop"
    weight = 0.5

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        self.cluster.repeat(5, 0.3, member.kill)
        return member.name


class KillAtStep(Fault):
    """Dies in the middle of what it does to its disk, at any step of it (S6)."""

    name = "kill-at-step"
    _power = False

    def inject(self) -> str:
        """See `Fault`."""
        member = self.cluster.pick(self.chance)
        if not member.is_running:
            return ""
        member.disk.die_in_steps = self.chance.randrange(60)
        if self._power:
            member.lose_power_at_death()
        return member.name


class PowerLossAtStep(KillAtStep):
    """The power fails in the middle of what it does to its disk."""

    name = "power-at-step"
    allows_async = False
    _power = True


class Pause(Fault):
    """SIGSTOP, then SIGCONT: time has passed and the process does not know (N2)."""

    name = "pause"
    _members: list[SimMember]

    def inject(self) -> str:
        """See `Fault`."""
        self._members = [m for m in self.cluster.pick_some(self.chance) if m.is_up]
        for member in self._members:
            assert member.process is not None
            member.process.stop()
        return ",".join(member.name for member in self._members)

    def heal(self) -> None:
        """See `Fault`."""
        for member in self._members:
            if member.process is not None:
                member.process.resume()


class Restart(Fault):
    """SIGTERM and a start, one member after another (N12)."""

    name = "restart"
    weight = 0.5

    def inject(self) -> str:
        """See `Fault`."""
        members = self.cluster.pick_some(self.chance)
        self.cluster.restart_in_turn(members, pause_seconds=self.chance.uniform(0.1, 1.5))
        return ",".join(member.name for member in members)


class Transfer(Fault):
    """The lead handed over, asked of the leader itself (N11)."""

    name = "transfer"
    nodes_min = 3

    def inject(self) -> str:
        """See `Fault`."""
        leader = self.cluster.leader
        if leader is None or leader.node is None:
            return ""
        others = [member.name for member in self.cluster.members if member is not leader]
        target = self.chance.choice([None, *others])
        leader.node.ledger.begin_transfer(target, lambda _: None)
        return f"{leader.name} to {target or 'any'}"
