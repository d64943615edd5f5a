import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab2_vector_db import index_types
from labs.lab2_vector_db.index_types import (
    HNSW,
    IVF,
    OPQ,
    PQ,
    SQ,
    Exact,
    Flat,
    RaBitQ,
    RandomRotation,
    Recipe,
)

STRUCTURES = st.one_of(
    st.just(Flat()),
    st.builds(
        IVF,
        st.integers(1, 1 << 20),
        centroids=st.sampled_from(("flat", "hnsw")),
        nprobe=st.integers(1, 512),
    ),
    st.builds(HNSW, st.integers(2, 64), ef_search=st.integers(1, 512)),
)
CODES = st.one_of(
    st.just(Exact()),
    st.builds(PQ, st.integers(1, 96), st.sampled_from((4, 8)), residual=st.booleans()),
    st.builds(SQ, st.sampled_from((4, 6, 8, 16))),
    st.builds(RaBitQ, st.integers(1, 8)),
)


@st.composite
def recipes(draw):
    """Any recipe that is allowed."""
    code = draw(CODES)
    rotations = [None, RandomRotation()] + ([OPQ(code.segments)] if isinstance(code, PQ) else [])
    return Recipe(
        draw(STRUCTURES),
        code,
        draw(st.sampled_from(rotations)),
        None if code == Exact() else draw(st.sampled_from([None, Exact(), SQ(8), SQ(16)])),
        draw(st.floats(1, 100)),
        "l2",
    )


@given(recipes())
def test_a_recipe_survives_json(recipe):
    written = json.loads(json.dumps(index_types.recipe_to_dict(recipe)))
    assert index_types.recipe_from_dict(written) == recipe


@pytest.mark.parametrize(
    ("recipe", "factory"),
    [
        (Recipe(), "Flat"),
        (Recipe(IVF(64), PQ(60), refine=Exact()), "IVF64,PQ60np,RFlat"),
        (
            Recipe(IVF(4096), PQ(48, 4), rotation=OPQ(48), refine=SQ(8)),
            "OPQ48,IVF4096,PQ48x4fsr,Refine(SQ8)",
        ),
        (
            Recipe(IVF(16384, centroids="hnsw"), PQ(48, 4, residual=False), OPQ(48, 96), SQ(16)),
            "OPQ48_96,IVF16384_HNSW32,PQ48x4fs,Refine(SQfp16)",
        ),
        (Recipe(code=PQ(8, 4)), "PQ8x4fs"),
        (Recipe(IVF(8), RaBitQ(4), RandomRotation()), "RR,IVF8,RaBitQfs4"),
        (Recipe(HNSW(16), RaBitQ(), metric="l2"), "HNSW16,RaBitQ"),
        (Recipe(HNSW(16), PQ(8, 4), metric="l2"), "HNSW16,PQ8x4np"),
        (Recipe(HNSW(32), SQ(6)), "HNSW32,SQ6"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_factory_string_is_that_of_faiss(recipe, factory):
    assert recipe.factory == factory


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: IVF(0), "n_lists = 0"),
        (lambda: IVF(4, nprobe=0), "nprobe = 0"),
        (lambda: IVF(4, centroids="kd-tree"), "centroids"),
        (lambda: HNSW(1), "m = 1"),
        (lambda: HNSW(16, ef_search=0), "ef_search = 0"),
        (lambda: PQ(8, 5), r"bits = 5 must be one of \[4, 8\]"),
        (lambda: SQ(5), "bits = 5"),
        (lambda: RaBitQ(9), "bits = 9"),
        (lambda: OPQ(8, 20), "dimension = 20 must be a multiple"),
        (lambda: Recipe(metric="cosine"), "metric = 'cosine'"),
        (lambda: Recipe(k_factor=0.5), "k_factor = 0.5"),
        (lambda: Recipe(PQ(8)), "structure"),
        (lambda: Recipe(code=Flat()), "code"),
        (lambda: Recipe(IVF(4), refine=PQ(8)), "refine"),
    ],
)
def test_a_part_outside_its_limits_is_refused(make, says):
    with pytest.raises(InputError, match=says):
        make()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"structure": HNSW(16), "code": PQ(8)}, "l2 only"),
        ({"structure": HNSW(16), "code": RaBitQ()}, "l2 only"),
        ({"structure": IVF(4), "refine": SQ(8)}, "kept exactly"),
        ({"code": PQ(8), "rotation": OPQ(4)}, "segments"),
        ({"code": SQ(8), "rotation": OPQ(8)}, "RandomRotation"),
    ],
)
def test_a_combination_that_faiss_does_not_have_is_refused(fields, says):
    """faiss builds HNSW over PQ for l2 whatever metric it was given, without an error."""
    with pytest.raises(InputError, match=says):
        Recipe(**fields)


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ({"structure": {"type": "NSG"}}, "'NSG' is unknown"),
        ({"structure": {"type": "IVF", "n_lists": 4, "probes": 2}}, "no field probes"),
        ({"structure": {"type": "IVF"}}, "lacks the field n_lists"),
        ({"type": "IVFPQ", "n_lists": 4}, "no field n_lists, type"),
    ],
)
def test_unknown_fields_are_refused(written, says):
    with pytest.raises(InputError, match=says):
        index_types.recipe_from_dict(written)


@pytest.mark.parametrize(
    ("ids", "says"),
    [(np.arange(3), r"\[4\]"), (np.array([0, 1, 2, -1]), "-1"), (np.ones(4) * 0.5, "integer")],
)
def test_ids_that_do_not_fit_are_refused(ids, says):
    with pytest.raises(InputError, match=says):
        index_types.check_ids(ids, 4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_row(bad):
    vectors = np.ones((30, 8), dtype=np.float32)
    vectors[17, 3] = bad
    with pytest.raises(InputError, match="row 17"):
        index_types.check_vectors(vectors)


def test_large_but_finite_values_are_accepted():
    vectors = np.full((2, 8), 3e38, dtype=np.float32)
    assert index_types.check_vectors(vectors).shape == (2, 8)


def test_normalize_refuses_a_vector_without_direction():
    with pytest.raises(InputError, match="row 1"):
        index_types.normalize(np.array([[1.0, 0.0], [0.0, 0.0]], dtype=np.float32))
