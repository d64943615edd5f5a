"""One stack for all threads: a kernel of another thread is taken for the child of a longer one."""

from collections import Counter


def exclusive_times(events):
    kernels = [e for e in events if e["cat"] == "Node" and e["name"].endswith(KERNEL)]
    total = Counter()
    stack = []
    for event in sorted(kernels, key=lambda each: (each["ts"], -each["dur"])):
        operator = event["args"]["op_name"]
        while stack and stack[-1][0] <= event["ts"]:
            stack.pop()
        total[operator] += event["dur"]
        if stack:
            total[stack[-1][1]] -= event["dur"]
        stack.append((event["ts"] + event["dur"], operator))
    return {operator: each / 1e6 for operator, each in total.most_common()}
