"""Scenarios of consuming: our own client sends, through the middle, and stock clients consume."""

from __future__ import annotations

import contextlib
import itertools
from typing import TYPE_CHECKING, Any

import trio

from tests.interop import clients
from tests.interop.case import ENOUGH, QUEUES

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.interop.case import Case, Trickle
    from tests.interop.clients import Client

RETRY_SECONDS = 10  # where nobody says anything else
RETRY_MS = 2000  # as the group says
QUIET = 8  # seconds without what was refused: it would have come again
# Java gives a queue back 20 s late when it has messages of it at hand just then, and who wants it
# asks each 20 s.  PyPI's rocketmq may forget to give one back: its lock lasts, see `LOCKS_SHORTER`.
SHARED_SECONDS = 60.0
ROUNDING = 0.01  # seconds: what clients and records tell is rounded
# What the C++ core says of a message that it could not give back, unless the broker refused it.
UNANSWERED = "response is null"


def _names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


async def push(case: Case) -> None:
    """What was sent before and what is sent after comes, once, with its tag and keys."""
    early = _names("a", 20)
    await case.produced(early, tag="red", key="k")
    async with case.run("consumer") as consumer:
        await case.until_consumed(early, consumer)
        first = consumer.of("got")[0]
        async with case.trickle() as sent:
            await case.more(sent)
            await case.middle()
            await case.more(sent)
        begun = trio.current_time()
        await case.until_consumed(sent, consumer)
        case.facts["after the last"] = f"{trio.current_time() - begun:.2f} s"
    case.same(consumer.bodies, [*early, *sent])
    assert (first["tag"], first["keys"], first["times"]) == ("red", "k", 0)
    if case.is_calm:
        assert not consumer.of("error")


async def pull(case: Case, *, lite: bool = False) -> None:
    """What is pulled queue by queue is all there is, once."""
    async with case.run("puller", lite=lite) as puller:
        await puller.started()
        async with case.trickle() as sent:
            await case.more(sent)
            await case.until_consumed(sent[:1], puller)
            await case.middle()
            await case.more(sent)
        await case.until_consumed(sent, puller)
    case.same(puller.bodies, sent)


async def lite_pull(case: Case) -> None:
    """The same by what shares queues and pulls ahead by itself."""
    await pull(case, lite=True)


async def orderly(case: Case) -> None:
    """Two members, one leaves: each queue in order, and at one member at a time."""
    async with contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(case.run("consumer", instance="one", ordered=True))
        sent = await stack.enter_async_context(case.trickle())
        await _until_alone(one)
        other = await stack.enter_async_context(
            case.run("consumer", instance="other", ordered=True)
        )
        await other.until(
            "its share",
            lambda client: (
                len(client.bodies) >= ENOUGH
                and len({event["queue"] for event in client.of("got")}) >= QUEUES // 2
            ),
            seconds=SHARED_SECONDS,
        )
        await case.middle()
        count = len(other.bodies)
        await other.until("more", lambda client: len(client.bodies) >= count + ENOUGH)
        if case.kind.crashes_at_end:
            case.facts["left out"] = "one leaves: it crashes, and its locks last 60 s"
        else:
            await other.stop()
            begun = trio.current_time()
            await _until_alone(one, seconds=SHARED_SECONDS)
            case.facts["taken over after"] = f"{trio.current_time() - begun:.1f} s"
        await sent.stop()
        await case.until_consumed(sent, one, other)
    queues_of_two = 0
    for queue in range(QUEUES):
        events = sorted(
            (event["clock"], client.name, event["body"])
            for client in (one, other)
            for event in client.of("got")
            if event["queue"] == queue
        )
        turns = [
            [body for _, _, body in turn]
            for _, turn in itertools.groupby(events, lambda event: event[1])
        ]
        queues_of_two += len(turns) > 1
        assert len(turns) <= 3, f"queue {queue}: one at a time: {events}"
        for bodies in turns:
            assert bodies == sorted(set(bodies)), f"queue {queue}: each once, in order: {bodies}"
    assert queues_of_two == QUEUES // 2, f"{queues_of_two} queues changed hands"
    # What one has read and not committed when it gives a queue away, the other reads, too.
    assert set(one.bodies + other.bodies) == set(sent)


async def _until_alone(client: Client, *, seconds: float = clients.SECONDS) -> None:
    """Wait until *client* has all queues: until messages from each come to it, from now on."""
    count = len(client.of("got"))
    await client.until(
        "all queues",
        lambda client: len({event["queue"] for event in client.of("got")[count:]}) == QUEUES,
        seconds=seconds,
    )


