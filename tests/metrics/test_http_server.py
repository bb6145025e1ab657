"""The HTTP server for machines: a few pages, and nobody who can hold it up."""

import trio

from broker.metrics.http_server import (
    ANSWER_SECONDS,
    CONNECTIONS_MAX,
    HEAD_SIZE_MAX,
    REQUEST_SECONDS,
    Answer,
    HttpServer,
)
from dledger.remoting.errors import ConnectionLostError
from tests.fakes.network import MemoryNetwork

BODY = b"hello\n" * 100


async def hello():
    await trio.lowlevel.checkpoint()
    return Answer(body=BODY)


async def broken():
    raise RuntimeError("the page is torn")


async def serve(nursery, network=None, pages=None):
    """Start a server; return what connects to it."""
    network = network or MemoryNetwork()
    server = HttpServer(
        network, host="", port=0, pages=pages or {"/hello": hello, "/broken": broken}
    )
    port = await nursery.start(server.serve)

    async def connect():
        return await network.connect("here", port)

    return connect


async def read_all(stream):
    received = b""
    try:
        while data := await stream.receive_some():
            received += data
    except ConnectionLostError:
        received += b"<reset>"
    return received


async def ask(connect, request):
    stream = await connect()
    stream.send_now([request])
    received = await read_all(stream)
    stream.close()
    return received


async def test_a_page_is_answered_with_its_length_and_the_connection_closed(
    autojump_clock, nursery
):
    connect = await serve(nursery)

    received = await ask(connect, b"GET /hello?x=1 HTTP/1.1\r\nHost: a\r\n\r\n")

    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Length: %d" % len(BODY) in head
    assert b"Connection: close" in head
    assert body == BODY


async def test_head_gets_everything_but_the_body(autojump_clock, nursery):
    connect = await serve(nursery)

    received = await ask(connect, b"HEAD /hello HTTP/1.1\r\n\r\n")

    assert b"Content-Length: %d" % len(BODY) in received
    assert received.endswith(b"\r\n\r\n")


async def test_what_is_no_request_for_a_page_is_told(autojump_clock, nursery):
    connect = await serve(nursery)

    assert b" 404 " in await ask(connect, b"GET /nothing HTTP/1.1\r\n\r\n")
    assert b"/hello" in await ask(connect, b"GET /\xff HTTP/1.1\r\n\r\n")
    refused = await ask(connect, b"POST /hello HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc")
    assert b" 405 " in refused
    assert b"Allow: GET, HEAD\r\n" in refused
    assert b"reset" not in refused
    assert b" 400 " in await ask(connect, b"\x00\x00\x00\x10nonsense\r\n\r\n")
    assert b" 400 " in await ask(connect, b"GET /hello\r\n\r\n")


async def test_a_head_without_end_is_refused(autojump_clock, nursery):
    connect = await serve(nursery)

    received = await ask(connect, b"GET /hello HTTP/1.1\r\nX: " + b"y" * HEAD_SIZE_MAX)

    assert b" 431 " in received


async def test_a_page_that_fails_is_500_and_the_next_one_is_answered(autojump_clock, nursery):
    connect = await serve(nursery)

    assert b" 500 " in await ask(connect, b"GET /broken HTTP/1.1\r\n\r\n")
    assert b" 200 " in await ask(connect, b"GET /hello HTTP/1.1\r\n\r\n")


async def test_who_asks_byte_by_byte_is_cut_off_in_time(autojump_clock, nursery):
    connect = await serve(nursery)
    stream = await connect()
    began = trio.current_time()

    async def drip():
        while not stream.closed:
            try:
                stream.send_now([b"G"])
            except ConnectionLostError:
                return
            await trio.sleep(0.5)

    nursery.start_soon(drip)
    assert await read_all(stream) in (b"", b"<reset>")
    assert trio.current_time() - began <= REQUEST_SECONDS + 1
    stream.close()


async def test_who_does_not_read_is_cut_off_in_time(autojump_clock, nursery):
    async def large():
        await trio.lowlevel.checkpoint()
        return Answer(body=bytes(1_000_000))

    connect = await serve(nursery, MemoryNetwork(capacity=1000), {"/large": large})
    stream = await connect()
    stream.send_now([b"GET /large HTTP/1.1\r\n\r\n"])

    await trio.sleep(ANSWER_SECONDS + 1)

    received = await read_all(stream)
    assert len(received) < 10_000


async def test_one_connection_too_many_is_closed_and_room_comes_back(autojump_clock, nursery):
    connect = await serve(nursery)
    idle = [await connect() for _ in range(CONNECTIONS_MAX)]
    await trio.sleep(0.1)

    assert await read_all(await connect()) in (b"", b"<reset>")

    for stream in idle:
        stream.close()
    await trio.sleep(0.1)
    assert b" 200 " in await ask(connect, b"GET /hello HTTP/1.1\r\n\r\n")
