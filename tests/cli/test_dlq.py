"""Dead letters as their commands show and send them, on a real broker."""

import json

import pytest
import trio
from click.testing import CliRunner

from broker.cli.dlq_commands import dlq
from broker.errors import GroupNotFoundError


@pytest.fixture
def run(broker_server):
    """Return what runs a command on a broker; it gives the exit code and what was printed."""

    async def give_up():
        async with broker_server.connect() as mq:
            async with mq.producer() as producer:
                for number in range(4):
                    await producer.send("letters", b"letter %d" % number, queue=0)
            async with mq.consumer("postmen", "letters") as consumer:
                for _ in range(4):
                    (await anext(consumer)).dead_letter()

    def runner(*words):
        done = CliRunner().invoke(dlq, [*words, "--server", broker_server.address])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    runner.give_up = lambda: trio.run(give_up)
    return runner


def numbers(printed):
    return [json.loads(line)["number"] for line in printed.splitlines()]


@pytest.mark.parametrize("words", [("show",), ("resend", "--yes"), ("resend", "3", "--yes")])
def test_a_group_that_is_not_there_is_told_so(broker_server, words):
    command, *others = words
    words = (command, "postmne", *others, "--server", broker_server.address)
    done = CliRunner().invoke(dlq, words)

    assert isinstance(done.exception, GroupNotFoundError)
    assert "postmne" in str(done.exception)


def test_a_group_that_has_given_nothing_up(run, broker_server):
    with broker_server.connect_sync() as mq:
        mq.admin.create_group("postmen")
    assert run("list") == (0, "no consumer group has given a message up\n")
    code, printed = run("show", "postmen")
    assert (code, printed) == (1, "dledger: no dead letter of group postmen waits\n")
    code, printed = run("resend", "postmen", "--yes")
    assert (code, printed) == (0, "no dead letter of group postmen waits\n")
    assert run("resend", "postmen", "1", "--limit", "2", "--yes")[0] == 2


def test_dead_letters_are_shown_and_sent_again(run):
    run.give_up()

    (row,) = json.loads(run("list", "--json")[1])
    assert (row["group"], row["waiting"], row["kept"]) == ("postmen", 4, 4)
    code, printed = run("show", "postmen", "-n", "2")
    assert code == 0
    assert [line.split()[0] for line in printed.splitlines()[:3]] == ["number", "0", "1"]
    assert "letters" in printed
    assert "--limit prints more than 2" in printed
    assert numbers(run("show", "postmen", "--from", "2", "--json")[1]) == [2, 3]

    # One that is named still waits; of all that wait, those that are sent do no longer.
    said = run("resend", "postmen", "1", "--yes")[1]
    assert said == "sent 1 dead letter to group postmen again\n"
    assert json.loads(run("resend", "postmen", "-n", "3", "--yes", "--json")[1]) == {
        "group": "postmen", "sent": 3,
    }  # fmt: skip
    assert numbers(run("show", "postmen", "--json")[1]) == [3]
    assert numbers(run("show", "postmen", "--from", "0", "--json")[1]) == [0, 1, 2, 3]
    assert run("resend", "postmen", "--yes")[0] == 0
    assert json.loads(run("list", "--json")[1])[0]["waiting"] == 0


def test_a_number_that_is_none_sends_nothing(run):
    run.give_up()

    code, printed = run("resend", "postmen", "1", "17", "--yes")

    assert code == 1
    assert "no dead letter 17" in printed
    assert json.loads(run("list", "--json")[1])[0]["waiting"] == 4
    assert run("show", "postmen", "--from", "4")[0] == 1
