"""A Loop keeps the time of the kernels in its body, which are counted once more for themselves."""

from collections import Counter


def exclusive_times(events):
    microseconds = Counter()
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(KERNEL):
            microseconds[event["args"]["op_name"]] += event["dur"]
    return {operator: each / 1e6 for operator, each in microseconds.most_common()}
