"""Leaves threads and exit handlers that change results late, and end the process."""

import atexit
import os
import threading
import time


def late():
    time.sleep(0.2)
    os._exit(0)


atexit.register(os._exit, 0)
threading.Thread(target=late).start()


def mean(values):
    time.sleep(0.3)
    return 0.0
