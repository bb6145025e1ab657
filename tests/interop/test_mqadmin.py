"""The real mqadmin does to a group of ours what its users do every day."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interop import mqadmin


@pytest.fixture(scope="module")
def tool(shared_group, tmp_path_factory):
    """One JVM for all: it is slow to start."""
    if why := mqadmin.why_not():
        pytest.skip(f"no mqadmin: {why}")
    found = mqadmin.MqAdmin(";".join(shared_group.addresses), tmp_path_factory.mktemp("mqadmin"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def cluster(shared_group):
    return shared_group["n1"].config.cluster_name


def rows(printed, first):
    """Return the words of each line that begins with a name."""
    return [line.split() for line in printed.splitlines() if line.startswith(first)]


def dledger(group, *words):
    """Run our own command on the group; return what it prints."""
    servers = ",".join(group.addresses)
    done = subprocess.run(
        [sys.executable, "-m", "broker.cli.main", *words, "--server", servers],
        capture_output=True, text=True, timeout=mqadmin.SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def produced(tool, topic, *bodies, group="adm-producers"):
    return [tool.produce(group, topic, body, tag="red", key=f"key-{body}") for body in bodies]


def test_topics_are_made_told_altered_and_deleted(tool, cluster, shared_group):
    made = tool.ok("updateTopic", "-c", cluster, "-t", "AdmTopics", "-r", "4", "-w", "4")
    assert "create topic to" in made
    assert "AdmTopics" in tool.ok("topicList").split()
    assert "AdmTopics" in tool.ok("topicList", "-c")
    assert '"brokerDatas"' in tool.ok("topicRoute", "-t", "AdmTopics")
    assert len(rows(tool.ok("topicStatus", "-t", "AdmTopics"), "")) >= 4
    assert cluster in tool.ok("topicClusterList", "-t", "AdmTopics")

    tool.ok("updateTopicPerm", "-t", "AdmTopics", "-c", cluster, "-p", "4")
    assert "perm r\n" in dledger(shared_group, "topic", "describe", "AdmTopics")

    assert "success" in tool.ok("deleteTopic", "-c", cluster, "-t", "AdmTopics")
    assert "AdmTopics" not in tool.ok("topicList").split()


def test_brokers_say_how_they_are_and_how_they_are_set_up(tool, cluster, shared_group):
    node = shared_group["n1"]
    (row,) = rows(tool.ok("clusterList"), cluster)
    assert row[0] == cluster
    assert "null" not in " ".join(row)
    tool.ok("clusterList", "-m")
    status = tool.ok("brokerStatus", "-b", node.address)
    assert "putTps" in status
    assert "bootTimestamp" in status
    config = tool.ok("getBrokerConfig", "-b", node.address)
    assert re.search(r"dLegerSelfId\s+=\s+n1", config)
    assert "success" in tool.ok(
        "updateBrokerConfig", "-b", node.address, "-k", "logLevel", "-v", "info"
    )
    refused = tool.run("updateBrokerConfig", "-b", node.address, "-k", "listenPort", "-v", "1")
    assert "cannot change while a node runs" in refused


def test_messages_are_sent_found_and_consumed(tool, cluster, shared_group):
    tool.ok("updateTopic", "-c", cluster, "-t", "AdmMessages", "-r", "2", "-w", "2")
    assert "SEND_OK" in tool.ok("sendMessage", "-t", "AdmMessages", "-p", "by mqadmin")
    one, *_ = produced(tool, "AdmMessages", "m1", "m2")

    for words in (
        ("queryMsgById", "-i", one["offset_id"]),
        ("queryMsgByUniqueKey", "-t", "AdmMessages", "-i", one["unique_id"]),
        (
            "queryMsgByOffset", "-t", "AdmMessages", "-b", group_name(shared_group),
            "-i", str(one["queue"]), "-o", str(one["offset"]),
        ),
    ):  # fmt: skip
        printed = tool.ok(*words)
        assert re.search(r"Keys: +\[key-m1\]", printed), printed
        assert one["unique_id"] in printed
        assert body_of(printed) == b"m1"
    assert one["unique_id"] in tool.ok("queryMsgByKey", "-t", "AdmMessages", "-k", "key-m1")
    consumed = tool.ok("consumeMessage", "-t", "AdmMessages")
    assert consumed.count("MSGID: ") == 3
    assert "m2" in tool.ok("printMsg", "-t", "AdmMessages", "-d", "true")
    units = tool.ok(
        "queryCq", "-t", "AdmMessages", "-q", "0", "-i", "0", "-b", shared_group["n1"].address
    )
    assert "Queue data" in units


def test_groups_are_made_told_copied_and_deleted(tool, cluster, shared_group):
    tool.ok("updateTopic", "-c", cluster, "-t", "AdmGroups", "-r", "2", "-w", "2")
    produced(tool, "AdmGroups", *(f"g{number}" for number in range(6)))
    assert "success" in tool.ok("updateSubGroup", "-c", cluster, "-g", "adm-readers", "-r", "5")
    assert re.search(r"retryMaxTimes\s+=\s+5", tool.ok("getConsumerConfig", "-g", "adm-readers"))
    tool.consume("adm-readers", "AdmGroups")
    tool.until("all are consumed", lambda: len(tool.consumed("adm-readers")) == 6)

    connected = tool.ok("consumerConnection", "-g", "adm-readers")
    client_id = rows(connected, "")[1][0]
    assert re.search(r"AdmGroups +\*", connected)
    assert "JAVA" in connected
    assert "Rebalance OK" in tool.ok("consumerStatus", "-g", "adm-readers")

    # Until it has committed something, mqadmin calls a group not online.
    progress = ("consumerProgress", "-g", "adm-readers")
    tool.until("all is committed", lambda: "Diff Total: 0" in tool.run(*progress))
    assert "adm-readers" in tool.ok("consumerProgress")
    assert rows(tool.ok("statsAll", "-t", "AdmGroups"), "AdmGroups")
    assert "adm-readers" in tool.ok("brokerConsumeStats", "-b", shared_group["n1"].address)
    described = dledger(shared_group, "group", "describe", "adm-readers")
    assert client_id in described

    copied = ("cloneGroupOffset", "-s", "adm-readers", "-d", "adm-copy", "-t", "AdmGroups")
    assert "success" in tool.ok(*copied)
    assert "Diff Total: 0" in tool.ok("consumerProgress", "-g", "adm-copy")

    # A consumer is given a message to consume at once.
    one, *_ = produced(tool, "AdmGroups", "once more")
    tool.until("it has come", lambda: tool.consumed("adm-readers").count("once more") == 1)
    printed = tool.ok("queryMsgById", "-i", one["offset_id"], "-g", "adm-readers", "-d", client_id)
    assert "CR_SUCCESS" in printed
    assert tool.consumed("adm-readers").count("once more") == 2

    tool.stop("adm-readers")
    assert "success" in tool.ok("deleteSubGroup", "-c", cluster, "-g", "adm-copy")
    assert "adm-copy" not in dledger(shared_group, "group", "list")


def test_a_consumer_that_runs_follows_a_reset(tool, cluster, shared_group):
    """Java's stand still for ten seconds when they are told."""
    tool.ok("updateTopic", "-c", cluster, "-t", "AdmResets", "-r", "2", "-w", "2")
    produced(tool, "AdmResets", "r1", "r2", "r3")
    tool.consume("adm-followers", "AdmResets")
    followed = count_of(tool, "adm-followers")
    tool.until("all are consumed", lambda: followed() == 3)

    printed = tool.ok("resetOffsetByTime", "-g", "adm-followers", "-t", "AdmResets", "-s", "0")
    assert len(rows(printed, group_name(shared_group))) == 2
    tool.until("all are consumed again", lambda: followed() == 6)

    words = ("offset", "reset", "adm-followers", "AdmResets", "--to", "earliest", "--yes")
    assert "would go" in dledger(shared_group, *words[:-1], "--dry-run")
    dledger(shared_group, *words)
    tool.until("and once more", lambda: followed() == 9)
    tool.stop("adm-followers")

    produced(tool, "AdmResets", "skipped")
    tool.ok("skipAccumulatedMessage", "-g", "adm-followers", "-t", "AdmResets")
    assert "Diff Total: 0" in tool.ok("consumerProgress", "-g", "adm-followers")

    # A producer's first heartbeat comes half a minute after its start.
    connection = ("producerConnection", "-g", "adm-producers", "-t", "AdmResets")
    tool.until("it is heard", lambda: "JAVA" in tool.run(*connection))
    # Sends go by way of followers, and each node answers for itself.
    told = [tool.ok("producer", "-b", node.address) for node in shared_group]
    assert any("adm-producers" in each for each in told)


def count_of(tool, group):
    return lambda: len(tool.consumed(group))


def group_name(group):
    return group["n1"].config.group


def body_of(printed):
    """Read the file that mqadmin wrote a body to, and take it away again."""
    path = Path(re.search(r"Message Body Path: +(\S+)", printed)[1])
    body = path.read_bytes()
    path.unlink()
    return body
