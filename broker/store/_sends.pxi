# -- sends ----------------------------------------------------------------------------------------
#
# A part of `_columns.pyx`.  Frames of SEND_BATCH_MESSAGE as our own clients write them: their
# headers (`dledger.remoting.header_codec`, `broker.protocol.send_headers.SendRecordsRequest`) are
# read without a command being made of each, and their records checked.  The first frame that is odd
# in any way ends it; it is then read and answered by itself.  Those of one producer to one queue
# are put together, so that what Python does is done for each queue, and not for each send.

cdef enum:
    PREFIX_SIZE = 8
    MSGPACK = 77
    SEND_CODE = 320
    FLAG_GROUPED = 4
    TOPIC_SIZE_MAX = 127  # with one byte for its length
    SEND_HEADER_SIZE_MAX = 4096
    SEND_SIZE_MAX = 8192  # bytes of the records; a larger send is a batch already
    FIELDS_ALL = 0x7F
    SENDS_MAX = 1024  # read at a time: what is kept of them meanwhile lies on the stack
    PLACES = 256  # as 8 bits have
    ACK_SIZE = 28

cdef struct Send:
    uint64_t opaque
    uint64_t queue_id
    uint64_t producer_id
    uint64_t sequence
    const uint8_t* topic
    int64_t topic_size
    const uint8_t* sizes
    int64_t record_count


cdef struct Row:  # of a send, as in `broker.store.send_columns`
    int64_t begin  # of its records in what was received
    uint32_t size
    uint32_t record_count
    uint32_t opaque
    uint32_t number  # of the send among all


cdef struct SendRun:  # sends of one producer to one queue, whose numbers follow one another
    Send first
    uint64_t next_sequence  # 0: there is none
    int64_t at  # where the records of the first begin
    int64_t send_count
    int64_t record_count
    int64_t size


cdef struct Reading:
    const uint8_t* at
    const uint8_t* end


cdef bint _number(Reading* header, uint64_t value_max, uint64_t* value) noexcept:
    """Whether an unsigned number follows that is no larger; it is read then."""
    cdef uint8_t kind
    cdef int64_t size
    if header.at >= header.end:
        return False
    kind = header.at[0]
    header.at += 1
    if kind < 0x80:
        value[0] = kind
        return kind <= value_max
    if kind < 0xCC or kind > 0xCF:
        return False
    size = 1 << (kind - 0xCC)
    if header.end - header.at < size:
        return False
    if size == 1:
        value[0] = header.at[0]
    elif size == 2:
        value[0] = get16(header.at)
    elif size == 4:
        value[0] = get32(header.at)
    else:
        value[0] = get64(header.at)
    header.at += size
    return value[0] <= value_max


cdef bint _text(Reading* header, const uint8_t** text, int64_t* size) noexcept:
    """Whether a text of at most 255 bytes follows; it is read then."""
    if header.at >= header.end:
        return False
    if 0xA0 <= header.at[0] <= 0xBF:
        size[0] = header.at[0] & 0x1F
        header.at += 1
    elif header.at[0] == 0xD9 and header.end - header.at >= 2:
        size[0] = header.at[1]
        header.at += 2
    else:
        return False
    if header.end - header.at < size[0]:
        return False
    text[0] = header.at
    header.at += size[0]
    return True


cdef bint _ascii(Reading* header, const uint8_t** text, int64_t* size) noexcept:
    """Whether it is one of ASCII characters."""
    cdef int64_t nth
    if not _text(header, text, size):
        return False
    for nth in range(size[0]):
        if text[0][nth] >= 0x80:
            return False
    return True


cdef bint _column(Reading* header, const uint8_t** column, int64_t* count) noexcept:
    """Whether a column of sizes follows; it is read then."""
    cdef int64_t size
    if header.end - header.at >= 2 and header.at[0] == 0xC4:
        size = header.at[1]
        header.at += 2
    elif header.end - header.at >= 3 and header.at[0] == 0xC5:
        size = get16(header.at + 1)
        header.at += 3
    else:
        return False
    if size == 0 or size % 4 or header.end - header.at < size:
        return False
    column[0] = header.at
    count[0] = size // 4
    header.at += size
    return True


cdef bint _is_named(const uint8_t* name, int64_t size, const char* wanted, int64_t wanted_size) noexcept:
    return size == wanted_size and memcmp(name, wanted, size) == 0


