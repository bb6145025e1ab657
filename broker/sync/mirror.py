"""What calls a method in the client's own thread, and waits for what it returns.

A class here mirrors one of `broker.client`, method by method: a new method there needs one line in
its mirror, ``name = blocking(Kind.name)``, and keeps its signature and its docstring.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from broker.client.portal import Portal, call_blocking

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

P = ParamSpec("P")
T = TypeVar("T")


def blocking(
    method: Callable[Concatenate[Any, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Any, P], T]:
    """Return a method that calls the method of that name in the portal's thread, and waits."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **options: P.kwargs) -> T:  # noqa: ANN401 - a mirror
        result: T = call_blocking(self._portal, method, self._real, *args, **options)
        return result

    return call


def passing(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], T]:
    """Return a method that calls one that does not wait, in the portal's thread all the same."""

    @functools.wraps(method)
    def call(self: Any, /, *args: P.args, **options: P.kwargs) -> T:  # noqa: ANN401 - a mirror
        result: T = call_blocking(self._portal, method, self._real, *args, **options)
        return result

    return call


class Mirror:
    """An object of the client's thread, *real*, as other threads see it."""

    def __init__(self, portal: Portal, real: Any) -> None:  # noqa: ANN401 - what it mirrors
        self._portal = portal
        self._real = real
