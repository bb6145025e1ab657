"""What topics, groups and offsets look like to people, without a group to ask."""

import datetime

import click
import pytest
from click.testing import CliRunner

from broker.cli import offset_commands
from broker.cli.confirming import confirm
from broker.cli.consumer_group_commands import _frame as group_frame
from broker.cli.consumer_group_commands import group
from broker.cli.offset_commands import read_place
from broker.cli.topic_commands import _frame as topic_frame
from broker.cli.topic_commands import _perm_bits, _perm_letters, topic
from broker.protocol.descriptions import (
    GroupDescription,
    GroupMember,
    GroupQueueDescription,
    GroupTopicDescription,
    OffsetReset,
    QueueDescription,
    QueueReset,
    Rate,
    TopicDescription,
)
from broker.protocol.subscription_group import SubscriptionGroupConfig

NOW = 1_795_000_000_000


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("earliest", {"to": "earliest"}),
        ("latest", {"to": "latest"}),
        ("1234", {"to": 1234}),
        ("offset:7", {"to": 7}),
        ("+10", {"shift": 10}),
        ("-10", {"shift": -10}),
        ("-1h", {"to": datetime.datetime.fromtimestamp(NOW / 1000 - 3600, datetime.UTC)}),
        ("2026-11-25T10:00:00Z", {"to": datetime.datetime(2026, 11, 25, 10, tzinfo=datetime.UTC)}),
        (str(NOW), {"to": datetime.datetime.fromtimestamp(NOW / 1000, datetime.UTC)}),
    ],
)
def test_a_place_is_read_as_people_write_it(text, place):
    assert read_place(text, now_ms=NOW) == place


@pytest.mark.parametrize("text", ["", "middle", "committed", "offset:1:2", "+1x"])
def test_what_is_no_place_is_wrong_usage(text):
    with pytest.raises(click.UsageError, match="--to"):
        read_place(text, now_ms=NOW)


def test_permissions_are_letters():
    assert [_perm_letters(_perm_bits(letters)) for letters in ("rw", "wr", "r", "rwi")] == [
        "rw",
        "rw",
        "r",
        "rwi",
    ]
    assert _perm_letters(0) == "none"
    for wrong in ("", "x", "rx"):
        with pytest.raises(click.UsageError, match="use r, w and i"):
            _perm_bits(wrong)


@pytest.mark.parametrize(("command", "name"), [(topic, "orders"), (group, "billing")])
def test_altering_nothing_is_wrong_usage(command, name):
    done = CliRunner().invoke(command, ["alter", name])

    assert done.exit_code == 2
    assert "nothing to change" in done.output


def test_without_a_terminal_nobody_is_asked():
    """Under pytest stdin is none."""
    confirm("sure?", yes=True)
    with pytest.raises(click.UsageError, match="give --yes"):
        confirm("sure?", yes=False)


def test_a_topic_is_shown():
    queue = QueueDescription(
        queue_id=0, min_offset=5, max_offset=1205, size=2048, is_size_estimated=True,
        oldest_ms=NOW, newest_ms=NOW + 1,
    )  # fmt: skip
    found = TopicDescription(
        topic="orders", node_id="n1", read_queue_count=2, write_queue_count=1, perm=4, order=False,
        attributes={"retention.ms": "259200000", "retention.bytes": "1048576", "acks": "all"},
        queues=(queue,), in_rate=Rate(messages_per_second=1.5), out_rate=Rate(),
    )  # fmt: skip

    (headline, counts, table), value = topic_frame(found)

    assert headline == (
        "topic orders: 2 queues (1 written to), perm r, retention 3d and 1.0 MiB, acks all"
    )
    assert counts.startswith("1,200 messages kept, ~2.0 KiB; 1.5 in and 0.0 out a second")
    assert table.plain_lines()[1].split()[:5] == ["0", "5", "1,205", "1,200", "~2.0"]
    assert (value["messages"], value["kept"], value["size"]) == (1205, 1200, 2048)


def test_a_group_is_shown():
    queues = tuple(
        GroupQueueDescription(
            queue_id=number, committed=committed, min_offset=10, max_offset=30, consumed_ms=-1
        )
        for number, committed in enumerate((25, -1, 3))
    )
    found = GroupDescription(
        group="billing", node_id="n1",
        config=SubscriptionGroupConfig(
            group="billing", consume_enable=False, retry_delays_ms=(1000, 60_000)
        ),
        topics=(
            GroupTopicDescription(
                topic="orders", epoch=0, committed_ms=0, queues=queues, out_rate=Rate()
            ),
        ),
    )  # fmt: skip

    (headline, table), value = group_frame(found)

    assert headline == (
        "consumer group billing: may not consume, up to 16 retries, after 1.0 s and 1m 0s; lag 45"
    )
    # Below what is kept nothing can lag: retention has taken it.
    assert [line.split()[2:6] for line in table.plain_lines()[1:]] == [
        ["25", "10", "30", "5"],
        ["-", "10", "30", "20"],
        ["3", "10", "30", "20"],
    ]
    assert (value["lag"], value["topics"], value["committed_ms"]) == (45, ["orders"], 0)


def test_who_consumes_for_a_group_is_shown():
    members = tuple(
        GroupMember(
            client_id=client_id, address=address, language=language, version=409,
            message_model="CLUSTERING", subscriptions={"orders": filter_, "%RETRY%billing": "*"},
        )
        for client_id, address, language, filter_ in (
            ("c1", "10.0.0.7:50254", "JAVA", "red || green"), ("c2", "", "", "*"),
        )
    )  # fmt: skip
    found = GroupDescription(
        group="billing", node_id="n1", config=SubscriptionGroupConfig(group="billing"), topics=(),
        members=members,
    )  # fmt: skip

    (headline, count, table), value = group_frame(found)

    assert headline.endswith("it has committed nothing")
    assert count == "2 members"
    assert [line.split(maxsplit=4) for line in table.plain_lines()[1:]] == [
        ["c1", "10.0.0.7:50254", "JAVA", "clustering", "orders (red || green), %RETRY%billing"],
        ["c2", "-", "-", "clustering", "orders, %RETRY%billing"],
    ]
    assert value["member_count"] == 2
    assert value["members"][0]["subscriptions"]["orders"] == "red || green"


def test_a_reset_of_a_group_nobody_knows_is_told_so(capsys):
    """A mistyped group would be made by it, and nothing said."""
    for before, told in ((-1, True), (5, False)):
        queue = QueueReset(queue_id=0, before=before, after=7, min_offset=0, max_offset=9)
        offset_commands._show(
            OffsetReset(group="billing", topic="orders", is_dry_run=True, epoch=0, queues=(queue,))
        )
        errors = capsys.readouterr().err
        assert ("group billing has committed nothing in topic orders so far" in errors) is told
