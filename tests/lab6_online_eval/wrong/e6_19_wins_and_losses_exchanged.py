"""Beta(b + losses, a + wins): the posterior of failing, and the worst arm is played."""


@dataclass(frozen=True)
class ThompsonSampling:
    a: float = 1.0
    b: float = 1.0

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        drawn = rng.beta(self.b + losses, self.a + wins)
        return np.asarray(drawn.argmax(axis=1), dtype=np.int64)

    def update(self, wins: Floats, losses: Floats, action: Ints, reward: Floats) -> None:
        run = np.arange(len(action))
        wins[run, action] += reward
        losses[run, action] += 1 - reward
