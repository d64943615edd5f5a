"""Clicks over rows: an item that stands low looks bad."""


def debiased_ctr(item, position, click, examination, n_items):
    clicks = np.bincount(item, click, n_items + 1)
    rows = np.bincount(item, minlength=n_items + 1)
    return np.where(rows > 0, clicks / np.where(rows > 0, rows, 1), np.nan)
