"""A group in one folder: made once, kept, started, stopped."""

import signal
import socket
import sys

import pytest
from click.testing import CliRunner

from broker.cli import local_node
from broker.cli.group_commands import up
from broker.cli.local_group import GroupPlan, LocalGroup, find_base_port
from dledger.config import MIB, FlushDiskType
from dledger.errors import ConfigError

# Stands in for a node: says it is there, and ends on SIGTERM, or only on SIGKILL.
OBEDIENT = "import signal; print('here', flush=True); signal.pause()"
STUBBORN = "import signal; signal.signal(15, signal.SIG_IGN); " + OBEDIENT + "; signal.pause()"


@pytest.fixture
def group(tmp_path, monkeypatch):
    monkeypatch.setattr(local_node, "NODE_COMMAND", (sys.executable, "-c", OBEDIENT))
    monkeypatch.setattr(local_node.LocalNode, "check_ports", lambda _: None)
    found = LocalGroup.find_or_create(tmp_path, GroupPlan())
    yield found
    for node in found.nodes:
        if mark := node.send_signal(signal.SIGKILL):
            node.started and node.started.wait()
            assert not mark.is_running


def wait_for_words(node):
    """Block until the stand-in has said that it is there."""
    while not node.log_path.exists() or not node.log_path.read_bytes():
        assert node.process is not None


def test_a_plan_makes_a_file_for_each_node(tmp_path):
    plan = GroupPlan(base_port=5000, flush_disk_type=FlushDiskType.ASYNC_FLUSH)

    group = LocalGroup.find_or_create(tmp_path, plan)

    assert [node.node_id for node in group.nodes] == ["n1", "n2", "n3"]
    assert group.addresses == ["127.0.0.1:5000", "127.0.0.1:5001", "127.0.0.1:5002"]
    config = group.nodes[1].config
    assert config.listen_peer_port == 6001
    assert config.data_folder == str(tmp_path / "n2" / "data")
    assert config.store.segment_size == 64 * MIB
    assert config.store.flush_disk_type is FlushDiskType.ASYNC_FLUSH


def test_a_plan_names_group_cluster_and_name_servers(tmp_path):
    plan = GroupPlan(base_port=5000, group="a", cluster="shop", name_servers="h:1;h:2")

    config = LocalGroup.find_or_create(tmp_path, plan).nodes[2].config

    assert (config.group, config.cluster) == ("a", "shop")
    assert config.nameserver.servers == [("h", 1), ("h", 2)]
    with pytest.raises(ConfigError, match="cluster = shop"):
        LocalGroup.find_or_create(tmp_path, GroupPlan(cluster="another"))


def test_an_option_is_not_taken_for_the_address_that_is_missing(tmp_path):
    folder = tmp_path / "group"

    result = CliRunner().invoke(up, ["--data", str(folder), "--name-server", "--detach"])

    assert result.exit_code == 2
    assert "Invalid value for '--name-server': host = '--detach'" in result.stderr
    assert not folder.exists()


def test_a_group_is_kept_as_it_was_made(tmp_path):
    LocalGroup.find_or_create(tmp_path, GroupPlan(node_count=1, base_port=5000))
    path = tmp_path / "n1" / "node.toml"
    path.write_text(path.read_text() + '\n[broker]\nlog_level = "debug"\n')

    again = LocalGroup.find_or_create(tmp_path, GroupPlan())

    assert again.addresses == ["127.0.0.1:5000"]
    assert again.nodes[0].config.broker.log_level == "debug"


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (GroupPlan(node_count=1), "node_count = 3, you ask for 1"),
        (GroupPlan(base_port=7000), "base_port = 5000, you ask for 7000"),
        (
            GroupPlan(flush_disk_type=FlushDiskType.ASYNC_FLUSH),
            "flush_disk_type = SYNC_FLUSH, you ask for ASYNC_FLUSH",
        ),
    ],
)
def test_another_plan_for_a_group_that_is_there_is_refused(tmp_path, plan, words):
    LocalGroup.find_or_create(tmp_path, GroupPlan(base_port=5000))

    with pytest.raises(ConfigError, match=words):
        LocalGroup.find_or_create(tmp_path, plan)


def test_files_that_disagree_are_named(tmp_path):
    LocalGroup.find_or_create(tmp_path, GroupPlan())
    path = tmp_path / "n3" / "node.toml"
    path.write_text(path.read_text().replace('"local"', '"other"'))

    with pytest.raises(ConfigError, match=r"n1/node.toml and .*n3/node.toml disagree on group"):
        LocalGroup.find_or_create(tmp_path, GroupPlan())


def test_nothing_is_found_in_an_empty_folder(tmp_path):
    assert LocalGroup.find(tmp_path) is None
    assert LocalGroup.find(tmp_path / "nowhere") is None


def test_ports_beyond_the_last_one_are_refused():
    with pytest.raises(ConfigError, match="above 65535; take one up to 63533"):
        GroupPlan(base_port=63_534).configs()
    assert len(GroupPlan(base_port=63_533).configs()) == 3


