"""What the rooms of a node tell it: for `broker.node.Node` to say who else has to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from broker.store.consume_queue import ConsumeQueue
    from dledger.core import Role
    from dledger.remoting.server import Session


class Hooks(ABC):
    """What happens in a node, as those who notice it call it."""

    @abstractmethod
    def _is_serving(self) -> bool: ...

    @abstractmethod
    def _role_changed(self, role: Role, term: int, leader_id: str | None) -> None: ...

    @abstractmethod
    def _committed(self, index: int) -> None: ...

    @abstractmethod
    def _is_taking_over(self) -> bool: ...

    @abstractmethod
    def _catch_up(self) -> None: ...

    @abstractmethod
    def _dispatched(self) -> None: ...

    @abstractmethod
    def _arrived(self, queues: Sequence[ConsumeQueue]) -> None: ...

    @abstractmethod
    def _applied(self, index: int, results: list[Any]) -> None: ...

    @abstractmethod
    def _topic_deleted(self, topic: str) -> None: ...

    @abstractmethod
    def _began_to_serve(self) -> None: ...

    @abstractmethod
    def _requests_taken(self) -> None: ...

    @abstractmethod
    def _end_of_pass(self) -> None: ...

    @abstractmethod
    def _group_finished(self) -> None: ...

    @abstractmethod
    def _session_gone(self, session: Session) -> None: ...
