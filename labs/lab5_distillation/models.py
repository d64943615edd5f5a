"""A classifier of texts whose size is one number: the teacher and the student of the lab."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from labs.lab5_distillation.features import Bags


class BagClassifier(nn.Module):
    """A two-layer perceptron over TF-IDF bags of words.

    The first layer is a linear map of a sparse vector; ``nn.EmbeddingBag`` computes it from the
    words that are there, so its cost does not grow with the size of the vocabulary.
    """

    def __init__(
        self, n_features: int, width: int, n_classes: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(n_features, width, mode="sum")
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, n_classes)
        self.dropout = nn.Dropout(dropout)
        nn.init.normal_(self.words.weight, std=width**-0.5)

    def forward(self, bags: Bags) -> Tensor:
        """Logits [B, n_classes]."""
        x = self.words(bags.words, bags.offsets, per_sample_weights=bags.weights)
        x = self.dropout(torch.relu(x))
        x = self.dropout(F.relu(self.hidden(x)))
        logits: Tensor = self.head(x)
        return logits


def n_parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
