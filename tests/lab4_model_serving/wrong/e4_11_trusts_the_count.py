"""A model that loses an answer is believed: zip gives the rest to the wrong requests, or none."""


def answer_batch(requests, parse, predict):
    outcomes = [Outcome(500, "the model could not answer this request")] * len(requests)
    accepted = []
    for index, request in enumerate(requests):
        try:
            accepted.append((index, parse(request)))
        except BadRequest as error:
            outcomes[index] = Outcome(error.status, str(error))
    if not accepted:
        return outcomes
    try:
        answers = predict([example for _, example in accepted])
        for (index, _), answer in zip(accepted, answers):
            outcomes[index] = Outcome(200, answer)
    except Exception:
        for index, example in accepted:
            try:
                outcomes[index] = Outcome(200, predict([example])[0])
            except Exception as error:
                message = "the model could not answer this request"
                outcomes[index] = Outcome(500, message, error)
    return outcomes
