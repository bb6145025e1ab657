"""What a request asks for.

Numbers below 60,000 are RocketMQ's (``RequestCode``) or DLedger's (``DLedgerRequestCode``); ours
begin at 60,001, where neither has any.
"""

from __future__ import annotations

import enum


class RequestCode(enum.IntEnum):
    """The *code* of a request."""

    SEND_MESSAGE = 10
    PULL_MESSAGE = 11
    QUERY_MESSAGE = 12
    QUERY_CONSUMER_OFFSET = 14
    UPDATE_CONSUMER_OFFSET = 15
    UPDATE_AND_CREATE_TOPIC = 17
    GET_ALL_TOPIC_CONFIG = 21
    UPDATE_BROKER_CONFIG = 25
    GET_BROKER_CONFIG = 26
    GET_BROKER_RUNTIME_INFO = 28
    SEARCH_OFFSET_BY_TIMESTAMP = 29
    GET_MAX_OFFSET = 30
    GET_MIN_OFFSET = 31
    GET_EARLIEST_MSG_STORETIME = 32
    VIEW_MESSAGE_BY_ID = 33
    HEART_BEAT = 34
    UNREGISTER_CLIENT = 35
    CONSUMER_SEND_MSG_BACK = 36
    GET_CONSUMER_LIST_BY_GROUP = 38
    LOCK_BATCH_MQ = 41
    UNLOCK_BATCH_MQ = 42
    GET_ALL_CONSUMER_OFFSET = 43
    GET_ALL_DELAY_OFFSET = 45
    CHECK_CLIENT_CONFIG = 46
    # A name server's in RocketMQ, as far as 106 and some further down: every node answers them.
    PUT_KV_CONFIG = 100
    GET_KV_CONFIG = 101
    DELETE_KV_CONFIG = 102
    REGISTER_BROKER = 103
    UNREGISTER_BROKER = 104
    GET_ROUTEINFO_BY_TOPIC = 105
    GET_BROKER_CLUSTER_INFO = 106
    UPDATE_AND_CREATE_SUBSCRIPTIONGROUP = 200
    GET_ALL_SUBSCRIPTIONGROUP_CONFIG = 201
    GET_TOPIC_STATS_INFO = 202
    GET_CONSUMER_CONNECTION_LIST = 203
    GET_PRODUCER_CONNECTION_LIST = 204
    WIPE_WRITE_PERM_OF_BROKER = 205
    GET_ALL_TOPIC_LIST_FROM_NAMESERVER = 206
    DELETE_SUBSCRIPTIONGROUP = 207
    GET_CONSUME_STATS = 208
    DELETE_TOPIC_IN_BROKER = 215
    DELETE_TOPIC_IN_NAMESRV = 216
    GET_KVLIST_BY_NAMESPACE = 219
    INVOKE_BROKER_TO_RESET_OFFSET = 222
    INVOKE_BROKER_TO_GET_CONSUMER_STATUS = 223
    GET_TOPICS_BY_CLUSTER = 224
    QUERY_TOPIC_CONSUME_BY_WHO = 300
    QUERY_CONSUME_TIME_SPAN = 303
    GET_SYSTEM_TOPIC_LIST_FROM_NS = 304
    GET_SYSTEM_TOPIC_LIST_FROM_BROKER = 305
    GET_CONSUMER_RUNNING_INFO = 307  # handed on to the client
    QUERY_CORRECTION_OFFSET = 308
    CONSUME_MESSAGE_DIRECTLY = 309  # the same
    SEND_MESSAGE_V2 = 310  # header fields named a to n
    GET_UNIT_TOPIC_LIST = 311
    GET_HAS_UNIT_SUB_TOPIC_LIST = 312
    GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST = 313
    CLONE_GROUP_OFFSET = 314
    VIEW_BROKER_STATS_DATA = 315
    GET_BROKER_CONSUME_STATS = 317
    UPDATE_NAMESRV_CONFIG = 318
    GET_NAMESRV_CONFIG = 319
    SEND_BATCH_MESSAGE = 320  # RocketMQ's batch body, or our records when recordFormat is given
    QUERY_CONSUME_QUEUE = 321
    QUERY_DATA_VERSION = 322
    ADD_WRITE_PERM_OF_BROKER = 327
    GET_ALL_PRODUCER_INFO = 328
    GET_TOPIC_CONFIG = 351
    GET_SUBSCRIPTIONGROUP_CONFIG = 352
    BROKER_HEARTBEAT = 904  # RocketMQ 5's

    LEADERSHIP_TRANSFER = 51005  # DLedger's

    GET_GROUP_STATUS = 60001  # any member answers: who leads, how far is everyone
    CLIENT_CONNECTION_LOST = 60010  # a node tells the leader
    CLIENT_GROUPS_LOST = 60011  # the same, where another connection goes by the client's id
    DESCRIBE_TOPIC = 60020  # any member answers: ends, times, sizes and rates
    DESCRIBE_CONSUMER_GROUP = 60021  # how far a group has come in each queue
    RESET_CONSUMER_OFFSETS = 60022  # put a group elsewhere, in all queues of a topic at once


class ClientRequestCode(enum.IntEnum):
    """What a broker asks of a client that is connected to it."""

    NOTIFY_CONSUMER_IDS_CHANGED = 40  # one way: share out the queues again
    RESET_CONSUMER_CLIENT_OFFSET = 220  # one way: go on elsewhere
    GET_CONSUMER_STATUS_FROM_CLIENT = 221  # how far are you?
    GET_CONSUMER_RUNNING_INFO = 307  # how are you?
    CONSUME_MESSAGE_DIRECTLY = 309  # consume this message, now


RECORD_FORMAT_COMMIT_LOG = 1  # recordFormat of our SEND_BATCH_MESSAGE
