"""Read a topic from one node and no other: what does this very node hold?

A consumer reads wherever the group can answer; to compare nodes each must be asked by itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.client.errors import RequestFailedError
from broker.message.codec import decode_records
from broker.protocol.headers import PullMessageRequest, PullMessageResponse
from broker.protocol.request_code import RequestCode
from broker.protocol.response_code import ResponseCode
from dledger.config import parse_address
from dledger.remoting.client import open_remoting_client
from dledger.remoting.command import Command
from dledger.remoting.tcp import TcpNetwork

if TYPE_CHECKING:
    from broker.message.model import StoredMessage
    from dledger.remoting.client import RemotingClient
    from dledger.remoting.network import Network

_READER = ""  # of no consumer group: none comes to be, and no offset is ever committed
_COUNT_MAX = 1_000  # messages of one pull
_ANSWER_SECONDS = 5.0


async def read_topic(
    address: str, topic: str, *, queue_count: int, network: Network | None = None
) -> list[StoredMessage]:
    """Return every message of *topic* that the node at *address* serves, queue by queue.

    Raises:
        RemotingError: the node cannot be reached, or the connection breaks.
        RequestFailedError: the node refuses.
        CorruptRecordError: the node sends records that fail their checks.
    """
    host, port = parse_address(address)
    found: list[StoredMessage] = []
    async with open_remoting_client(network or TcpNetwork(), host, port) as client:
        for queue_id in range(queue_count):
            found += await _read_queue(client, address, topic, queue_id)
    return found


async def _read_queue(
    client: RemotingClient, address: str, topic: str, queue_id: int
) -> list[StoredMessage]:
    found: list[StoredMessage] = []
    offset = 0
    while True:
        header = PullMessageRequest(
            consumer_group=_READER,
            topic=topic,
            queue_id=queue_id,
            queue_offset=offset,
            max_msg_nums=_COUNT_MAX,
            sys_flag=0,
        )
        answer = await client.request(
            Command(code=RequestCode.PULL_MESSAGE, ext_fields=header.encode()),
            timeout_seconds=_ANSWER_SECONDS,
        )
        if answer.code == ResponseCode.PULL_NOT_FOUND:
            return found
        if answer.code not in (
            ResponseCode.SUCCESS,
            ResponseCode.PULL_RETRY_IMMEDIATELY,
            ResponseCode.PULL_OFFSET_MOVED,
        ):
            raise RequestFailedError(
                f"{address} does not give {topic}, queue {queue_id}: code {answer.code}: "
                f"{answer.remark}",
                code=answer.code,
            )
        if answer.code == ResponseCode.SUCCESS:
            body = answer.body
            found += decode_records(b"".join(body) if isinstance(body, list) else body)
        following = PullMessageResponse.decode(answer.ext_fields).next_begin_offset
        if following == offset or (
            answer.code == ResponseCode.PULL_OFFSET_MOVED and following < offset
        ):
            return found
        offset = following
