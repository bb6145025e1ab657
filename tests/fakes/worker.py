"""The worker without a thread; it lives where users can import it."""

from broker.testing.memory_worker import FakeWorker

__all__ = ["FakeWorker"]
