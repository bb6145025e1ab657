"""The fake disk for files that grow; it lives where users can import it."""

from broker.testing.memory_disk import GrowingDisk, GrowingFile, GrowingRegion

__all__ = ["GrowingDisk", "GrowingFile", "GrowingRegion"]
