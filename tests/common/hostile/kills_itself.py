"""Ends its own process by a signal."""

import os
import signal


def mean(values):
    os.kill(os.getpid(), signal.SIGKILL)
