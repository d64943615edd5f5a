"""The arm of the largest posterior mean: greedy, an unlucky start is never put right."""


@dataclass(frozen=True)
class ThompsonSampling:
    a: float = 1.0
    b: float = 1.0

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        mean = (self.a + wins) / (self.a + self.b + wins + losses)
        return np.asarray(mean.argmax(axis=1), dtype=np.int64)

    def update(self, wins: Floats, losses: Floats, action: Ints, reward: Floats) -> None:
        run = np.arange(len(action))
        wins[run, action] += reward
        losses[run, action] += 1 - reward
