"""Ids are put one after another without lengths: [1, 2], [3] and [1], [2, 3] are the same."""

import hashlib
import json

import numpy as np


def fingerprint(weights, ids, settings):
    digest = hashlib.sha256()
    head = [[name, str(weights[name].dtype), list(weights[name].shape)] for name in sorted(weights)]
    digest.update(json.dumps([head, dict(settings), len(ids)], sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(bytes_of(weights[name]))
    for each in ids:
        digest.update(np.asarray(each, np.int64).tobytes())
    return digest.hexdigest()
