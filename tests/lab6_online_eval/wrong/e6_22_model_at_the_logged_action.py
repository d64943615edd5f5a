"""The model's prediction for what was logged, not for what the other policy would do."""


def doubly_robust(
    reward: Floats, action: Ints, logged: Floats, target: Floats, predicted: Floats
) -> Floats:
    check_model(action, target, predicted)
    row = np.arange(len(action))
    weights = target[row, action] / logged
    residual = reward - predicted[row, action]
    return np.asarray(predicted[row, action] + weights * residual)
