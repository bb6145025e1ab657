"""The client: producers, consumers and an operator's requests. Carries no server code."""

from broker.client.admin import Admin
from broker.client.connect import Client, connect
from broker.client.consumer import Consumer
from broker.client.consumer_options import MemberTimes
from broker.client.dead_letters import DeadLetters
from broker.client.errors import (
    ClientError,
    ClosedError,
    CorruptAnswerError,
    CorruptBodyError,
    LessDurableError,
    MessageRefusedError,
    MissingExtraError,
    NoBrokerError,
    NotWrittenError,
    OffsetFileError,
    OutcomeUnknownError,
    RequestFailedError,
    SendManyError,
    SeveralGroupsError,
)
from broker.client.lookup import Lookup
from broker.client.message import Message
from broker.client.producer import Producer
from broker.client.results import SendResult
from broker.client.send_loop import ProducerStats
from broker.client.send_many import OutMessage

__all__ = [
    "Admin",
    "Client",
    "ClientError",
    "ClosedError",
    "Consumer",
    "CorruptAnswerError",
    "CorruptBodyError",
    "DeadLetters",
    "LessDurableError",
    "Lookup",
    "MemberTimes",
    "Message",
    "MessageRefusedError",
    "MissingExtraError",
    "NoBrokerError",
    "NotWrittenError",
    "OffsetFileError",
    "OutMessage",
    "OutcomeUnknownError",
    "Producer",
    "ProducerStats",
    "RequestFailedError",
    "SendManyError",
    "SendResult",
    "SeveralGroupsError",
    "connect",
]
