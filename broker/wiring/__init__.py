"""How the rooms of one node are put together, once and by constructor.

Floor by floor, each standing on the one below: the log's path, what writes messages, what reads
them, what tells of all that.  `broker.node.Node` is `Wiring` and what happens in it.
"""

from broker.wiring.surroundings import Surroundings
from broker.wiring.wiring import Wiring

__all__ = ["Surroundings", "Wiring"]
