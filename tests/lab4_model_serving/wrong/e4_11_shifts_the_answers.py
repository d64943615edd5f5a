"""Refusals come first and answers after them: everybody behind a bad request gets a stranger's."""


def answer_batch(requests, parse, predict):
    refused, examples = [], []
    for request in requests:
        try:
            examples.append(parse(request))
        except BadRequest as error:
            refused.append(Outcome(error.status, str(error)))
    answered = []
    if examples:
        try:
            answered = [Outcome(200, answer) for answer in predict(examples)]
        except Exception:
            for example in examples:
                try:
                    answered.append(Outcome(200, predict([example])[0]))
                except Exception as error:
                    message = "the model could not answer this request"
                    answered.append(Outcome(500, message, error))
    return refused + answered
