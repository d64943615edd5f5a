"""Students from a teacher's layers or by name; pairs that cannot teach each other are refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from common.data.fetch import DataError
from common.errors import InputError
from labs.lab5_distillation import students
from labs.lab5_distillation.encoders import TextClassifier, classifier, layers_of
from labs.lab5_distillation.students import check_pair, layer_choice
from tests.lab5_distillation.conftest import tiny_classifier
from tests.lab5_distillation.families import FAMILIES, WORDS, save

NAMES = ("one", "two", "three")


class Layers(nn.Module):
    def __init__(self, n, width):
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(width, width) for _ in range(n))

    def forward(self, states):
        for layer in self.layer:
            states = states + torch.tanh(layer(states))
        return states


class Encoder(nn.Module):
    """The least that a `TextClassifier` takes: word vectors, a list of layers, a config."""

    def __init__(self, n, width=8):
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width, num_hidden_layers=n)
        self.embeddings = nn.Embedding(20, width)
        self.encoder = Layers(n, width)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.encoder(self.embeddings(input_ids)))


def small_teacher(n=5):
    torch.manual_seed(0)
    return TextClassifier(Encoder(n), NAMES).eval()


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def answer(model):
    with torch.no_grad():
        return model(IDS, torch.ones_like(IDS))


@pytest.mark.exercise("5.4")
@pytest.mark.parametrize("layers", [(0, 4), (4,), (1, 2, 3), (3, 0)])
def test_the_student_has_the_chosen_layers_in_their_order_and_the_teachers_head(layers):
    """Its answers are those of the teacher run through these layers alone; the first is layer 0.

    A head drawn anew, or layers counted from 1, still train: they only start from less.
    """
    teacher = small_teacher()
    found = answer(students.by_depth(teacher, layers))
    states = teacher.encoder.embeddings(IDS)
    for layer in layers:
        states = states + torch.tanh(layers_of(teacher)[layer](states))
    expected = teacher.head(states.mean(dim=1)).detach()
    worst = (found - expected).abs().max().item()
    assert worst < 1e-5, f"logits {found[0].tolist()}, layers {layers} give {expected[0].tolist()}"


@pytest.mark.exercise("5.4")
def test_nothing_of_the_teacher_changes_while_its_student_learns():
    """Every parameter of the student moves, and none of the teacher's.

    With one tensor in both, the teacher learns along and its targets drift; no error says so.
    """
    teacher = small_teacher()
    before = copy.deepcopy(teacher.state_dict())
    student = students.by_depth(teacher, (0, 4))
    for parameter in student.parameters():
        parameter.data.add_(1.0)
    changed = [
        name for name, value in teacher.state_dict().items() if not torch.equal(value, before[name])
    ]
    assert not changed, f"training the student changed the teacher's {changed}, expected none"


@pytest.mark.exercise("5.4")
def test_the_student_of_a_frozen_teacher_learns():
    """A teacher is frozen before it teaches; its copy must not stay so."""
    teacher = small_teacher().requires_grad_(False)
    student = students.by_depth(teacher, (1, 3))
    still = [name for name, each in student.named_parameters() if not each.requires_grad]
    assert not still, f"parameters that cannot learn: {still}, expected none"
    back = [name for name, each in teacher.named_parameters() if each.requires_grad]
    assert not back, f"parameters of the teacher that were thawed: {back}, expected none"


@pytest.mark.exercise("5.4")
def test_each_config_says_how_many_layers_its_own_model_has():
    """The student's is what it is saved and rebuilt by; the teacher's stays as it was."""
    teacher = small_teacher()
    student = students.by_depth(teacher, (0, 4))
    found = (teacher.encoder.config.num_hidden_layers, student.encoder.config.num_hidden_layers)
    assert found == (5, 2), f"teacher and student say {found} layers, expected (5, 2)"


@pytest.mark.exercise("5.4")
def test_a_layer_that_is_named_twice_becomes_two():
    """Each learns on its own; one module in two places would be a tied weight."""
    student = students.by_depth(small_teacher(), (2, 2))
    first, second = layers_of(student)
    with torch.no_grad():
        first.weight.zero_()
    size = second.weight.abs().sum().item()
    assert size > 0, f"zeroing the first copy left the second with a norm of {size}, expected > 0"


@pytest.mark.parametrize("layers", [(), (5,), (-1,), (0, 7)])
def test_layers_that_the_teacher_lacks_are_refused(layers):
    """The message names what there is."""
    with pytest.raises(InputError, match="0 to 4"):
        students.by_depth(small_teacher(), layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_encoder_gives_students_by_depth(family, tmp_path):
    """With all its layers a student is its teacher; with two it has two, and can be rebuilt."""
    teacher = classifier(save(tmp_path / family, family), NAMES).eval()
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    with torch.no_grad():
        same = students.by_depth(teacher, range(4))(ids, torch.ones_like(ids))
        assert torch.equal(same, teacher(ids, torch.ones_like(ids)))
        student = students.by_depth(teacher, (0, 3))
        student.encoder.save_pretrained(tmp_path / "student")
        save(tmp_path / "words", family)
        (tmp_path / "words" / "tokenizer.json").rename(tmp_path / "student" / "tokenizer.json")
        rebuilt = classifier(str(tmp_path / "student"), NAMES).eval()
        rebuilt.head = student.head
        torch.testing.assert_close(
            rebuilt(ids, torch.ones_like(ids)), student(ids, torch.ones_like(ids))
        )
    assert len(layers_of(student)) == student.encoder.config.num_hidden_layers == 2
    assert len(layers_of(teacher)) == teacher.encoder.config.num_hidden_layers == 4


def test_the_strategies_choose_what_their_papers_say():
    """DistilBERT's script copies 0, 2, 4, 7, 9, 11 of twelve; its paper says every other one."""
    assert layer_choice(12, 6, "spread") == (0, 2, 4, 7, 9, 11)
    assert layer_choice(12, 6, "alternate") == (0, 2, 4, 6, 8, 10)
    assert layer_choice(12, 4, "first") == (0, 1, 2, 3)
    assert layer_choice(12, 4, "last") == (8, 9, 10, 11)
    assert layer_choice(6, 2) == (0, 5)
    assert layer_choice(6, 1) == (5,)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    has=st.integers(1, 30),
    data=st.data(),
    strategy=st.sampled_from(["first", "last", "spread", "alternate"]),
)
def test_a_choice_is_of_different_layers_in_order(has, data, strategy):
    """As many as asked, ascending, inside; all of them when all are kept."""
    keep = data.draw(st.integers(1, has))
    chosen = layer_choice(has, keep, strategy)
    assert len(chosen) == keep
    assert list(chosen) == sorted(set(chosen))
    assert 0 <= chosen[0] <= chosen[-1] < has
    if keep == has:
        assert chosen == tuple(range(has))
    if strategy == "spread":
        assert chosen[-1] == has - 1
        assert keep == 1 or chosen[0] == 0


