"""The parts of the story: the split, the queue's mean, the options."""

import pandas as pd
import pytest

from common.errors import InputError
from labs.lab4_model_serving.config import SCALES, Config
from labs.lab4_model_serving.story import CLASSES, MAX_CHARACTERS, mean_queue_ms, split_texts


def test_the_split_is_disjoint_labelled_and_repeatable():
    rows = [
        (f"{label} {i} " + "x" * 5000, f"lib{label}") for label in range(14) for i in range(300)
    ]
    table = pd.DataFrame(rows, columns=["text", "label"])
    split, again = (split_texts(table, limit=2000, seed=1) for _ in range(2))
    assert split.labels == sorted(split.labels)
    assert len(split.labels) == CLASSES
    assert (len(split.train_texts), len(split.test_texts)) == (1600, 400)
    assert not set(split.train_texts) & set(split.test_texts)
    assert all(len(text) <= MAX_CHARACTERS for text in split.test_texts)
    named = [f"lib{text.split()[0]}" for text in split.test_texts]
    assert [split.labels[number] for number in split.test_labels] == named
    assert split.test_texts == again.test_texts


def test_the_mean_queue_time_comes_from_the_counters():
    metrics = """
# TYPE ts_queue_latency_microseconds counter
ts_queue_latency_microseconds{model_name="m",model_version="default",hostname="h",} 6000.0
ts_inference_requests_total{model_name="m",model_version="default",hostname="h",} 3.0
"""
    assert mean_queue_ms(metrics) == 2.0
    assert mean_queue_ms("") == 0.0


@pytest.mark.parametrize(
    "wrong",
    [{"rate": 0}, {"search_high": 100}, {"workers": 0}, {"inference_port": 70_000}, {"texts": 5}],
)
def test_an_impossible_option_is_named(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Config(**wrong)
    assert set(SCALES) == {"smoke", "standard", "full"}