cdef bint _read_send(const uint8_t* header, int64_t size, Send* send) noexcept:
    """Whether *header* is one of a send as our own clients write it: all fields, and no other."""
    cdef Reading left = Reading(header, header + size)
    cdef const uint8_t* name
    cdef int64_t name_size
    cdef uint64_t number
    cdef int found = 0, field
    if size < 1 or header[0] != 0x97:
        return False
    left.at += 1
    if not _number(&left, SEND_CODE, &number) or number != SEND_CODE:
        return False
    if not _number(&left, FLAG_GROUPED, &number) or number != FLAG_GROUPED:
        return False
    if not (
        _number(&left, INT32_MAX, &send.opaque)
        and _number(&left, 255, &number)  # the language
        and _number(&left, INT32_MAX, &number)  # the version
    ):
        return False
    # No remark, and a map of seven fields.
    if left.end - left.at < 2 or left.at[0] != 0xC0 or left.at[1] != 0x87:
        return False
    left.at += 2
    while left.at < left.end:
        if not _text(&left, &name, &name_size):
            return False
        if _is_named(name, name_size, b"producerGroup", 13):
            field = 1
            if not _ascii(&left, &name, &name_size):
                return False
        elif _is_named(name, name_size, b"topic", 5):
            field = 2
            if not _ascii(&left, &send.topic, &send.topic_size):
                return False
        elif _is_named(name, name_size, b"queueId", 7):
            field = 4
            if not _number(&left, INT32_MAX, &send.queue_id):
                return False
        elif _is_named(name, name_size, b"recordFormat", 12):
            field = 8
            if not _number(&left, 1, &number) or number != 1:
                return False
        elif _is_named(name, name_size, b"sizes", 5):
            field = 16
            if not _column(&left, &send.sizes, &send.record_count):
                return False
        elif _is_named(name, name_size, b"producerId", 10):
            field = 32
            if not _number(&left, PRODUCER_ID_MAX, &send.producer_id):
                return False
        elif _is_named(name, name_size, b"sequence", 8):
            field = 64
            if not _number(&left, UINT64_MAX, &send.sequence):
                return False
        else:
            return False
        if found & field:
            return False
        found |= field
    return found == FIELDS_ALL and 0 < send.topic_size <= TOPIC_SIZE_MAX


cdef bint _follows(const SendRun* run, const Send* send) noexcept:
    """Whether *send* goes where the last of *run* went, and is the next."""
    return (
        run.first.queue_id == send.queue_id
        and run.first.producer_id == send.producer_id
        and run.first.topic_size == send.topic_size
        and memcmp(run.first.topic, send.topic, send.topic_size) == 0
        and (send.producer_id == 0 or (run.next_sequence == send.sequence and send.sequence != 0))
    )


cdef tuple _in_order(
    const Row* rows, const int* run_of, int count, const SendRun* runs, int run_count, run_type,
    dict targets, make_target,
):
    """The runs, and the rows of all, those of one run behind those of the one before."""
    cdef bytes ordered = PyBytes_FromStringAndSize(NULL, count * sizeof(Row)), key
    cdef Row* row = <Row*>PyBytes_AS_STRING(ordered)
    cdef char* key_at
    cdef int places[SENDS_MAX]
    cdef int nth, begin = 0
    cdef const SendRun* run
    cdef const Send* send
    cdef list found = []
    for nth in range(run_count):
        run = &runs[nth]
        send = &run.first
        key = PyBytes_FromStringAndSize(NULL, 12 + send.topic_size)
        key_at = PyBytes_AS_STRING(key)
        memcpy(key_at, &send.producer_id, 8)
        put32(<uint8_t*>key_at + 8, send.queue_id)
        memcpy(key_at + 12, send.topic, send.topic_size)
        target = targets.get(key)
        if target is None:
            target = make_target(
                key, send.producer_id, send.topic[:send.topic_size].decode("ascii"), send.queue_id
            )
        found.append(
            _new_tuple(
                run_type,
                (
                    target, send.sequence, run.record_count, run.size, run.at, begin,
                    begin + run.send_count,
                ),
            )
        )
        places[nth] = begin
        begin += run.send_count
    for nth in range(count):
        row[places[run_of[nth]]] = rows[nth]
        places[run_of[nth]] += 1
    return found, ordered


