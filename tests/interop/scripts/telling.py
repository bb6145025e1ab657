"""What the scripts in Python share: orders from argv, events in JSON lines, an end with stdin.

Producers are told: servers, group, topic, how (sync, oneway, ordered, batch), bodies or endless (a
prefix: they go on until stdin ends), tag, keys, key (to order by), padding (how much longer a body
is), delay_level, interval (seconds between sends), insist (send again what failed, as whoever needs
an order must).
"""

import json
import os
import sys
import threading
import time

told = json.loads(sys.argv[1])
stopped = threading.Event()
BATCH = 5
_begun = time.monotonic()
_turn = threading.Lock()


def _read_to_the_end():
    while os.read(0, 1):
        pass
    stopped.set()


threading.Thread(target=_read_to_the_end, daemon=True).start()


def tell(event, **fields):
    clock = time.monotonic()  # the same for all processes of a machine
    line = {"event": event, "at": clock - _begun, "clock": clock, **fields}
    text = json.dumps(line) + "\n"
    with _turn:  # consumers tell from many threads
        sys.stdout.write(text)
        sys.stdout.flush()


def _groups(size):
    if "endless" not in told:
        bodies = told["bodies"]
        yield from (bodies[at : at + size] for at in range(0, len(bodies), size))
        return
    at = 0
    while not stopped.is_set():
        yield [f"{told['endless']}{number}" for number in range(at, at + size)]
        at += size


def produce(send):
    """Call *send* with the bodies of one message, or of a batch; it returns what to tell."""
    for bodies in _groups(BATCH if told.get("how") == "batch" else 1):
        while not _sent(send, bodies) and told.get("insist") and not stopped.is_set():
            time.sleep(0.05)
        time.sleep(told.get("interval", 0))
    if told.get("how") == "oneway":
        time.sleep(0.5)  # shutdown does not wait for what was sent one way
    tell("through")  # some of them hang in their shutdown while a broker that they know is gone


def _sent(send, bodies):
    asked = time.monotonic()
    try:
        fields = send([body + "x" * told.get("padding", 0) for body in bodies])
    except Exception as error:  # the client's own, of any kind
        tell("failed", bodies=bodies, seconds=time.monotonic() - asked, why=str(error))
        return False
    tell("sent", bodies=bodies, seconds=time.monotonic() - asked, **fields)
    return True


def dress(message):
    """Give a message what was told."""
    if told.get("tag"):
        message.set_tags(told["tag"])
    if told.get("keys"):
        message.set_keys(told["keys"])
    if told.get("delay_level"):
        message.set_delay_time_level(told["delay_level"])
    return message


def of(result):
    return {"offset": result.offset, "id": result.msg_id, "status": int(result.status)}


def consumed(message):
    """Tell of a message; return whether it is taken."""
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
    return not refused
