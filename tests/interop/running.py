"""Scenarios side by side: every client has its own topic and group, all have one broker group."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

import trio

import broker
from tests.interop import table
from tests.interop.case import Case, Middle, Pulse
from tests.interop.consuming import CONSUMING
from tests.interop.mixed import MIXED
from tests.interop.producing import PRODUCING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.interop.clients import Kind
    from tests.process.kit import ProcessGroup

# Side by side as many as two cores carry: a Java machine needs more than a second of one to start.
# What waits for its time is with others that do.
TOGETHER = (
    ("sync",),
    ("async", "oneway", "batch"),
    ("ordered", "compressed", "delayed"),
    ("push", "pull", "lite", "tags"),
    ("broadcasting", "again"),
    ("members", "mixed", "mixed-retry"),
    ("orderly", "retry", "dead"),
)
SCENARIOS = {**PRODUCING, **CONSUMING, **MIXED}


class Pair(NamedTuple):
    """What one client does."""

    kind: Kind
    scenario: str


def possible(kinds: Iterable[Kind], scenarios: Iterable[str]) -> list[Pair]:
    """Return what can be done, and put what cannot into the table with its reason."""
    found: list[Pair] = []
    for scenario in scenarios:
        for kind in kinds:
            if scenario in kind.cannot:
                reason = f"cannot: {kind.cannot[scenario]}"
                table.put(table.IMPOSSIBLE, scenario, kind.package, reason)
            else:
                found.append(Pair(kind, scenario))
    return found


async def side_by_side(
    pairs: Iterable[Pair],
    group: ProcessGroup,
    home: Path,
    *,
    kill_leader: bool = False,
    servers: str = "",
    circumstance: str = "",
) -> list[Case]:
    """Run *pairs* at the same time, and raise what went wrong with any when all are over.

    Args:
        pairs: who does what.
        group: on which.
        home: folder for the clients' own files.
        kill_leader: whether the leader is killed when all are in the middle of what they do.
        servers: addresses of name servers; every node is one.
        circumstance: under which the table tells of it.

    Returns:
        What each has found.
    """
    circumstance = circumstance or (table.KILLED if kill_leader else table.CALM)
    pairs = list(pairs)
    middle = Middle(len(pairs)) if kill_leader else None
    pulse = Pulse()
    failures: list[Exception] = []
    async with contextlib.AsyncExitStack() as stack:
        mq = await stack.enter_async_context(broker.connect(group.addresses))
        producer = await stack.enter_async_context(mq.producer())
        cases = [
            Case(
                kind,
                scenario,
                group=group,
                mq=mq,
                producer=producer,
                home=home,
                pulse=pulse,
                servers=servers,
                middle=middle,
            )
            for kind, scenario in pairs
        ]
        for case in cases:
            await case.create_topic()
        await group.settled()  # ali-ons gives up on a topic that the node it asks does not know yet

        async def run(case: Case) -> None:
            try:
                await SCENARIOS[case.scenario](case)
            except Exception as error:  # noqa: BLE001 - told with the others at the end
                error.add_note(f"{case.kind.package}: {case.scenario}")
                failures.append(error)
                case.facts["FAILED"] = str(error).split("\n")[0][:200]
            finally:
                case.over()
            table.put(circumstance, case.scenario, case.kind.package, case.facts)

        async with trio.open_nursery() as beside:
            beside.start_soon(pulse.beat)
            async with trio.open_nursery() as nursery:
                for case in cases:
                    nursery.start_soon(run, case)
                if middle is not None:
                    await middle.complete()
                    leader = await group.leader()
                    leader.kill()
                    middle.open()
            beside.cancel_scope.cancel()
    if failures:
        raise ExceptionGroup("not all did as they should", failures)
    return cases
