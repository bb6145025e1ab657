"""All mutants of the engine, by name; see `tests.fakes.mutation` for what they are."""

from __future__ import annotations

from tests.fakes import mutants_leadership, mutants_replication
from tests.fakes.mutation import CAUGHT, MUTANTS, against, mutated

__all__ = ["CAUGHT", "MUTANTS", "against", "mutants_leadership", "mutants_replication", "mutated"]
