"""Pull with PyPI's rocketmq 0.4.4 until stdin ends: servers, group, topic as in the others."""

from rocketmq.client import PullConsumer
from telling import consumed, stopped, tell, told

consumer = PullConsumer(told["group"])
consumer.set_namesrv_addr(told["servers"])
consumer.start()
tell("started")
while not stopped.is_set():
    try:
        for message in consumer.pull(told["topic"]):
            consumed(message)
    except Exception as error:  # the client's own, of any kind
        tell("error", why=str(error))
    stopped.wait(0.02)
consumer.shutdown()
tell("ended")
