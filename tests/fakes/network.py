"""The network in memory; it lives where users can import it."""

from broker.testing.memory_network import MemoryListener, MemoryNetwork, MemoryStream

__all__ = ["MemoryListener", "MemoryNetwork", "MemoryStream"]
