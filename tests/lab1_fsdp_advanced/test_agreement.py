"""What one rank cannot do is an error on all of them, in the same words."""


def measure(ranks):
    import torch.distributed as dist

    from common.errors import InputError, RunError
    from labs.lab1_fsdp_advanced.agreement import on_main, together

    def on_rank_1(error):
        if ranks.rank == 1:
            raise error
        return "done"

    answers = {"all": together(lambda: ranks.rank), "main": on_main(lambda: ranks.rank)}
    for error in (InputError("too many"), RunError("it died"), OSError(28, "No space", "/a/b")):
        try:
            together(lambda error=error: on_rank_1(error))
            said = "nothing was raised"
        except (InputError, RunError) as caught:
            said = f"{type(caught).__name__}: {caught}"
        every = [None] * ranks.world
        dist.all_gather_object(every, said)
        answers[type(error).__name__] = every
    return answers


def test_all_ranks_raise_what_one_of_them_met(on_ranks):
    """One that raised alone would leave the other in its next collective until the timeout."""
    answers = on_ranks(measure)
    assert answers["all"] == [0, 1]
    assert answers["main"] == 0
    assert answers["InputError"] == ["InputError: too many"] * 2
    assert answers["RunError"] == ["RunError: it died"] * 2
    assert answers["OSError"] == ["RunError: rank 1: OSError: [Errno 28] No space: '/a/b'"] * 2
