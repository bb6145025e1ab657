"""The simulator finds nothing in the product, and what is there in a mutant."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import pytest

from jepsen_like.faults.catalogue import offered
from jepsen_like.mutants import MUTANTS, mutated
from jepsen_like.sim.mix import draw
from jepsen_like.sim.runs import Options, Tally, known_seeds, remember, replay_command, run_seeds
from jepsen_like.sim.world import run


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 5])
def test_the_product_survives_a_short_run(seed: int) -> None:
    outcome = run(seed, fault_seconds=5.0)

    assert outcome.anomalies == ()
    assert outcome.counts["sends"] > 20
    assert outcome.counts["polls"] > 20


@pytest.mark.slow
def test_an_acknowledgement_before_replication_is_caught() -> None:
    mutant = MUTANTS["early-ack"]
    with mutated(mutant.name):
        outcome = run(1, fault_seconds=5.0, only=mutant.faults)

    assert not outcome.is_valid


def test_every_mutant_changes_something_that_is_there() -> None:
    for name, mutant in MUTANTS.items():
        patches = mutant.make()
        before = [getattr(target, attribute) for target, attribute, _ in patches]
        assert patches
        with mutated(name):
            assert [getattr(t, a) for t, a, _ in patches] != before, name
        assert [getattr(t, a) for t, a, _ in patches] == before, name


def test_async_flush_is_never_drawn_with_faults_it_does_not_promise_to_survive() -> None:
    for seed in range(300):
        mix = draw(seed)
        if mix.is_async:
            assert not {"power", "power-at-step", "failed-sync"} & set(mix.faults)
        if mix.node_count == 1:
            assert not {"isolate", "lost-disk", "bit-rot"} & set(mix.faults)


def test_every_fault_is_drawn_by_some_seed() -> None:
    drawn = {name for seed in range(100) for name in draw(seed).faults}

    assert drawn == {name for name, fault in offered("sim").items() if fault.is_drawn}


@pytest.mark.slow
def test_a_failing_seed_says_how_to_run_it_again() -> None:
    told: list[str] = []
    options = Options(fault_seconds=4.0, only=("isolate", "kill"), mutant="early-ack")

    code = run_seeds([1], options, tell=told.append).conclude(told.append)

    assert code == 1
    assert any(replay_command(1, options) in line for line in told)
    assert replay_command(1, options) == (
        "python -m jepsen_like sim --seed 1 --seconds 4 --only isolate,kill --mutant early-ack"
    )


def test_tallies_of_several_processes_add_up() -> None:
    one, other = Tally(done=30, totals=Counter(sends=5)), Tally(done=30, failed={7: "duplicate"})
    other.totals["sends"] = 2

    one.add(Tally.from_json(other.to_json()))

    assert (one.done, one.failed, one.totals["sends"]) == (60, {7: "duplicate"}, 7)
    told: list[str] = []
    assert one.conclude(told.append) == 1
    assert told[-1].startswith("never happened")  # sixty seeds without a single change of lead


@pytest.mark.slow
def test_seeds_are_shared_among_processes() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "jepsen_like", "sim", "--first", "31", "--seeds", "2",
         "--seconds", "2", "--jobs", "2"],
        capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip

    # In two seconds of faults a seed may acknowledge too little for anything to be said of it.
    assert f"{len(known_seeds()) + 2} seeds, 0 invalid" in run.stdout, run.stderr
    assert run.returncode in (0, 2)


def test_a_seed_that_fails_is_remembered_once(tmp_path) -> None:
    path = tmp_path / "seeds.txt"
    path.write_text("7  # once\n")

    assert remember({9: "duplicate", 7: "crash"}, path=path) == [9]
    assert remember({9: "duplicate"}, path=path) == []

    assert known_seeds(path) == [7, 9]
    assert path.read_text().splitlines()[1] == "9  # not explained yet: duplicate"
