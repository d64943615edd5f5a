"""MiniLMv2's relations against equations 2 to 4, one head and one token at a time."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import InputError
from labs.lab5_distillation import relations


def pairs(batch, length, ours, theirs, seed=0, scale=1.5):
    """(A_i, A_j) of student and teacher, widths ours and theirs, and a mask of 1 to L tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(width):
        return scale * torch.randn(batch, length, width, generator=generator)

    lengths = torch.randint(1, length + 1, (batch,), generator=generator)
    mask = (torch.arange(length) < lengths[:, None]).long()
    return (draw(ours), draw(ours)), (draw(theirs), draw(theirs)), mask


def by_hand(student, teacher, mask, heads):
    """Equations 2 to 4 in plain numbers."""

    def row(pair, b, head, t):
        width = pair[0].shape[-1] // heads
        part = slice(head * width, (head + 1) * width)
        looked_at = [u for u in range(mask.shape[1]) if mask[b, u]]
        one = pair[0][b, t, part].tolist()
        scores = [
            sum(x * y for x, y in zip(one, pair[1][b, u, part].tolist())) / math.sqrt(width)
            for u in looked_at
        ]
        top = max(scores)
        powers = [math.exp(score - top) for score in scores]
        return [power / sum(powers) for power in powers]

    found = []
    for b, t in mask.nonzero().tolist():
        for head in range(heads):
            p, q = row(teacher, b, head, t), row(student, b, head, t)
            found.append(sum(x * math.log(x / y) for x, y in zip(p, q) if x > 0))
    return sum(found) / len(found)


@pytest.mark.exercise("5.9")
@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 5),
    heads=st.integers(1, 3),
    ours=st.integers(1, 3),
    theirs=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_the_loss_is_equations_two_to_four(batch, length, heads, ours, theirs, seed):
    """Each side divides by the root of its own head's width; KL runs from the teacher.

    A softmax over another axis, a missing root or the other direction trains as smoothly.
    """
    student, teacher, mask = pairs(batch, length, heads * ours, heads * theirs, seed)
    loss = float(relations.relation_loss(student, teacher, mask, heads=heads))
    expected = by_hand(student, teacher, mask, heads)
    assert loss == pytest.approx(expected, rel=1e-3, abs=1e-5), (
        f"loss {loss:.6f}, equations {expected:.6f} ({heads} heads of {ours} and {theirs}, "
        f"{int(mask.sum())} real of {mask.numel()} tokens)"
    )


@pytest.mark.exercise("5.9")
def test_padding_neither_looks_nor_is_looked_at():
    """Padding's content and its amount leave the loss as it is, on both axes."""
    student, teacher, mask = pairs(3, 5, 8, 4)
    before = float(relations.relation_loss(student, teacher, mask, heads=2))
    wide = torch.cat([mask, torch.zeros(3, 6, dtype=mask.dtype)], dim=1)

    def padded(pair, value):
        added = [torch.full((3, 6, each.shape[-1]), value) for each in pair]
        return tuple(torch.cat([each, more], dim=1) for each, more in zip(pair, added))

    after = float(
        relations.relation_loss(padded(student, 4.0), padded(teacher, -4.0), wide, heads=2)
    )
    assert after == pytest.approx(before, rel=1e-4), (
        f"loss {after:.6f} with 6 tokens of padding more, {before:.6f} without"
    )


@pytest.mark.exercise("5.9")
def test_only_the_student_gets_a_gradient_and_it_is_finite():
    """-inf at padding makes NaN of a gradient in the first step; a teacher is a constant."""
    student, teacher, mask = pairs(3, 5, 8, 4)
    every = [each.requires_grad_(True) for each in (*student, *teacher)]
    loss = relations.relation_loss(student, teacher, mask, heads=2)
    assert loss.requires_grad, "the loss has no graph: requires_grad is False, expected True"
    loss.backward()
    for name, each in zip(("A_i", "A_j"), every[:2]):
        assert each.grad is not None, f"the student's {name} has gradient None"
        assert bool(each.grad.isfinite().all()), f"the student's {name} has NaN in its gradient"
        assert float(each.grad.abs().sum()) > 0, f"the student's {name} has gradient 0"
    given = [each.grad for each in every[2:]]
    assert given == [None, None], f"the teacher got gradients {given}, expected None"


