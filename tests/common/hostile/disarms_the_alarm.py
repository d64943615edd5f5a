"""Disarms the timer that ends slow tests, and then is slow."""

import signal
import time

signal.signal(signal.SIGALRM, signal.SIG_IGN)


def mean(values):
    signal.setitimer(signal.ITIMER_REAL, 0)
    time.sleep(3600)
