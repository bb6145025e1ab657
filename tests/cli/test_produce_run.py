"""What one run of ``dledger produce`` counts and says; the group is a stand-in."""

import json

import pytest

from broker.cli.produce_command import _Run
from broker.cli.produce_input import Outgoing, ProduceError
from broker.cli.produce_progress import open_progress
from broker.client.results import SendResult
from broker.errors import InvalidMessageError


class FakeProducer:
    """Refuses bodies that say so; notes what it was asked."""

    def __init__(self):
        self.asked = []

    async def send(self, topic, body, **options):
        self.asked.append((topic, body, options))
        if body == b"refuse":
            raise InvalidMessageError("refused")
        return SendResult(topic, 1, len(self.asked), 100, "127.0.0.1:9876", "AB", "majority/sync")


def make_run(**options):
    return _Run("orders", **({"ordered": False, "errors_max": 2, "as_json": False} | options))


async def send(run, *messages):
    producer = FakeProducer()
    with open_progress(None) as shown:
        for message in messages:
            await run._send_counted(producer, message, shown)
    return producer


async def test_a_failed_message_is_told_and_counted_and_the_others_go_on(capsys):
    run = make_run()

    await send(
        run,
        Outgoing(number=1, body=b"a"),
        Outgoing(number=2, body=b"refuse"),
        Outgoing(number=3, problem="no JSON"),
        Outgoing(number=4, body=b"b"),
    )

    assert (run.acknowledged, run.failed) == (2, 2)
    assert capsys.readouterr().err == "dledger: line 2: refused\ndledger: line 3: no JSON\n"


async def test_it_gives_up_after_more_failures_than_allowed():
    run = make_run(errors_max=1)

    with pytest.raises(ProduceError, match=r"line 3: refused; given up \(1 message .* 2 failed\)"):
        await send(
            run,
            Outgoing(number=1, body=b"a"),
            *[Outgoing(number=number, body=b"refuse") for number in (2, 3, 4)],
        )


async def test_json_says_of_each_line_where_it_is_or_why_not(capsys):
    await send(
        make_run(as_json=True), Outgoing(number=7, body=b"a"), Outgoing(number=8, body=b"refuse")
    )

    sent, failed = map(json.loads, capsys.readouterr().out.splitlines())
    assert sent == {
        "line": 7,
        "topic": "orders",
        "queue_id": 1,
        "queue_offset": 1,
        "message_id": "7F000001000026940000000000000064",
        "unique_id": "AB",
        "durability": "majority/sync",
    }
    assert failed == {"line": 8, "error": "refused"}


async def test_ordered_sends_by_the_first_key_unless_the_line_says_otherwise():
    producer = await send(
        make_run(ordered=True),
        Outgoing(number=1, keys=("k1", "k2")),
        Outgoing(number=2, keys=("k1",), ordering_key="user"),
        Outgoing(number=3, keys=("k1",), queue=5),
        Outgoing(number=4),
    )

    chosen = [(options["ordering_key"], options["queue"]) for _, _, options in producer.asked]
    assert chosen == [("k1", None), ("user", None), (None, 5), (None, None)]
