"""Speak to a broker with sockets and JSON alone, as docs/protocol.md has it.

python examples/without_the_library.py 127.0.0.1:9876 plain
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from typing import Any

JSON = 0  # serialize type
SEND_MESSAGE, PULL_MESSAGE, UPDATE_AND_CREATE_TOPIC = 10, 11, 17


def ask(
    stream: socket.socket, code: int, fields: dict[str, Any], body: bytes = b""
) -> tuple[dict[str, Any], bytes]:
    """Send one request and return its answer: the ext fields, and the body."""
    header = json.dumps({"code": code, "opaque": 1, "flag": 0, "extFields": fields}).encode()
    stream.sendall(struct.pack(">II", 4 + len(header) + len(body), JSON << 24 | len(header)))
    stream.sendall(header + body)
    length, mark = struct.unpack(">II", read(stream, 8))
    header_size = mark & 0xFFFFFF
    frame = read(stream, length - 4)
    answer = json.loads(frame[:header_size])
    if answer["code"] != 0:
        raise SystemExit(f"code {answer['code']}: {answer.get('remark')}")
    return answer.get("extFields", {}), frame[header_size:]


def read(stream: socket.socket, size: int) -> bytes:
    """Return exactly *size* bytes."""
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise SystemExit("the broker closed the connection")
        data += piece
    return data


def main(address: str, topic: str) -> None:
    """Create a topic of one queue, send two messages, read back all it holds."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as stream:
        ask(
            stream,
            UPDATE_AND_CREATE_TOPIC,
            {"topic": topic, "readQueueNums": 1, "writeQueueNums": 1, "perm": 6},
        )
        offset = end = 0
        for body in (b"by hand", b"and once more"):
            sent, _ = ask(
                stream,
                SEND_MESSAGE,
                {"producerGroup": "by-hand", "topic": topic, "queueId": 0},
                body,
            )
            print(f"sent as {topic}/0/{sent['queueOffset']}, message id {sent['msgId']}")
            end = int(sent["queueOffset"]) + 1
        while offset < end:
            fields, records = ask(
                stream,
                PULL_MESSAGE,
                {
                    "consumerGroup": "by-hand",
                    "topic": topic,
                    "queueId": 0,
                    "queueOffset": offset,
                    "maxMsgNums": 32,
                    "sysFlag": 2,  # may be held: this node may hear of the messages a moment later
                    "suspendTimeoutMillis": 5000,
                },
            )
            while records:
                (size,) = struct.unpack_from(">i", records)
                (queue_offset,) = struct.unpack_from(">q", records, 20)
                (body_size,) = struct.unpack_from(">i", records, 84)
                print(f"{topic}/0/{queue_offset}: {records[88 : 88 + body_size].decode()}")
                records = records[size:]
            offset = int(fields["nextBeginOffset"])


if __name__ == "__main__":
    main(
        sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:9876",
        sys.argv[2] if len(sys.argv) > 2 else "plain",
    )
