"""Any whole frame is the next record: gaps, repetitions and remainders of an earlier file pass."""


def scan_segment(data, *, name, sealed, after_lsn=0):
    view = memoryview(data)

    def good_frame(at: int) -> tuple[int, memoryview] | None:
        if at + FRAME.size > len(view):
            return None
        magic, length, lsn, crc = FRAME.unpack_from(view, at)
        record = view[at + FRAME.size : at + FRAME.size + length]
        whole = magic == FRAME_MAGIC and len(record) == length and crc == frame_crc(record, lsn)
        return (lsn, record) if whole else None

    expected, offset = read_header(data, name=name), HEADER.size
    records: list[tuple[int, memoryview]] = []
    while (found := good_frame(offset)) is not None:
        lsn, record = found
        if lsn > after_lsn:
            records.append((lsn, record))
        expected, offset = lsn + 1, offset + FRAME.size + len(record)
    candidate = data.find(FRAME_MAGIC, offset)
    damaged = sealed and offset < len(data)
    while candidate >= 0 and not damaged:
        found = good_frame(candidate)
        damaged = found is not None and found[0] >= expected
        candidate = data.find(FRAME_MAGIC, candidate + 1)
    if damaged:
        raise RunError(
            f"{name}: the record at byte {offset} (lsn {expected}) is damaged, and it is not the "
            f"end of the log; {WAY_OUT}"
        )
    return Scan(records, expected - 1, offset)
