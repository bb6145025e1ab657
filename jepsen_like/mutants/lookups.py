"""Bugs of the key index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from broker.store.index_file import GrowingIndexFile
from broker.store.key_index import KeyIndex
from jepsen_like.mutants.grounds import RESTARTS
from jepsen_like.mutants.mutant import Patch, mutant

if TYPE_CHECKING:
    from collections.abc import Sequence


@mutant(on=RESTARTS)
def a_start_begins_another_index_file() -> Sequence[Patch]:
    """A node that starts does not go on with the file it left, but begins one."""
    stock = KeyIndex.load

    def load(self: Any, *arguments: Any, **options: Any) -> bool:
        found = stock(self, *arguments, **options)
        self._segment = -1
        return found

    return [(KeyIndex, "load", load)]


@mutant(on=RESTARTS)
def a_start_forgets_the_slots_of_the_index() -> Sequence[Patch]:
    """A node that starts knows the entries of the file it left, and not which slot leads there."""
    stock = GrowingIndexFile.load

    def load(self: Any, *arguments: Any, **options: Any) -> bool:
        found = stock(self, *arguments, **options)
        self._slots[:] = 0
        return found

    return [(GrowingIndexFile, "load", load)]
