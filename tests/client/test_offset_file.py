"""A broadcasting consumer that keeps how far it has come in a file of its own."""

import json

import pytest
import trio

from broker.client.consumer_options import ConsumerOptions
from broker.client.errors import OffsetFileError
from broker.client.offset_file import OffsetFile


@pytest.fixture
def file(tmp_path):
    return tmp_path / "new" / "offsets.json"


def read(file):
    return json.loads(file.read_text())


async def take(consumer, count):
    return [(await anext(consumer)).body for _ in range(count)]


def opened(mq, file, group="g", topic="orders", **options):
    return mq.consumer(group, topic, broadcasting=True, offset_file=file, **options)


async def test_it_goes_on_where_it_stopped(group, connect, file, autojump_clock):
    group.put("orders", 0, [b"before it came"])
    async with connect() as mq, opened(mq, file) as consumer:
        group.put("orders", 0, [b"a", b"b"])
        group.put("orders", 2, [b"c"])
        assert sorted(await take(consumer, 3)) == [b"a", b"b", b"c"]
    assert read(file) == {
        "version": 1,
        "group": "g",
        "broker_group": "",
        "offsets": {"orders": {"0": 3, "1": 0, "2": 1, "3": 0}},
    }
    group.put("orders", 0, [b"while it was away"])
    async with connect() as mq, opened(mq, str(file)) as consumer:
        assert await take(consumer, 1) == [b"while it was away"]
        assert await consumer.get(wait=1) is None
    assert group.offsets == {}


async def test_what_comes_before_its_first_commit_is_not_lost(group, connect, file, autojump_clock):
    """A process that is killed at once begins, the next time, where it began."""
    async with connect() as mq:
        with trio.CancelScope() as scope:
            async with opened(mq, file, auto_commit=False):
                group.put("orders", 1, [b"never handed out"])
                scope.cancel()
                await trio.sleep_forever()
        async with opened(mq, file) as consumer:
            assert await take(consumer, 1) == [b"never handed out"]


async def test_it_is_written_from_time_to_time(group, connect, file, autojump_clock):
    async with connect() as mq, opened(mq, file, commit_interval=0.5) as consumer:
        group.put("orders", 0, [b"a", b"b"])
        await take(consumer, 2)
        assert await consumer.get(wait=2) is None
        assert read(file)["offsets"]["orders"]["0"] == 2
        group.put("orders", 0, [b"c"])
        await take(consumer, 1)
        await consumer.commit()
        assert read(file)["offsets"]["orders"]["0"] == 3


async def test_what_was_left_comes_again(group, connect, file, autojump_clock):
    async with connect() as mq:
        async with opened(mq, file) as consumer:
            group.put("orders", 0, [b"good", b"bad", b"behind"])
            await take(consumer, 1)
            with pytest.raises(KeyError):
                async with await anext(consumer):
                    raise KeyError
            await take(consumer, 1)
        async with opened(mq, file) as consumer:
            assert await take(consumer, 2) == [b"bad", b"behind"]


async def test_a_queue_that_was_added_meanwhile_is_read_from_its_beginning(
    group, connect, file, autojump_clock
):
    group.topics["orders"] = 1
    async with connect() as mq, opened(mq, file):
        pass
    group.topics["orders"] = 2
    group.put("orders", 1, [b"in the new queue"])
    async with connect() as mq, opened(mq, file) as consumer:
        assert await take(consumer, 1) == [b"in the new queue"]


async def test_another_place_to_begin_is_heeded(group, connect, file, autojump_clock):
    group.put("orders", 0, [b"a", b"b"])
    async with connect() as mq:
        async with opened(mq, file, start="first") as consumer:
            assert await take(consumer, 2) == [b"a", b"b"]
        async with opened(mq, file, start="first") as consumer:
            assert await take(consumer, 2) == [b"a", b"b"]
        async with opened(mq, file) as consumer:
            assert await consumer.get(wait=1) is None


async def test_each_consumer_has_a_file_of_its_own(group, connect, file, autojump_clock):
    async with connect() as mq:
        async with opened(mq, file):
            with pytest.raises(OffsetFileError, match="another consumer's"):
                async with opened(mq, file):
                    pass
        async with opened(mq, file):
            pass
        with pytest.raises(OffsetFileError, match="of group 'g', and not of 'other'"):
            async with opened(mq, file, group="other"):
                pass
        async with opened(mq, file):  # it was let go
            pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no file of offsets: JSONDecodeError"),
        ("{", "no file of offsets: JSONDecodeError"),
        ("[]", "no file of offsets"),
        ('{"version": 0}', "no file of offsets: ValueError: version 0"),
        ('{"version": true}', "version True"),
        ('{"version": 2}', "this program knows up to 1"),
        ('{"version": 1, "group": "g", "broker_group": ""}', "'offsets'"),
        (
            '{"version": 1, "group": "g", "broker_group": "", "offsets": {"orders": {"0": -1}}}',
            "-1 is no offset",
        ),
        (
            '{"version": 1, "group": "g", "broker_group": "", "offsets": {"orders": {"x": 1}}}',
            "invalid literal",
        ),
    ],
)
async def test_a_file_that_is_none_is_told(group, connect, file, content, said, autojump_clock):
    file.parent.mkdir()
    file.write_text(content)
    async with connect() as mq:
        with pytest.raises(OffsetFileError, match=said) as caught:
            async with opened(mq, file):
                pass
    assert str(file) in str(caught.value)
    assert file.read_text() == content


async def test_offsets_of_another_broker_group_are_refused(file):
    first = OffsetFile(file, group="g")
    await first.open("orders")
    first.put("t", 0, 3)
    await first.save()
    first.close()

    with pytest.raises(OffsetFileError, match="in broker group orders, and the topic is in other"):
        await OffsetFile(file, group="g").open("other")
    again = OffsetFile(file, group="g")
    await again.open("orders")
    assert again.offsets == {"t": {0: 3}}
    again.close()


async def test_what_cannot_be_written_is_told_and_tried_again(file, monkeypatch):
    found = OffsetFile(file, group="g")
    await found.open("orders")
    found.put("t", 0, 1)
    await found.save()
    before = file.read_bytes()
    found.put("t", 0, 2)

    def refuse(_descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", refuse)
        with pytest.raises(OffsetFileError, match="No space left"):
            await found.save()
    assert file.read_bytes() == before  # the old content, whole
    await found.save()
    found.put("t", 0, 1)  # lower: ignored
    await found.save()
    assert read(file)["offsets"] == {"t": {"0": 2}}
    found.close()


def test_it_is_for_broadcasting_alone():
    with pytest.raises(ValueError, match="offset_file is for broadcasting"):
        ConsumerOptions(offset_file="x")
    with pytest.raises(ValueError, match="name a file"):
        ConsumerOptions(broadcasting=True, offset_file="")


async def test_a_file_that_could_not_be_read_is_not_kept_from_others(file, autojump_clock):
    file.mkdir(parents=True)  # no file at all
    with pytest.raises(OffsetFileError, match="cannot be read"):
        await OffsetFile(file, group="g").open("")
    file.rmdir()

    again = OffsetFile(file, group="g")
    await again.open("")
    again.close()
