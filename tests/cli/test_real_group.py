"""The commands as a user types them, against a group of three real processes."""

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios

import pytest

from broker.cli.local_group import LocalGroup, find_base_port
from dledger.config import FlushDiskType

pytestmark = [pytest.mark.process, pytest.mark.slow]


def dledger(*arguments, stdin="", check=True):
    """Run the command as a process of its own; return what it did."""
    done = subprocess.run(
        [sys.executable, "-m", "broker.cli.main", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of a running group of which every member follows, or leads."""
    folder = tmp_path_factory.mktemp("group")
    up = dledger(
        "up", "--data", folder, "--base-port", find_base_port(3), "--segment-size", "16MiB",
        "--detach",
    )  # fmt: skip
    assert re.search(r"n\d leads in term \d+; data in ", up.stdout), up.stdout
    assert "export DLEDGER_SERVER=127.0.0.1:" in up.stdout
    healthy_status(folder)  # only now one of them may be killed, or be found to be well
    yield folder
    dledger("down", "--data", folder)


@pytest.fixture
def run(folder):
    """Return a function that runs a command against the group."""

    def run(*arguments, stdin="", check=True):
        return dledger(*arguments, "--data", folder, stdin=stdin, check=check)

    return run


def healthy_status(folder):
    """Ask until every node has answered in time, and is ready; return what was told then."""
    while True:  # to the end of the test's own time
        status = json.loads(dledger("status", "--json", "--data", folder, check=False).stdout)
        if status["healthy"] and all(node.get("is_ready") for node in status["nodes"]):
            return status


def test_the_group_is_up_and_healthy(run, folder):
    status = healthy_status(folder)

    assert status["leader"] in ("n1", "n2", "n3")
    assert [node["node_id"] for node in status["nodes"]] == ["n1", "n2", "n3"]
    assert re.search(r"n\d leads 'local'", run("status", check=False).stdout)
    assert re.match(r"n\d ", run("leader", "show").stdout)


def test_a_second_up_finds_the_group_running(run):
    assert "runs already" in run("up").stdout


def test_a_message_goes_in_and_comes_out(run):
    assert run("topic", "create", "single", "-q", "2").stdout == "topic single has 2 queues\n"

    sent = run("produce", "single", "hello", "-k", "k1", "--tag", "T", "--prop", "a=5")
    got = run("consume", "single", "-g", "one", "-n", "1", "--timeout", "20", "--json")

    assert re.match(r"sent to single, queue \d, offset 0 \([0-9A-F]{32}\)", sent.stdout)
    message = json.loads(got.stdout)
    assert message["body"] == "hello"
    assert (message["key"], message["tag"], message["properties"]) == (["k1"], "T", {"a": "5"})


def test_what_was_consumed_is_committed(run):
    run("topic", "create", "twice", "-q", "1")
    run("produce", "twice", stdin="one\ntwo\nthree\n")

    first = run("consume", "twice", "-g", "g", "-n", "2", "--timeout", "20")
    second = run("consume", "twice", "-g", "g", "-n", "1", "--timeout", "20")
    other = run("consume", "twice", "-g", "other", "-n", "3", "--timeout", "20")

    assert first.stdout == "one\ntwo\n"
    assert second.stdout == "three\n"
    assert other.stdout == "one\ntwo\nthree\n"


def test_too_few_messages_in_time_fail(run):
    run("topic", "create", "empty", "-q", "1")

    done = run("consume", "empty", "-n", "1", "--timeout", "0.3", check=False)

    assert done.returncode == 1
    assert "0 messages of 1 came in time" in done.stderr


def test_a_file_goes_in_by_lines_and_out_as_json_and_in_again(run, tmp_path):
    lines = [f"line {number}" for number in range(1000)]
    (tmp_path / "lines").write_text("\n".join(lines))
    run("topic", "create", "lines", "-q", "4")

    sent = run("produce", "lines", "-f", tmp_path / "lines", "-k", "k", "--ordered")
    got = run("consume", "lines", "-g", "g", "-n", "1000", "--timeout", "20", "--json").stdout
    run("produce", "copy", "--jsonl", "--ordered", stdin=got)
    copied = run("consume", "copy", "-g", "g", "-n", "1000", "--timeout", "20").stdout

    assert "1,000 messages acknowledged" in sent.stderr
    assert copied.splitlines() == lines


def test_a_topic_is_tailed_without_a_trace(run):
    """Merged by store time, filtered, from a place; and a group goes on where it was."""
    run("topic", "create", "tailed", "-q", "3")
    for tag in ("A", "B"):
        run("produce", "tailed", "-t", tag, stdin="".join(f"{tag}{n}\n" for n in range(20)))

    groups = run("group", "list", "--json").stdout
    every = run("tail", "tailed", "--no-follow", "--json").stdout.splitlines()
    some = run("tail", "tailed", "--no-follow", "--filter", "B", "--grep", "[3-5]$").stdout
    first = run("tail", "tailed", "--from", "-1h", "-n", "1", "--format", "%T %v").stdout
    none = run("tail", "tailed", "--from", "latest", "--no-follow").stdout

    messages = [json.loads(line) for line in every]
    times = [message["store_timestamp_ms"] for message in messages]
    assert len(messages) == 40
    assert times == sorted(times)
    assert len(some.splitlines()) == 6
    assert re.fullmatch(r"A A\d+\n", first)
    assert none == ""
    assert run("group", "list", "--json").stdout == groups
    left = run("consume", "tailed", "-g", "g", "-n", "40", "--timeout", "20", "--no-ack").stdout
    again = run("consume", "tailed", "-g", "g", "-n", "40", "--timeout", "20").stdout
    assert sorted(left.splitlines()) == sorted(again.splitlines())


def test_lines_that_are_no_message_are_counted_and_the_rest_is_sent(run):
    done = run(
        "produce", "some", "--jsonl", stdin='{"body": "a"}\nno\n{"body": "b"}\n', check=False
    )

    assert done.returncode == 1
    assert "line 2: no JSON of a message" in done.stderr
    assert "2 messages acknowledged" in done.stderr
    assert done.stderr.rstrip().endswith("1 failed")
    assert sorted(run("tail", "some", "--no-follow", "--format", "%v").stdout) == sorted("a\nb\n")


def test_a_group_is_measured(run):
    run("topic", "create", "measured", "-q", "2")

    sent = run("bench", "e2e", "--topic", "measured", "--rate", "200", "--secs", "1", "--json")
    read = json.loads(run("bench", "consume", "--topic", "measured", "--json").stdout)

    measured = json.loads(sent.stdout)
    assert (measured["messages"], measured["failed"], measured["lost"]) == (200, 0, 0)
    assert measured["flush_disk_type"] == "SYNC_FLUSH"
    assert 0 < measured["latency_seconds"]["p50"] <= measured["latency_seconds"]["max"]
    assert read["messages"] >= 200


def test_a_healthy_group_passes_the_doctor(run):
    done = run("doctor", "--json", check=False)

    told = json.loads(done.stdout)
    assert [item for item in told["checks"] if item["level"] == "fail"] == []
    assert {"leader", "lag", "broker port"} & {item["name"] for item in told["checks"]} == {
        "leader", "lag",
    }  # fmt: skip
    assert done.returncode in (0, 3)


@pytest.mark.parametrize(("key", "code"), [(b"q", 0), (b"\x03", 130)])
def test_top_shows_the_group_and_leaves_the_terminal_as_it_was(run, folder, key, code):
    """On a terminal of its own: it draws until a key ends it, and puts everything back."""
    run("produce", "shown-in-top", "x")
    main_side, command_side = pty.openpty()
    fcntl.ioctl(command_side, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    before = termios.tcgetattr(command_side)
    command = [sys.executable, "-m", "broker.cli.main", "top", "--data", str(folder)]
    with subprocess.Popen(
        command, stdin=command_side, stdout=command_side, stderr=command_side,
        env=os.environ | {"TERM": "xterm"}, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as top:  # fmt: skip
        seen = b""
        while b"shown-in-top" not in seen or b"q quits" not in seen:
            seen += os.read(main_side, 65_536)
        os.write(main_side, key)
        while b"\x1b[?1049l" not in seen:  # back from the other screen
            seen += os.read(main_side, 65_536)
        top.wait(timeout=120)
    after = termios.tcgetattr(command_side)
    os.close(main_side)
    os.close(command_side)

    assert top.returncode == code
    assert b"\x1b[?25h" in seen.rpartition(b"q quits")[2]  # the cursor
    assert after == before


def test_topics_are_listed_with_their_messages(run):
    run("topic", "create", "listed", "-q", "3")
    run("produce", "listed", stdin="a\nb\n")

    found = {topic["topic"]: topic for topic in json.loads(run("topic", "list", "--json").stdout)}

    listed = found["listed"]
    assert (listed["queues"], listed["messages"], listed["kept"]) == (3, 2, 2)
    assert "listed" in run("topic", "list").stdout


def test_the_lead_is_handed_to_the_node_named(run):
    done, target = None, "n2"
    while done is None or done.returncode or "leads already" in done.stdout:
        target = "n1" if target == "n2" else "n2"
        done = run("leader", "transfer", target, check=False)  # who is too slow leads on: again

    assert re.match(rf"{target} leads in term \d+; n\d handed over in", done.stdout)
    while "leads already" not in done.stdout:
        done = run("leader", "transfer", target, check=False)
    assert f"{target} leads already" in done.stdout


def test_a_killed_leader_is_followed_and_comes_back(run, folder):
    run("topic", "create", "survivor", "-q", "1")
    run("produce", "survivor", "before")

    killed = run("kill-leader").stdout
    run("produce", "survivor", "after")
    match = re.match(r"killed (n\d) \(pid \d+\), leader of term (\d+)\n(n\d) leads in term", killed)
    assert match, killed
    assert match[3] != match[1]
    assert "unreachable" in run("status", check=False).stdout

    assert f"starting {match[1]}" in run("up", "--detach").stdout
    got = run("consume", "survivor", "-n", "2", "--timeout", "20").stdout
    assert got == "before\nafter\n"
    healthy_status(folder)


def test_logs_of_running_nodes_are_identical(run, folder):
    run("produce", "verified", "x")

    done = dledger(
        "log", "verify", folder / "n1", "--against", folder / "n2", "--against", folder / "n3"
    )

    assert done.stdout.count("identical to") == 2
    assert "every entry is whole and in its place" in done.stdout
    dumped = dledger("log", "dump", folder / "n2").stdout
    assert re.search(r"topic\.create .*'verified'", dumped), dumped


def test_a_group_in_the_foreground_ends_with_ctrl_c(tmp_path):
    command = [
        sys.executable, "-m", "broker.cli.main", "up", "--dev", "--data",
        str(tmp_path / "single"), "--base-port", str(find_base_port(3)),
    ]  # fmt: skip
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as up:
        for line in up.stdout:
            said.append(line)
            if "Ctrl-C stops the group" in line:
                up.send_signal(signal.SIGINT)

    assert up.returncode == 0, said
    assert any("n1 leads in term" in line for line in said)
    group = LocalGroup.find(tmp_path / "single")
    assert group.running() == []
    (node,) = group.nodes
    assert node.config.store.flush_disk_type is FlushDiskType.ASYNC_FLUSH


def test_another_node_s_data_folder_is_refused_in_one_line(run, folder, tmp_path):
    """n2's file with n1's data: the node says so and ends, without a traceback."""
    text = (folder / "n2" / "node.toml").read_text()
    path = tmp_path / "node.toml"
    path.write_text(text.replace('"data"', f'"{folder}/n1/data"'))

    done = dledger("node", "start", "-c", path, check=False)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert str(folder / "n1" / "data") in done.stderr
