"""The prediction alone, without its uncertainty: greedy."""


@dataclass(frozen=True)
class LinUcb:
    alpha: float

    def choose(
        self, inverse: Floats, response: Floats, context: Floats, rng: np.random.Generator
    ) -> Ints:
        toward = np.einsum("rkij,rj->rki", inverse, context)
        mean = np.einsum("rki,rki->rk", toward, response)
        return np.asarray(mean.argmax(axis=1), dtype=np.int64)

    def update(
        self, inverse: Floats, response: Floats, context: Floats, action: Ints, reward: Floats
    ) -> None:
        run = np.arange(len(action))
        toward = np.einsum("rij,rj->ri", inverse[run, action], context)
        scale = 1 + np.einsum("ri,ri->r", toward, context)
        inverse[run, action] -= toward[:, :, None] * toward[:, None, :] / scale[:, None, None]
        response[run, action] += reward[:, None] * context
