"""Brokers come and go: the requests by which they register, and what is noticed of their end."""

from __future__ import annotations

import hashlib
import logging
import zlib
from typing import TYPE_CHECKING

import trio

from broker.errors import HeaderError
from broker.handlers.registry import answer, handles
from broker.metadata.name_config import ORDER_TOPIC_CONFIG
from broker.nameserver.registrations import SCAN_SECONDS
from broker.nameserver.settings import encode_table
from broker.protocol.name_headers import (
    BrokerHeartbeatRequest,
    QueryDataVersionRequest,
    QueryDataVersionResponse,
    RegisterBrokerRequest,
    RegisterBrokerResponse,
    UnregisterBrokerRequest,
)
from broker.protocol.registration import decode_data_version, decode_registration
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.remoting.command import Command, response
from dledger.remoting.rate_limited_log import RateLimitedLog

if TYPE_CHECKING:
    from broker.metadata.name_config import NameConfig
    from broker.nameserver.registrations import Registration, Registrations
    from broker.protocol.registration import RegisteredTopics
    from dledger.clock import Clock
    from dledger.remoting.server import Session

logger = logging.getLogger(__name__)


class RegistrationHandlers:
    """The family of registrations."""

    def __init__(
        self,
        *,
        registrations: Registrations,
        names: NameConfig,
        clock: Clock,
        own_name: str = "",
    ) -> None:
        """Make the family.

        Args:
            registrations: who has registered.
            names: settings that every broker is told.
            clock: measures silence.
            own_name: the group of the node that answers, which needs no registration; "": none.
        """
        self._registrations = registrations
        self._names = names
        self._clock = clock
        self._own_name = own_name
        self._log = RateLimitedLog(logger)

    @handles(RequestCode.REGISTER_BROKER)
    def register(self, session: Session, command: Command) -> None:
        """Take a broker in, or note that it lives and what its topics are now."""
        header = RegisterBrokerRequest.decode(command.ext_fields)
        body = _body_of(command)
        if header.body_crc32 and header.body_crc32 != zlib.crc32(body) & 0x7FFFFFFF:
            raise HeaderError("the body is not the one it was reckoned of", field="bodyCrc32")
        found = RegisterBrokerResponse()
        if header.broker_name != self._own_name:
            found = self._take(session, header, body)
        order = self._names.namespace(ORDER_TOPIC_CONFIG)
        answer(
            session,
            command,
            response(
                command,
                int(ResponseCode.SUCCESS),
                ext_fields=found.encode(),
                body=encode_table(order) if order else b"",
            ),
        )

    def _take(
        self, session: Session, header: RegisterBrokerRequest, body: bytes
    ) -> RegisterBrokerResponse:
        digest = hashlib.blake2b(body, digest_size=16).digest()
        # All nodes of a group tell the same, each of them every 30 s.
        topics: RegisteredTopics | None = self._registrations.topics_of(header.broker_name, digest)
        if topics is None:
            topics = decode_registration(body, compressed=header.compressed)
        before = self._registrations.find(header.broker_name, header.broker_addr)
        leader = self._registrations.register(
            header, topics, digest=digest, owner=session, now=self._clock.now()
        )
        if before is None or before.broker_id != header.broker_id:
            self._log.log(
                logging.INFO,
                "broker %s of cluster %s at %s has registered as number %d; topics: %d",
                header.broker_name,
                header.cluster_name,
                header.broker_addr,
                header.broker_id,
                len(topics.table),
            )
        if leader is None:
            return RegisterBrokerResponse()
        return RegisterBrokerResponse(
            ha_server_addr=leader.ha_address or None, master_addr=leader.address
        )

    @handles(RequestCode.UNREGISTER_BROKER)
    def unregister(self, session: Session, command: Command) -> None:
        """Forget a broker that stops."""
        header = UnregisterBrokerRequest.decode(command.ext_fields)
        found = self._registrations.unregister(header.broker_name, header.broker_addr)
        if found is not None:
            self._tell_gone(found, "it has unregistered")
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    @handles(RequestCode.QUERY_DATA_VERSION)
    def query_data_version(self, session: Session, command: Command) -> None:
        """Answer whether a broker's topics are others than it has told here; it lives, in any case.

        Source: RocketMQ ``DefaultRequestProcessor.queryBrokerTopicConfig``.
        """
        header = QueryDataVersionRequest.decode(command.ext_fields)
        version = decode_data_version(_body_of(command))
        found = self._registrations.find(header.broker_name, header.broker_addr)
        changed = found is None or found.version != version
        if not changed:
            self._registrations.seen(header.broker_name, header.broker_addr, now=self._clock.now())
        answer(
            session,
            command,
            response(
                command,
                int(ResponseCode.SUCCESS),
                ext_fields=QueryDataVersionResponse(changed=changed).encode(),
                body=b"" if found is None else found.version.encode(),
            ),
        )

    @handles(RequestCode.BROKER_HEARTBEAT)
    def heartbeat(self, session: Session, command: Command) -> None:
        """Take note that a broker of RocketMQ 5 lives."""
        header = BrokerHeartbeatRequest.decode(command.ext_fields)
        self._registrations.seen(header.broker_name, header.broker_addr, now=self._clock.now())
        answer(session, command, response(command, int(ResponseCode.SUCCESS)))

    def drop_session(self, session: Session) -> None:
        """Forget the brokers that came by a connection which has ended."""
        for found in self._registrations.drop(session):
            self._tell_gone(found, "its connection has ended")

    async def run(self) -> None:
        """Forget brokers that have been silent for too long, until cancelled."""
        while True:
            await trio.sleep(SCAN_SECONDS)
            for found in self._registrations.expire(self._clock.now()):
                self._tell_gone(found, f"nothing was heard of it for {found.expiry:g} s")

    def _tell_gone(self, found: Registration, why: str) -> None:
        self._log.log(
            logging.INFO, "broker %s at %s is gone: %s", found.broker_name, found.address, why
        )


def _body_of(command: Command) -> bytes:
    body = command.body
    return b"".join(body) if isinstance(body, list) else bytes(body)
