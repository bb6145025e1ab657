"""The hunt: hints first, then every seed; what is not caught, or not by the mutant, is told."""

from __future__ import annotations

import itertools

import pytest

from jepsen_like.checkers import KINDS, Anomaly
from jepsen_like.faults.catalogue import offered
from jepsen_like.mutants import MUTANTS, hunt, mutated
from jepsen_like.mutants.grounds import MEMORY_LEVELS
from jepsen_like.mutants.hunt import Hunt, HuntOptions, read_hints, write_hints
from jepsen_like.mutants.left_out import LEFT_OUT
from jepsen_like.mutants.nemesis import NEMESIS_MUTANTS, UNKNOWN, suite_code

NAME = "early-ack"


@pytest.fixture
def shown(monkeypatch):
    """Have seeds show what the test says, as (is a mutant in, seed) -> kinds; runs are noted."""
    is_in = [False]
    runs: list[tuple[bool, int]] = []
    kinds: dict[tuple[bool, int], list[str]] = {}

    class Mutated:
        def __init__(self, _name: str) -> None:
            pass

        def __enter__(self) -> None:
            is_in[0] = True

        def __exit__(self, *_: object) -> None:
            is_in[0] = False

    def run_on(_ground, seed):
        runs.append((is_in[0], seed))
        return [Anomaly(kind, "text", ()) for kind in kinds.get((is_in[0], seed), ())]

    monkeypatch.setattr(hunt, "mutated", Mutated)
    monkeypatch.setattr(hunt, "run_on", run_on)
    monkeypatch.setattr(hunt, "read_hints", lambda: {NAME: (7, 1.0)})
    return kinds, runs


def hunt_one(**options) -> tuple[int, list[str]]:
    told: list[str] = []
    code = Hunt(HuntOptions(**options), tell=told.append).run([NAME])
    return code, told


def test_the_first_seed_that_shows_something_is_a_catch(shown) -> None:
    kinds, runs = shown
    kinds[True, 3] = ["lost-write"]

    code, told = hunt_one()

    assert code == 0
    assert runs == [(True, 1), (True, 2), (True, 3), (False, 3)]
    assert "seed   3" in told[0]
    assert "lost-write" in told[0]


def test_a_hint_comes_first(shown) -> None:
    kinds, runs = shown
    kinds[True, 7] = ["lost-write"]

    code, _ = hunt_one(use_hints=True)

    assert code == 0
    assert runs == [(True, 7), (False, 7)]


def test_a_hint_that_catches_no_more_is_followed_by_all_seeds(shown) -> None:
    kinds, runs = shown
    kinds[True, 2] = ["lost-write"]

    code, _ = hunt_one(use_hints=True)

    assert code == 0
    assert runs == [(True, 7), (True, 1), (True, 2), (False, 2)]


def test_a_hint_that_catches_no_more_is_told_with_what_notes_another(shown, monkeypatch) -> None:
    kinds, _ = shown
    kinds[True, 2] = ["lost-write"]

    _, told = hunt_one(use_hints=True)
    monkeypatch.setattr(hunt, "write_hints", lambda _: None)
    _, told_when_noted = hunt_one(use_hints=True, write_hints=True)
    _, told_without = hunt_one()
    monkeypatch.setattr(hunt, "read_hints", dict)
    _, told_of_a_new_one = hunt_one(use_hints=True)

    assert f"`python -m jepsen_like mutants --ci --write-hints {NAME}`" in told[-1]
    for others in (told_when_noted, told_without, told_of_a_new_one):
        assert not any("hints" in line for line in others)


def test_a_hint_says_how_long_its_own_seed_takes(shown, monkeypatch) -> None:
    """And not those before it, which nobody will run again."""
    kinds, runs = shown
    kinds[True, 2] = ["lost-write"]
    monkeypatch.setattr(hunt, "write_hints", lambda hints: runs.append(hints[NAME]))
    monkeypatch.setattr(hunt.time, "perf_counter", itertools.count().__next__)

    hunt_one(use_hints=True, write_hints=True)

    assert runs[-1] == (2, 1)


