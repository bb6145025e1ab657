"""How a request ended.

Numbers below 60,000 are RocketMQ's (``ResponseCode``, ``RemotingSysResponseCode``); ours begin at
60,001, and go only to clients that write headers as ours does: see `STOCK_CODES`.
"""

from __future__ import annotations

import enum


class ResponseCode(enum.IntEnum):
    """The *code* of a response."""

    SUCCESS = 0
    SYSTEM_ERROR = 1
    SYSTEM_BUSY = 2  # nothing was done: a limit is reached, ask again later
    REQUEST_CODE_NOT_SUPPORTED = 3
    FLUSH_DISK_TIMEOUT = 10
    SLAVE_NOT_AVAILABLE = 11
    FLUSH_SLAVE_TIMEOUT = 12
    MESSAGE_ILLEGAL = 13
    SERVICE_NOT_AVAILABLE = 14
    VERSION_NOT_SUPPORTED = 15
    NO_PERMISSION = 16
    TOPIC_NOT_EXIST = 17
    TOPIC_EXIST_ALREADY = 18
    PULL_NOT_FOUND = 19  # nothing arrived before the time was up
    PULL_RETRY_IMMEDIATELY = 20
    PULL_OFFSET_MOVED = 21  # the offset asked for is outside the queue; go on at nextBeginOffset
    QUERY_NOT_FOUND = 22
    SUBSCRIPTION_PARSE_FAILED = 23
    SUBSCRIPTION_NOT_EXIST = 24
    SUBSCRIPTION_NOT_LATEST = 25
    SUBSCRIPTION_GROUP_NOT_EXIST = 26
    CONSUMER_NOT_ONLINE = 206
    CONSUME_MSG_TIMEOUT = 207  # a client was asked and did not answer in time
    FLOW_CONTROL = 215

    NOT_LEADER = 60001  # nothing was done; the ext field leaderAddress says where, when known
    OUTCOME_UNKNOWN = 60002  # what was asked may still happen
    UNKNOWN_PRODUCER = 60003  # the producer's past is gone: take a new producer id
    OUT_OF_ORDER_SEQUENCE = 60004  # an earlier message of the producer is missing
    PRODUCER_FENCED = 60005  # another holder of the producer id has gone ahead
    NOT_READY = 60006  # nothing was done: the node still catches up, ask again soon
    CORRUPT_RECORD = 60007  # nothing was done: the records sent are none
    OFFSETS_RESET = 60020  # nothing was done: the group's offsets were reset, ask for them again


# What RocketMQ's clients are told in the place of codes of ours, which they would not try again on:
# as its DLedger broker does for the same reasons.  They may then send twice what was written.
# Source: RocketMQ ``DLedgerCommitLog.asyncPutMessage``.
STOCK_CODES = {
    ResponseCode.NOT_LEADER: ResponseCode.SERVICE_NOT_AVAILABLE,
    ResponseCode.OUTCOME_UNKNOWN: ResponseCode.SYSTEM_ERROR,
    ResponseCode.NOT_READY: ResponseCode.SYSTEM_BUSY,
    ResponseCode.CORRUPT_RECORD: ResponseCode.MESSAGE_ILLEGAL,
    ResponseCode.OFFSETS_RESET: ResponseCode.SYSTEM_ERROR,
}
