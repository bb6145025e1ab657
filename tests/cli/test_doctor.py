"""What the doctor finds, and that it says what to do."""

import dataclasses
import functools
import json
import shutil
import socket
import tarfile

import pytest
from click.testing import CliRunner

from broker.cli import doctor_host, exits
from broker.cli.ask import GroupView, NodeAnswer
from broker.cli.checks import Check, Level, checks_table, describe, exit_code, summary, worst
from broker.cli.doctor_group import check_group
from broker.cli.doctor_host import check_host, check_same_group, file_system_of, measure_syncs
from broker.cli.local_group import GroupPlan, LocalGroup, find_base_port
from broker.cli.main import cli
from broker.config_file import load_config
from broker.protocol.bodies import MemberStatus
from dledger.clock import SystemClock
from tests.cli.statuses import status_in

ADDRESSES = {"n1": "127.0.0.1:9876", "n2": "127.0.0.1:9877", "n3": "127.0.0.1:9878"}
status_of = functools.partial(status_in, ADDRESSES, end=5000, commit=5000)


def answer_of(node_id, *, skew=0.0, **changes):
    return NodeAnswer(
        address=ADDRESSES[node_id],
        node_id=node_id,
        status=status_of(node_id, **changes),
        clock_skew_seconds=skew,
    )


def silent(node_id):
    return NodeAnswer(address=ADDRESSES[node_id], node_id=node_id, problem="no answer")


def healthy():
    return {name: answer_of(name) for name in ADDRESSES}


def check(**others):
    """Check a healthy group in which the answers of *others* stand for their nodes."""
    return check_group(GroupView(answers=tuple((healthy() | others).values())))


def found(checks, name, subject=""):
    (one,) = [item for item in checks if item.name == name and item.subject == subject]
    return one


def test_a_healthy_group_is_all_well():
    checks = check()

    assert worst(checks) is Level.OK
    assert exit_code(checks) == exits.OK
    assert all(item["remedy"] == "" for item in describe(checks)["checks"])


def test_a_node_down_is_a_warning_while_there_is_a_majority():
    one_down = check(n1=silent("n1"))
    two_down = check(n1=silent("n1"), n3=silent("n3"))

    assert found(one_down, "nodes").level is Level.WARN
    assert exit_code(one_down) == exits.UNHEALTHY
    assert found(two_down, "nodes").level is Level.FAIL
    assert exit_code(two_down) == exits.FAILURE
    assert "n1: no answer" in found(two_down, "nodes").text


def test_who_refuses_need_not_be_started():
    refusing = dataclasses.replace(silent("n1"), is_refusal=True)

    assert found(check(n1=refusing), "nodes").remedy == "do what the answer says"
    assert "start what" in found(check(n1=refusing, n3=silent("n3")), "nodes").remedy


def test_no_node_at_all_is_a_failure():
    checks = check(**{name: silent(name) for name in ADDRESSES})

    assert worst(checks) is Level.FAIL


def test_a_group_without_leader_fails():
    checks = check(n2=answer_of("n2", role="CANDIDATE"))

    assert found(checks, "leader").level is Level.FAIL
    assert found(checks, "leader").text == "nobody leads"


def test_a_leader_that_does_not_serve_yet_fails():
    assert found(check(n2=answer_of("n2", is_ready=False)), "leader").level is Level.FAIL


def test_two_that_say_they_lead_are_told():
    one = found(check(n1=answer_of("n1", role="LEADER", term=2)), "leader")

    assert one.level is Level.WARN
    assert "n1 (term 2) and n2 (term 3)" in one.text


