"""Whether a node reads on where a connection has too much under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.node import Node
    from dledger.remoting.command import Command
    from dledger.remoting.server import Session
    from jepsen_like.sim.promises import Promises


def watch_flow(name: str, node: Node, promises: Promises) -> None:
    """Note requests that are taken of a connection which is over its limit already."""
    registry = node.registry
    stock = registry.on_commands
    limit = node.flow.connection_size_max

    def on_commands(session: Session, commands: list[Command], *, ends_pass: bool = True) -> None:
        if session.inflight_size > limit:
            promises.tell(
                name,
                "over-limit",
                f"{len(commands)} more of a connection with {session.inflight_size} bytes "
                f"unanswered, the limit is {limit}",
            )
        stock(session, commands, ends_pass=ends_pass)

    registry.on_commands = on_commands  # type: ignore[method-assign]
