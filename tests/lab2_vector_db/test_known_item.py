import re

import numpy as np
import pandas as pd
import pytest

from common.errors import InputError
from labs.lab2_vector_db.known_item import copies, keywords, known_items, split, true_ids, unmasked

BODY = "The values are kept in the order in which they came, unless a key is given by the caller."


def words_of(rng, n):
    letters = np.array(list("abcdefghijklmnopqrtuvwxyz"))
    return ["".join(rng.choice(letters, 6)) for _ in range(n)]


def table_of(n, seed=0):
    """Texts of random words: a sentence of seven, a body of twenty-five."""
    rng = np.random.default_rng(seed)
    texts = [
        f"{' '.join(words_of(rng, 7)).capitalize()}. {' '.join(words_of(rng, 25)).capitalize()}."
        for _ in range(n)
    ]
    return pd.DataFrame({"text": texts, "label": rng.choice(["torch", "scipy"], n)})


@pytest.mark.parametrize(
    ("text", "sentence", "body"),
    [
        ("Sort the values of _ in place. " + BODY, "Sort the values of in place.", BODY),
        ("Sort them, e.g. by name, in place.\n" + BODY, "Sort them, e.g. by name, in place.", BODY),
        ("Use version 2.0 of it.\n" + BODY, "Use version 2.0 of it.", BODY),
        ("Args:\nx: A number. It is kept.", "", "Args: x: A number. It is kept."),
        (
            "Sort values\nParameters\n---\nx: Kept. So.",
            "",
            "Sort values Parameters --- x: Kept. So.",
        ),
        ("no end at all", "", "no end at all"),
        ("word " * 31 + "end. Then more.", "", "word " * 31 + "end. Then more."),
        ("Only this.", "Only this.", ""),
    ],
)
def test_the_first_sentence_is_cut_where_it_ends(text, sentence, body):
    assert split(text) == (sentence, body)


def test_masks_are_removed_and_names_with_underscores_are_not():
    assert unmasked("The _ of _-like\n_ and my_name is *_*") == "The of -like and my_name is"


def test_keywords_are_the_rarest_words_in_the_order_of_the_sentence():
    rarity = {"sort": 3.0, "value": 1.0, "array": 1.5, "key": 4.0, "given": 0.5}
    assert keywords("Sort the values of an array by the given key.", rarity, 3) == "sort array key"
    assert keywords("Sort sort sort.", rarity) == "sort"


def test_a_query_is_nowhere_in_the_index():
    """Left in, the sentence answers itself, and BM25 looks perfect."""
    table = table_of(120)
    table.loc[len(table)] = {"text": table["text"][0] + " " + table["text"][1], "label": "torch"}
    items = known_items(table, n_documents=121, n_validation=20, n_test=60)
    plain = [" ".join(re.findall(r"\w+", text.lower())) for text in items.texts]
    for query in [*items.validation, *items.test]:
        wanted = " ".join(re.findall(r"\w+", query.text.lower()))
        assert not any(wanted in text for text in plain), query
    everything = "\n".join(plain)
    for row in items.ids.tolist():
        if row not in (0, 1, 120):
            first = re.findall(r"\w+", table["text"][row].split(".")[0].lower())
            assert " ".join(first) not in everything, "no body keeps its first sentence"
    assert items.dropped["query: first sentence of several documents"] == 2


def test_the_answer_is_the_document_the_query_was_cut_from():
    table = table_of(60)
    items = known_items(table, n_documents=60, n_validation=10, n_test=40)
    place = {name: row for row, name in enumerate(items.ids.tolist())}
    for query in items.test:
        sentence, body = split(table["text"][query.target])
        assert items.texts[place[query.target]] == body
        assert query.relevant == (query.target,)
        if query.kind == "sentence":
            assert query.text == sentence
        else:
            assert set(query.text.split()) <= set(sentence.lower().rstrip(".").split())
            assert len(query.text.split()) == 4
        assert items.libraries[place[query.target]] == table["label"][query.target]
        assert items.n_words[place[query.target]] == 25
    assert {query.kind for query in items.test} == {"sentence", "keywords"}


def test_copies_of_the_answer_are_answers_and_belong_to_one_query_set():
    """Otherwise a search that shows the copy first is marked as wrong."""
    table = table_of(40)
    body = table["text"][3].split(". ")[1]
    rng = np.random.default_rng(9)
    for number in range(2):
        changed = body if number else body.replace(body.split()[23], "other")
        text = f"{' '.join(words_of(rng, 7)).capitalize()}. {changed}"
        table.loc[len(table)] = {"text": text, "label": "torch"}
    items = known_items(table, n_documents=42, n_validation=20, n_test=20)
    sets = [set(query.relevant) for query in [*items.validation, *items.test]]
    assert sum({3, 40, 41} == one for one in sets) == 1
    assert len(set().union(*sets)) == sum(map(len, sets)), "no document answers two queries"
    assert items.dropped["query: a copy of its document is asked for already"] <= 2
    assert true_ids(items.test).shape[1] in (1, 3)


def test_near_copies_are_found_by_shared_shingles():
    base = " ".join(f"w{i}" for i in range(40))
    texts = [base, base.replace("w20", "x"), base.upper(), "something else", base[: len(base) // 2]]
    assert copies(texts, [0, 3]) == [(0, 1, 2), (3,)]


def test_documents_with_many_copies_and_dull_sentences_are_no_queries():
    table = table_of(30)
    body = table["text"][0].split(". ")[1]
    rng = np.random.default_rng(1)
    for _ in range(7):
        text = f"{' '.join(words_of(rng, 7)).capitalize()}. {body}"
        table.loc[len(table)] = {"text": text, "label": "torch"}
    table.loc[len(table)] = {"text": "Initialize the class. " + BODY, "label": "torch"}
    table.loc[len(table)] = {"text": "One sentence alone is no document.", "label": "torch"}
    with pytest.raises(InputError, match="raise n_documents") as refused:
        known_items(table, n_documents=38, n_validation=1, n_test=30)
    assert "at most 29" in str(refused.value)
    assert "'query: fewer than 5 different words': 1" in str(refused.value)
    assert "'query: more than 5 copies of its document': 8" in str(refused.value)


def test_the_seed_decides_everything():
    table = table_of(60)
    one, same, other = (
        known_items(table, n_documents=50, n_validation=10, n_test=20, seed=seed)
        for seed in (1, 1, 2)
    )
    assert one.test == same.test
    assert one.texts == same.texts
    assert one.test != other.test


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"n_documents": 0}, "n_documents"),
        ({"n_test": 0}, "n_test"),
        ({"n_validation": -1}, "n_validation"),
        ({"n_documents": 21}, "must be at most 20"),
    ],
)
def test_what_the_texts_cannot_give_is_refused(how, message):
    with pytest.raises(InputError, match=message):
        known_items(table_of(20), **{"n_documents": 10, "n_validation": 1, "n_test": 1, **how})
