"""Scripts: courses of events that have broken other systems, played on purpose.

Every script says of each state it is about that it was reached; when one was not, the run has
shown nothing.  The load goes on all the time.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from jepsen_like.faults.group import Shape
from jepsen_like.real.shim import SYNCS, Call
from jepsen_like.real.stage import NotReachedError, Stage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from jepsen_like.faults.group import TraceKind, Way
    from jepsen_like.real.real_member import RealMember

__all__ = ["SCRIPTS", "SELF_TESTS", "NotReachedError", "Script", "Stage"]

_INSTALL_SECONDS = 2.0  # that the bytes of a state take
LOAD_SECONDS = 3.0  # of acknowledged sends between two steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One course of events."""

    name: str
    what: str
    play: Callable[[Stage], Awaitable[None]]
    seconds: int  # about as long as it takes
    retention: bool = False  # needs old segments dropped


async def _part_kill(stage: Stage) -> None:
    """S1: the old leader alone on its side, then everybody killed who knew better."""
    for _ in range(2):
        old = await stage.leader()
        rest = stage.others(old)
        async with stage.partition([old], rest):
            await stage.leader(rest, above_term=old.term)
            await trio.sleep(LOAD_SECONDS)
            async with stage.fault("kill", rest, "kill"):
                for member in rest:
                    member.hold_down()
                await stage.at_once([member.kill for member in rest])
                await trio.sleep(1.0)
        # Now the old leader is heard again, and nobody else is there yet.
        await trio.sleep(1.0)
        for member in rest:
            member.start()
        await stage.all_up()
        await stage.leader()
        await trio.sleep(LOAD_SECONDS)


async def _pause_kill(stage: Stage) -> None:
    """S2: one sleeps through what the others decide, and they die as it wakes (NATS #7567)."""
    for is_leader_paused in (True, False):
        leader = await stage.leader()
        sleeper = leader if is_leader_paused else stage.chance.choice(stage.others(leader))
        rest = stage.others(sleeper)
        async with stage.fault("pause", [sleeper], "pause"):
            await sleeper.pause()
            await stage.reach(f"{sleeper.name} is stopped", partial(_is_stopped, sleeper))
            # A leader that stays is in its old term; one that is new is in a later one.
            await stage.leader(rest, above_term=leader.term if is_leader_paused else 0)
            await trio.sleep(LOAD_SECONDS)
            async with stage.fault("kill", rest, "kill"):
                for member in rest:
                    member.hold_down()
                await stage.at_once([member.kill for member in rest])
                await sleeper.resume()
                await stage.reach(f"{sleeper.name} goes on", partial(_goes_on, sleeper))
                await trio.sleep(1.0)
        # One of those that knew more comes back, then the other.
        for member in rest:
            member.start()
            await trio.sleep(1.0)
        await stage.all_up()
        await stage.leader()
        await trio.sleep(LOAD_SECONDS)


def _is_stopped(member: RealMember) -> bool:
    return member.process.is_stopped


def _goes_on(member: RealMember) -> bool:
    return member.process.is_running and not member.process.is_stopped


async def _all_lose_power(stage: Stage) -> None:
    """S3: the power of the whole cluster fails at once."""
    for torn in (False, True, False):
        await stage.leader()
        await trio.sleep(LOAD_SECONDS)
        async with stage.fault("power-torn" if torn else "power", stage.members, "power"):
            for member in stage.members:
                member.hold_down()
            await stage.group.lose_power(stage.members, torn=torn)
        for member in stage.members:
            member.start()
        await stage.all_up()
        await stage.leader()


async def _majority_loses_power(stage: Stage) -> None:
    """S4: a majority's power fails, and the one that has all comes back late."""
    for is_late_leader in (False, True):
        leader = await stage.leader()
        await trio.sleep(LOAD_SECONDS)
        late = leader if is_late_leader else stage.chance.choice(stage.others(leader))
        rest = stage.others(late)
        async with stage.fault("kill", [late], "kill"):
            late.hold_down()
            async with stage.fault("power", rest, "power"):
                for member in rest:
                    member.hold_down()
                await stage.at_once([late.kill, partial(stage.group.lose_power, rest, torn=False)])
            for member in rest:
                member.start()
            await stage.leader(rest)
            await trio.sleep(4.0)
        late.start()
        await stage.all_up()
        await stage.leader()


async def _restart_staggered(stage: Stage) -> None:
    """S5: all restart, one after the other, and none may have forgotten term or vote (PR #202)."""
    for is_graceful in (False, True, False, False):
        term = (await stage.leader()).term
        await trio.sleep(LOAD_SECONDS / 2)
        of: TraceKind = "stop" if is_graceful else "kill"
        async with stage.fault("restart" if is_graceful else "kill", stage.members, of):
            for member in stage.members:
                member.hold_down()
            await stage.at_once(
                [m.stop_gracefully if is_graceful else m.kill for m in stage.members]
            )
            for member in stage.chance.sample(stage.members, len(stage.members)):
                member.start()
                await trio.sleep(stage.chance.uniform(0.0, 0.8))
        await stage.leader(above_term=term)
        await stage.all_up()


