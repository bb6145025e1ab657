"""Consumer groups: made, altered, deleted, listed, and how far each has come."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from broker.handlers.registry import answer, handles
from broker.message.limits import check_group, check_group_not_reserved, is_reserved_group
from broker.metadata.subscription_groups import create_group, delete_group, put_group
from broker.protocol.admin_headers import GroupConfigRequest
from broker.protocol.descriptions import GroupDescription, encode_body
from broker.protocol.headers import (
    ConsumeStatsRequest,
    CreateGroupRequest,
    DeleteGroupRequest,
    GroupRequest,
    TopicRequest,
)
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from broker.protocol.subscription_group import decode_group, encode_group, encode_group_table
from dledger.remoting.command import Command, response

if TYPE_CHECKING:
    from collections.abc import Callable

    from broker.groups.consumers import Consumers
    from broker.handlers.commands import Commands
    from broker.handlers.group_gate import GroupGate
    from broker.handlers.group_progress import GroupProgress
    from broker.metadata.consumer_offsets import ConsumerOffsets
    from broker.metadata.subscription_groups import SubscriptionGroups
    from dledger.remoting.server import Session


class ConsumerGroupHandlers:
    """The family of consumer groups."""

    def __init__(
        self,
        *,
        commands: Commands,
        gate: GroupGate,
        groups: SubscriptionGroups,
        offsets: ConsumerOffsets,
        consumers: Consumers,
        progress: GroupProgress,
        node_id: str,
    ) -> None:
        """Make the family.

        Args:
            commands: proposes what is asked for and answers.
            gate: knows which groups there are.
            groups: what commands have made.
            offsets: what groups have committed.
            consumers: who is in which group.
            progress: knows how far groups have come.
            node_id: this node's.
        """
        self._commands = commands
        self._gate = gate
        self._groups = groups
        self._offsets = offsets
        self._consumers = consumers
        self._progress = progress
        self._node_id = node_id

    @handles(RequestCode.UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, on_leader=True)
    def create(self, session: Session, command: Command) -> None:
        """Create a group, or give it what the body says."""
        header = CreateGroupRequest.decode(command.ext_fields)
        body = command.body
        assert not isinstance(body, list), "a received body is one piece"
        config = decode_group(body)
        check_group_not_reserved(config.group)
        wanted = create_group(config) if header.only_if_missing else put_group(config)
        if not self._gate.exists(config.group):
            self._gate.check_room(config.group)
        wanted = wanted.only_once(header.request_id)
        self._commands.propose(session, command, wanted, _succeeds(command))

    @handles(RequestCode.DELETE_SUBSCRIPTIONGROUP, on_leader=True)
    def delete(self, session: Session, command: Command) -> None:
        """Delete a group with all it has committed; a success also when there is none."""
        header = DeleteGroupRequest.decode(command.ext_fields)
        check_group(header.group_name)
        check_group_not_reserved(header.group_name)
        wanted = delete_group(header.group_name).only_once(header.request_id)
        self._commands.propose(session, command, wanted, _succeeds(command))

    @handles(RequestCode.GET_ALL_SUBSCRIPTIONGROUP_CONFIG)
    def list_groups(self, session: Session, command: Command) -> None:
        """Answer all groups this node knows of."""
        configs = [self._gate.config_of(group) for group in self._gate.names()]
        body = encode_group_table(configs, version=self._groups.version)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_SUBSCRIPTIONGROUP_CONFIG)
    def group_config(self, session: Session, command: Command) -> None:
        """Answer what one group has."""
        header = GroupConfigRequest.decode(command.ext_fields)
        body = encode_group(self._gate.config_of(header.group))
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.QUERY_TOPIC_CONSUME_BY_WHO)
    def readers_of(self, session: Session, command: Command) -> None:
        """Answer the groups that have committed something in a topic, or have consumers of it."""
        header = TopicRequest.decode(command.ext_fields)
        groups = {group for group, topic in self._offsets.groups() if topic == header.topic}
        groups |= set(self._consumers.readers_of(header.topic))
        known = sorted(group for group in groups if not is_reserved_group(group))
        body = json.dumps({"groupList": known}, separators=(",", ":")).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.GET_CONSUME_STATS, on_leader=True)
    def consume_stats(self, session: Session, command: Command) -> None:
        """Answer how far a group has come, as RocketMQ's tools read it."""
        header = ConsumeStatsRequest.decode(command.ext_fields)
        self._gate.config_of(header.consumer_group)
        group = header.consumer_group
        described = (
            [self._progress.in_topic(group, header.topic)]
            if header.topic
            else self._progress.in_topics(group)
        )
        body = self._progress.stats_body(described).encode()
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))

    @handles(RequestCode.DESCRIBE_CONSUMER_GROUP, on_leader=True)
    def describe(self, session: Session, command: Command) -> None:
        """Answer how far a group has come, in every topic."""
        header = GroupRequest.decode(command.ext_fields)
        described = GroupDescription(
            group=header.consumer_group,
            node_id=self._node_id,
            config=self._gate.config_of(header.consumer_group),
            topics=tuple(self._progress.in_topics(header.consumer_group)),
            members=self._progress.members(header.consumer_group),
        )
        body = encode_body(described)
        answer(session, command, response(command, int(ResponseCode.SUCCESS), body=body))


def _succeeds(command: Command) -> Callable[[Any], Command]:
    return lambda _: response(command, int(ResponseCode.SUCCESS))
