"""Every request is run alone: safe, and without any gain from batching."""


def answer_batch(requests, parse, predict):
    outcomes = []
    for request in requests:
        try:
            outcomes.append(Outcome(200, predict([parse(request)])[0]))
        except BadRequest as error:
            outcomes.append(Outcome(error.status, str(error)))
        except Exception as error:
            outcomes.append(Outcome(500, "the model could not answer this request", error))
    return outcomes
