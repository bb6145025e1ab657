"""The group of broker nodes that `tests.node` has."""

from tests.node.conftest import brokers, make_brokers

__all__ = ["brokers", "make_brokers"]
