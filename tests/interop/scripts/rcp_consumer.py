"""Consume with PyPI's rocketmq-client-python 2.0.0, as told: see stock_consumer.py."""

import time

from rocketmq.client import ConsumeStatus, PushConsumer
from rocketmq.ffi import MessageModel
from telling import consumed, stopped, tell, told


def on_message(message):
    if not consumed(message):
        return ConsumeStatus.RECONSUME_LATER
    time.sleep(told.get("takes", 0))
    return ConsumeStatus.CONSUME_SUCCESS


consumer = PushConsumer(
    told["group"],
    orderly=told.get("ordered", False),
    message_model=(
        MessageModel.BROADCASTING if told.get("broadcasting") else MessageModel.CLUSTERING
    ),
)
consumer.set_name_server_address(told["servers"])
if told.get("instance"):
    consumer.set_instance_name(told["instance"])
consumer.subscribe(told["topic"], on_message, told.get("expression", "*"))
consumer.start()
tell("started")
stopped.wait()
consumer.shutdown()
tell("ended")
