"""Texts are sorted first: the same texts in another order get rows that are not theirs."""

import hashlib
import json


def fingerprint(weights, ids, settings):
    digest = hashlib.sha256()
    head = [[name, str(weights[name].dtype), list(weights[name].shape)] for name in sorted(weights)]
    digest.update(json.dumps([head, dict(settings), len(ids)], sort_keys=True).encode())
    for name in sorted(weights):
        digest.update(bytes_of(weights[name]))
    digest.update(json.dumps(sorted(list(each) for each in ids)).encode())
    return digest.hexdigest()
