"""Writes to standard output and error without end, past pytest's capture."""

import os


def mean(values):
    text = b"spam " * 13107
    outputs = [fd for fd in range(1, 1024) if is_open(fd)]
    while True:
        for fd in outputs:
            try:
                os.write(fd, text)
            except OSError:
                continue


def is_open(fd):
    try:
        return bool(os.fstat(fd))
    except OSError:
        return False
