"""What a mutant is, and how one is put in and taken out."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jepsen_like.mutants.grounds import Ground

Patch = tuple[object, str, object]  # whose attribute, its name, what takes its place


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """The product with one bug."""

    name: str
    what: str  # the bug, in a sentence
    ground: Ground  # where it is hunted
    make: Callable[[], Sequence[Patch]]

    @property
    def faults(self) -> tuple[str, ...]:
        """The faults it needs to show."""
        return self.ground.faults


MUTANTS: dict[str, Mutant] = {}


def mutant(*, on: Ground) -> Callable[[Callable[[], Sequence[Patch]]], Callable[[], Any]]:
    """Register a mutant: a function that returns what to replace, named and described by itself.

    Args:
        on: where it is hunted.
    """

    def register(make: Callable[[], Sequence[Patch]]) -> Callable[[], Any]:
        name = make.__name__.replace("_", "-")
        assert name not in MUTANTS, f"{name} is there twice"
        what = " ".join((make.__doc__ or "").split("\n\n")[0].split())
        MUTANTS[name] = Mutant(name=name, what=what, ground=on, make=make)
        return make

    return register


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Have the bug inside.

    Raises:
        KeyError: there is none of that name.
    """
    with ExitStack() as stack:
        for target, attribute, replacement in MUTANTS[name].make():
            stack.enter_context(patch.object(target, attribute, replacement))
        yield
