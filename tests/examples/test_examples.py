"""The examples as their docstrings say to run them, against a group of real processes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker import sync
from broker.cli.local_group import LocalGroup, find_base_port
from tests.fakes.children import child

pytestmark = [pytest.mark.process, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a running group."""
    folder = tmp_path_factory.mktemp("group")
    base_port = find_base_port(3)
    dledger("up", "--data", folder, "--base-port", base_port, "--segment-size=1MiB", "--detach")
    yield folder
    dledger("down", "--data", folder)


def dledger(*arguments):
    """Run the command; it must not fail."""
    run_python("-m", "broker.cli.main", *map(str, arguments))


def run_python(*arguments, stdin="", servers=""):
    """Run Python with *arguments*; return what it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=os.environ | {"DLEDGER_SERVER": servers},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def run(folder):
    """Return a function that runs an example against the group."""
    servers = ",".join(LocalGroup.find(folder).addresses)

    def run(name, *arguments, stdin=""):
        return run_python(str(EXAMPLES / name), *map(str, arguments), stdin=stdin, servers=servers)

    return run


def test_what_produce_sends_consume_prints_once(run):
    lines = [f"line {number}" for number in range(30)]

    told = run("produce.py", "numbers", stdin="\n".join(lines)).splitlines()
    first = run("consume.py", "numbers", 10).splitlines()
    rest = run("consume.py", "numbers", 20).splitlines()

    places = dict(reversed(line.split(" is ")) for line in told)
    printed = dict(line.split(": ") for line in first + rest)
    assert printed == places
    assert sorted(printed.values()) == sorted(lines)


def test_a_producer_follows_the_lead_without_losing_a_message(run, folder):
    """It stands still while the lead is handed over, or it might be done before that."""
    servers = ",".join(LocalGroup.find(folder).addresses)
    environment = os.environ | {"DLEDGER_SERVER": servers, "PYTHONUNBUFFERED": "1"}
    words = [EXAMPLES / "follow_the_leader.py", 100]
    with (
        child(*words, stdout=subprocess.PIPE, text=True, env=environment) as process,
        sync.connect(servers) as mq,
    ):
        first = process.stdout.readline()
        assert re.match(r"0: acknowledged by 127\.0\.0\.1:\d+, after", first)
        process.send_signal(signal.SIGSTOP)
        mq.admin.transfer_leadership()
        process.send_signal(signal.SIGCONT)
        told, _ = process.communicate()

    assert told.count("acknowledged by") >= 1, first + told
    assert "100 of 100 acknowledged" in told


def test_sockets_and_json_are_enough(run, folder):
    """The leader is asked first; the others hand on what only it may do."""
    status = json.loads(run_python("-m", "broker.cli.main", "status", "--json", "--data", folder))
    nodes = sorted(status["nodes"], key=lambda node: node["node_id"] != status["leader"])
    lines = []
    for number, node in enumerate(nodes):
        told = run("without_the_library.py", node["address"], "plain").splitlines()

        lines += [f"plain/0/{2 * number}: by hand", f"plain/0/{2 * number + 1}: and once more"]
        assert [line.partition(",")[0] for line in told[:2]] == [
            f"sent as plain/0/{2 * number}",
            f"sent as plain/0/{2 * number + 1}",
        ]
        assert told[2:] == lines


def test_the_client_under_asyncio(run):
    told = run("asyncio_produce_consume.py", "aio").splitlines()

    assert told[0].startswith("sent 10 to queue")
    assert len(told) == 11
    assert told[-1].endswith("b'9'")


def test_the_client_without_an_event_loop(run):
    lines = "\n".join(f"line {number}" for number in range(200))

    told = run("blocking.py", "blocking", stdin=lines).splitlines()

    assert told == ["sent 200", f"read 200, {len(lines) - 199} bytes"]