async def test_missing_nodes_are_started_and_all_are_stopped(group):
    assert group.start_missing() == group.nodes
    for node in group.nodes:
        wait_for_words(node)
    assert group.nodes[1].send_signal(signal.SIGKILL)
    group.nodes[1].started.wait()

    assert [node.node_id for node in group.running()] == ["n1", "n3"]
    assert [node.node_id for node in group.start_missing()] == ["n2"]
    assert group.start_missing() == []
    wait_for_words(group.nodes[1])

    assert await group.stop() == {"n1": "stopped", "n2": "stopped", "n3": "stopped"}
    assert group.running() == []
    assert await group.stop() == dict.fromkeys(("n1", "n2", "n3"), "was not running")


async def test_a_group_started_by_one_command_is_found_and_stopped_by_another(group):
    group.start_missing()
    for node in group.nodes:
        wait_for_words(node)

    other = LocalGroup.find(group.folder)

    assert len(other.running()) == 3
    assert set((await other.stop()).values()) == {"stopped"}


async def test_a_node_without_settings_is_stopped_with_the_others(group):
    """It was left running, or no command would speak to the group at all."""
    group.start_missing()
    for node in group.nodes:
        wait_for_words(node)
    (group.nodes[1].folder / "node.toml").unlink()
    path = group.nodes[2].folder / "node.toml"
    path.write_text(path.read_text().replace("[[member]]", "[[members]]"))

    again = LocalGroup.find(group.folder)

    assert again.addresses == group.addresses
    outcome = await again.stop()
    assert outcome == {"n1": "stopped", "n2": "stopped", "n3": "stopped"}
    with pytest.raises(ConfigError, match=r"n2/node.toml is missing; copy .*n1/node.toml there"):
        LocalGroup.find_or_create(group.folder, GroupPlan())
    (again.nodes[1].folder / "node.toml").write_text(path.read_text())
    with pytest.raises(ConfigError, match=r"n2/node.toml: .*member"):
        LocalGroup.find_or_create(group.folder, GroupPlan())


async def test_a_node_that_runs_without_any_settings_is_found_and_stopped(group):
    group.start_missing()
    for node in group.nodes:
        wait_for_words(node)
        (node.folder / "node.toml").unlink()

    again = LocalGroup.find(group.folder)

    with pytest.raises(ConfigError, match=r"n1/node.toml: no such file"):
        _ = again.addresses
    assert set((await again.stop()).values()) == {"stopped"}
    assert LocalGroup.find(group.folder) is None


def test_a_member_whose_folder_is_gone_is_missed(tmp_path):
    group = LocalGroup.find_or_create(tmp_path, GroupPlan(base_port=5000))
    (tmp_path / "n2" / "node.toml").unlink()
    (tmp_path / "n2").rmdir()

    again = LocalGroup.find(tmp_path)

    assert [node.node_id for node in again.nodes] == ["n1", "n2", "n3"]
    assert again.addresses == group.addresses
    with pytest.raises(ConfigError, match=r"n2/node.toml is missing"):
        LocalGroup.find_or_create(tmp_path, GroupPlan())


async def test_a_node_that_does_not_stop_is_killed(group, monkeypatch):
    """In real time: what is killed takes as long to end as the kernel wants."""
    monkeypatch.setattr(local_node, "NODE_COMMAND", (sys.executable, "-c", STUBBORN))
    group.start_missing()
    for node in group.nodes:
        wait_for_words(node)

    outcome = await group.stop(seconds=0.1)

    assert set(outcome.values()) == {"killed, as it did not stop within 0.1 s"}
    assert group.running() == []


async def test_a_stopped_process_is_woken_to_hear_of_its_end(group):
    group.start_missing()
    for node in group.nodes:
        wait_for_words(node)
    group.nodes[0].send_signal(signal.SIGSTOP)

    assert set((await group.stop()).values()) == {"stopped"}


def test_nothing_is_started_when_a_port_is_taken(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        base_port = port - 1000 if port > 60_000 else port
        group = LocalGroup.find_or_create(tmp_path, GroupPlan(node_count=1, base_port=base_port))

        with pytest.raises(ConfigError, match=rf":{port} \(.* port of n1\) is taken by .*pid"):
            group.start_missing()

    assert group.running() == []


def test_a_base_port_is_free_with_all_the_ports_of_its_group():
    base_port = find_base_port(3)
    assert 20_000 <= base_port < 30_000

    with socket.socket() as listener:
        # As nodes listen: a connection that ended there a moment ago is in nobody's way.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", base_port + 1002))
        listener.listen()
        other = find_base_port(3)

    assert not set(range(other, other + 3)) & set(range(base_port, base_port + 3))


def test_only_one_start_at_a_time(group):
    other = LocalGroup.find(group.folder)
    refused = pytest.raises(ConfigError, match="another `dledger up`")
    with group.starting(), refused, other.starting():
        pass
    with group.starting():
        pass


def test_last_words_are_the_last_line_of_the_log(group):
    node = group.nodes[0]
    assert node.last_words() == "it said nothing"

    node.log_path.write_text("first\nthe disk is full\n\n")

    assert node.last_words() == "the disk is full"
