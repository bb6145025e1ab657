"""Consume with PyPI's rocketmq 0.4.4, as told by a JSON object in argv, until stdin ends.

Keys: servers, group, topic, expression, instance, broadcasting, ordered, fails (how often each
message is refused before it is taken), takes (seconds each takes).  One JSON line for each event.
"""

import time

from rocketmq.client import MessageModel, PushConsumer
from telling import consumed, stopped, tell, told


def on_message(message):
    if not consumed(message):
        raise ValueError("told to refuse")
    time.sleep(told.get("takes", 0))


consumer = PushConsumer(
    told["group"],
    orderly=told.get("ordered", False),
    message_model=(
        MessageModel.BROADCASTING if told.get("broadcasting") else MessageModel.CLUSTERING
    ),
)
consumer.set_namesrv_addr(told["servers"])
if told.get("instance"):
    consumer.set_instance_name(told["instance"])
consumer.subscribe(told["topic"], on_message, told.get("expression", "*"))
consumer.start()
tell("started")
stopped.wait()
consumer.shutdown()
tell("ended")
