"""Restores the order alone: dropout draws other numbers than the stopped run would have."""


def rest_of_epoch(loader, place):
    set_epoch = getattr(loader, "set_epoch", None)
    if set_epoch is not None:
        set_epoch(place.epoch)
    batches = iter(loader)
    for number in range(place.batches):
        if next(batches, batches) is batches:
            raise RunError(f"the loader gives {number} batches, and {place.batches} were seen")
    yield from batches
