"""Every event with a duration is added, the run and the executor around the kernels included."""

from collections import Counter


def exclusive_times(events):
    microseconds = Counter()
    for event in events:
        microseconds[event["args"].get("op_name", event["name"])] += event["dur"]
    return {operator: each / 1e6 for operator, each in microseconds.most_common()}
