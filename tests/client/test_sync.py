"""The client for code without an event loop."""

from __future__ import annotations

import gc
import inspect
import itertools
import linecache
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import trio

import broker
from broker import OutMessage, sync
from broker.client.admin import Admin
from broker.client.consumer_options import ConsumerOptions
from broker.client.lookup import Lookup
from broker.client.portal import BlockingCall, Portal, call_blocking
from broker.client.producer import Producer
from broker.client.producer_options import ProducerOptions
from tests.fakes.children import child


@pytest.fixture
def mq(server):
    with sync.connect(server.address) as found:
        yield found


def test_the_shortest_way(mq):
    sent = mq.send("sync-1", b"two green chairs", key="order-17")
    for message in mq.consume("billing", "sync-1"):
        assert (message.body, message.key) == (b"two green chairs", "order-17")
        break
    assert mq.admin.committed_offset("billing", "sync-1", sent.queue_id) == 1


def test_producers_and_consumers_of_ones_own(mq, server):
    with mq.producer("shop", compression="zlib", linger=0.01) as producer:
        results = producer.send_many(
            "sync-2", (OutMessage(b"%04d" % n * 2000, queue=n % 2) for n in range(600))
        )
        assert [r.queue_offset for r in results] == [n // 2 for n in range(600)]
        producer.send("sync-2", b"last", queue=0)
        producer.flush()
        assert producer.stats.acked == 601
        assert producer.buffered_size == 0
    with mq.consumer("g", "sync-2", queues=[0, 1], start="first") as consumer:
        found = list(itertools.islice(consumer, 601))
        assert sorted(m.body for m in found)[0] == b"0000" * 2000
        assert consumer.get(0) is None
        assert consumer.get(0.05) is None
        consumer.seek(0, 299)
        assert next(consumer).queue_offset == 299
        assert consumer.seek_to("last", queues=[0]) == {0: 301}
        consumer.pause()
        consumer.seek(1, 0)
        assert consumer.get(0.05) is None
        assert consumer.paused == consumer.queues == (0, 1)
        consumer.resume()
        sizes = [len(batch) for batch in itertools.islice(consumer.batches(100, linger=30), 3)]
        assert sizes == [100, 100, 100]
        assert consumer.lag() == {0: 0, 1: 0}
        consumer.commit()
        assert consumer.positions() == {0: 301, 1: 300}
        assert consumer.position(1) == 300
        assert consumer.left == {}
        assert consumer.stats.commits > 0
    assert mq.leader_address == server.address
    assert mq.nodes == (server.address,)
    assert mq.messages.earliest_store_time("sync-2", 0) is not None
    assert "sync-2" in [entry.topic for entry in mq.admin.list_topics()]


def test_threads_share_a_producer(mq):
    with mq.producer() as producer, ThreadPoolExecutor(16) as pool:
        results = list(pool.map(lambda n: producer.send("sync-3", b"%d" % n, queue=0), range(200)))
    assert sorted(r.queue_offset for r in results) == list(range(200))


def test_threads_may_deal_with_messages(mq):
    with mq.producer() as producer:
        producer.send_many("sync-4", [OutMessage(b"%d" % n, queue=0) for n in range(100)])

    def handle(message):
        with message:
            if message.queue_offset == 60:
                raise KeyError

    with (
        mq.consumer("g", "sync-4", queues=[0], auto_commit=False) as consumer,
        ThreadPoolExecutor(8) as pool,
    ):
        for future in [pool.submit(handle, m) for m in itertools.islice(consumer, 100)]:
            future.exception()
        assert consumer.left == {0: [60]}
    assert mq.admin.committed_offset("g", "sync-4", 0) == 60


def test_errors_come_as_what_they_are(server):
    client = sync.connect(server.address, auto_create_topic=False)
    with pytest.raises(broker.ClosedError, match="inside 'with'"):
        client.send("sync-none", b"x")
    with client:
        with pytest.raises(broker.TopicNotFoundError, match="sync-none"):
            client.send("sync-none", b"x")
        with pytest.raises(broker.TopicNotFoundError):
            next(client.consume("g", "sync-none"))
        with pytest.raises(broker.SendManyError), client.producer() as producer:
            producer.send_many("sync-none", [b"x"])
        with pytest.raises(broker.ClosedError, match="not open"):
            client.producer().send("sync-none", b"x")
        with pytest.raises(broker.ClosedError, match="not open"):
            client.consumer("g", "sync-none").get(wait=0)
        with pytest.raises(ValueError, match="linger"):
            client.producer(linger=-1)
        with pytest.raises(RuntimeError, match="open already"):
            client.__enter__()
    with pytest.raises(broker.ClosedError):
        client.admin.list_topics()
    with client:
        assert client.admin.list_topics() is not None


def test_what_is_under_way_when_the_client_closes_is_told(server):
    """Another thread waits for a message that nobody sends."""
    errors = []
    with sync.connect(server.address) as mq:
        consumer = mq.consumer("g", "sync-5").__enter__()

        def wait():
            try:
                next(consumer)
            except broker.ClosedError as error:
                errors.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
    thread.join()
    assert len(errors) == 1


def test_a_group_that_is_put_elsewhere_while_it_reads_reads_on_there(mq):
    """The seek comes in the connections' thread, in the middle of what this one takes."""
    with mq.producer() as producer:
        producer.send_many("sync-8", [OutMessage(b"%d" % n, queue=0) for n in range(20_000)])
    with mq.consumer("g", "sync-8", queues=[0], commit_interval=0.01) as consumer:
        found = [next(consumer).queue_offset for _ in range(5000)]
        consumer.commit()
        mq.admin.reset_offsets("g", "sync-8", "first")
        found += [message.queue_offset for message in itertools.islice(consumer, 20_000)]
    again = [at for at, (one, other) in enumerate(itertools.pairwise(found)) if other != one + 1]
    assert len(again) <= 1
    if again:
        assert found[again[0] + 1] == 0


def test_a_loop_that_is_collected_in_the_connections_thread_closes_there(mq):
    """Nothing refers to the generator but itself, and the collector runs in any thread."""
    for number in range(3):
        mq.send("sync-9", b"%d" % number, queue=0)

    def begin():
        messages = mq.consume("g", "sync-9", queues=[0])
        cycle = [messages]
        cycle.append(cycle)
        next(messages)

    done = []

    def collect():
        begin()
        call_blocking(mq._portal, gc.collect)
        done.append(None)

    gc.disable()  # nor in another thread, before
    try:
        thread = threading.Thread(target=collect, daemon=True)
        thread.start()
        thread.join(60)
    finally:
        gc.enable()
    if not done:
        mq._portal = None  # whoever closes it would wait, too
        mq._session = None
        pytest.fail("the connections' thread waits for itself")
    deadline = 2000
    while mq.admin.committed_offset("g", "sync-9", 0) != 1 and deadline:
        deadline -= 1
    assert deadline
    with pytest.raises(RuntimeError, match="waits for ever"):
        call_blocking(mq._portal, call_blocking, mq._portal, list)


def test_an_error_in_a_loop_leaves_the_message_that_was_in_a_with(mq):
    """Without the ``with`` it looks like a break, as the docs say."""
    for number in range(3):
        mq.send("sync-10", b"%d" % number, queue=0)

    def fail_at_second():
        for message in mq.consume("g", "sync-10", queues=[0]):
            with message:
                if message.queue_offset == 1:
                    raise KeyError

    with pytest.raises(KeyError):
        fail_at_second()
    assert mq.admin.committed_offset("g", "sync-10", 0) == 1


@pytest.mark.parametrize("kind", ["consumer", "producer"])
def test_what_is_interrupted_while_it_opens_is_closed_if_it_has_opened(mq, kind, monkeypatch):
    mq.send("sync-11", b"x")
    made = mq.consumer("g", "sync-11") if kind == "consumer" else mq.producer()
    run = BlockingCall.run

    def run_and_be_interrupted(call, portal):
        monkeypatch.undo()
        run(call, portal)
        raise KeyboardInterrupt

    monkeypatch.setattr(BlockingCall, "run", run_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        made.__enter__()
    assert getattr(made._real, "_readings", made._real)._is_closed
    assert mq.send("sync-11", b"y").queue_offset >= 0


def test_a_client_that_is_interrupted_while_it_opens_leaves_no_thread(server, monkeypatch):
    begin = Portal.begin
    portals = []

    def begin_and_be_interrupted(portal, on_begun):
        portals.append(portal)
        begin(portal, on_begun)
        raise KeyboardInterrupt

    monkeypatch.setattr(Portal, "begin", begin_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        sync.connect(server.address).__enter__()
    assert not portals[0]._thread.is_alive()


def interrupted_at_each_line(call):
    """Yield after *call* has been interrupted at its first line, its second, and so on to its last.

    Lines of the client's own and of what wakes its other thread; not those that begin a ``with``,
    which come up when it ends, too, where an interpreter that is not traced lets nothing in.
    """
    files = {broker.client.portal.__file__, broker.client.handout.__file__}
    files.update(str(path) for path in Path(sync.__file__).parent.glob("*.py"))
    files.add(trio._core._entry_queue.__file__)
    for wanted in itertools.count(1):
        seen = 0

        def trace(frame, event, _, wanted=wanted):
            nonlocal seen
            if frame.f_code.co_filename not in files:
                return None
            if event == "line":
                line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
                seen += not line.lstrip().startswith("with ")
                if seen == wanted:
                    raise KeyboardInterrupt
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            call()
        except KeyboardInterrupt:
            pass
        else:
            return
        finally:
            sys.settrace(before)
        yield wanted


def test_a_wait_that_is_interrupted_anywhere_ends_there_and_spoils_nothing(mq):
    mq.admin.create_topic("sync-13", 1)
    lines = 0
    with mq.consumer("g", "sync-13") as consumer:
        for lines in interrupted_at_each_line(lambda: consumer.get(0)):
            mq.send("sync-13", b"%d" % lines)
            assert next(consumer).body == b"%d" % lines
    assert lines > 20


def test_a_send_that_is_interrupted_anywhere_spoils_nothing(mq):
    mq.admin.create_topic("sync-14", 1)
    lines = 0
    for lines in interrupted_at_each_line(lambda: mq.send("sync-14", b"interrupted")):
        mq.send("sync-14", b"%d" % lines)
    assert lines > 20
    with mq.consumer("g", "sync-14") as consumer:
        whole = [next(consumer).body for _ in range(mq.admin.max_offset("sync-14", 0))]
    assert [body for body in whole if body != b"interrupted"] == [
        b"%d" % number for number in range(1, lines + 1)
    ]


INTERRUPTED = """
import signal, sys, broker, broker.sync
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests may run where it is ignored
with broker.sync.connect(sys.argv[1]) as mq:
    with mq.consumer("g", "sync-6") as consumer:
        try:
            print("waiting", flush=True)
            next(consumer)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        assert consumer.get(0.05) is None
        mq.send("sync-6", b"after")
        print(next(consumer).body.decode(), flush=True)
"""


def test_ctrl_c_interrupts_what_waits_and_spoils_nothing(server):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with child("-c", INTERRUPTED, server.address, **pipes, text=True) as process:
        assert process.stdout.readline() == "waiting\n"
        os.kill(process.pid, signal.SIGINT)
        out, errors = process.communicate()
    assert (out, errors, process.returncode) == ("interrupted\nafter\n", "", 0)


FORGOTTEN = """
import sys, broker.sync
mq = broker.sync.connect(sys.argv[1]).__enter__()
mq.send("sync-7", b"x")
consumer = mq.consumer("g", "sync-7").__enter__()
print(next(consumer).body.decode(), flush=True)
"""


def test_a_client_nobody_closed_does_not_keep_the_interpreter(server):
    done = subprocess.run(
        [sys.executable, "-c", FORGOTTEN, server.address],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "x\n", "")


# --- the same interface --------------------------------------------------------------------------


@pytest.mark.parametrize(("mirror", "kind"), [(sync.SyncAdmin, Admin), (sync.SyncLookup, Lookup)])
def test_every_method_has_its_line_in_the_mirror(mirror, kind):
    """A new one in *kind* needs one line in broker/sync/: ``name = blocking(Kind.name)``."""
    names = [n for n, m in inspect.getmembers(kind, inspect.iscoroutinefunction) if n[0] != "_"]
    assert [name for name in names if name not in vars(mirror)] == []


@pytest.mark.parametrize(
    ("mirror", "kind", "without"),
    [
        (sync.SyncProducer, Producer, {"submit", "make_ready", "put_chunk"}),
        (sync.SyncConsumer, broker.Consumer, {"fill", "fill_within", "gather"}),
        (sync.SyncClient, broker.Client, set()),
    ],
)
def test_nothing_public_is_missing_in_the_mirror(mirror, kind, without):
    names = [name for name in vars(kind) if name[0] != "_" and name not in without]
    assert [name for name in names if name not in vars(mirror)] == []


@pytest.mark.parametrize("mirror", [sync.SyncProducer, sync.SyncClient])
def test_a_send_takes_what_every_send_takes(mirror):
    assert inspect.signature(mirror.send).parameters == inspect.signature(Producer.send).parameters


def test_the_keywords_are_those_of_the_options():
    assert set(sync.ProducerKeywords.__annotations__) == set(ProducerOptions.__dataclass_fields__)
    assert set(sync.ConsumerKeywords.__annotations__) == set(ConsumerOptions.__dataclass_fields__)
    for name in ("producer", "consumer"):
        given = set(inspect.signature(getattr(broker.Client, name)).parameters)
        keywords = sync.ProducerKeywords if name == "producer" else sync.ConsumerKeywords
        assert set(keywords.__annotations__) <= given
    ours, others = inspect.signature(sync.connect), inspect.signature(broker.connect)
    assert ours.parameters == others.parameters


def pause(seconds):
    threading.Event().wait(seconds)


def until(holds):
    for _ in range(2000):
        if holds():
            return
        pause(0.01)
    raise AssertionError("it never came to that")


def test_members_share_queues_and_what_fails_comes_again(mq, server):
    mq.admin.create_topic("sync-groups", 4)
    with mq.consumer("sync-g", "sync-groups") as first:
        with (
            sync.connect(server.address, client_id="other") as other,
            other.consumer("sync-g", "sync-groups") as second,
        ):
            until(lambda: len(first.queues) == len(second.queues) == 2)
            assert sorted((*first.queues, *second.queues)) == [0, 1, 2, 3]
            assert other.client_id == "other"
        until(lambda: len(first.queues) == 4)
        mq.send("sync-groups", b"hard", delay=0.2)
        with next(first) as message:
            message.retry(delay=0.1)
        again = next(first)
        assert (again.body, again.reconsume_times) == (b"hard", 1)
        again.dead_letter()
        assert first.get(0.5) is None
    letters = mq.dead_letters("sync-g")
    assert (letters.group, letters.topic, letters.count()) == ("sync-g", "%DLQ%sync-g", 1)
    (found,) = letters.read()
    letters.resend(found)
    letters.done(found)
    assert letters.resend_all() == 0


def test_in_order_threads_never_have_two_messages_of_a_queue(mq):
    with mq.producer() as producer:
        producer.send_many(
            "sync-order", [OutMessage(b"%d" % n, ordering_key=f"k{n % 3}") for n in range(60)]
        )
    at_work, seen = set(), {}

    def work(message):
        with message:
            assert message.queue_id not in at_work
            at_work.add(message.queue_id)
            pause(0.001)
            at_work.discard(message.queue_id)
            seen.setdefault(int(message.body) % 3, []).append(int(message.body))

    with (
        mq.consumer("sync-o", "sync-order", ordered=True, auto_commit=False) as consumer,
        ThreadPoolExecutor(4) as pool,
    ):
        for done in [pool.submit(work, next(consumer)) for _ in range(60)]:
            done.result()
    assert seen == {key: list(range(key, 60, 3)) for key in range(3)}
