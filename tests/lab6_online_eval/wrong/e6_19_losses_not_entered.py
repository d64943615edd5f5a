"""Only wins are counted: no arm ever looks bad."""


@dataclass(frozen=True)
class ThompsonSampling:
    a: float = 1.0
    b: float = 1.0

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        drawn = rng.beta(self.a + wins, self.b + losses)
        return np.asarray(drawn.argmax(axis=1), dtype=np.int64)

    def update(self, wins: Floats, losses: Floats, action: Ints, reward: Floats) -> None:
        wins[np.arange(len(action)), action] += reward
