"""One bad request is raised for the batch: its mates are refused with it."""


def answer_batch(requests, parse, predict):
    try:
        examples = [parse(request) for request in requests]
    except BadRequest as error:
        return [Outcome(error.status, str(error))] * len(requests)
    if not examples:
        return []
    try:
        return [Outcome(200, answer) for answer in predict(examples)]
    except Exception as error:
        return [Outcome(500, "the model could not answer this request", error)] * len(requests)
