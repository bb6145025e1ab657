"""Which function answers which request, where it may run, and what its errors say on the wire.

A handler is a plain function: it answers at once, or hands the request to something that will
(the append queue, the pull hold, the forwarder).  Nothing here waits, and there is no task for a
request.  This is the only place where errors become response codes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

from broker.errors import (
    BrokerError,
    CorruptRecordError,
    GroupNotFoundError,
    InvalidFilterError,
    InvalidMessageError,
    NoPermissionError,
    OffsetsResetError,
    TopicNotFoundError,
)
from broker.metrics.rpc import OpenRequests, RpcLatency
from broker.protocol.headers import LeaderHint, OffsetEpoch
from broker.protocol.known_codes import name_of_code
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import STOCK_CODES, ResponseCode
from dledger.errors import (
    EntryTooLargeError,
    LedgerBusyError,
    LedgerError,
    LedgerFullError,
    NotLeaderError,
    OutcomeUnknownError,
)
from dledger.remoting.command import FLAG_RESPONSE, Command, SerializeType, response
from dledger.remoting.errors import LocalProtocolError
from dledger.remoting.rate_limited_log import shorten

if TYPE_CHECKING:
    from dledger.remoting.server import FrameGroup, Session

logger = logging.getLogger(__name__)

Handler = Callable[["Session", Command], None]
_Method = TypeVar("_Method", bound=Callable[..., object])

RunHandler = Callable[["Session", list[Command], Handler], None]
FrameRunHandler = Callable[["Session", Any, Handler], list[Command]]

# On a forwarded request: it comes from a RocketMQ client at this address.
STOCK_CLIENT_HOST = "stockClientHost"
_HANDLES = "_handles_request_code"
_CODE = attrgetter("code")
_HANDLES_RUNS = "_handles_runs_of_request_code"
_HANDLES_FRAME_RUNS = "_handles_frame_runs_of_request_code"
# Remarks of these say how it is, not what went wrong.
_NO_FAILURES = frozenset(
    {
        int(ResponseCode.SUCCESS),
        int(ResponseCode.PULL_NOT_FOUND),
        int(ResponseCode.PULL_RETRY_IMMEDIATELY),
        int(ResponseCode.PULL_OFFSET_MOVED),
        int(ResponseCode.QUERY_NOT_FOUND),
    }
)
# Requests that tell nothing of what is written already.
_ONLY_WRITES = frozenset(
    {
        int(RequestCode.SEND_MESSAGE),
        int(RequestCode.SEND_MESSAGE_V2),
        int(RequestCode.SEND_BATCH_MESSAGE),
    }
)
# Requests whose fields are named a to n.
_SHORT_NAMED = frozenset({int(RequestCode.SEND_MESSAGE_V2), int(RequestCode.SEND_BATCH_MESSAGE)})
REMARK_SIZE_MAX = 2000  # characters: an error may quote what the request said, and that be anything
_KEEPING_COST = 1024  # bytes: a command by itself, and the table it waits in
_FIELD_COST = 200  # bytes: two small objects and their place in a dict
_NESTED_COST = 64 * 1024 * 1024  # bytes: as much as 1 MiB of the smallest values may unfold to
# As RocketMQ's metrics write them.
REQUEST_NAMES = {int(code): code.name.lower() for code in RequestCode}
RESPONSE_NAMES = {int(code): code.name.lower() for code in ResponseCode}
RUN_MIN = 4  # requests of one code in a row; fewer are handled one by one


def handles(code: RequestCode, *, on_leader: bool = False) -> Callable[[_Method], _Method]:
    """Mark a method as the one that answers *code*, on the serving leader alone if *on_leader*."""

    def mark(method: _Method) -> _Method:
        marks = [*getattr(method, _HANDLES, []), (code, on_leader)]
        setattr(method, _HANDLES, marks)
        return method

    return mark


def handles_runs(code: RequestCode) -> Callable[[_Method], _Method]:
    """Mark a method that takes many requests of *code* at once, on the serving leader.

    It is also given the way that requests go one by one, for those it can do no better with.
    """

    def mark(method: _Method) -> _Method:
        setattr(method, _HANDLES_RUNS, code)
        return method

    return mark


def handles_frame_runs(code: RequestCode) -> Callable[[_Method], _Method]:
    """As `handles_runs`, for requests that are alike; returns those that are left, in their order.

    Many that go one by one are left to the server, which gives others turns between them.
    """

    def mark(method: _Method) -> _Method:
        setattr(method, _HANDLES_FRAME_RUNS, code)
        return method

    return mark


def error_response(command: Command, error: Exception) -> Command:
    """Return the answer that tells *error* to whoever sent *command*."""
    ext_fields: dict[str, Any] = {}
    if isinstance(error, NotLeaderError):
        code = ResponseCode.NOT_LEADER
        ext_fields = LeaderHint(leader_id=error.leader_id).encode()
    elif isinstance(error, OutcomeUnknownError):
        code = ResponseCode.OUTCOME_UNKNOWN
    elif isinstance(error, LedgerBusyError):
        code = ResponseCode.SYSTEM_BUSY
    elif isinstance(error, LedgerFullError):
        code = ResponseCode.SERVICE_NOT_AVAILABLE
    elif isinstance(error, TopicNotFoundError):
        code = ResponseCode.TOPIC_NOT_EXIST
    elif isinstance(error, GroupNotFoundError):
        code = ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST
    elif isinstance(error, OffsetsResetError):
        code = ResponseCode.OFFSETS_RESET
        ext_fields = OffsetEpoch(offset_epoch=error.epoch).encode()
    elif isinstance(error, CorruptRecordError):
        code = ResponseCode.CORRUPT_RECORD
    elif isinstance(error, NoPermissionError):
        code = ResponseCode.NO_PERMISSION
    elif isinstance(error, InvalidFilterError):
        code = ResponseCode.SUBSCRIPTION_PARSE_FAILED
    elif isinstance(error, InvalidMessageError | EntryTooLargeError):
        code = ResponseCode.MESSAGE_ILLEGAL
    else:
        code = ResponseCode.SYSTEM_ERROR
    return response(command, int(code), shorten(str(error), REMARK_SIZE_MAX), ext_fields)


class Registry:
    """The table of handlers, and the `SessionHandler` that every connection talks to."""

    def __init__(
        self,
        *,
        is_serving: Callable[[], bool],
        forward: Handler,
        end_of_pass: Callable[[], None],
        session_gone: Callable[[Session], None],
        catch_up: Callable[[], None] = lambda: None,
        is_late: Callable[[Command], bool] = lambda _command: False,
        node_id: str = "",
        latency: RpcLatency | None = None,
        what: str = "broker",
    ) -> None:
        """Make an empty table.

        Args:
            is_serving: whether this node is the leader and has taken in its predecessors' log.
            forward: takes a request that only the leader can answer.
            end_of_pass: called after all requests of one receive have been handled.
            session_gone: called when a connection has ended.
            catch_up: called before a request that may ask for what has been written.
            is_late: whether a request was for this node as the leader of another term.
            node_id: named in what RocketMQ's clients are told of failures.
            latency: takes in how long requests take.
            what: what it is that answers.
        """
        self._node_id = node_id
        self._latency = latency
        self._what = what
        self._handlers: dict[int, Handler] = {}
        self._run_handlers: dict[int, RunHandler] = {}
        # By code, what takes frames that were read together.
        self.frame_run_handlers: dict[int, FrameRunHandler] = {}
        self._leader_only: set[int] = set()
        self._is_serving = is_serving
        self._forward = forward
        self._end_of_pass = end_of_pass
        self._catch_up = catch_up
        self._is_late = is_late
        self._session_gone = session_gone
        # Takes what clients answer when they are asked something.
        self.answered: Handler | None = None
        self.session_count = 0

    @property
    def codes(self) -> frozenset[int]:
        """Return the request codes that have a handler."""
        return frozenset(self._handlers)

    def register(self, family: object) -> None:
        """Add every method of *family* that `handles` has marked."""
        for name in dir(type(family)):
            method = getattr(type(family), name)
            if (run_code := getattr(method, _HANDLES_RUNS, None)) is not None:
                self._run_handlers[int(run_code)] = getattr(family, name)
            if (run_code := getattr(method, _HANDLES_FRAME_RUNS, None)) is not None:
                self.frame_run_handlers[int(run_code)] = getattr(family, name)
            for code, on_leader in getattr(method, _HANDLES, []):
                assert code not in self._handlers, f"two handlers for {code!r}"
                self._handlers[int(code)] = getattr(family, name)
                if on_leader:
                    self._leader_only.add(int(code))

    # -- SessionHandler -------------------------------------------------------------------------

    def on_opened(self, session: Session) -> None:
        """Count a connection."""
        session.context = OpenRequests(self._node_id, self._latency)
        self.session_count += 1

    def on_closed(self, session: Session) -> None:
        """Forget a connection and what it waited for."""
        self.session_count -= 1
        self._session_gone(session)

    def on_commands(
        self, session: Session, commands: list[Command], *, ends_pass: bool = True
    ) -> None:
        """Handle requests of one receive; behind the last seal and send what they add up to."""
        if len(commands) < RUN_MIN:
            for command in commands:
                self.dispatch(session, command)
        elif len({command.code for command in commands}) == 1:
            self._dispatch_run(session, commands[0].code, commands)
        else:
            for code, run in groupby(commands, _CODE):
                self._dispatch_run(session, code, list(run))
        if ends_pass:
            self._end_of_pass()

    def on_run(self, session: Session, run: FrameGroup, *, ends_pass: bool) -> list[Command]:
        """Handle requests that are alike all at once; return those that are to go one by one."""
        handler = self.frame_run_handlers.get(run.code)
        if handler is None or not self._is_serving():
            return run.commands()
        left = handler(session, run, self.dispatch)
        if ends_pass and not left:
            self._end_of_pass()
        return left

    def _dispatch_run(self, session: Session, code: int, commands: list[Command]) -> None:
        handler = self._run_handlers.get(code)
        if handler is not None and len(commands) >= RUN_MIN and self._is_serving():
            handler(session, commands, self.dispatch)
        else:
            for command in commands:
                self.dispatch(session, command)

    def dispatch(self, session: Session, command: Command) -> None:
        """Handle one request; its errors become its answer."""
        if session.closed:
            return
        code = command.code
        if command.flag & FLAG_RESPONSE:
            if self.answered is not None:
                self.answered(session, command)
            return
        known = getattr(session, "context", None)  # as `open_requests_of`, and one call less
        if type(known) is OpenRequests:
            known.begin(command)
        if code not in _ONLY_WRITES:
            self._catch_up()
        try:
            handler = self._handlers.get(code)
            if handler is None:
                self._refuse_code(session, command)
            elif code in self._leader_only and (not self._is_serving() or self._is_late(command)):
                self._forward(session, command)
            else:
                try:
                    handler(session, command)
                except (TopicNotFoundError, GroupNotFoundError):
                    # A node that lags, and all do just after a start, must not tell a consumer that
                    # its topic or group is gone; a leader that serves has taken in everything.
                    if self._is_serving():
                        raise
                    self._forward(session, command)
        except (BrokerError, LedgerError) as error:
            answer(session, command, error_response(command, error))

    def _refuse_code(self, session: Session, command: Command) -> None:
        known = name_of_code(command.code)
        name = f"{known} ({command.code})" if known else str(command.code)
        answer(
            session,
            command,
            response(
                command,
                int(ResponseCode.REQUEST_CODE_NOT_SUPPORTED),
                f"request code {name} is not supported by this {self._what}",
            ),
        )


def open_requests_of(session: Session) -> OpenRequests | None:
    """Return what *session* has asked for; None where nobody keeps it."""
    known = getattr(session, "context", None)
    return known if type(known) is OpenRequests else None


def begin_many(session: Session) -> float | None:
    """Return the time, for `end_many`, at which requests came together; None: nobody wants it."""
    known = open_requests_of(session)
    return None if known is None else known.now()


def begin_each(session: Session, commands: Iterable[Command], begun: float | None) -> None:
    """Take note that *commands*, for which `begin_many` was asked, are answered each by itself."""
    if begun is not None and (known := open_requests_of(session)) is not None:
        for command in commands:
            known.begin(command, at=begun)


def end_many(session: Session, code: int, begun: float | None, *, count: int) -> None:
    """Take note that *count* requests for *code* that came together have succeeded together."""
    if begun is not None and (known := open_requests_of(session)) is not None:
        known.end_many(code, begun, count=count)


def answer(session: Session, request: Command, reply: Command) -> None:
    """Queue *reply* unless nobody waits for it; one that cannot be written is told instead."""
    if request.is_oneway or session.closed:
        return
    if (known := open_requests_of(session)) is not None:
        known.end(request, reply.code)
    if request.serialization is not SerializeType.MSGPACK:
        if reply.code in STOCK_CODES:
            reply.code = int(STOCK_CODES[ResponseCode(reply.code)])
        if reply.remark and reply.code not in _NO_FAILURES:
            reply.remark = _with_place(reply.remark, session, request)
    try:
        session.reply(reply)
    except LocalProtocolError as error:
        # What was asked for is too large (a list of very many topics, say), or a field of it can
        # only be written another way: one client's trouble, and not the node's.
        logger.warning("request %d of %r: %s", request.code, session, error)
        session.reply(
            response(
                request,
                int(ResponseCode.SYSTEM_ERROR),
                shorten(f"the answer cannot be sent: {error}", REMARK_SIZE_MAX),
            )
        )


def _with_place(remark: str, session: Session, request: Command) -> str:
    """Return *remark* with the node, topic and queue it does not name.

    RocketMQ's clients show nothing else; ours knows what it asked of whom, and says so itself.
    """
    if len(remark) > REMARK_SIZE_MAX // 2:
        return remark  # it quotes what was asked, and that is long
    fields = request.ext_fields or {}
    short = request.code in _SHORT_NAMED and "topic" not in fields
    topic, queue = fields.get("b" if short else "topic"), fields.get("e" if short else "queueId")
    place = []
    known = open_requests_of(session)
    if known is not None and known.node_id and f"node {known.node_id}" not in remark:
        place.append(f"node {known.node_id}")
    if isinstance(topic, str) and topic and topic[:40] not in remark:
        place.append(f"topic {shorten(topic, 127)}")
    if queue is not None and "queue " not in remark:
        place.append(f"queue {shorten(str(queue), 20)}")
    return f"{remark} ({', '.join(place)})" if place else remark


def stock_client_address(session: Session, command: Command) -> str | None:
    """Return ``host:port`` of the RocketMQ client that asks; None for our own.

    Ours alone writes MSGPACK headers, and so do nodes that hand a request on, whoever asked first.
    """
    if command.serialization is SerializeType.MSGPACK:
        address = command.ext_fields.get(STOCK_CLIENT_HOST)
        return address if isinstance(address, str) else None
    return session.peer_address


def stock_client_host(session: Session, command: Command) -> str | None:
    """Return the address of the RocketMQ client that asks, without its port; None for our own."""
    address = stock_client_address(session, command)
    if address is None:
        return None
    return address.rpartition(":")[0] or address  # nodes of 0.1 hand the host on alone


def holding_cost(command: Command) -> int:
    """Return about how many bytes of memory *command* takes for as long as it is kept waiting."""
    cost = _KEEPING_COST + command.body_size
    for name, value in command.ext_fields.items():
        if isinstance(value, str | bytes):
            cost += len(name) + len(value) + _FIELD_COST
        elif isinstance(value, list | tuple | dict):
            cost += _NESTED_COST  # no header of ours has one
        else:
            cost += len(name) + _FIELD_COST
    return cost