def test_mutants_of_one_ground_stay_together_and_shares_take_about_as_long(monkeypatch) -> None:
    monkeypatch.setattr(
        hunt, "read_hints", lambda: {name: (1, 1.0 + len(name) % 5) for name in MUTANTS}
    )
    searcher = Hunt(HuntOptions(), tell=print)

    shares = searcher.shares([], 3)

    assert sorted(name for share in shares for name in share) == sorted(
        mutant.name for mutant in searcher.wanted([])
    )
    grounds = [{MUTANTS[name].ground.name for name in share if name in MUTANTS} for share in shares]
    assert not grounds[0] & grounds[1]
    assert not grounds[2] & (grounds[0] | grounds[1])
    seconds = [sum(1.0 + len(name) % 5 for name in share) for share in shares]
    assert max(seconds) < 1.25 * min(seconds)


def test_there_are_no_more_shares_than_grounds() -> None:
    assert Hunt(HuntOptions(), tell=print).shares([NAME], 4) == [[NAME]]


def test_a_mutant_that_no_seed_shows_is_an_error(shown) -> None:
    _, runs = shown

    code, told = hunt_one(seeds=5)

    assert code == 1
    assert runs == [(True, seed) for seed in range(1, 6)]
    assert "NOT CAUGHT" in told[0]


def test_what_the_product_shows_too_proves_nothing(shown) -> None:
    kinds, _ = shown
    kinds[True, 1] = kinds[False, 1] = ["no-recovery"]

    code, told = hunt_one()

    assert code == 1
    assert any("SO DOES THE PRODUCT" in line for line in told)


def test_without_time_nothing_is_said(shown) -> None:
    code, told = hunt_one(limit_seconds=1e-9)

    assert code == 2
    assert "nothing can be said" in told[-1]


def test_hints_are_read_as_they_were_written(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(hunt, "_HINTS", tmp_path / "hints.txt")

    write_hints({NAME: (12, 3.5)})

    assert read_hints() == {NAME: (12, 3.5)}


def test_every_mutant_has_a_hint_and_every_hint_a_mutant() -> None:
    assert set(read_hints()) == set(MUTANTS)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_says_what_it_is_and_where_it_is_hunted(name: str) -> None:
    mutant = MUTANTS[name]

    assert mutant.what.endswith((".", ")"))
    assert set(mutant.faults) <= set(offered("sim"))
    mix = mutant.ground.mix(1)
    assert mix.faults == mutant.faults
    assert mix.is_async == (mutant.ground is MEMORY_LEVELS)


def test_a_mutant_is_taken_out_again_whatever_happens() -> None:
    patches = MUTANTS[NAME].make()
    before = [getattr(target, attribute) for target, attribute, _ in patches]

    with pytest.raises(KeyError), mutated(NAME):
        raise KeyError

    assert [getattr(target, attribute) for target, attribute, _ in patches] == before


def test_what_is_left_out_has_a_reason() -> None:
    assert all(len(why) > 20 for why in LEFT_OUT.values())
    assert not {what.replace(" ", "-") for what in LEFT_OUT} & set(MUTANTS)


def test_what_only_ends_can_show_is_known_to_the_checkers() -> None:
    assert set(KINDS) >= hunt._AT_THE_END


@pytest.mark.slow
@pytest.mark.parametrize("name", NEMESIS_MUTANTS)
def test_a_fault_that_does_nothing_makes_a_suite_say_nothing(name: str) -> None:
    mutant = NEMESIS_MUTANTS[name]

    assert suite_code(mutant, is_mutated=True, tell=lambda _: None) == UNKNOWN
    assert suite_code(mutant, is_mutated=False, tell=lambda _: None) == 0