@pytest.mark.parametrize(("keep", "strategy"), [(0, "first"), (7, "last"), (2, "middle")])
def test_an_impossible_choice_is_refused(keep, strategy):
    """More layers than there are, none, or an unknown strategy."""
    with pytest.raises(InputError, match=r"keep|strategy"):
        layer_choice(6, keep, strategy)


def test_a_student_by_name_needs_the_teachers_tokens(tmp_path):
    """The teacher's token ids are other words to a student with another vocabulary."""
    from labs.lab5_distillation.tokens import Tokens

    teacher = Tokens(save(tmp_path / "teacher"), 16)
    same = save(tmp_path / "same", "distilbert")
    swapped = [*WORDS[:4], WORDS[5], WORDS[4], *WORDS[6:]]
    other = save(tmp_path / "other", words=swapped)
    assert students.by_name(same, NAMES, teacher_tokens=teacher).names == NAMES
    with pytest.raises(InputError, match=r"differ in 2 of 33 tokens \('a' is 4 and 5\)"):
        students.by_name(other, NAMES, teacher_tokens=teacher)


def test_a_student_that_cannot_be_had_says_how_to_supply_it(monkeypatch, tmp_path):
    """Without the Hub: which name was tried, and which files a folder has to hold."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    name = "google/bert_uncased_L-4_H-512_A-8"
    with pytest.raises(DataError, match=f"{name}.*give a folder that holds config.json"):
        students.by_name(name, NAMES)


def test_three_starts_have_one_architecture_and_three_kinds_of_weights(tiny_teacher):
    """Fine-tuned layers with the teacher's head, pretrained ones with a new head, random ones."""
    pretrained = tiny_classifier(seed=1)
    found = students.starts(tiny_teacher, pretrained, (0, 3), seed=5)
    tuned, plain, drawn = found["fine-tuned"], found["pretrained"], found["random"]
    shapes = [{k: v.shape for k, v in each.state_dict().items()} for each in found.values()]
    assert shapes[0] == shapes[1] == shapes[2]
    assert torch.equal(tuned.head.weight, tiny_teacher.head.weight)
    assert torch.equal(plain.head.weight, pretrained.head.weight)
    assert not torch.equal(drawn.head.weight, plain.head.weight)
    key = "encoder.encoder.layer.1.output.dense.weight"
    theirs = layers_of(pretrained)[3].output.dense.weight
    assert torch.equal(plain.state_dict()[key], theirs)
    assert not torch.equal(drawn.state_dict()[key], theirs)
    again = students.starts(tiny_teacher, pretrained, (0, 3), seed=5)["random"]
    assert all(torch.equal(a, b) for a, b in zip(drawn.parameters(), again.parameters()))
    rates = [[m.p for m in each.modules() if isinstance(m, nn.Dropout)] for each in found.values()]
    assert rates[0] == rates[2]


def test_drawing_at_random_leaves_the_generator_alone(tiny_teacher):
    """What is drawn afterwards does not depend on whether a student was."""
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    students.at_random(tiny_teacher)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("two", "one", "three"), "label 0 is 'one' for the teacher and 'two' for the student"),
        (("one", "three", "two"), "label 1 is 'two' for the teacher and 'three' for the student"),
        (("one", "two", "four"), "only the teacher has 'three'"),
        (("one", "two"), "3 and 2 labels, and only the teacher has 'three'"),
        (("one", "two", "three", "four"), "3 and 4 labels, and only the student has 'four'"),
    ],
)
def test_a_pair_with_other_labels_is_refused_by_the_first_that_differs(names, message):
    """Shapes cannot tell an order from another; the loss falls all the same."""
    teacher = small_teacher()
    check_pair(teacher, small_teacher(2))
    with pytest.raises(InputError, match=message):
        check_pair(teacher, TextClassifier(Encoder(2), names))


def test_a_head_of_another_width_than_its_labels_is_refused():
    """Labels that were renamed or dropped after the head was made."""
    student = small_teacher()
    student.head = nn.Linear(8, 4)
    with pytest.raises(InputError, match="the student's head gives 4 logits for its 3 labels"):
        check_pair(small_teacher(), student)
