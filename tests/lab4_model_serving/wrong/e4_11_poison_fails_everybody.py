"""A run that fails is nobody's fault in particular: all of the batch get 500."""


def answer_batch(requests, parse, predict):
    outcomes = [None] * len(requests)
    accepted = []
    for index, request in enumerate(requests):
        try:
            accepted.append((index, parse(request)))
        except BadRequest as error:
            outcomes[index] = Outcome(error.status, str(error))
    if accepted:
        try:
            answers = predict([example for _, example in accepted])
            for (index, _), answer in zip(accepted, answers):
                outcomes[index] = Outcome(200, answer)
        except Exception as error:
            for index, _ in accepted:
                outcomes[index] = Outcome(500, "the model could not answer this request", error)
    return [outcome or Outcome(500, "no answer") for outcome in outcomes]
