"""Send with PyPI's rocketmq 0.4.4, as told by a JSON object in argv; one JSON line for each event.

Keys: servers, group, topic, how (sync, oneway, ordered, batch, delayed), bodies, tag, keys,
interval (seconds between sends).  Runs in an environment of its own, with nothing of ours.
"""

import json
import sys
import time

from rocketmq.client import Message, Producer

told = json.loads(sys.argv[1])
begun = time.monotonic()


def tell(event, **fields):
    print(json.dumps({"event": event, "at": time.monotonic() - begun, **fields}), flush=True)


def message(body):
    made = Message(told["topic"])
    made.set_body(body)
    if told.get("tag"):
        made.set_tags(told["tag"])
    if told.get("keys"):
        made.set_keys(told["keys"])
    for name, value in told.get("properties", {}).items():
        made.set_property(name, value)
    if told.get("delay_level"):
        made.set_delay_time_level(told["delay_level"])
    return made


producer = Producer(told["group"])
producer.set_namesrv_addr(told["servers"])
producer.start()
tell("started")
how = told.get("how", "sync")
bodies = told["bodies"]
if how == "batch":
    result = producer.send_batch([message(body) for body in bodies])
    tell("sent", bodies=bodies, offset=result.offset, id=result.msg_id)
else:
    for body in bodies:
        asked = time.monotonic()
        try:
            if how == "oneway":
                producer.send_oneway(message(body))
                tell("sent", bodies=[body], seconds=time.monotonic() - asked)
            else:
                if how == "ordered":
                    result = producer.send_orderly(message(body), told.get("key", 0))
                else:
                    result = producer.send_sync(message(body))
                tell(
                    "sent",
                    bodies=[body],
                    seconds=time.monotonic() - asked,
                    offset=result.offset,
                    id=result.msg_id,
                    status=int(result.status),
                )
        except Exception as error:  # the client's own, of any kind
            tell("failed", bodies=[body], seconds=time.monotonic() - asked, why=str(error))
        if told.get("interval"):
            time.sleep(told["interval"])
if how == "oneway":
    time.sleep(0.5)  # shutdown does not wait for what was sent one way
producer.shutdown()
tell("ended")
