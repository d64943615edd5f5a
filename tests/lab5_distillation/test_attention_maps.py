"""Maps from queries and keys against transformers' own; the losses of maps."""

import pytest
import torch

from common.errors import InputError
from labs.lab5_distillation import attention_maps
from labs.lab5_distillation.layer_maps import LayerMap, last_only


def pairs(heads, width, seed=0, batch=3, length=5):
    """(queries, keys) [B, L, heads * width]."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda: torch.randn(batch, length, heads * width, generator=generator)  # noqa: E731
    return draw(), draw()


MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])


def padded(pair, value):
    return tuple(
        torch.cat([each, torch.full((3, 4, each.shape[-1]), value)], dim=1) for each in pair
    )


def test_maps_are_what_eager_attention_gives_and_sdpa_hides(tiny_texts):
    """The same numbers from queries and keys under both; transformers gives them under one."""
    from tests.lab5_distillation.conftest import tiny_classifier

    batch = tiny_texts.batch(torch.arange(12).numpy())
    assert 0 < int(batch.attention_mask.sum()) < batch.attention_mask.numel(), "needs padding"
    eager, sdpa = (tiny_classifier(attention=kind) for kind in ("eager", "sdpa"))
    sdpa.load_state_dict(eager.state_dict())
    ids, mask = batch.input_ids, batch.attention_mask
    with torch.no_grad():
        shown = eager.encoder(ids, mask, output_attentions=True).attentions
        hidden = sdpa.encoder(ids, mask, output_attentions=True).attentions
    assert not [each for each in hidden or () if each is not None], "sdpa gave maps"
    for layer, expected in enumerate(shown):
        for model in (eager, sdpa):
            found = attention_maps.maps_of(model, ids, mask, layer)
            torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_maps_of_minilm_are_those_of_transformers(tiny_texts):
    """On pretrained weights, whose maps are far from uniform: rows reach above 0.9."""
    from labs.lab5_distillation.encoders import classifier

    eager = classifier("minilm", ("a", "b"), attention="eager").eval()
    batch = tiny_texts.batch(torch.arange(12).numpy())
    ids, mask = batch.input_ids, batch.attention_mask
    with torch.no_grad():
        shown = eager.encoder(ids, mask, output_attentions=True).attentions
    assert float(torch.stack(shown).max()) > 0.9
    for layer, expected in enumerate(shown):
        found = attention_maps.maps_of(eager, ids, mask, layer)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_a_row_sums_to_one_and_is_zero_at_padding():
    """Nothing looks at padding."""
    maps = attention_maps.attention_maps(*pairs(2, 3), MASK, 2)
    assert maps.shape == (3, 2, 5, 5)
    torch.testing.assert_close(maps.sum(-1), torch.ones(3, 2, 5))
    assert float(maps[1, :, :, 3:].abs().max()) == 0


@pytest.mark.parametrize(
    "loss",
    [
        attention_maps.attention_kl,
        attention_maps.mean_attention_kl,
        attention_maps.attention_mse,
        attention_maps.mean_attention_mse,
    ],
)
def test_every_loss_of_maps_ignores_padding_and_the_teachers_gradient(loss):
    """On both axes: what padding holds, and how much of it there is; gradients stay finite."""
    student, teacher = pairs(2, 3, 0), pairs(2, 4, 1)
    every = [each.requires_grad_(True) for each in (*student, *teacher)]
    found = loss(student, teacher, MASK, (2, 2))
    found.backward()
    assert all(bool(each.grad.isfinite().all()) for each in every[:2])
    assert all(float(each.grad.abs().sum()) > 0 for each in every[:2])
    assert [each.grad for each in every[2:]] == [None, None]
    wide = torch.cat([MASK, torch.zeros(3, 4, dtype=MASK.dtype)], dim=1)
    after = loss(padded(student, 3.0), padded(teacher, -3.0), wide, (2, 2))
    assert after.item() == pytest.approx(found.item(), rel=1e-4)
    assert loss(teacher, teacher, MASK, (2, 2)).item() == pytest.approx(0, abs=1e-6)


def test_the_losses_are_their_formulas():
    """KL and squared error written out over the real rows, and over the real columns."""
    student, teacher = pairs(2, 3, 0), pairs(2, 4, 1)
    p = attention_maps.attention_maps(*teacher, MASK, 2)
    q = attention_maps.attention_maps(*student, MASK, 2)
    s, t = (attention_maps.attention_scores(*pair, 2) for pair in (student, teacher))
    real = [(b, i) for b in range(3) for i in range(5) if MASK[b, i]]

    def kl(p, q):
        return sum(float((a * (a / b).log()).sum()) for a, b in zip(p, q))

    n = {b: int(MASK[b].sum()) for b in range(3)}
    by_head = sum(kl(p[b, :, i, : n[b]], q[b, :, i, : n[b]]) / 2 for b, i in real) / len(real)
    found = attention_maps.attention_kl(student, teacher, MASK, (2, 2)).item()
    assert found == pytest.approx(by_head, rel=1e-4)
    mean = sum(
        kl(p[b, :, i, : n[b]].mean(0)[None], q[b, :, i, : n[b]].mean(0)[None]) for b, i in real
    ) / len(real)
    found = attention_maps.mean_attention_kl(student, teacher, MASK, (2, 2)).item()
    assert found == pytest.approx(mean, rel=1e-4)
    squares = torch.cat([(s - t)[b, :, : n[b], : n[b]].square().flatten(1).T for b in range(3)])
    found = attention_maps.attention_mse(student, teacher, MASK, (2, 2)).item()
    assert found == pytest.approx(float(squares.mean()), rel=1e-4)


def test_heads_may_differ_only_where_they_are_averaged():
    """Head 3 of one model is not head 3 of another with other heads; the message says what is."""
    student, teacher = pairs(2, 6), pairs(3, 4, 1)
    with pytest.raises(InputError, match="2 attention heads and the teacher 3; mean_attention_kl"):
        attention_maps.attention_kl(student, teacher, MASK, (2, 3))
    with pytest.raises(InputError, match="mean_attention_mse"):
        attention_maps.attention_mse(student, teacher, MASK, (2, 3))
    for loss in (attention_maps.mean_attention_kl, attention_maps.mean_attention_mse):
        assert loss(student, teacher, MASK, (2, 3)).item() > 0


def test_mean_squared_scores_ask_for_more_than_equal_maps():
    """A constant added to a row of scores leaves the map; TinyBERT's loss still sees it."""
    query, key = pairs(1, 3)
    moved = key + 2.0  # adds 2 * sum(q) / sqrt(3) to every score of a row
    maps = [attention_maps.attention_maps(query, each, MASK, 1) for each in (key, moved)]
    torch.testing.assert_close(maps[0], maps[1], atol=1e-5, rtol=1e-4)
    args = ((query, moved), (query, key), MASK, (1, 1))
    assert attention_maps.attention_kl(*args).item() == pytest.approx(0, abs=1e-5)
    assert attention_maps.attention_mse(*args).item() > 0.1


def test_the_objective_compares_the_layers_of_its_map(tiny_teacher, tiny_texts):
    """With itself over the same layers the maps' part is 0; over other layers it is not."""
    batch = tiny_texts.batch(torch.arange(8).numpy())
    make = attention_maps.AttentionDistillation
    same = make(tiny_teacher, tiny_teacher, LayerMap(4, 4, ((1, 1), (3, 3))))
    other = make(tiny_teacher, tiny_teacher, last_only(4, 4, 0))
    assert same.parts(batch)["AttentionMaps"].item() == pytest.approx(0, abs=1e-6)
    assert other.parts(batch)["AttentionMaps"].item() > 1e-6


def test_heads_are_counted_in_the_layer_and_not_in_the_config(tiny_teacher):
    """A pruned encoder keeps other numbers of heads in its layers; its config has one number."""
    tiny_teacher.encoder.encoder.layer[1].attention.self.num_attention_heads = 3
    assert [attention_maps.heads_of(tiny_teacher, layer) for layer in (0, 1)] == [4, 3]
    pruned = attention_maps.AttentionMaps(tiny_teacher, tiny_teacher, LayerMap(4, 4, ((1, 2),)))
    assert pruned.heads == [(3, 4)]
