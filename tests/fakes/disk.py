"""The fake disk; it lives where users can import it."""

from broker.testing.memory_disk import (
    SECTOR,
    FakeDisk,
    FakeFile,
    FakeLock,
    FakeRegion,
    SimulatedCrash,
    dying,
)

__all__ = ["SECTOR", "FakeDisk", "FakeFile", "FakeLock", "FakeRegion", "SimulatedCrash", "dying"]