@pytest.mark.parametrize(
    ("name", "subject", "changes"),
    [
        ("terms", "", {"term": 2}),
        ("versions", "", {"version": "0.2.0"}),
        ("flush", "", {"flush_disk_type": "ASYNC_FLUSH"}),
        ("clocks", "", {"skew": 3.0}),
        ("lag", "n1", {"end_index": 100}),
        ("dispatch", "n1", {"dispatched_index": 100}),
        ("last sync", "n1", {"sync_seconds_last": 0.5}),
        ("disk", "n1", {"disk_percent": 80.0, "disk_available": 1 << 30}),
        ("clients", "n1", {"held_pull_count": 99_000}),
    ],
)
def test_what_should_be_looked_at_is_a_warning_with_a_remedy(name, subject, changes):
    checks = check(n1=answer_of("n1", **changes))

    one = found(checks, name, subject)
    assert (one.level, bool(one.remedy)) == (Level.WARN, True)
    assert [item.name for item in checks if item.level is not Level.OK] == [name]


def test_a_peer_that_is_not_connected_is_named():
    members = tuple(
        MemberStatus(node_id=name, address=address, is_connected=name != "n3")
        for name, address in ADDRESSES.items()
    )

    assert "n1 to n3" in found(check(n1=answer_of("n1", members=members)), "peers").text


def test_a_full_disk_and_refused_writes_fail():
    checks = check(
        n1=answer_of(
            "n1", disk_percent=93.0, disk_available=1 << 30, write_refusal="disk 93 % full"
        )
    )

    assert found(checks, "disk", "n1").level is Level.FAIL
    assert found(checks, "writes", "n1").level is Level.FAIL


def test_a_remedy_stands_below_what_was_found():
    table = checks_table(
        [
            Check(name="a", level=Level.OK, text="fine", remedy="none of this"),
            Check(name="b", level=Level.FAIL, text="bad", remedy="mend it"),
        ]
    )

    assert [line.split() for line in table.plain_lines()[1:]] == [
        ["OK", "a", "fine"],
        ["FAIL", "b", "bad"],
        ["->", "mend", "it"],
    ]
    assert summary([Check(name="a", level=Level.WARN, text="")]) == "0 ok, 1 to look at"


# -- the machine --------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path):
    """One node of a local group that has never run."""
    plan = GroupPlan(node_count=1, base_port=find_base_port(1), segment_size=1 << 20)
    return LocalGroup.find_or_create(tmp_path / "group", plan).nodes[0]


def levels(checks):
    return {item.name: item.level for item in checks}


def test_a_machine_that_will_do(node):
    checks = check_host(node.config, runs=False)

    assert Level.FAIL not in levels(checks).values()
    assert levels(checks)["broker port"] is Level.OK
    assert list(node.folder.iterdir()) == [node.folder / "node.toml"]


def test_a_port_that_is_taken_fails_with_its_owner(node):
    with socket.create_server(("127.0.0.1", node.config.listen_peer_port)):
        one = found(check_host(node.config, runs=False), "peer port", "n1")

    assert one.level is Level.FAIL
    assert "is taken by" in one.text
    assert "stop it" in one.remedy
    assert "peer port" not in levels(check_host(node.config, runs=True))


def test_nodes_of_a_group_that_disagree_fail(tmp_path):
    group = LocalGroup.find_or_create(tmp_path, GroupPlan(node_count=3, base_port=21_000))
    one, two, three = [node.config for node in group.nodes]
    store = dataclasses.replace(three.store, segment_size=1 << 21)
    other = dataclasses.replace(three, store=store)

    assert [item.level for item in check_same_group([one, two, three])] == [Level.OK]
    (wrong,) = check_same_group([one, two, other])
    assert (wrong.level, wrong.subject) == (Level.FAIL, "n3")
    assert "segment_size" in wrong.text
    assert check_same_group([one]) == []


def test_a_folder_that_cannot_be_written_fails(node, tmp_path):
    (tmp_path / "file").write_text("")
    config = dataclasses.replace(node.config, data_folder=str(tmp_path / "file" / "data"))

    checks = check_host(config, runs=True)
    assert found(checks, "data folder", "n1").level is Level.FAIL
    assert "sync" not in levels(checks)