def test_equal_relations_have_loss_zero_whatever_the_rotation():
    """A rotation inside each head changes queries and not how they relate."""
    (x, _), _, mask = pairs(2, 5, 8, 8)
    rotation = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))[0]
    turned = (x.unflatten(-1, (2, 4)) @ rotation).flatten(-2)
    loss = relations.relation_loss((turned, turned), (x, x), mask, heads=2)
    assert float(loss) == pytest.approx(0, abs=1e-5)


def test_heads_that_do_not_divide_a_width_are_refused():
    """The message names the width."""
    student, teacher, mask = pairs(2, 3, 8, 6)
    with pytest.raises(InputError, match="must divide the teacher's width of 6"):
        relations.relation_loss(student, teacher, mask, heads=4)
    with pytest.raises(InputError, match="heads = 0"):
        relations.relation_loss(student, teacher, mask, heads=0)


def test_the_loss_is_in_float32_under_autocast():
    """A product of bfloat16 has two or three digits; a divergence near 0 needs more."""
    student, teacher, mask = pairs(3, 5, 8, 4)
    plain = relations.relation_loss(student, teacher, mask, heads=2)
    with torch.autocast("cpu", torch.bfloat16):
        cast = relations.relation_loss(student, teacher, mask, heads=2)
    assert cast.dtype == torch.float32
    assert float(cast) == pytest.approx(float(plain), rel=1e-6)


def test_relations_need_neither_equal_widths_nor_equal_heads(tiny_texts):
    """Equation 1 over three kinds, of a student of another width and number of heads."""
    from labs.lab5_distillation.encoders import read
    from labs.lab5_distillation.hooks import Taps
    from tests.lab5_distillation.conftest import tiny_classifier

    teacher, student = tiny_classifier(), tiny_classifier(2, seed=1, width=48)
    student.encoder.config.num_attention_heads = 3
    for layer in student.encoder.encoder.layer:
        layer.attention.self.num_attention_heads = 3
        layer.attention.self.attention_head_size = 16
    batch = tiny_texts.batch(torch.arange(6).numpy())
    compared = relations.Relations(student, teacher, heads=8)
    assert compared.student_paths[0] == "encoder.encoder.layer.1.attention.self.query"
    assert compared.teacher_paths[2] == "encoder.encoder.layer.3.attention.self.value"
    with Taps(student, compared.student_paths) as ours, torch.no_grad():
        read(student, batch)
    with Taps(teacher, compared.teacher_paths) as theirs, torch.no_grad():
        read(teacher, batch)
    expected = sum(
        by_hand((ours[s], ours[s]), (theirs[t], theirs[t]), batch.attention_mask, 8)
        for s, t in zip(compared.student_paths, compared.teacher_paths)
    )
    loss = compared(ours, theirs, batch.attention_mask).item()
    assert loss == pytest.approx(expected, rel=1e-3)


def test_what_has_no_relations_is_refused(tiny_teacher):
    """Heads, layers, kinds and encoders that do not fit, when the objective is made."""
    make = relations.Relations
    with pytest.raises(InputError, match="must divide the student's width of 32"):
        make(tiny_teacher, tiny_teacher, heads=12)
    with pytest.raises(InputError, match="layer = 4"):
        make(tiny_teacher, tiny_teacher, heads=8, student_layer=4)
    with pytest.raises(InputError, match="one kind at least"):
        make(tiny_teacher, tiny_teacher, heads=8, weights={})
    with pytest.raises(InputError, match="'output' must be of"):
        make(tiny_teacher, tiny_teacher, heads=8, weights={("query", "output"): 1.0})
    tiny_teacher.encoder.encoder.layer[3].attention = torch.nn.Identity()
    with pytest.raises(InputError, match="no query, key and value"):
        relations.attention_paths(tiny_teacher, 3)
