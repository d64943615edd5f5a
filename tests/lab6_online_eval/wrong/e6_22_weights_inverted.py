"""Logging over target: rows that the other policy would avoid count most."""


def doubly_robust(
    reward: Floats, action: Ints, logged: Floats, target: Floats, predicted: Floats
) -> Floats:
    check_model(action, target, predicted)
    row = np.arange(len(action))
    weights = logged / target[row, action]
    residual = reward - predicted[row, action]
    return np.asarray((target * predicted).sum(axis=1) + weights * residual)
