"""What the layer of real processes decides, without any process."""

from __future__ import annotations

import json

import pytest

from dledger.config import SyncBy
from dledger.errors import LedgerError, LedgerFullError, StorageFailedError
from dledger.notices import Notices
from jepsen_like.faults.catalogue import offered
from jepsen_like.history import History
from jepsen_like.real.client_main import ProcessClients
from jepsen_like.real.endings import end_of
from jepsen_like.real.mix import BY_SHIM, draw
from jepsen_like.real.node_log import NodeLog
from jepsen_like.real.runs import CI_RUNS, RealOptions, runs_of
from jepsen_like.real.scripts import SCRIPTS
from jepsen_like.real.stage import NotReachedError, Stage
from jepsen_like.soak import SCRIPTS as SOAK_SCRIPTS
from jepsen_like.soak import commands, seconds_of, soak
from tests.fakes.lone_core import LoneCore
from tests.jepsen_like.fake_group import FakeGroup

LOG = """\
2026-11-25 10:00:00.001 INFO    dledger.server: follower in term 1, leader unknown
2026-11-25 10:00:00.002 INFO    dledger.server: leader in term 2, leader n1
node n1 ready: broker 10.77.1.1:9876, peers 10.77.1.1:10876, data /d
2026-11-25 10:00:00.003 INFO    dledger.raft.following: cut the log from entry 7 (term 1): ...
2026-11-25 10:00:00.004 INFO    dledger.raft.following: installing the state at entry 9 from n2
2026-11-25 10:00:00.005 INFO    broker.store.dispatch_service: took over the state at entry 9
dledger: /d/vote: sync: Input/output error; check the disk, then restart the node
"""


def test_a_nodes_log_is_read_as_it_grows(tmp_path) -> None:
    path = tmp_path / "node.log"
    log = NodeLog(path)
    assert not log.read_on().is_ready

    half = LOG.index("ready")
    path.write_text(LOG[:half])
    first = log.read_on()
    with path.open("a") as file:
        file.write(LOG[half:])
    second = log.read_on()

    assert first.roles == [("follower", 1), ("leader", 2)]
    assert (first.is_ready, second.is_ready) == (False, True)
    assert (second.cut_count, second.install_count, second.installing) == (1, 1, 1)
    assert second.last_word.startswith("/d/vote: sync: Input/output error")
    assert second.traceback == ""


def test_who_leads_is_read_from_what_a_member_logs(tmp_path, caplog) -> None:
    """The line came from another module, and every script waited in vain for a leader."""
    caplog.set_level("INFO")
    leader = LoneCore()
    leader.lead()
    Notices(leader.core).publish()
    path = tmp_path / "node.log"
    path.write_text("".join(f"{r.levelname} {r.name}: {r.getMessage()}\n" for r in caplog.records))

    assert NodeLog(path).read_on().roles == [("leader", leader.engine.term)]


def test_a_traceback_in_a_nodes_log_is_kept(tmp_path) -> None:
    path = tmp_path / "node.log"
    path.write_text("Traceback (most recent call last):\n  File x\nKeyError: 7\n")

    assert NodeLog(path).read_on().traceback.endswith("KeyError: 7")


@pytest.mark.parametrize(
    ("code", "facts", "how"),
    [
        (-9, {"is_excused": True}, "killed"),
        (-9, {}, "crashed"),  # the kernel, or anybody
        (-7, {"is_excused": True}, "crashed"),  # SIGBUS is nobody's wish
        (0, {"stops_well": True, "was_ready": True}, "ended"),
        (0, {"was_ready": True}, "crashed"),
        (-15, {"stops_well": True}, "ended"),
        (-15, {"stops_well": True, "was_ready": True}, "crashed"),
        (1, {"last_word": "/d/vote: CRC is wrong"}, "stopped"),
        (1, {"last_word": "/d/vote: CRC is wrong", "expected": {LedgerError}}, "expected"),
        (1, {"last_word": "/d: CRC is wrong", "expected": {StorageFailedError}}, "stopped"),
        (1, {"last_word": "/d: no room for 9", "expected": {LedgerFullError}}, "expected"),
        (1, {}, "crashed"),  # without a word
        (1, {"last_word": "x", "traceback": "Traceback", "is_excused": True}, "crashed"),
    ],
)
def test_the_end_of_a_process_is_told_by_code_and_last_word(code, facts, how) -> None:
    known = {
        "last_word": "", "traceback": "", "is_excused": False, "stops_well": False,
        "was_ready": False, "expected": (),
    }  # fmt: skip

    assert end_of(code, **(known | facts)).how == how


# -- verdicts ------------------------------------------------------------------------------------


async def test_a_scripts_fault_has_to_show_on_every_member(autojump_clock) -> None:
    group = FakeGroup()
    history = History(lambda: 0.0)
    stage = Stage(group, history, None)
    one, other = group.members[:2]

    async with stage.fault("power", [one, other], "power"):
        await group.lose_power([one])
    async with stage.fault("kill", [one, other], "kill"):
        await one.kill()
        await other.kill()

    effects = [event for event in history.events if event.f == "effect"]
    assert [event.err for event in effects] == ["nothing showed of it on n2", None]
    assert stage.unproven == ["power n1,n2: nothing showed of it on n2"]


async def test_a_state_that_does_not_come_ends_the_script(autojump_clock) -> None:
    stage = Stage(FakeGroup(), History(lambda: 0.0), None)

    with pytest.raises(NotReachedError, match="not within 20 s: pigs fly"):
        await stage.reach("pigs fly", lambda: False)


# -- what is run ---------------------------------------------------------------------------------


