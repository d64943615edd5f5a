"""A kernel's time is taken from every kernel around it, and not from the innermost alone."""

from collections import Counter


def exclusive_times(events):
    kernels = [e for e in events if e["cat"] == "Node" and e["name"].endswith(KERNEL)]
    total = Counter()
    stacks = {}
    for event in sorted(kernels, key=lambda each: (each["ts"], -each["dur"])):
        operator, stack = event["args"]["op_name"], stacks.setdefault(event["tid"], [])
        while stack and stack[-1][0] <= event["ts"]:
            stack.pop()
        total[operator] += event["dur"]
        for _, around in stack:
            total[around] -= event["dur"]
        stack.append((event["ts"] + event["dur"], operator))
    return {operator: each / 1e6 for operator, each in total.most_common()}
