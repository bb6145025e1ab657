"""What a mutant is: the engine with one mend taken out, for its scenario to notice.

Each mutant is the smallest change that brings a flaw of ``docs/raft-engine.md`` back.  `mutated`
puts one in for the time of a ``with`` block; `against` runs a scenario on the product, where it has
to pass, and on the mutants named, where it has to fail.
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from dledger.errors import LedgerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# How a mutant shows: a check of the test, of the cluster or of the product itself.
CAUGHT = (AssertionError, LedgerError, pytest.fail.Exception)

MUTANTS: dict[str, Callable[[contextlib.ExitStack], None]] = {}


def mutant(
    apply: Callable[[contextlib.ExitStack], None],
) -> Callable[[contextlib.ExitStack], None]:
    """Register a mutant under its function's name."""
    MUTANTS[apply.__name__] = apply
    return apply


@contextlib.contextmanager
def mutated(name: str) -> Iterator[None]:
    """Run what is inside with one mend taken out."""
    with contextlib.ExitStack() as stack:
        MUTANTS[name](stack)
        yield


def against(*names: str) -> Callable[[Callable[[], None]], Callable[[str], None]]:
    """Turn a scenario into a test: the product passes it, each mutant named does not."""
    for name in names:
        assert name in MUTANTS, name

    def decorate(scenario: Callable[[], None]) -> Callable[[str], None]:
        @pytest.mark.parametrize("engine", ["product", *names])
        @functools.wraps(scenario)
        def test(engine: str) -> None:
            if engine == "product":
                scenario()
                return
            with mutated(engine), pytest.raises(CAUGHT):
                scenario()

        del test.__wrapped__  # type: ignore[attr-defined]  # pytest would look for its arguments
        test.scenario, test.mutants = scenario, names  # type: ignore[attr-defined]
        return test

    return decorate


def put(stack: contextlib.ExitStack, owner: Any, name: str, value: Any) -> None:
    stack.enter_context(mock.patch.object(owner, name, value))
