"""The model's error counts the same for every action: the logging policy's mean error."""


def doubly_robust(
    reward: Floats, action: Ints, logged: Floats, target: Floats, predicted: Floats
) -> Floats:
    check_model(action, target, predicted)
    row = np.arange(len(action))
    residual = reward - predicted[row, action]
    return np.asarray((target * predicted).sum(axis=1) + residual)
