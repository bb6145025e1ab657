"""Consume with PyPI's rocketmq 0.4.4, as told by a JSON object in argv, until stdin ends.

Keys: servers, group, topic, expression, instance, broadcasting, ordered, fails (how often each
message is refused before it is taken).  One JSON line for each event.
"""

import json
import sys
import time

from rocketmq.client import MessageModel, PushConsumer

told = json.loads(sys.argv[1])
begun = time.monotonic()


def tell(event, **fields):
    print(json.dumps({"event": event, "at": time.monotonic() - begun, **fields}), flush=True)


def on_message(message):
    refused = message.reconsume_times < told.get("fails", 0)
    tell(
        "refused" if refused else "got",
        body=message.body.decode(),
        topic=message.topic,
        tag=(message.tags or b"").decode(),
        keys=(message.keys or b"").decode(),
        queue=message.queue_id,
        offset=message.queue_offset,
        times=message.reconsume_times,
        id=message.id,
    )
    if refused:
        raise ValueError("told to refuse")
    if told.get("takes"):
        time.sleep(told["takes"])


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
sys.stdin.read()
consumer.shutdown()
tell("ended")
