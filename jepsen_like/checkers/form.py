"""Whether a history is one that can be judged: nothing here blames the product."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jepsen_like.history import NEMESIS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jepsen_like.history import Event


def faults_of_form(events: list[Event]) -> Iterator[str]:
    """Yield what the recorder did wrong, the first of each kind."""
    told: set[str] = set()
    open_: dict[int, Event] = {}
    gone: set[int] = set()  # processes with an unknown outcome
    sent: set[str] = set()
    before = 0
    for event in events:
        wrong = _wrong(event, before=before, open_=open_, gone=gone, sent=sent)
        before = event.t
        if wrong and wrong not in told:
            told.add(wrong)
            yield f"line {event.i}: {wrong}"


def _wrong(
    event: Event, *, before: int, open_: dict[int, Event], gone: set[int], sent: set[str]
) -> str:
    found = "time goes backwards" if event.t < before else ""
    if event.p == NEMESIS:
        return found
    if event.p in gone:
        found = "a process goes on after an unknown outcome"
    if event.type == "invoke":
        if event.p in open_:
            found = "a process begins one thing before another has ended"
        open_[event.p] = event
        if event.f == "send":
            if event.v in sent:
                found = "a value is sent twice"
            sent.add(event.v)
    else:
        begun = open_.get(event.p)
        if begun is not None and begun.f == event.f:
            del open_[event.p]
            if event.type == "info":
                gone.add(event.p)
        elif event.f in ("send", "end", "commit", "committed"):
            found = "a process ends what it had not begun"
    return found
