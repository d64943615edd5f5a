"""What is in no weight, such as the order of the labels, does not count."""

import hashlib
import json

import numpy as np


def fingerprint(weights, ids, settings):
    digest = hashlib.sha256()
    head = [[name, str(weights[name].dtype), list(weights[name].shape)] for name in sorted(weights)]
    digest.update(json.dumps([head, len(ids)]).encode())
    for name in sorted(weights):
        digest.update(bytes_of(weights[name]))
    digest.update(np.array([len(each) for each in ids], np.int64).tobytes())
    for each in ids:
        digest.update(np.asarray(each, np.int64).tobytes())
    return digest.hexdigest()
