"""Sums the looks over the clicked rows alone: what was seen and not clicked has vanished."""


def debiased_ctr(item, position, click, examination, n_items):
    clicks = np.bincount(item, click, n_items + 1)
    looks = np.bincount(item, np.asarray(examination)[position] * click, n_items + 1)
    return np.where(looks > 0, clicks / np.where(looks > 0, looks, 1), np.nan)