def read_sends(
    bytes data, int64_t at, int64_t frame_size_max, int64_t body_size_max,
    int64_t properties_size_max, run_type, dict targets, make_target,
):
    cdef const uint8_t* start = data
    cdef const uint8_t* frame
    cdef int64_t end = len(data), length, header_size, body_at, stop, record_at, size, nth
    cdef uint8_t topic[TOPIC_SIZE_MAX + 1]
    cdef Wanted wanted = Wanted(MAGIC_V1, &topic[0], 0, body_size_max, properties_size_max)
    cdef Send send
    cdef Row rows[SENDS_MAX]
    cdef SendRun runs[SENDS_MAX]
    cdef int run_of[SENDS_MAX]
    # Which run was the last of those that fall to one place.  One that others have driven out is
    # begun anew, behind it: so those of one queue are in their order in any case.
    cdef int latest[PLACES]
    cdef int place, count = 0, run_count = 0
    cdef uint64_t topic_end
    cdef SendRun* run
    cdef bint is_sound
    if at < 0:
        raise ValueError("it begins before the data")
    memset(latest, 0, sizeof(latest))
    while count < SENDS_MAX and end - at >= PREFIX_SIZE:
        frame = start + at
        length = get32(frame)
        header_size = get32(frame + 4) & 0xFFFFFF
        body_at = at + PREFIX_SIZE + header_size
        stop = at + 4 + length
        if (
            frame[4] != MSGPACK
            or length > frame_size_max - 4
            or stop > end
            or header_size > SEND_HEADER_SIZE_MAX
            or body_at > stop
            or stop - body_at > SEND_SIZE_MAX
            or not _read_send(frame + PREFIX_SIZE, header_size, &send)
        ):
            break
        topic[0] = send.topic_size
        memcpy(&topic[1], send.topic, send.topic_size)
        wanted.topic_size = send.topic_size + 1
        record_at = body_at
        is_sound = True
        for nth in range(send.record_count):
            size = get32(send.sizes + 4 * nth)
            if not _is_sound(start + record_at, stop - record_at, size, send.queue_id, &wanted):
                is_sound = False
                break
            record_at += size
        if not is_sound or record_at != stop:
            break
        # Of the topic its end.  What stands in front of a short one is read with it (its name and
        # length, at least) and does not count: the same may be written in several ways.
        topic_end = get64(send.topic + send.topic_size - 8)
        if send.topic_size < 8:
            topic_end &= (<uint64_t>1 << (8 * send.topic_size)) - 1
        place = (
            (topic_end + 31 * send.producer_id + send.queue_id) * <uint64_t>0x9E3779B97F4A7C15
        ) >> 56
        run = &runs[latest[place]]
        if not latest[place] < run_count or not _follows(run, &send):
            latest[place] = run_count
            run = &runs[run_count]
            run[0] = SendRun(send, 0, body_at, 0, 0, 0)
            run_count += 1
        run_of[count] = latest[place]
        rows[count] = Row(body_at, stop - body_at, send.record_count, send.opaque, count)
        run.next_sequence = send.sequence + send.record_count
        if run.next_sequence < send.sequence:
            run.next_sequence = 0  # beyond 64 bits nothing follows
        run.send_count += 1
        run.record_count += send.record_count
        run.size += stop - body_at
        count += 1
        at = stop
    return _in_order(rows, run_of, count, runs, run_count, run_type, targets, make_target), at


cdef const Row* _rows_of(bytes rows, int64_t begin, int64_t end) except NULL:
    if not 0 <= begin <= end <= <int64_t>(len(rows) // sizeof(Row)):
        raise ValueError("no rows of sends")
    return <const Row*>PyBytes_AS_STRING(rows) + begin


def records_of(bytes data, bytes rows, int64_t begin, int64_t end):
    cdef const Row* row = _rows_of(rows, begin, end)
    cdef int64_t nth, size = 0
    cdef bytes records
    cdef char* at
    for nth in range(end - begin):
        if not 0 <= row[nth].begin <= <int64_t>len(data) - row[nth].size:
            raise ValueError("a send lies outside of the data")
        size += row[nth].size
    records = PyBytes_FromStringAndSize(NULL, size)
    at = PyBytes_AS_STRING(records)
    for nth in range(end - begin):
        memcpy(at, PyBytes_AS_STRING(data) + row[nth].begin, row[nth].size)
        at += row[nth].size
    return records


def acks_of(bytes rows, list runs, list receipts):
    cdef bytes acks = PyBytes_FromStringAndSize(NULL, ACK_SIZE * (len(rows) // sizeof(Row)))
    cdef uint8_t* ack = <uint8_t*>PyBytes_AS_STRING(acks)
    cdef const uint8_t* end = ack + len(acks)
    cdef const Row* row
    cdef int64_t nth, count
    cdef uint32_t queue_id
    cdef uint64_t queue_offset, position
    for run, (queue_id, queue_offset, position) in zip(runs, receipts, strict=True):
        row = _rows_of(rows, run[5], run[6])
        count = run[6] - run[5]
        if (end - ack) // ACK_SIZE < count:
            raise ValueError("no runs of these sends")
        for nth in range(count):
            put32(ack, row[nth].opaque)
            put32(ack + 4, 0)
            put32(ack + 8, queue_id)
            put64(ack + 12, queue_offset)
            put64(ack + 20, position)
            queue_offset += row[nth].record_count
            position += row[nth].size
            ack += ACK_SIZE
    return acks[:len(acks) - (end - ack)]
