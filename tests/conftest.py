"""What holds for all tests."""

import inspect
import signal

import pytest

# The background job of a shell ignores Ctrl-C, and what a test starts would ignore it as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    """Refuse a test whose fixtures want virtual time, and which would run in real time.

    pytest-trio looks for a clock among the arguments of the test itself, not of its fixtures.
    """
    clocks = {"autojump_clock", "mock_clock"}
    wrong = [
        item.nodeid
        for item in items
        if clocks & set(getattr(item, "fixturenames", ()))
        and inspect.iscoroutinefunction(item.function)
        and not clocks & set(inspect.signature(item.function).parameters)
    ]
    if wrong:
        raise pytest.UsageError("these tests have to name autojump_clock: " + ", ".join(wrong))
