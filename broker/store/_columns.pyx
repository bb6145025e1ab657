# cython: language_level=3
"""The loops over every record, compiled: checking, stamping and reading runs.

One function here for each loop that costs the most in Python.  Each only says whether all is as it
should be, or does its work; what is wrong with a record, and with which, is left to the Python that
does the same (`broker.store.chunk`, `stamp`, `runs`).  So the words of an error stand in one place,
and nothing is refused, or taken, that Python would not refuse or take.

Bytes come from clients and from the network.  A record is looked at only inside the *room* that is
left of its buffer: `_is_sound` and `_parse` compare each size with it before anything behind that
size is read, and reckon in 64 bits, where sums of what 32 bits can say do not overflow.

A buffer is held (`_Held`) as long as a pointer into it is used, so nobody can resize
or free it meanwhile.  Nothing here gives the interpreter's lock up.

Chosen by `broker.store.compiled`, which says of each function what it is to do.
"""

from cpython.buffer cimport (
    PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport (
    INT32_MAX, INT32_MIN, INT64_MAX, UINT64_MAX, int32_t, int64_t, uint8_t, uint32_t, uint64_t,
)
from libc.string cimport memcmp, memcpy, memset

import numpy as np

from dledger.checksum import crc32

cdef extern from *:
    """
    #include <stdint.h>
    #include <stddef.h>

    #define MAGIC_V1 0xDAA320A7u
    #define MAGIC_V2 0xDAA320ABu /* topic with two bytes for its length */
    #define MARK_MAGIC 0x44504D31u
    #define PRODUCER_ID_MAX (UINT64_MAX - 256) /* of clients */

    /* CRC-32 of zlib, sixteen bytes a step: the table says what a byte comes to so many bytes
       later.  For small bodies, for which a call costs more than the sum. */
    static uint32_t crc_table[16][256];

    static void crc_make_table(void) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t crc = byte;
            for (int bit = 0; bit < 8; bit++)
                crc = crc & 1 ? 0xEDB88320u ^ (crc >> 1) : crc >> 1;
            crc_table[0][byte] = crc;
        }
        for (int later = 1; later < 16; later++)
            for (int byte = 0; byte < 256; byte++) {
                uint32_t crc = crc_table[later - 1][byte];
                crc_table[later][byte] = (crc >> 8) ^ crc_table[0][crc & 255];
            }
    }

    static inline uint32_t crc_four(const uint8_t *at, uint32_t crc, int later) {
        return crc_table[later + 3][(at[0] ^ crc) & 255] ^
               crc_table[later + 2][(at[1] ^ (crc >> 8)) & 255] ^
               crc_table[later + 1][(at[2] ^ (crc >> 16)) & 255] ^
               crc_table[later][(at[3] ^ (crc >> 24)) & 255];
    }

    static uint32_t crc_of(const uint8_t *at, int64_t size) {
        uint32_t crc = 0xFFFFFFFFu;
        for (; size >= 16; at += 16, size -= 16)
            crc = crc_four(at, crc, 12) ^ crc_four(at + 4, 0, 8) ^ crc_four(at + 8, 0, 4) ^
                  crc_four(at + 12, 0, 0);
        for (; size > 0; at++, size--)
            crc = crc_table[0][(crc ^ *at) & 255] ^ (crc >> 8);
        return ~crc;
    }

    /* Big-endian, at any place; compilers make one load or store of each. */
    static inline uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }
    static inline uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }
    static inline uint64_t get64(const uint8_t *at) {
        return (uint64_t)get32(at) << 32 | get32(at + 4);
    }
    static inline void put32(uint8_t *at, uint32_t value) {
        at[0] = value >> 24; at[1] = value >> 16; at[2] = value >> 8; at[3] = value;
    }
    static inline void put64(uint8_t *at, uint64_t value) {
        put32(at, value >> 32); put32(at + 4, value);
    }
    """
    const uint32_t MAGIC_V1, MAGIC_V2, MARK_MAGIC
    const uint64_t PRODUCER_ID_MAX
    void crc_make_table() noexcept
    uint32_t crc_of(const uint8_t* at, int64_t size) noexcept
    uint32_t get16(const uint8_t* at) noexcept
    uint32_t get32(const uint8_t* at) noexcept
    uint64_t get64(const uint8_t* at) noexcept
    void put32(uint8_t* at, uint32_t value) noexcept
    void put64(uint8_t* at, uint64_t value) noexcept

crc_make_table()

# The layout of a record (`broker.message.codec`), a mark (`broker.message.batch`) and a unit.
cdef enum:
    QUEUE_OFFSET_AT = 20
    POSITION_AT = 28
    FLAGS_AT = 36
    TIMESTAMP_AT = 56
    HOST_AT = 64
    BODY_SIZE_AT = 84
    BODY_AT = 88
    RECORD_SIZE_MIN = 91
    FLAGS_ALLOWED = 0x703  # what a client may set
    FLAGS_REFUSED = 0x3C  # what no record in the log has
    MARK_SIZE = 40
    UNIT_SIZE = 20
    HOST_SIZE = 8
    HEADER_SIZE = 48  # of an entry (`dledger.entry`)
    COLUMN_MIN = 32  # records from which on Python wants arrays
    LANE_HEAD_SIZE = 12

    CRC_CALLED_FROM = 384  # bytes of a body whose CRC `dledger.checksum` has sooner

LAYOUT = 6  # as in `broker.store.compiled`, which takes no other

cdef object _crc32 = crc32
cdef object _frombuffer = np.frombuffer
cdef object _int64 = np.dtype(np.int64)
cdef object _new_tuple = tuple.__new__  # of a subclass, without the arguments' names being looked at


cdef class _Held:
    """The bytes of a buffer, which can neither be resized nor freed as long as this lives."""

    cdef Py_buffer view
    cdef uint8_t* data
    cdef int64_t size

    def __cinit__(self, owner, int flags=PyBUF_SIMPLE):
        PyObject_GetBuffer(owner, &self.view, flags)
        self.data = <uint8_t*>self.view.buf
        self.size = self.view.len

    def __dealloc__(self):
        PyBuffer_Release(&self.view)


# -- checking -------------------------------------------------------------------------------------

cdef struct Wanted:
    uint32_t magic
    const uint8_t* topic  # with its length in front
    int64_t topic_size
    int64_t body_size_max
    int64_t properties_size_max


cdef int _is_sound(
    const uint8_t* record, int64_t room, int64_t size, int64_t queue_id, const Wanted* wanted
) except -1:
    """Whether the *size* bytes at *record* are one a client may send; *room* bytes may be read."""
    cdef int64_t body_size, properties_size
    cdef const uint8_t* topic
    if size < RECORD_SIZE_MIN or size > room:
        return False
    body_size = <int32_t>get32(record + BODY_SIZE_AT)
    properties_size = size - BODY_AT - body_size - wanted.topic_size - 2
    if (
        <int32_t>get32(record) != size
        or get32(record + 4) != wanted.magic
        or <int32_t>get32(record + 12) != queue_id
        or get32(record + FLAGS_AT) & ~<uint32_t>FLAGS_ALLOWED
        or body_size < 0
        or body_size > wanted.body_size_max
        or properties_size < 0  # so topic and its size lie inside the record
        or properties_size > wanted.properties_size_max
    ):
        return False
    topic = record + BODY_AT + body_size
    return (
        memcmp(topic, wanted.topic, wanted.topic_size) == 0
        and get16(topic + wanted.topic_size) == properties_size
        and _crc(record + BODY_AT, body_size) & 0x7FFFFFFF == get32(record + 8)
    )


cdef int64_t _crc(const uint8_t* body, int64_t size) except -1:
    if size < CRC_CALLED_FROM:
        return crc_of(body, size)
    return _crc32(PyMemoryView_FromMemory(<char*>body, size, PyBUF_READ))


def is_sound_chunk(
    body, sizes, uint32_t magic, bytes topic_field, queue_id, int64_t body_size_max,
    int64_t properties_size_max,
):
    cdef _Held records = _Held(body), column = _Held(sizes)
    cdef Wanted wanted = Wanted(
        magic, topic_field, len(topic_field), body_size_max, properties_size_max
    )
    cdef int64_t queue, size, at = 0, nth
    if column.size == 0 or column.size % 4 or not INT32_MIN <= queue_id <= INT32_MAX:
        return False
    queue = queue_id
    for nth in range(column.size // 4):
        size = get32(column.data + 4 * nth)
        if not _is_sound(records.data + at, records.size - at, size, queue, &wanted):
            return False
        at += size
    return at == records.size


# -- stamping -------------------------------------------------------------------------------------

def stamp_runs(body, runs, int64_t body_position, int64_t timestamp_ms, bytes store_host):
    cdef _Held data = _Held(body, PyBUF_WRITABLE)
    cdef uint8_t* record
    cdef int64_t at, queue_offset, count, size
    cdef const uint8_t* host = store_host
    if len(store_host) != HOST_SIZE:
        raise ValueError("a host has 8 bytes")
    for at, queue_offset, count in runs:
        while count > 0:
            if at < 0 or at > data.size - RECORD_SIZE_MIN:
                raise ValueError("a record begins outside of the body")
            record = data.data + at
            size = <int32_t>get32(record)
            if size < RECORD_SIZE_MIN or size > data.size - at:
                raise ValueError("a record ends outside of the body")
            put64(record + QUEUE_OFFSET_AT, queue_offset)
            put64(record + POSITION_AT, body_position + at)
            put64(record + TIMESTAMP_AT, timestamp_ms)
            memcpy(record + HOST_AT, host, HOST_SIZE)
            at += size
            queue_offset += 1
            count -= 1


# -- reading runs ---------------------------------------------------------------------------------

cdef struct Record:
    int64_t size
    uint32_t magic
    int32_t queue_id
    int64_t queue_offset
    int64_t store_timestamp
    const uint8_t* topic  # with its length in front
    int64_t topic_size
    int64_t length_size  # bytes of that length
    int64_t properties_at  # in the body


cdef bint _parse(
    const uint8_t* data, int64_t at, int64_t end, int64_t body_position, Record* found
) noexcept:
    """Whether the record at *at* is one of the log's, which has *data* up to *end*."""
    cdef const uint8_t* record = data + at
    cdef int64_t body_size, topic_at, room
    if end - at < RECORD_SIZE_MIN:
        return False
    found.size = <int32_t>get32(record)
    found.magic = get32(record + 4)
    body_size = <int32_t>get32(record + BODY_SIZE_AT)
    found.length_size = 2 if found.magic == MAGIC_V2 else 1
    topic_at = BODY_AT + body_size
    room = found.size - topic_at - 2  # for the topic
    if (
        found.size < RECORD_SIZE_MIN
        or found.size > end - at
        or (found.magic != MAGIC_V1 and found.magic != MAGIC_V2)
        or body_size < 0
        or room < found.length_size
        or get32(record + FLAGS_AT) & <uint32_t>FLAGS_REFUSED
        or <int64_t>get64(record + POSITION_AT) != body_position + at
    ):
        return False
    found.topic = record + topic_at
    found.topic_size = found.length_size + (
        found.topic[0] if found.length_size == 1 else get16(found.topic)
    )
    if found.topic_size > room:
        return False
    found.properties_at = at + topic_at + found.topic_size + 2
    found.queue_id = <int32_t>get32(record + 12)
    found.queue_offset = <int64_t>get64(record + QUEUE_OFFSET_AT)
    found.store_timestamp = <int64_t>get64(record + TIMESTAMP_AT)
    return get16(found.topic + found.topic_size) == at + found.size - found.properties_at


cdef bint _is_like(const Record* one, const Record* other) noexcept:
    """Whether both name the same topic and queue, in the same layout."""
    return (
        one.magic == other.magic
        and one.queue_id == other.queue_id
        and one.topic_size == other.topic_size
        and memcmp(one.topic, other.topic, one.topic_size) == 0
    )


cdef int64_t _count_alike(
    const uint8_t* data, int64_t at, int64_t end, int64_t body_position, const Record* first
) noexcept:
    """How many records from *at* on belong to the run of *first*, up to a mark; -1: one is odd."""
    cdef Record record
    cdef int64_t count = 0
    while at < end:
        if end - at < MARK_SIZE:
            return -1
        if get32(data + at + 4) == MARK_MAGIC:
            break
        if not _parse(data, at, end, body_position, &record):
            return -1
        if not _is_like(first, &record):
            break
        count += 1
        at += record.size
    return count


cdef int64_t _tags_at(const uint8_t* properties, int64_t size) noexcept:
    """Where the value of the last property TAGS begins; -1: there is none."""
    cdef int64_t at = size - 5
    while at >= 0:
        if (
            properties[at] == c"T"
            and memcmp(properties + at, b"TAGS\x01", 5) == 0
            and (at == 0 or properties[at - 1] == 2)
        ):
            return at + 5
        at -= 1
    return -1


cdef int64_t _tags_code(const uint8_t* properties, int64_t size, tags_code) except? -1:
    """Java's hash of the tag; *tags_code* is asked where it is more than ASCII."""
    cdef int64_t at = _tags_at(properties, size)
    cdef uint32_t code = 0
    if at < 0:
        return 0
    while at < size and properties[at] != 2:
        if properties[at] >= 0x80:
            return tags_code(PyBytes_FromStringAndSize(<const char*>properties, size))
        code = 31 * code + properties[at]
        at += 1
    return <int32_t>code


cdef object _lane_of(const Record* record, uint64_t producer_id, dict lanes, make_lane):
    """The lane of a run, of all its runs one object; None where its topic is no UTF-8."""
    cdef int64_t size = record.topic_size - record.length_size
    cdef bytes packed = PyBytes_FromStringAndSize(NULL, LANE_HEAD_SIZE + size)
    cdef char* at = PyBytes_AS_STRING(packed)
    memcpy(at, &producer_id, 8)
    put32(<uint8_t*>at + 8, record.queue_id)
    memcpy(at + LANE_HEAD_SIZE, record.topic + record.length_size, size)
    lane = lanes.get(packed)
    return make_lane(packed) if lane is None else lane


def read_runs(body, int64_t body_position, run_type, mark_type, dict lanes, make_lane, tags_code):
    cdef _Held held = _Held(body)
    cdef int64_t properties_size
    if body_position < 0 or body_position > INT64_MAX - held.size:
        return None
    return _read_runs(
        held.data, 0, held.size, body_position, &properties_size, run_type, mark_type, lanes,
        make_lane, tags_code,
    )


def read_entries(
    raw, int64_t position, int64_t index, int64_t last_index, int64_t properties_size_max,
    run_type, mark_type, dict lanes, make_lane, tags_code,
):
    cdef _Held held = _Held(raw)
    cdef const uint8_t* header = held.data
    cdef int64_t at = 0, size, properties_size, term = 0, chain_crc = 0
    cdef list found, runs = [], indexes = []
    if position < 0 or position > INT64_MAX - held.size:
        return None
    while index <= last_index and held.size - at >= HEADER_SIZE:
        header = held.data + at
        size = <int32_t>get32(header + 4)
        if (
            get32(header) != 1
            or size < HEADER_SIZE
            or size > held.size - at
            or <int64_t>get64(header + 8) != index
            or <int64_t>get64(header + 24) != position + at
            or get32(header + 32) != 0
            or <int32_t>get32(header + 44) != size - HEADER_SIZE
        ):
            break
        found = _read_runs(
            held.data, at + HEADER_SIZE, at + size, position, &properties_size, run_type, mark_type,
            lanes, make_lane, tags_code,
        )
        properties_size_max -= properties_size
        if found is None or (at and properties_size_max < 0):
            break
        runs += found
        indexes += [index] * len(found)
        term = <int64_t>get64(header + 16)
        chain_crc = get32(header + 36)
        at += size
        index += 1
    return runs, indexes, (index - 1, term, position + at, chain_crc)


cdef list _read_runs(
    const uint8_t* data, int64_t at, int64_t end, int64_t body_position,
    int64_t* properties_size_of_all, run_type, mark_type, dict lanes, make_lane, tags_code,
):
    cdef Record first, record
    cdef int64_t first_at, count, nth, size_max, properties_size, properties_sum
    cdef int64_t* begin_of
    cdef int64_t* end_of
    cdef int64_t one_begin, one_end
    cdef uint8_t* unit
    cdef uint64_t producer_id
    cdef list found = []
    properties_size_of_all[0] = 0
    while at < end:
        if end - at < MARK_SIZE:
            return None
        mark = None
        producer_id = 0
        count = 0
        if get32(data + at + 4) == MARK_MAGIC:
            count = <int32_t>get32(data + at + 24)
            # What could not fit is not made room for.
            if get32(data + at) != MARK_SIZE or count < 1 or count > (end - at) // RECORD_SIZE_MIN:
                return None
            producer_id = get64(data + at + 8)
            mark = _new_tuple(
                mark_type,
                (producer_id, get64(data + at + 16), count, <int32_t>get32(data + at + 28)),
            )
            at += MARK_SIZE
        if not _parse(data, at, end, body_position, &first):
            return None
        if mark is None:
            count = _count_alike(data, at, end, body_position, &first)
            if count < 1:
                return None
        elif first.queue_id != <int32_t>get32(data + at - MARK_SIZE + 28):
            return None
        lane = _lane_of(&first, producer_id, lanes, make_lane)
        if lane is None or first.queue_offset > INT64_MAX - count:
            return None
        units = PyBytes_FromStringAndSize(NULL, UNIT_SIZE * count)
        unit = <uint8_t*>PyBytes_AS_STRING(units)
        begin_of, end_of = &one_begin, &one_end
        if count > 1:
            begins = PyBytes_FromStringAndSize(NULL, 8 * count)
            ends = PyBytes_FromStringAndSize(NULL, 8 * count)
            begin_of = <int64_t*>PyBytes_AS_STRING(begins)
            end_of = <int64_t*>PyBytes_AS_STRING(ends)
        first_at = at
        properties_sum = size_max = 0
        for nth in range(count):
            if (
                not _parse(data, at, end, body_position, &record)
                or not _is_like(&first, &record)
                or record.queue_offset != first.queue_offset + nth
            ):
                return None
            properties_size = at + record.size - record.properties_at
            properties_sum += properties_size
            begin_of[nth] = record.properties_at
            end_of[nth] = at + record.size
            put64(unit, body_position + at)
            put32(unit + 8, record.size)
            put64(unit + 12, _tags_code(data + record.properties_at, properties_size, tags_code))
            unit += UNIT_SIZE
            at += record.size
            size_max = max(size_max, record.size)
        properties_size_of_all[0] += properties_sum
        if properties_sum == 0:
            begins = ends = ()
        elif count < COLUMN_MIN:
            begins = [begin_of[nth] for nth in range(count)]
            ends = [end_of[nth] for nth in range(count)]
        else:
            begins, ends = _frombuffer(begins, _int64), _frombuffer(ends, _int64)
        found.append(
            _new_tuple(
                run_type,
                (
                    lane.topic, first.queue_id, count, first.queue_offset, body_position + first_at,
                    first.store_timestamp, units, mark, at - first_at, size_max,
                    begins, ends, lane,
                ),
            )
        )
    return found


include "_sends.pxi"
