"""What holds for all tests."""

import gc
import inspect
import signal

import pytest
import trio
from hypothesis import HealthCheck, settings

# The background job of a shell ignores Ctrl-C, and what a test starts would ignore it as well.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")


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


def pytest_collection_finish():
    """Have the collector pass over what thousands of tests are made of, which lives to the end."""
    gc.collect()
    gc.freeze()


async def _run_here(function, *arguments, **_options):
    await trio.lowlevel.checkpoint()
    return function(*arguments)


@pytest.fixture(autouse=True)
def no_threads_in_virtual_time(request, monkeypatch):
    """What the product gives to a thread is done at once where time is virtual.

    Nobody waits for the thread there: while it works all tasks sleep, and so time jumps ahead, by
    minutes where the machine is slow.
    """
    if "autojump_clock" in request.fixturenames:
        monkeypatch.setattr(trio.to_thread, "run_sync", _run_here)


@pytest.fixture
async def nursery_of_brokers(autojump_clock):
    """Every test names autojump_clock as well: pytest-trio looks for it only there."""
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()
