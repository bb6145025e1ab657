"""Settings kept for others by namespace and key, and brokers that are not to be written to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from broker.handlers.registry import answer, handles
from broker.metadata.name_config import delete_name, put_name, restore_broker, wipe_broker
from broker.protocol.name_headers import (
    BrokerNameRequest,
    DeleteKvConfigRequest,
    KvConfigRequest,
    KvConfigResponse,
    KvListRequest,
    PutKvConfigRequest,
    RestoredResponse,
    WipedResponse,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response
from dledger.remoting.server import Session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from broker.metadata.name_config import NameConfig
    from broker.nameserver.groups import NamedGroup

from broker.metadata.state_machine import MetadataCommand

# Makes a change that a request asks for, and answers with what the last argument makes of it.
Propose: TypeAlias = Callable[[Session, Command, MetadataCommand, Callable[[Any], Command]], None]


class NameSettings:
    """The family of what is kept for others."""

    def __init__(
        self,
        *,
        names: NameConfig,
        groups: Callable[[], list[NamedGroup]],
        propose: Propose,
    ) -> None:
        """Make the family.

        Args:
            names: what is kept.
            groups: which groups are known here.
            propose: makes a change.
        """
        self._names = names
        self._groups = groups
        self._propose = propose

    @handles(RequestCode.PUT_KV_CONFIG, on_leader=True)
    def put(self, session: Session, command: Command) -> None:
        """Set a key."""
        header = PutKvConfigRequest.decode(command.ext_fields)
        wanted = put_name(header.namespace, header.key, header.value)
        self._names.check_room(header.namespace, header.key, header.value)
        self._change(session, command, wanted.only_once(header.request_id))

    @handles(RequestCode.DELETE_KV_CONFIG, on_leader=True)
    def delete(self, session: Session, command: Command) -> None:
        """Take a key away; a success also when it is not set."""
        header = DeleteKvConfigRequest.decode(command.ext_fields)
        wanted = delete_name(header.namespace, header.key)
        self._change(session, command, wanted.only_once(header.request_id))

    @handles(RequestCode.GET_KV_CONFIG)
    def get(self, session: Session, command: Command) -> None:
        """Answer what a key is set to."""
        header = KvConfigRequest.decode(command.ext_fields)
        value = self._names.get(header.namespace, header.key)
        if value is None:
            _answer_nothing(
                session,
                command,
                f"no config item of namespace {header.namespace[:80]!r} and key "
                f"{header.key[:80]!r} is kept here",
            )
            return
        fields = KvConfigResponse(value=value).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), ext_fields=fields))

    @handles(RequestCode.GET_KVLIST_BY_NAMESPACE)
    def list_namespace(self, session: Session, command: Command) -> None:
        """Answer all keys of a namespace."""
        header = KvListRequest.decode(command.ext_fields)
        found = self._names.namespace(header.namespace)
        if not found:
            _answer_nothing(
                session,
                command,
                f"no config item of namespace {header.namespace[:80]!r} is kept here",
            )
            return
        body = encode_table(found)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.WIPE_WRITE_PERM_OF_BROKER, on_leader=True)
    def wipe(self, session: Session, command: Command) -> None:
        """Name a broker without permission to write in all routes; answer how many topics it has.

        Unlike in RocketMQ it stays so, until the permission is given back.
        """
        header = BrokerNameRequest.decode(command.ext_fields)
        name = header.broker_name
        count = self._topic_count(name)
        fields = WipedResponse(wipe_topic_count=count).encode()
        if not count and name not in self._known_names():
            # Nobody of that name: nothing to keep.
            answer(
                session, command, response(command, int(ResponseCode.SUCCESS), ext_fields=fields)
            )
            return
        self._change(session, command, wipe_broker(name).only_once(header.request_id), fields)

    @handles(RequestCode.ADD_WRITE_PERM_OF_BROKER, on_leader=True)
    def restore(self, session: Session, command: Command) -> None:
        """Take `wipe` back; answer how many topics the broker has."""
        header = BrokerNameRequest.decode(command.ext_fields)
        fields = RestoredResponse(add_topic_count=self._topic_count(header.broker_name)).encode()
        wanted = restore_broker(header.broker_name)
        self._change(session, command, wanted.only_once(header.request_id), fields)

    def _change(
        self,
        session: Session,
        command: Command,
        wanted: MetadataCommand,
        fields: Mapping[str, Any] | None = None,
    ) -> None:
        def finish(_: object) -> Command:
            return response(command, int(ResponseCode.SUCCESS), ext_fields=dict(fields or {}))

        self._propose(session, command, wanted, finish)

    def _known_names(self) -> set[str]:
        return {name for group in self._groups() for name in group.broker_names()}

    def _topic_count(self, broker_name: str) -> int:
        return sum(
            len(list(group.topics()))
            for group in self._groups()
            if broker_name in group.broker_names()
        )


def encode_table(table: Mapping[str, str]) -> bytes:
    """Return keys and values as a body. Source: RocketMQ ``KVTable``."""
    return json.dumps({"table": dict(table)}, separators=(",", ":")).encode()


def _answer_nothing(session: Session, command: Command, remark: str) -> None:
    answer(session, command, response(command, int(ResponseCode.QUERY_NOT_FOUND), remark))
