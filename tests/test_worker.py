"""The thread that does what blocks."""

import weakref

import trio

from dledger.worker import ThreadWorker


class Held:
    """A job that can be told from one that is held no more."""

    def __call__(self):
        pass


async def test_a_job_that_is_done_is_let_go_before_the_next_comes():
    """One held all units of thousands of queues, and a state, until there was another to do."""
    token, let_go, done = trio.lowlevel.current_trio_token(), trio.Event(), trio.Event()
    worker = ThreadWorker("test")
    try:
        job = Held()
        weakref.finalize(job, token.run_sync_soon, let_go.set)
        worker.submit(job, lambda _: done.set())
        del job
        with trio.fail_after(10):
            await done.wait()
            await let_go.wait()
    finally:
        worker.close()
        assert worker.join(60)
