"""How this project is meant to stand beside others, as ratios in one run; no I/O here.

Ratios, as absolute figures are those of a machine. What is compared with a library of Python is
what a program of Python meets; what is compared over plain sockets is the servers alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.peers.outcome import Outcome

SMALL, LARGE = 100, 1024  # bytes of bodies


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One ratio."""

    what: str
    ours: str  # which of ours: by the flush mode
    field: str  # of our outcome
    peer: str
    peer_field: str
    factor: float
    is_most: bool = False  # at most that, as with a latency; otherwise at least
    body_size: int = SMALL


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """A goal and where we stand."""

    goal: Goal
    ours: float
    theirs: float

    @property
    def ratio(self) -> float:
        """Ours divided by theirs."""
        return self.ours / self.theirs

    @property
    def is_met(self) -> bool:
        """Whether it is good enough."""
        goal = self.goal
        return self.ratio <= goal.factor if goal.is_most else self.ratio >= goal.factor

    @property
    def verdict(self) -> str:
        """Met, or by how much not."""
        if self.is_met:
            return "met"
        off = self.ratio / self.goal.factor
        if self.goal.is_most:
            return f"NOT MET: {off:.3g}x the goal"
        return f"NOT MET: {100 * off:.3g}% of it"

    def cells(self, durability_of: Mapping[str, str]) -> list[str]:
        """Return a line of the table; *durability_of* each peer: what its acks stand on."""
        goal = self.goal
        digits = 2 if goal.is_most else 0
        return [
            goal.ours.removeprefix("ours-"),
            goal.what,
            f"{self.ours:,.{digits}f}",
            f"{self.theirs:,.{digits}f}",
            f"{self.ratio:.2f}x",
            f"at {'most' if goal.is_most else 'least'} {goal.factor:g}x",
            self.verdict,
            f"{durability_of[goal.ours]}; {durability_of[goal.peer]}",
        ]


HEADS = ("flush", "what", "ours", "theirs", "ratio", "goal", "", "acks stand on: ours; theirs")


def _goals(
    ours: str, peer: str, *, one: float, many: float, batch: float, tasks: float
) -> list[Goal]:
    library = {"nats": "nats-py", "rabbitmq": "aiormq"}[peer]
    name = {"nats": "NATS", "rabbitmq": "RabbitMQ"}[peer]
    return [
        Goal(
            what=f"one in flight, p50 ms: plain socket beside {library}",
            ours=ours,
            field="one_p50",
            peer=peer,
            peer_field="client_one_p50",
            factor=one,
            is_most=True,
        ),
        Goal(
            what=f"one in flight, p50 ms: await send() beside {library}",
            ours=ours,
            field="client_one_p50",
            peer=peer,
            peer_field="client_one_p50",
            factor=one,
            is_most=True,
        ),
        Goal(
            what=f"1000 in flight, beside {name}, plain sockets",
            ours=ours,
            field="many_rate",
            peer=peer,
            peer_field="many_rate",
            factor=many,
        ),
        Goal(
            what=f"batches of 256, beside {name}, plain sockets",
            ours=ours,
            field="batch_rate",
            peer=peer,
            peer_field="many_rate",
            factor=batch,
        ),
        Goal(
            what="await send() from 1000 tasks, beside nats-py",
            ours=ours,
            field="client_many_rate",
            peer="nats",
            peer_field="client_many_rate",
            factor=tasks,
        ),
        *(
            Goal(
                what=f"messages handed to user code, beside {theirs}",
                ours=ours,
                field="client_consume_rate",
                peer=other,
                peer_field="client_consume_rate",
                factor=factor,
            )
            for other, theirs, factor in (("nats", "nats-py", 9.0), ("redis", "redis-py", 4.0))
        ),
        Goal(
            what=f"batches of 256, 1 KiB, beside {name}, plain sockets",
            ours=ours,
            field="batch_rate",
            peer=peer,
            peer_field="many_rate",
            factor={"nats": 8.0, "rabbitmq": 13.0}[peer],
            body_size=LARGE,
        ),
    ]


GOALS = (
    *_goals("ours-async", "nats", one=0.7, many=5, batch=11, tasks=3.5),
    *_goals("ours-sync", "rabbitmq", one=0.6, many=13, batch=24, tasks=2.5),
)


def standings(medians: Mapping[tuple[str, int], Outcome]) -> list[Standing]:
    """Return where we stand with each goal for which both sides were measured.

    Args:
        medians: outcomes by peer and size of bodies.
    """
    found = []
    for goal in GOALS:
        ours = medians.get((goal.ours, goal.body_size))
        theirs = medians.get((goal.peer, goal.body_size))
        if ours is None or theirs is None:
            continue
        figures = getattr(ours, goal.field), getattr(theirs, goal.peer_field)
        if all(figures):
            found.append(Standing(goal=goal, ours=figures[0], theirs=figures[1]))
    return found