async def broadcasting(case: Case) -> None:
    """Every member gets everything from where it began."""
    async with contextlib.AsyncExitStack() as stack:
        sent = await stack.enter_async_context(case.trickle())
        both = [
            await stack.enter_async_context(case.run("consumer", instance=name, broadcasting=True))
            for name in ("one", "other")
        ]
        # Who broadcasts keeps its offsets to itself, and begins where a queue ends just then.
        for consumer in both:
            await _until_alone(consumer)
        begun = len(sent)
        await case.middle()
        await case.more(sent)
        expected = sent[begun:]
        for consumer in both:
            await case.until_consumed(expected, consumer)
    for consumer in both:
        case.same([body for body in consumer.bodies if body in set(expected)], expected)


async def tags(case: Case) -> None:
    """Only the tags that were asked for come."""
    async with case.run("consumer", expression="red || blue") as consumer:
        async with (
            case.trickle("red", tag="red") as red,
            case.trickle("green", tag="green") as green,
            case.trickle("blue", tag="blue") as blue,
        ):
            await case.until_consumed(["red00000", "blue00000"], consumer)
            await case.more(green)
            await case.middle()
            await case.more(green)
        await case.until_consumed([*red, *blue], consumer)
    case.same(consumer.bodies, [*red, *blue])


async def members(case: Case) -> None:
    """Two share the queues; one goes (killed, or in good order when the leader is killed)."""
    async with contextlib.AsyncExitStack() as stack:
        sent = await stack.enter_async_context(case.trickle())
        one = await stack.enter_async_context(case.run("consumer", instance="one"))
        await _until_alone(one)
        other = await stack.enter_async_context(case.run("consumer", instance="other"))
        await other.started()
        # ali-ons looks who else is there each 10 s, and meanwhile reads what the other reads, too.
        begun = trio.current_time()
        await _until_shared(one, other)
        case.facts["shared after"] = f"{trio.current_time() - begun:.1f} s"
        await case.middle()
        await case.more(sent)
        if case.is_calm:
            one.kill()
        else:
            await one.stop()
        begun = trio.current_time()
        await _until_alone(other)
        case.facts["taken over after"] = f"{trio.current_time() - begun:.1f} s"
        await sent.stop()
        await case.until_consumed(sent, one, other)


async def _until_shared(*members: Client) -> None:
    """Wait until each queue's latest messages come to one member only, and each member has some."""

    def queues_since(client: Client, time: float) -> set[int]:
        return {event["queue"] for event in client.of("got") if event["seen"] > time}

    with trio.fail_after(clients.SECONDS):
        while True:
            begun = trio.current_time()
            await trio.sleep(0.5)
            found = [queues_since(client, begun) for client in members]
            if all(found) and sum(map(len, found)) == QUEUES == len(set().union(*found)):
                return


async def again(case: Case) -> None:
    """A group that comes back goes on where it was."""
    early, late = _names("a", 40), _names("b", 40)
    await case.produced(early)
    async with case.run("consumer") as consumer:
        await case.until_consumed(early, consumer)
        await case.middle()
        if case.kind.crashes_at_end:
            await case.until_committed()
        await consumer.stop()
    await case.produced(late)
    async with case.run("consumer") as consumer:
        await case.until_consumed(late, consumer)
    case.facts["consumed again"] = str(len(set(consumer.bodies) & set(early)))
    assert sorted(consumer.bodies) == sorted(late)


async def retry(case: Case) -> None:
    """What fails comes again: after 10 s, or as the group says."""
    if not case.is_calm:
        await case.settle_group(retry_delays_ms=(RETRY_MS,))
    async with case.run("consumer", fails=1) as consumer:
        async with case.trickle(tag="red") as sent:
            await consumer.until("a refusal", lambda client: client.of("refused"))
            await case.middle()
            if not case.is_calm:
                await case.more(sent)
        forgotten = await _forgotten(case, sent, consumer, lambda: set(consumer.bodies))
        await case.until_consumed(set(sent) - forgotten, consumer)
    refused: dict[str, float] = {}  # when at first
    for event in consumer.of("refused"):
        refused.setdefault(event["body"], event["at"])
    came = [event for event in consumer.of("got") if event["body"] in refused]
    # By one clock, and from before it was given back.
    waits = [event["at"] - refused[event["body"]] for event in came]
    case.facts["came again after"] = f"{min(waits):.1f} to {max(waits):.1f} s"
    assert {(event["times"], event["tag"]) for event in came} == {(1, "red")}
    due = (RETRY_SECONDS if case.is_calm else RETRY_MS / 1000) - ROUNDING
    for event in [event for event, wait in zip(came, waits, strict=True) if wait < due]:
        assert not await _is_of_ours(case, event), f"before its time: {event}"
        assert not (why := _refusals(case, consumer)), f"{event} by itself, as it was told: {why}"
    case.same(consumer.bodies, set(sent) - forgotten)


