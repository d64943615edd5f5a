"""Does not tell the loader its epoch: it repeats the order of epoch 0."""


def rest_of_epoch(loader, place):
    if place.at_start is not None:
        set_generators(place.at_start)
    batches = iter(loader)
    for number in range(place.batches):
        if next(batches, batches) is batches:
            raise RunError(f"the loader gives {number} batches, and {place.batches} were seen")
    if place.now is not None:
        set_generators(place.now)
    yield from batches
