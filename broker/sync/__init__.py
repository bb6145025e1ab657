"""The client for code without an event loop: everything blocks.

>>> import broker.sync
>>> with broker.sync.connect("127.0.0.1:9876") as mq:
...     sent = mq.send("chairs", b"two green ones", key="order-17")
...     for message in mq.consume("billing", "chairs"):
...         with message:
...             print(message.key, message.body)
...         break
order-17 b'two green ones'

Each client has a thread of its own for its connections.  Producers may be used by many threads at
once; of a consumer one thread receives, and others may deal with the messages, each in a
``with message:`` (give ``auto_commit=False`` then).  Ctrl-C interrupts whatever waits.
"""

from broker.sync.client import SyncClient, connect
from broker.sync.consumer import ConsumerKeywords, SyncConsumer
from broker.sync.operations import SyncAdmin, SyncDeadLetters, SyncLookup
from broker.sync.producer import ProducerKeywords, SyncProducer

__all__ = [
    "ConsumerKeywords",
    "ProducerKeywords",
    "SyncAdmin",
    "SyncClient",
    "SyncConsumer",
    "SyncDeadLetters",
    "SyncLookup",
    "SyncProducer",
    "connect",
]
