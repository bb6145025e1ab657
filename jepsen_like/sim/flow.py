"""Whether a node reads on where a connection has too much under way."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from broker.handlers.registry import FrameRunHandler, Handler
    from broker.node import Node
    from dledger.remoting.command import Command
    from dledger.remoting.frame_run import FrameGroup
    from dledger.remoting.server import Session
    from jepsen_like.sim.promises import Promises


def watch_flow(name: str, node: Node, promises: Promises) -> None:
    """Note requests that are taken of a connection which is over its limit already."""
    registry = node.registry
    on_commands = registry.on_commands
    limit = node.flow.connection_size_max

    def look(session: Session, what: str) -> None:
        if session.inflight_size > limit:
            promises.tell(
                name,
                "over-limit",
                f"{what} more of a connection with {session.inflight_size} bytes "
                f"unanswered, the limit is {limit}",
            )

    def watched(session: Session, commands: list[Command], *, ends_pass: bool = True) -> None:
        if commands:  # else it is only the end of those before
            look(session, f"{len(commands)}")
        on_commands(session, commands, ends_pass=ends_pass)

    def watch_run(handler: FrameRunHandler) -> FrameRunHandler:
        def watched_run(session: Session, run: FrameGroup, one_by_one: Handler) -> list[Command]:
            look(session, "a run")
            return handler(session, run, one_by_one)

        return watched_run

    registry.on_commands = watched  # type: ignore[method-assign]
    # The servers know `on_run` by itself already.
    for code, handler in registry.frame_run_handlers.items():
        registry.frame_run_handlers[code] = watch_run(handler)
