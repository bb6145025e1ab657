"""Who may consume: groups that exist, and are not switched off.

A group comes to be when it is first used, as with RocketMQ: by its first commit, or by a command
that the node proposes, or has the leader propose, at its first pull.  Nobody waits for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import (
    GroupNotFoundError,
    InvalidMessageError,
    NoPermissionError,
)
from broker.message.limits import check_group_not_reserved, is_reserved_group
from broker.metadata.subscription_groups import create_group
from broker.protocol.request_code import RequestCode
from broker.protocol.subscription_group import SubscriptionGroupConfig, encode_group
from dledger.errors import LedgerError
from dledger.remoting.command import FLAG_ONEWAY, Command

if TYPE_CHECKING:
    from broker.handlers.forward import Forwarder
    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.subscription_groups import SubscriptionGroups
    from broker.store.append_queue import AppendQueue
    from dledger.remoting.server import Session

# Who looks at messages by it consumes nothing, so it does not come to be, and may be used where
# groups are made by hand. Source: RocketMQ ``MixAll.TOOLS_CONSUMER_GROUP``.
TOOLS_GROUP = "TOOLS_CONSUMER"
ASKED_MAX = 10_000  # groups whose creation was asked for; then all may be asked for again


class GroupGate:
    """Lets groups consume, or says why not."""

    def __init__(
        self,
        *,
        groups: SubscriptionGroups,
        offsets: ConsumerOffsets,
        queue: AppendQueue,
        forwarder: Forwarder,
        auto_create: bool,
        groups_max: int,
    ) -> None:
        """Make the gate.

        Args:
            groups: those that commands have made.
            offsets: knows those that have committed something.
            queue: takes the creation of a group, on the leader.
            forwarder: takes it elsewhere.
            auto_create: whether a group comes to be by being used.
            groups_max: most groups that come to be like that, or by a command.
        """
        self._groups = groups
        self._offsets = offsets
        self._queue = queue
        self._forwarder = forwarder
        self._auto_create = auto_create
        self._groups_max = groups_max
        self._asked: set[str] = set()

    def exists(self, group: str) -> bool:
        """Return whether *group* was made by a command or has committed something.

        The broker's own groups are nobody else's business: for clients there are none.
        """
        if is_reserved_group(group):
            return False
        return group in self._groups or self._offsets.has_group(group)

    def check_exists(self, group: str) -> None:
        """Raise `GroupNotFoundError` when there is no such group."""
        if not self.exists(group):
            raise GroupNotFoundError(
                f"consumer group {group!r} does not exist; `dledger group list` shows those that do"
            )

    def known_name(self, group: str) -> str:
        """Return the name of *group* as this node keeps it anyway; "" when it does not exist.

        For those who keep a name for long: a hundred thousand pulls may be held.
        """
        config = self._groups.get(group)
        if config is not None:
            return config.group
        return group if self._offsets.has_group(group) else ""

    def names(self) -> list[str]:
        """Return all groups, sorted."""
        return sorted(self._names())

    def config_of(self, group: str) -> SubscriptionGroupConfig:
        """Return what *group* has; the defaults when it has only committed something.

        Raises:
            GroupNotFoundError: there is no such group.
        """
        self.check_exists(group)
        return self._groups.get(group) or SubscriptionGroupConfig(group=group)

    def check_pull(self, session: Session, group: str) -> None:
        """Let *group* pull; it is created when it does not exist and that is wished.

        Raises:
            NoPermissionError: it is switched off.
            GroupNotFoundError: it does not exist and is not to be created.
            InvalidMessageError: it is the broker's own.
        """
        check_group_not_reserved(group)
        config = self._groups.get(group)
        if config is not None:
            self._asked.discard(group)
            if not config.consume_enable:
                raise NoPermissionError(
                    f"consumer group {group!r} may not consume (consumeEnable is false); allow it "
                    f"with `dledger group alter {group} --consume`"
                )
        elif group and group != TOOLS_GROUP and not self._offsets.has_group(group):
            self._check_creation(group)
            if group not in self._asked and len(self._groups) < self._groups_max:
                self._ask_for(session, group)

    def check_use(self, group: str, *, beside: int = 0) -> None:
        """Let *group* commit, or have consumers; by that it comes to be.

        Args:
            group: which.
            beside: new groups that the same request makes.

        Raises:
            GroupNotFoundError: it does not exist and is not to be created.
            InvalidMessageError: it is the broker's own, or there are too many groups already.
        """
        check_group_not_reserved(group)
        if not self.exists(group):
            self._check_creation(group)
            self.check_room(group, beside=beside)

    def check_room(self, group: str, *, beside: int = 0) -> None:
        """Raise `InvalidMessageError` when there may be no further group."""
        count = len(self._names()) + beside
        if count >= self._groups_max:
            raise InvalidMessageError(
                f"consumer group {group[:80]!r}: there are {count} groups, and groups_max is "
                f"{self._groups_max}; delete one, or raise groups_max on every node"
            )

    def _names(self) -> set[str]:
        names = self._offsets.names() | {config.group for config in self._groups}
        return {name for name in names if not is_reserved_group(name)}

    def _check_creation(self, group: str) -> None:
        if not self._auto_create:
            raise GroupNotFoundError(
                f"consumer group {group!r} does not exist; create it with `dledger group create "
                f"{group}`, or set auto_create_group"
            )

    def _ask_for(self, session: Session, group: str) -> None:
        config = SubscriptionGroupConfig(group=group)
        try:
            command = create_group(config)
        except InvalidMessageError:
            return  # older clients may have such names: they consume, and are listed by a commit
        if len(self._asked) >= ASKED_MAX:
            self._asked.clear()
        self._asked.add(group)
        try:
            if self._queue.is_open:
                self._queue.put_command(command, lambda _, error: self._over(group, error))
                return
            self._forwarder.take(
                session,
                Command(
                    int(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP),
                    FLAG_ONEWAY,
                    ext_fields={"onlyIfMissing": True},
                    body=encode_group(config),
                ),
            )
        except LedgerError:
            self._asked.discard(group)  # no leader, or a limit: the next pull asks again

    def _over(self, group: str, error: LedgerError | None) -> None:
        if error is not None:
            self._asked.discard(group)
