"""Send with PyPI's rocketmq-client-python 2.0.0, as told: see telling.py."""

import ctypes

from rocketmq.client import Message, Producer
from rocketmq.exceptions import ffi_check
from rocketmq.ffi import _CSendResult, dll
from telling import dress, of, produce, tell, told


def message(body):
    made = Message(told["topic"])
    made.set_body(body)
    return dress(made)


def send_batch(bodies):
    """Send a batch as its library does it; its classes do not have it."""
    batch = dll.CreateBatchMessage()
    for body in bodies:
        ffi_check(dll.AddMessage(batch, message(body)))
    result = _CSendResult()
    ffi_check(dll.SendBatchMessage(producer._handle, batch, ctypes.pointer(result)))
    ffi_check(dll.DestroyBatchMessage(batch))
    return {"offset": result.offset, "id": result.msgId.decode(), "status": result.sendStatus}


def send(bodies):
    how = told.get("how", "sync")
    if how == "batch":
        return send_batch(bodies)
    if how == "oneway":
        producer.send_oneway(message(bodies[0]))
        return {}
    if how == "ordered":
        key = str(told.get("key", 0))
        return of(producer.send_orderly_with_sharding_key(message(bodies[0]), key))
    return of(producer.send_sync(message(bodies[0])))


producer = Producer(told["group"], orderly=told.get("how") == "ordered")
producer.set_name_server_address(told["servers"])
producer.start()
tell("started")
produce(send)
producer.shutdown()
tell("ended")
