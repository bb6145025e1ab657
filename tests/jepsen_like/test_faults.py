"""Faults against a group that writes down what they ask, and what they can prove."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from jepsen_like.faults.catalogue import CATALOGUE, offered
from jepsen_like.faults.nemesis import Nemesis
from jepsen_like.history import History
from jepsen_like.verdict import judge
from tests.jepsen_like.fake_group import FakeGroup

if TYPE_CHECKING:
    from jepsen_like.faults.fault import Fault

LINKS = {
    name for name, fault in CATALOGUE.items()
    if fault.__module__.endswith(".links") or name == "rough-wire"
}  # fmt: skip


async def occur(fault: Fault, group: FakeGroup) -> tuple[str, str]:
    """Let it be injected, last a while and heal; return what it hit and what shows of it."""
    async with trio.open_nursery() as nursery:
        group.nursery = nursery
        hit = await fault.inject()
        await trio.sleep(3)
        evidence = await fault.evidence()
        await fault.heal()
    return hit, evidence


@pytest.mark.parametrize("name", CATALOGUE)
@pytest.mark.parametrize("seed", range(5))
async def test_a_fault_that_took_effect_shows_and_is_healed(name, seed, autojump_clock) -> None:
    group = FakeGroup()

    hit, evidence = await occur(CATALOGUE[name](group, random.Random(seed)), group)

    assert hit
    assert evidence
    assert group.links.cuts == []
    assert group.links.shapes == {}


@pytest.mark.parametrize("name", CATALOGUE)
async def test_a_fault_without_effect_shows_nothing(name, autojump_clock) -> None:
    group = FakeGroup()
    group.ignored = {
        "kill", "power", "pause", "stop", "wipe", "step", "transfer", "slow", "stall", "full",
        "failed-sync", "rot", "clock", "limit", "links",
    }  # fmt: skip

    _, evidence = await occur(CATALOGUE[name](group, random.Random(1)), group)

    assert evidence == ""


async def test_what_showed_before_proves_nothing_now(autojump_clock) -> None:
    group = FakeGroup()
    first = await occur(CATALOGUE["kill"](group, random.Random(1)), group)
    group.ignored = {"kill"}

    second = await occur(CATALOGUE["kill"](group, random.Random(1)), group)

    assert first == ("n1", "n1 kill: kill")
    assert second == ("n1", "")


@pytest.mark.parametrize(
    ("target", "count"), [("one", 1), ("leader", 1), ("majority", 2), ("all", 3)]
)
async def test_a_fault_hits_whom_it_is_told_to_hit(target, count, autojump_clock) -> None:
    for seed in range(10):
        group = FakeGroup()
        hit, _ = await occur(CATALOGUE["kill"](group, random.Random(seed), target=target), group)

        assert len(hit.split(",")) == count
        assert target != "leader" or hit == "n1"


async def test_a_disk_is_harmed_only_while_all_others_are_whole(autojump_clock) -> None:
    for name in ("bit-rot", "lost-disk", "damage"):
        group = FakeGroup(may_be_harmed=False)

        hit, _ = await occur(CATALOGUE[name](group, random.Random(1)), group)

        assert hit == ""
        assert group.calls == []
        assert group.unsound == set()


async def test_rot_that_found_no_file_leaves_the_member_sound(autojump_clock) -> None:
    group = FakeGroup(impossible={"rot"})

    hit, _ = await occur(CATALOGUE["bit-rot"](group, random.Random(1)), group)

    assert hit == ""
    assert group.unsound == set()


def test_each_layer_offers_its_own() -> None:
    assert "rough-wire" in offered("real")
    assert "rough-wire" not in offered("sim")
    assert "coup" in offered("sim")
    assert "coup" not in offered("real")
    assert set(offered("sim")) | set(offered("real")) == set(CATALOGUE)


# -- the nemesis, and what a run says whose faults do nothing -------------------------------------


async def attacked(group: FakeGroup, faults: tuple[str, ...], seconds: float = 60.0) -> History:
    history = History(trio.current_time)
    history.note("setup", v={"members": ["n1", "n2", "n3"], "ok_sends_min": 0})
    nemesis = Nemesis(
        group, history, random.Random(1), faults=faults, gap_mean=2.0, hold_max=4.0
    )  # fmt: skip
    await nemesis.attack(seconds)
    history.note("healed")
    history.note("drained")
    return history


async def test_a_nemesis_that_does_something_lets_the_run_count(autojump_clock) -> None:
    history = await attacked(FakeGroup(), ("kill", "isolate"))

    assert {event.f for event in history.events} >= {"fault", "effect", "heal"}
    assert not [reason for reason in judge(history).reasons if "without proof" in reason]


@pytest.mark.parametrize(("name", "kind"), [("power", "power"), ("isolate", "links")])
async def test_a_nemesis_that_does_nothing_makes_the_run_unknown(
    name, kind, autojump_clock
) -> None:
    history = await attacked(FakeGroup(ignored={kind}), (name, "kill"))

    reasons = judge(history).reasons
    assert [reason for reason in reasons if reason.startswith(f"fault {name}, ")]
    assert not [reason for reason in reasons if reason.startswith("fault kill, ")]


async def test_all_faults_are_healed_when_the_attack_ends(autojump_clock) -> None:
    group = FakeGroup()
    history = await attacked(group, tuple(sorted(LINKS)), seconds=20.0)

    events = [(event.f, event.v) for event in history.events if event.f in ("fault", "heal")]
    begun = sorted(v for f, v in events if f == "fault")
    assert begun
    assert begun == sorted(v for f, v in events if f == "heal")
    # What heals link by link is cut short by the end; the group's own heal() does the rest.
    assert len(group.links.shapes) == 0


async def test_by_turns_every_fault_comes_before_any_comes_again(autojump_clock) -> None:
    faults = tuple(offered("real"))
    group, history = FakeGroup(), History(trio.current_time)
    nemesis = Nemesis(
        group, history, random.Random(1), faults=faults, gap_mean=2.0, hold_max=4.0, by_turns=True
    )

    await nemesis.attack(200.0)

    assert set(nemesis.injected) == set(faults)
    assert set(nemesis.proven) == set(faults)
    first = [event.v.split()[0] for event in history.events if event.f == "fault"][: len(faults)]
    assert sorted(first) == sorted(faults)


async def test_a_fault_that_needs_a_whole_group_waits_until_the_others_are_over(
    autojump_clock,
) -> None:
    group, history = FakeGroup(), History(trio.current_time)
    nemesis = Nemesis(
        group, history, random.Random(1), faults=("isolate", "bit-rot"), gap_mean=0.2,
        hold_max=4.0, by_turns=True,
    )  # fmt: skip
    await nemesis.attack(100.0)

    lasting: set[str] = set()
    for event in history.events:
        if event.f == "fault" and event.v.startswith("bit-rot"):
            assert not lasting
        if event.f == "fault":
            lasting.add(event.v)
        elif event.f == "heal":
            lasting.discard(event.v)


async def test_a_fault_that_cannot_happen_yet_gets_its_turn_again(autojump_clock) -> None:
    group, history = FakeGroup(may_be_harmed=False), History(trio.current_time)
    nemesis = Nemesis(
        group, history, random.Random(1), faults=("kill", "lost-disk"), gap_mean=1.0,
        hold_max=2.0, by_turns=True,
    )  # fmt: skip

    async with trio.open_nursery() as nursery:
        nursery.start_soon(nemesis.attack, 60.0)
        await trio.sleep(20)
        assert nemesis.injected["lost-disk"] == 0
        group.may_be_harmed = True

    assert nemesis.injected["lost-disk"] > 0