def test_another_node_s_folder_fails(node, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "identity.json").write_text(
        json.dumps(
            {"group": "local", "node_id": "n7", "segment_size": 1 << 20, "index_file_units": 524288}
        )
    )
    config = dataclasses.replace(node.config, data_folder=str(folder))

    one = found(check_host(config, runs=True), "identity", "n1")
    assert (one.level, "'n7'" in one.text) == (Level.FAIL, True)


@pytest.mark.parametrize(
    ("used", "free", "level"),
    [
        (50, 50, Level.OK),
        (80, 20, Level.WARN),
        (91, 9, Level.FAIL),
    ],
)
def test_a_disk_that_fills_up(node, monkeypatch, used, free, level):
    unit = 1 << 30
    usage = shutil._ntuple_diskusage((used + free) * unit, used * unit, free * unit)
    monkeypatch.setattr(doctor_host.shutil, "disk_usage", lambda _: usage)

    assert found(check_host(node.config, runs=True), "data disk", "n1").level is level


def test_the_deepest_mount_that_holds_a_folder_counts(tmp_path):
    mounts = (
        "/dev/a / ext4 rw 0 0\n"
        f"tmpfs {tmp_path.parent} tmpfs rw 0 0\n"
        f"server:/x {tmp_path!s} nfs4 rw 0 0\n"
        f"/dev/b {tmp_path}/other xfs rw 0 0\n"
        "broken\n"
    )

    assert file_system_of(tmp_path, mounts) == "nfs4"
    assert file_system_of(tmp_path.parent, mounts) == "tmpfs"
    assert file_system_of(tmp_path.parents[-1], mounts) == "ext4"


def test_syncs_are_measured_and_leave_nothing(tmp_path):
    assert len(measure_syncs(tmp_path, SystemClock())) == doctor_host.SYNC_COUNT
    assert list(tmp_path.iterdir()) == []


# -- the command --------------------------------------------------------------------------------


def test_a_node_is_checked_before_its_start(node):
    done = CliRunner().invoke(cli, ["doctor", "-c", str(node.folder / "node.toml"), "--json"])

    told = json.loads(done.stdout)
    assert done.exit_code in (exits.OK, exits.UNHEALTHY), told
    assert {"config", "broker port", "peer port", "sync", "data disk"} <= {
        item["name"] for item in told["checks"]
    }
    assert "nodes" not in {item["name"] for item in told["checks"]}


def test_a_wrong_setting_is_a_failed_check(node):
    path = node.folder / "node.toml"
    path.write_text(path.read_text().replace("[node]", "[node]\nnonsense = 1"))

    done = CliRunner().invoke(cli, ["doctor", "-c", str(path)])

    assert done.exit_code == exits.FAILURE
    assert "nonsense" in done.stdout


def test_a_bundle_holds_no_message(node, tmp_path):
    data = tmp_path / "group" / "n1" / "data"
    (data / "commitlog").mkdir(parents=True)
    (data / "commitlog" / "00000000000000000000").write_text("a secret message")
    node.log_path.write_text("x" * 3_000_000 + "\nxx last words")
    bundle = tmp_path / "bundle.tar.gz"

    done = CliRunner().invoke(
        cli, ["doctor", "--data", str(tmp_path / "group"), "--bundle", str(bundle)]
    )

    assert done.exit_code == exits.FAILURE  # it does not run
    assert "it does not run; its log ends: x" in done.stdout
    with tarfile.open(bundle) as opened:
        contents = {item.name: opened.extractfile(item).read() for item in opened}
    names = {name.removeprefix("dledger-bundle/") for name in contents}
    assert names == {
        "doctor.json", "status.json", "machine.json", "n1/node.toml", "n1/node.log", "n1/files.txt",
    }  # fmt: skip
    assert not any(b"secret" in content for content in contents.values())
    assert b"commitlog/00000000000000000000" in contents["dledger-bundle/n1/files.txt"]
    log = contents["dledger-bundle/n1/node.log"]
    assert (len(log), log[-10:]) == (1 << 20, b"last words")
    assert load_config(node.folder / "node.toml").group == "local"
