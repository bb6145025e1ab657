"""What an event loop ends with, when something goes wrong outside of its tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def what_ended(main: Callable[[], Awaitable[Any]]) -> BaseException:
    """Run *main*, which has to fail with a LookupError, and return that, out of what trio makes."""
    with pytest.raises((trio.TrioInternalError, LookupError)) as caught:
        trio.run(main)
    cause = caught.value.__cause__ or caught.value
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    return cause