_COMPACTION_STEPS: tuple[tuple[tuple[Call, ...], str], ...] = (
    ((Call.WRITE,), "/checkpoint"),
    (SYNCS, "/checkpoint"),
    ((Call.WRITE,), "/watermark"),
    (SYNCS, "/derived/state-"),
    ((Call.RENAME,), "/derived/state-"),
    ((Call.UNLINK,), "/derived/state-"),
    ((Call.FSYNC_FOLDER,), "/derived"),
    ((Call.RENAME,), "/commitlog/"),
    ((Call.FSYNC_FOLDER,), "/commitlog"),
)


async def _kill_between_steps(stage: Stage) -> None:
    """S6: killed before each step of checkpoints, states and retention."""
    for number, (calls, path_part) in enumerate(_COMPACTION_STEPS):
        leader = await stage.leader()
        member = leader if number % 2 else stage.chance.choice(stage.others(leader))
        what = f"{calls[0].name.lower()}{path_part}"
        async with stage.fault("kill-at-step", [member], "step"):
            await member.die_before(stage.chance.randint(1, 2), calls, path_part=path_part)
            deaths = member.step_deaths
            await stage.reach(
                f"{member.name} died before {what}", partial(_has_died, member, deaths)
            )
        await stage.all_up()


def _has_died(member: RealMember, before: int) -> bool:
    return member.step_deaths > before


async def _install_during_partition(stage: Stage) -> None:
    """S7: a follower so far behind that it needs a state, cut off again while it gets it."""
    for _ in range(2):
        leader = await stage.leader()
        follower = stage.chance.choice(stage.others(leader))
        installs, rest = follower.install_count, stage.others(follower)
        # Over narrow wires the state takes a while, and is cut off in the middle.
        links = stage.group.links
        ways = [(member.address, follower.address) for member in rest]
        async with stage.partition([follower], rest):
            end = (await stage.group.look())[follower.name].end_index
            await _dropped_beyond(stage, follower, end)
            size = max(_state_size(member) for member in rest)
            before = await links.forwarded_bytes(ways)
            for way in ways:
                await links.shape(*way, Shape(rate_bits=int(size * 8 / _INSTALL_SECONDS)))
        await _half_sent(stage, follower, ways, before + size // 2)
        async with stage.partition([follower], rest):
            await trio.sleep(1.5)
            if follower.install_count > installs:
                raise NotReachedError(f"{follower.name} had its state before it was cut off")
        for way in ways:
            await links.unshape(*way)
        await stage.reach(
            f"{follower.name} has installed a state", partial(_has_installed, follower, installs)
        )
        await stage.all_up()


def _has_installed(member: RealMember, before: int) -> bool:
    return member.install_count > before


def _state_size(member: RealMember) -> int:
    return max((p.stat().st_size for p in member.data.glob("derived/state-*")), default=1)


async def _half_sent(stage: Stage, follower: RealMember, ways: list[Way], wanted: int) -> None:
    """Wait until so many bytes have gone to *follower*."""
    with trio.move_on_after(30.0):
        while await stage.group.links.forwarded_bytes(ways) < wanted:
            await trio.lowlevel.checkpoint()
        stage.history.note("reached", v=f"half a state has been sent to {follower.name}")
        return
    raise NotReachedError(f"not {wanted} bytes were sent to {follower.name}")


async def _dropped_beyond(stage: Stage, follower: RealMember, end: int) -> None:
    """Wait until all others have dropped what *follower* would need next."""
    with trio.move_on_after(60.0):
        while True:
            statuses = await stage.group.look()
            others = [statuses.get(member.name) for member in stage.others(follower)]
            if all(status is not None and status.begin_index > end + 1 for status in others):
                stage.history.note("reached", v=f"the log behind {end} is dropped")
                return
            await trio.sleep(0.3)
    raise NotReachedError(f"nobody dropped the log behind entry {end}")


async def _disks_lie(stage: Stage) -> None:
    """What PySyncObj does as it is shipped: acknowledge what no disk holds."""
    await stage.leader()
    for member in stage.members:
        member.node.shim.lie()
    await trio.sleep(3 * LOAD_SECONDS)
    async with stage.fault("power", stage.members, "power"):
        for member in stage.members:
            member.hold_down()
        await stage.group.lose_power(stage.members, torn=False)
    for member in stage.members:
        member.node.shim.clear()
        member.start()
    await stage.all_up()
    await stage.leader()


_ALL = (
    Script(name="S1", what="part-kill", play=_part_kill, seconds=30),
    Script(name="S2", what="pause-kill (NATS #7567)", play=_pause_kill, seconds=30),
    Script(name="S3", what="power loss of the whole cluster", play=_all_lose_power, seconds=30),
    Script(
        name="S4",
        what="power loss of a majority, the third comes late",
        play=_majority_loses_power,
        seconds=35,
    ),
    Script(name="S5", what="all restart, staggered", play=_restart_staggered, seconds=30),
    Script(
        name="S6",
        what="killed between the steps of checkpoints, states and retention",
        play=_kill_between_steps,
        seconds=45,
        retention=True,
    ),
    Script(
        name="S7",
        what="a state installed during a partition",
        play=_install_during_partition,
        seconds=60,
        retention=True,
    ),
)

SCRIPTS: dict[str, Script] = {script.name: script for script in _ALL}

# What must be found: a laboratory in which nothing is ever lost would call every product sound.
SELF_TESTS: dict[str, Script] = {
    script.name: script
    for script in (
        Script(
            name="lying-disks",
            what="syncs that do nothing, then power loss: has to be invalid",
            play=_disks_lie,
            seconds=15,
        ),
    )
}
