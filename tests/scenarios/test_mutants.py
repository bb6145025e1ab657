"""No mend without a scenario that fails when it is taken out."""

from __future__ import annotations

import importlib
import pathlib
import re

from dledger.raft.following import Following
from tests.fakes.mutants import MUTANTS, mutated

ROOT = pathlib.Path(__file__).parents[1]


def guarded_mutants():
    """Return mutant -> the scenarios that have to notice it."""
    found = {}
    for path in sorted([*ROOT.glob("scenarios/test_*.py"), *ROOT.glob("paper/test_*.py")]):
        if path.name == pathlib.Path(__file__).name:
            continue
        module = importlib.import_module(".".join(["tests", path.parent.name, path.stem]))
        for name, value in vars(module).items():
            for mutant in getattr(value, "mutants", ()):
                found.setdefault(mutant, []).append(name)
    return found


def test_every_mutant_is_caught_by_a_scenario():
    assert set(MUTANTS) == set(guarded_mutants())


def test_every_mutant_says_what_it_brings_back():
    for name, mutant in MUTANTS.items():
        assert mutant.__doc__, name
        assert re.match(r"[A-Z].*[.]", mutant.__doc__, re.DOTALL), name


def test_a_mutant_is_gone_when_its_block_ends():
    before = {name: Following.__dict__[name] for name in ("on_append", "answer", "on_install")}
    for name in MUTANTS:
        with mutated(name):
            pass
    after = {name: Following.__dict__[name] for name in before}
    assert after == before
