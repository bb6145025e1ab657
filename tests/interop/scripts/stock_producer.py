"""Send with PyPI's rocketmq 0.4.4, as told: see telling.py."""

from rocketmq.client import Message, Producer
from telling import dress, of, produce, tell, told


def message(body):
    made = Message(told["topic"])
    made.set_body(body)
    return dress(made)


def send(bodies):
    how = told.get("how", "sync")
    if how == "batch":
        return of(producer.send_batch([message(body) for body in bodies]))
    if how == "oneway":
        producer.send_oneway(message(bodies[0]))
        return {}
    if how == "ordered":
        return of(producer.send_orderly(message(bodies[0]), told.get("key", 0)))
    return of(producer.send_sync(message(bodies[0])))


producer = Producer(told["group"])
producer.set_namesrv_addr(told["servers"])
producer.start()
tell("started")
produce(send)
producer.shutdown()
tell("ended")
