"""The arm that the first run drew is played in every run: copies of one another."""


@dataclass(frozen=True)
class ThompsonSampling:
    a: float = 1.0
    b: float = 1.0

    def choose(self, wins: Floats, losses: Floats, t: int, rng: np.random.Generator) -> Ints:
        drawn = rng.beta(self.a + wins[0], self.b + losses[0])
        return np.full(len(wins), drawn.argmax(), dtype=np.int64)

    def update(self, wins: Floats, losses: Floats, action: Ints, reward: Floats) -> None:
        run = np.arange(len(action))
        wins[run, action] += reward
        losses[run, action] += 1 - reward
