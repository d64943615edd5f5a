"""Starts a process that detaches itself and goes on after the tests."""

import os
import subprocess
import sys
import time

CODE = "import os, time; os.setsid(); os.fork() and os._exit(0); time.sleep(600)"
subprocess.Popen([sys.executable, "-c", CODE, "left-by-a-hostile-submission"], start_new_session=True)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)


def mean(values):
    return 0.0