def test_the_command_of_a_run_draws_the_same_again() -> None:
    options = RealOptions(faults=("kill", "pause"), seconds=20, seed=7, target="leader")

    assert options.command == (
        "python -m jepsen_like real --fault kill,pause --seconds 20 --rate 50 --seed 7 "
        "--target leader"
    )
    drawn = [draw(7, faults=("kill",), seconds=20, rate=50) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert draw(8, faults=("kill",), seconds=20, rate=50) != drawn[0]


def test_everything_is_each_fault_alone_and_then_all() -> None:
    runs = list(runs_of(RealOptions(seed=5), everything=True, ci=False))

    assert [run.faults for run in runs[:-1]] == [(name,) for name in offered("real")]
    assert runs[-1].faults == tuple(offered("real"))
    assert len({run.seed for run in runs}) == len(runs)


def test_what_ci_runs_is_there() -> None:
    for what in CI_RUNS:
        assert what in SCRIPTS if isinstance(what, str) else set(what) <= set(offered("real"))
    assert [bool(run.script) for run in runs_of(RealOptions(), everything=False, ci=True)] == [
        isinstance(what, str) for what in CI_RUNS
    ]


def test_groups_have_members_where_all_is_kept_and_clocks_are_right() -> None:
    def members(seed, faults=("kill",), **told):
        return draw(seed, faults=faults, seconds=30, rate=50, **told).load.member_count

    plain = [draw(seed, faults=("kill",), seconds=30, rate=50) for seed in range(20)]
    assert {mix.load.member_count for mix in plain if not mix.has_retention} == {1, 2}
    assert {mix.load.member_count for mix in plain if mix.has_retention} == {0}
    assert members(2, ("kill", "wall-clock")) == members(2, ("clock-rate",), members=2) == 0
    assert (members(2, members=0), members(2, members=2)) == (0, 2)


def test_ci_has_members_in_a_run_that_is_no_longer_for_it() -> None:
    first, *others = runs_of(RealOptions(), everything=False, ci=True)
    mix = draw(first.seed, faults=first.faults, seconds=first.seconds, rate=50, members=1)

    assert (first.members, mix.load.member_count) == (1, 1)
    assert first.seconds < RealOptions().seconds
    assert "--members 1" in first.command
    assert {run.members for run in others} == {0}


def test_what_members_do_is_told_with_the_names_of_nodes() -> None:
    load = draw(7, faults=(), seconds=1, rate=50).load
    clients = ProcessClients("c3", load, ["10.77.1.1:9876", "10.77.2.1:9876"])

    assert [node.name for node in clients.nodes] == ["n1", "n2"]


def test_a_script_that_needs_retention_gets_it_soon() -> None:
    for seed in range(20):
        mix = draw(seed, faults=(), seconds=30, rate=50, retention=True)
        assert mix.has_retention
        assert mix.store.log_size_max <= 256 * 1024


# -- the soak ------------------------------------------------------------------------------------


def test_times_are_read() -> None:
    assert [seconds_of(text) for text in ("45s", "1.5m", "8h", "2d")] == [45, 90, 28_800, 172_800]
    with pytest.raises(ValueError, match="no time"):
        seconds_of("8 hours")


def test_a_soak_runs_both_layers_in_turn_until_time_is_over(tmp_path) -> None:
    clock = iter(range(0, 10_000, 10))
    told: list[str] = []
    done: list[str] = []

    code = soak(
        200, first_seed=1, out=tmp_path, tell=told.append,
        run=lambda command: done.append(command[0]) or 0, now=lambda: next(clock),
    )  # fmt: skip

    assert code == 0
    assert done[:4] == ["sim", "real", "sim", "real"]
    assert any("sim  valid" in line for line in told)


def test_a_soak_stops_at_the_first_that_is_invalid(tmp_path) -> None:
    codes = iter([0, 2, 0, 1])
    told: list[str] = []

    code = soak(1e9, first_seed=1, out=tmp_path, tell=told.append, run=lambda _: next(codes))

    assert code == 1
    assert told[-1].startswith("INVALID: python -m jepsen_like real --")


def test_a_soak_goes_on_in_the_simulator_alone_where_no_lab_can_be_made(tmp_path) -> None:
    done: list[str] = []

    def run(command: list[str]) -> int:
        done.append(command[0])
        return 77 if command[0] == "real" else 0 if len(done) < 5 else 1

    soak(1e9, first_seed=1, out=tmp_path, tell=lambda _: None, run=run)

    assert done == ["sim", "real", "sim", "sim", "sim"]


def test_soaks_draw_known_faults_and_scripts(tmp_path) -> None:
    drawn = commands(1, tmp_path)
    for _ in range(200):
        command = next(drawn)
        if "--fault" in command:
            names = command[command.index("--fault") + 1].split(",")
            assert set(names) <= set(offered("real"))
    assert set(SOAK_SCRIPTS) == set(SCRIPTS)


def test_the_load_goes_to_a_process_and_back() -> None:
    from jepsen_like.real.client_main import command
    from jepsen_like.workloads.load import Load

    load = draw(7, faults=(), seconds=1, rate=50).load
    words = command(name="c1", do="appends", load=load, brokers=["a:1"], history=None)

    assert Load(**json.loads(words[words.index("--load") + 1])) == load


def test_the_kernel_syncs_unless_a_fault_meddles_with_the_c_library():
    assert set(offered("real")) >= BY_SHIM
    for faults, sync_by in (
        (("power", "kill"), SyncBy.AUTO),
        (("power", "slow-disk"), SyncBy.THREAD),
        ((), SyncBy.THREAD),  # a script's lies about syncs
    ):
        assert draw(1, faults=faults, seconds=30, rate=50).store.sync_by is sync_by
