"""The product with one deliberate bug each: what the checkers must catch, or they check nothing."""

from __future__ import annotations

from jepsen_like.mutants import (
    acks,
    administration,
    clients,
    durability,
    keeping,
    leadership,
    lookups,
    members,
    messages,
    own_members,
    replication,
)
from jepsen_like.mutants.mutant import MUTANTS, Mutant, mutated

__all__ = [
    "MUTANTS",
    "Mutant",
    "acks",
    "administration",
    "clients",
    "durability",
    "keeping",
    "leadership",
    "lookups",
    "members",
    "messages",
    "mutated",
    "own_members",
    "replication",
]