async def _is_of_ours(case: Case, event: dict[str, Any]) -> bool:
    """Return whether a message that came again was delivered for a request to send it back.

    A client whose request comes to nothing, as on a machine that is far too busy, tries the message
    again by itself, or sends it to the retry topic, not to wait (ali-ons: level 0).
    """
    async with case.read(f"%RETRY%{case.readers}") as reading:
        await reading.until_quiet()
    return any(
        (message.queue_id, message.queue_offset) == (event["queue"], event["offset"])
        and message.body.decode() == event["body"]
        and message.properties.get("DELAY") != "0"
        for message in reading.messages
    )


def _refusals(case: Case, consumer: Client) -> list[str]:
    """Return what the broker answered a client that gave messages back, but for "done"."""
    told = [str(event["why"]) for event in consumer.of("error")]
    return [why for why in told if "MQClientException" in why] + [
        line for line in case.logged("[sendMessageBack:") if UNANSWERED not in line
    ]


async def _forgotten(
    case: Case, sent: Trickle, consumer: Client, there: Callable[[], set[str]]
) -> set[str]:
    """Return what failed and is not *there*: the client forgot it.

    It does so when it hears nothing for 3 s, or does not come to ask: by its own log.
    """
    if not case.kind.forgets:
        return set()
    quiet_max = QUIET + (RETRY_SECONDS if case.is_calm else 0)
    quiet = 0
    with trio.move_on_after(clients.SECONDS):
        while (missing := set(sent) - there()) and quiet < quiet_max:
            quiet = quiet + 1 if missing <= _failed(case, sent, consumer) else 0
            await trio.sleep(1.0)
    failed = _failed(case, sent, consumer)
    assert missing <= failed, f"never delivered: {sorted(missing - failed)}"
    if missing:
        assert not (why := _refusals(case, consumer)), f"{sorted(missing)} as it was told: {why}"
        unanswered = [line for line in case.logged("[sendMessageBack:") if UNANSWERED in line]
        assert len(missing) <= len(unanswered), f"not heard of, or dropped: {sorted(missing)}"
        case.facts["given to it, and forgotten"] = str(len(missing))
    return missing


def _failed(case: Case, sent: Trickle, consumer: Client) -> set[str]:
    """Return what a client was to give back: what it refused, and what it had pulled with that.

    Of messages that fail together it tries the first only, and its log tells of all.
    """
    refused = {event["body"] for event in consumer.of("refused")}
    logged = "\n".join(case.logged("consume fail"))
    return refused | {body for body, unique_id in sent.ids.items() if unique_id in logged}


async def dead(case: Case) -> None:
    """What always fails ends as a dead letter, as often as it may fail and no more."""
    # Whoever asks for 16 retries itself waits for none of them.
    delay_ms = 500 if case.kind.times_max == 1 else 0
    await case.settle_group(retry_times_max=1, retry_delays_ms=(delay_ms,))
    async with (
        case.read(f"%DLQ%{case.readers}") as reading,
        case.run("consumer", fails=100, times=1) as consumer,
    ):
        async with case.trickle() as sent:
            await consumer.until("a refusal", lambda client: client.of("refused"))
            await case.middle()
            if not case.is_calm:
                await case.more(sent)
        forgotten = await _forgotten(case, sent, consumer, lambda: set(reading.bodies))
        await reading.until_there(set(sent) - forgotten)
    times = {
        body: sorted(event["times"] for event in consumer.of("refused") if event["body"] == body)
        for body in sent
    }
    case.same(reading.bodies, set(sent) - forgotten)
    if case.is_calm:
        all_times = list(range(case.kind.times_max + 1))
        for found in times.values():
            assert len(set(found)) == len(found), times
            assert found == all_times or (case.kind.fails_together and set(found) < set(all_times))


CONSUMING = {
    "push": push,
    "pull": pull,
    "lite": lite_pull,
    "orderly": orderly,
    "broadcasting": broadcasting,
    "tags": tags,
    "members": members,
    "again": again,
    "retry": retry,
    "dead": dead,
}
