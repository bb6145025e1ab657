"""Histories of a log that does everything right, while clients time out, retry and crash.

A model of a few lines: a queue is a list, an offset is a place in it.  What is asked takes effect
at some moment between question and answer, or later, or never; the answer says what it then was.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from jepsen_like.history import NEMESIS, Event

READS = ("poll", "drain", "dump")


@dataclass
class Pending:
    """A question under way, and what came of it so far."""

    p: int
    f: str
    queue: int
    value: str = ""
    group: str = ""
    upto: int = 0
    answer: int | None = None
    is_done: bool = False


class Model:
    """A broker and its clients, step by step."""

    def __init__(self, seed: int, *, steps: int, has_retention: bool) -> None:
        self.chance = random.Random(seed)
        self.events: list[Event] = []
        self.has_retention = has_retention
        self.queues: list[list[str]] = [[] for _ in range(self.chance.randint(1, 3))]
        self.first = [0] * len(self.queues)
        self.committed: dict[tuple[str, int], int] = {}
        self.t = 0
        self.processes = 0
        self.values = 0
        self.idle = [self.new() for _ in range(4)]
        self.open: list[Pending] = []
        self.late: list[Pending] = []  # sends of unknown outcome that may still be written
        self.readers: dict[int, tuple[str | None, dict[int, int]]] = {}  # p -> group, positions
        self.groups: dict[str, int] = {}  # group -> its one reader
        self.term = 0
        for _ in range(steps):
            self.step()
        self.finish()

    def new(self) -> int:
        self.processes += 1
        return self.processes

    def add(self, p: int, type: str, f: str, **fields) -> None:
        self.t += self.chance.choice((0, 1, 5, 1000))
        self.events.append(Event(len(self.events), self.t, p, type, f, **fields))

    def step(self) -> None:
        steps = (
            (self.ask, 8), (self.take_effect, 8), (self.answer, 8), (self.poll, 6),
            (self.begin_reading, 1), (self.commit, 2), (self.write_late, 1), (self.lead, 1),
            (self.drop, 1),
        )  # fmt: skip
        self.chance.choices([step for step, _ in steps], [weight for _, weight in steps])[0]()

    # -- questions ------------------------------------------------------------------------------

    def ask(self) -> None:
        if not self.idle:
            return
        p = self.idle.pop(self.chance.randrange(len(self.idle)))
        queue = self.chance.randrange(len(self.queues))
        f = self.chance.choices(("send", "end", "committed"), (6, 2, 1))[0]
        pending = Pending(p, f, queue)
        fields = {"k": queue}
        if f == "send":
            self.values += 1
            pending.value = fields["v"] = f"c-{self.values}"
        elif f == "committed":
            pending.group = fields["g"] = f"g{self.chance.randint(1, 2)}"
        self.open.append(pending)
        self.add(p, "invoke", f, **fields)

    def take_effect(self) -> None:
        waiting = [pending for pending in self.open if not pending.is_done]
        if not waiting:
            return
        pending = self.chance.choice(waiting)
        pending.is_done = True
        if pending.f == "send":
            pending.answer = self.write(pending)
        elif pending.f == "end":
            pending.answer = len(self.queues[pending.queue])
        else:
            pending.answer = self.committed.get((pending.group, pending.queue), 0)

    def write(self, pending: Pending) -> int:
        self.queues[pending.queue].append(pending.value)
        return len(self.queues[pending.queue]) - 1

    def answer(self) -> None:
        if not self.open:
            return
        pending = self.open.pop(self.chance.randrange(len(self.open)))
        fields = {"k": pending.queue}
        if pending.f == "send":
            fields["v"] = pending.value
        elif pending.f == "committed":
            fields["g"] = pending.group
        how = "ok" if pending.is_done else "fail"
        if self.chance.random() < 0.2:
            how = "info"
            if pending.f == "send" and not pending.is_done:
                self.late.append(pending)
        if how == "ok":
            # A place that the broker has forgotten is not told.
            is_told = pending.f != "send" or self.chance.random() < 0.95
            fields["o"] = pending.answer if is_told else None
        if how != "info" or self.chance.random() < 0.7:  # others never come back
            self.add(pending.p, how, pending.f, **fields)
        self.idle.append(self.new() if how == "info" else pending.p)

    def write_late(self) -> None:
        if self.late:
            self.write(self.late.pop(self.chance.randrange(len(self.late))))

    # -- readers --------------------------------------------------------------------------------

    def begin_reading(self) -> None:
        """A reader of no group, or the next one of a group; a seek is the same but for its p."""
        group = self.chance.choice((None, "g1", "g2"))
        if group in self.groups:
            del self.readers[self.groups[group]]
        p = self.new()
        at = {}
        for queue, values in enumerate(self.queues):
            first = self.first[queue]
            if group is None:
                at[queue] = self.chance.randint(first, len(values))
            else:
                at[queue] = max(first, self.committed.get((group, queue), 0))
        self.readers[p] = (group, at)
        if group is not None:
            self.groups[group] = p
        self.add(p, "ok", "assign", v=[[queue, offset] for queue, offset in at.items()], g=group)

    def poll(self) -> None:
        if not self.readers:
            return
        p = self.chance.choice(list(self.readers))
        group, at = self.readers[p]
        queue = self.chance.choice(list(at))
        begin = max(at[queue], self.first[queue])
        end = min(len(self.queues[queue]), begin + self.chance.randint(0, 4))
        found = [[offset, self.queues[queue][offset]] for offset in range(begin, end)]
        at[queue] = max(begin, end)
        self.add(p, "ok", "poll", k=queue, v=found, g=group)

    def commit(self) -> None:
        if not self.groups:
            return
        group = self.chance.choice(list(self.groups))
        p = self.groups[group]
        at = self.readers[p][1]
        upto = [[queue, offset] for queue, offset in at.items()]
        self.add(p, "invoke", "commit", v=upto, g=group)
        is_lost = self.chance.random() < 0.2
        if not (is_lost and self.chance.random() < 0.5):
            for queue, offset in upto:
                self.committed[group, queue] = max(self.committed.get((group, queue), 0), offset)
        self.add(p, "info" if is_lost else "ok", "commit", v=upto, g=group)
        if is_lost:
            del self.readers[p], self.groups[group]

    # -- the world ------------------------------------------------------------------------------

    def lead(self) -> None:
        self.term += 1
        self.add(NEMESIS, "info", "leader", node=f"n{self.chance.randint(1, 3)}", o=self.term)

    def drop(self) -> None:
        queue = self.chance.randrange(len(self.queues))
        if self.has_retention and len(self.queues[queue]) > 3:
            self.first[queue] = self.chance.randint(
                self.first[queue], max(self.first[queue], len(self.queues[queue]) - 3)
            )

    def finish(self) -> None:
        while self.late:
            self.write_late()
        self.add(NEMESIS, "info", "healed")
        self.add(NEMESIS, "info", "recovered")
        for queue, values in enumerate(self.queues):
            first = self.first[queue]
            found = [[offset, values[offset]] for offset in range(first, len(values))]
            self.add(self.new(), "ok", "drain", k=queue, v=found, o=first)
        self.add(NEMESIS, "info", "drained")
        for node in ("n1", "n2", "n3"):
            for queue, values in enumerate(self.queues):
                first = self.chance.randint(0, self.first[queue])  # each drops when it likes
                found = [[offset, values[offset]] for offset in range(first, len(values))]
                if found:
                    self.add(self.new(), "ok", "dump", k=queue, v=found, o=0, node=node)
            self.add(NEMESIS, "info", "dumped", node=node)


def random_history(seed: int, *, steps: int, has_retention: bool = False) -> list[Event]:
    """Return a history in which nothing is wrong; none of the sends succeeds before `healed`."""
    events = Model(seed, steps=steps, has_retention=has_retention).events
    if not any((event.f, event.type) == ("send", "ok") for event in events):
        return [event for event in events if event.f != "healed"]
    return events


def edited(events: list[Event], seed: int, *, edits: int) -> list[Event]:
    """Return a copy with a few things changed at random."""
    chance = random.Random(seed)
    events = [
        replace(event, v=[list(pair) for pair in event.v] if isinstance(event.v, list) else event.v)
        for event in events
    ]
    for _ in range(edits):
        # What is rare as often as what is not; and answers, as there is nothing in a question.
        answers = [event for event in events if event.type != "invoke"]
        f, type = chance.choice(sorted({(event.f, event.type) for event in answers}))
        some = [event for event in answers if (event.f, event.type) == (f, type)]
        _edit(chance.choice(some), events, chance)
    events.sort(key=lambda event: event.t)
    for number, event in enumerate(events):
        event.i = number
    return events


def _edit(event: Event, events: list[Event], chance: random.Random) -> None:
    pairs = event.v if event.f in READS and event.v else None
    kinds = ["type", "time"]
    if event.o is not None:
        kinds += ["o", "o", "o"]
    if pairs:
        kinds += ["drop", "twice", "value", "offset"]
    match chance.choice(kinds):
        case "o":
            event.o = max(0, event.o + chance.choice((-3, -2, -1, 1, 2)))
        case "drop":
            del pairs[chance.randrange(len(pairs))]
        case "twice":
            pairs.insert(chance.randrange(len(pairs) + 1), list(chance.choice(pairs)))
        case "offset":
            chance.choice(pairs)[0] += chance.choice((-1, 1))
        case "value":
            sent = [event.v for event in events if event.f == "send"]
            chance.choice(pairs)[1] = chance.choice((chance.choice(sent), f"x-{event.i}"))
        case "type":
            if event.type != "invoke" and event.f in ("send", "end", "committed", "commit"):
                event.type = chance.choice(("ok", "info", "fail"))
        case "time":
            _move(event, events, chance)


def _move(event: Event, events: list[Event], chance: random.Random) -> None:
    """Move it in time, but neither before its question nor behind its answer."""
    if event.p == NEMESIS:
        return
    mine = [other for other in events if other.p == event.p and other is not event]
    low = max((other.t for other in mine if other.i < event.i), default=0)
    high = min((other.t for other in mine if other.i > event.i), default=events[-1].t)
    event.t = chance.randint(low, max(low, high))
