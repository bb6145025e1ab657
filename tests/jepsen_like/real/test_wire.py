"""What is done to the wire is felt by packets, and the switch counts them."""

import socket
import time
from pathlib import Path

import pytest

from jepsen_like.real.proof import LabError
from jepsen_like.real.wire import Shape
from tests.process.kit import eventually

PORT = 7000
THERE = ("c1", "n1")
BACK = ("n1", "c1")


class Ends:
    """A datagram socket in the client's namespace and one in the node's."""

    def __init__(self, lab):
        self.wire = lab.wire
        self.node_address = (lab.nodes["n1"].address, PORT)
        self.client_address = (lab.clients["c1"].address, PORT)
        with lab.clients["c1"].entered():
            self.client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with lab.nodes["n1"].namespace.entered():
            self.node = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for end, address in ((self.client, self.client_address), (self.node, self.node_address)):
            end.bind(address)
            end.setblocking(False)

    def send(self, count, *, size=100):
        for number in range(count):
            self.client.sendto(number.to_bytes(4, "big") + bytes(size - 4), self.node_address)

    async def pass_through(self, count, *, size=100):
        """Send so many; return what came of them once the switch has dealt with all."""
        before = (await self.wire.counters())[THERE]
        self.send(count, size=size)

        async def are_through():
            now = (await self.wire.counters())[THERE]
            left = now.forwarded + now.cut + now.lost + now.overrun
            is_over = now.received + now.duplicated == left  # else some of them wait
            return now if is_over and now.received - before.received >= count else None

        return await eventually("all packets are through the switch", are_through)

    def received(self, count):
        """Numbers in the order of their arrival: *count*, and more if they come at once."""
        found = []
        while True:
            self.node.settimeout(20 if len(found) < count else 0.05)
            try:
                found.append(int.from_bytes(self.node.recv(2000)[:4], "big"))
            except TimeoutError:
                return found


@pytest.fixture
async def ends(lab):
    ends = Ends(lab)
    yield ends
    ends.client.close()
    ends.node.close()


async def test_without_rules_everything_arrives_in_order(lab, ends):
    counters = await ends.pass_through(50)

    assert ends.received(50) == list(range(50))
    assert counters.forwarded == 50
    assert counters.forwarded_bytes == 50 * (100 + 8 + 20 + 14)
    assert counters.dropped == counters.delayed == counters.duplicated == 0


async def test_a_cut_has_one_direction(lab, ends):
    await lab.wire.cut(*THERE)
    await ends.pass_through(5)
    ends.node.sendto(b"back", ends.client_address)

    assert ends.received(0) == []
    ends.client.settimeout(20)
    assert ends.client.recv(100) == b"back"
    counters = await lab.wire.counters()
    assert counters[THERE].cut == 5
    assert counters[BACK].cut == 0

    await lab.wire.heal(*THERE)
    await ends.pass_through(5)
    assert ends.received(5) == list(range(5))


async def test_a_partition_cuts_between_its_sides_only(lab):
    links = await lab.wire.partition(["n1"], ["n2", "c1"])

    assert sorted(links) == [("c1", "n1"), ("n1", "c1"), ("n1", "n2"), ("n2", "n1")]


async def test_what_is_on_its_way_when_the_link_is_cut_does_not_arrive(lab, ends):
    for delay_ms in (200, 2_000, 20_000):  # until they have not yet arrived when it is cut
        await lab.wire.shape(*THERE, Shape(delay_ms=delay_ms))
        before = (await lab.wire.counters())[THERE]
        ends.send(3)
        await lab.wire.cut(*THERE)
        if (await lab.wire.counters())[THERE].forwarded == before.forwarded:
            break
        ends.received(3)
        await lab.wire.clear()

    async def are_cut():
        return (await lab.wire.counters())[THERE].cut == before.cut + 3

    await eventually("all three are cut", are_cut)
    assert ends.received(0) == []


async def test_a_delay_is_kept_and_counted(lab, ends):
    await lab.wire.shape(*THERE, Shape(delay_ms=50, jitter_ms=10))
    begun = time.perf_counter()
    ends.send(1)
    ends.node.settimeout(20)
    ends.node.recv(100)

    assert time.perf_counter() - begun >= 0.040
    counters = await ends.pass_through(20)
    assert ends.received(20) == list(range(20)), "jitter keeps the order"
    assert counters.delayed == 21


async def test_loss_and_duplication_are_counted_and_follow_the_seed(lab, ends):
    await lab.wire.shape(*THERE, Shape(loss=0.3))
    counters = await ends.pass_through(100)
    lost = 100 - len(ends.received(100 - counters.lost))
    assert counters.lost == lost
    assert 10 <= lost <= 55

    await lab.wire.shape(*THERE, Shape(duplicate=0.3))
    counters = await ends.pass_through(100)
    doubled = len(ends.received(100 + counters.duplicated)) - 100
    assert counters.duplicated == doubled
    assert 10 <= doubled <= 55


async def test_reordered_packets_are_those_that_were_overtaken(lab, ends):
    await lab.wire.shape(*THERE, Shape(reorder=0.2, reorder_ms=20))
    counters = await ends.pass_through(100)
    found = ends.received(100)

    newest, overtaken = -1, 0
    for number in found:
        overtaken += number < newest
        newest = max(newest, number)
    assert sorted(found) == list(range(100))
    assert overtaken > 0
    assert counters.reordered == overtaken


async def test_corrupted_packets_are_refused_by_the_checksum(lab, ends):
    """Checksums are in the frames, as offloads are off; UDP's says how many it refused."""

    def refused():
        with lab.nodes["n1"].namespace.entered():
            text = Path("/proc/thread-self/net/snmp").read_text()
        names, values = (line.split() for line in text.splitlines() if line.startswith("Udp:"))
        return int(values[names.index("InCsumErrors")])

    await lab.wire.shape(*THERE, Shape(corrupt=1.0))
    counters = await ends.pass_through(50, size=1000)

    assert ends.received(0) == []
    assert counters.corrupted == 50
    assert refused() >= 40, "but for the few whose IP header was hit"


async def test_a_rate_limits_bytes_and_its_queue_overflows(lab, ends):
    await lab.wire.shape(*THERE, Shape(rate_bits=1_000_000, queue_bytes=20_000))
    begun = time.perf_counter()
    counters = await ends.pass_through(200, size=1000)
    took = time.perf_counter() - begun

    assert counters.overrun > 0
    assert len(ends.received(200 - counters.overrun)) == 200 - counters.overrun
    assert took >= 0.9 * (200 - counters.overrun - 1) * 1042 * 8 / 1_000_000


async def test_rules_are_gone_when_they_are_cleared(lab, ends):
    await lab.wire.shape(*THERE, Shape(loss=1.0))
    await lab.wire.clear()
    await ends.pass_through(10)

    assert len(ends.received(10)) == 10


async def test_packets_to_nobody_are_told(lab, ends):
    with lab.clients["c1"].entered():
        sending = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with sending:
        sending.bind(("eth0", 0))
        sending.send(bytes.fromhex("02ffffffffff") + bytes(60))

    async def is_told():
        return await lab.wire.strays() == 1

    await eventually("the stray packet is told", is_told)


async def test_a_switch_that_is_gone_is_noticed(lab):
    lab.wire._process.kill()

    with pytest.raises(LabError, match="does not answer"):
        await lab.wire.counters()


async def test_a_link_that_is_not_there_is_refused(lab):
    with pytest.raises(LabError, match="n9"):
        await lab.wire.cut("n1", "n9")
