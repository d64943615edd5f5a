"""Any BERT-like encoder of transformers, the mean of its tokens, and one linear map."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.data import load
from common.data.fetch import DataError
from common.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labs.lab5_distillation.tokens import Batch

# torchao, which transformers imports, warns about kernels for GPUs that this process may not have.
os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")

PACKAGED = "minilm"
LAYERS = ("encoder.layer", "transformer.layer", "layers", "h")  # where encoders keep their layers
FILES = ("config.json", "model.safetensors", "tokenizer.json")


def folder_of(name: str) -> Path:
    """The folder with an encoder's ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

    Parameters
    ----------
    name
        ``"minilm"``, which a package carries; a folder; or a name on the Hugging Face Hub.

    Raises
    ------
    InputError
        A folder that lacks one of the files.
    DataError
        The Hub cannot be reached, or has no such model.
    """
    if name == PACKAGED:
        return load("minilm").path("config.json").parent
    if Path(name).is_dir():
        if missing := [file for file in FILES if not (Path(name) / file).is_file()]:
            raise InputError(f"{name} holds no {missing[0]}; an encoder is {', '.join(FILES)}")
        return Path(name)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        found = snapshot_download(name, allow_patterns=list(FILES))
    except HFValidationError as error:
        raise InputError(f"{name!r} is neither a folder nor a name on the Hub: {error}") from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise DataError(
            f"encoder {name!r} is neither in the cache of the Hugging Face Hub nor to be had from "
            f"it ({type(error).__name__}); give a folder that holds {', '.join(FILES)}, or "
            f"{PACKAGED!r}, which a package carries"
        ) from error
    return Path(found)


class TextClassifier(nn.Module):
    """Token ids to logits: an encoder, the mean over its real tokens, one linear map.

    ``names`` are the labels in the order of the logits; distillation refuses a pair whose orders
    differ. ``encoder`` is named as in transformers, so its parts have the paths that hooks take,
    such as ``encoder.encoder.layer.3.attention.self.query``.
    """

    def __init__(self, encoder: PreTrainedModel, names: tuple[str, ...], dropout: float = 0.1):
        super().__init__()
        self.encoder = encoder
        self.names = names
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.config.hidden_size, len(names))

    def pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Mean over the real tokens: states [B, L, H] to [B, H]."""
        real = attention_mask[:, :, None].to(states.dtype)
        return (states * real).sum(dim=1) / real.sum(dim=1)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits [B, classes] of int64 [B, L] ids and their mask (1: a token, 0: padding)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits: Tensor = self.head(self.dropout(self.pool(states, attention_mask)))
        return logits


def read(model: nn.Module, batch: Batch) -> Tensor:
    """Logits [B, classes] of a classifier for a batch of `tokens`."""
    logits: Tensor = model(batch.input_ids, batch.attention_mask)
    return logits


def classifier(
    name: str, names: tuple[str, ...], *, attention: str = "sdpa", dropout: float = 0.1
) -> TextClassifier:
    """A pretrained encoder with a new head, drawn from torch's generator.

    Parameters
    ----------
    name
        See `folder_of`.
    names
        Labels in the order of the logits, two at least.
    attention
        transformers' ``attn_implementation``: ``"sdpa"``, or ``"eager"``, the only one that gives
        attention maps away.
    dropout
        Rate of every dropout in the encoder and before the head.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"{len(names)} labels, {len(set(names))} of them different; 2 are needed")
    logging.disable_progress_bar()
    extra = {"add_pooling_layer": False} if name == PACKAGED or _has_pooler(name) else {}
    encoder = AutoModel.from_pretrained(
        folder_of(name), attn_implementation=attention, use_safetensors=True, dtype=torch.float32,
        **extra,
    )  # fmt: skip
    model = TextClassifier(encoder, names, dropout)
    set_dropout(model, dropout)
    return model


def _has_pooler(name: str) -> bool:
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(folder_of(name)).model_type in ("bert", "roberta", "electra")


def set_dropout(model: nn.Module, rate: float) -> None:
    """Give every dropout of a model this rate."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = rate


def layers_path(model: TextClassifier) -> str:
    """Path of the encoder's list of layers below the classifier, ``encoder.encoder.layer`` of BERT.

    Raises
    ------
    InputError
        An encoder whose layers are kept elsewhere than where `LAYERS` looks.
    """
    for path in LAYERS:
        try:
            found = model.encoder.get_submodule(path)
        except AttributeError:
            continue
        if isinstance(found, nn.ModuleList):
            return f"encoder.{path}"
    raise InputError(
        f"{type(model.encoder).__name__} has no list of layers at {', '.join(LAYERS)}; add its "
        "place to LAYERS"
    )


def layers_of(model: TextClassifier) -> nn.ModuleList:
    """The encoder's layers, in order."""
    found = model.get_submodule(layers_path(model))
    assert isinstance(found, nn.ModuleList)
    return found


def freeze_embeddings(model: TextClassifier) -> None:
    """Leave word and position vectors as they are: half the parameters, and few texts move them."""
    model.encoder.embeddings.requires_grad_(False)


def n_parameters(model: nn.Module) -> int:
    """Number of parameters, those that do not learn included."""
    return sum(parameter.numel() for parameter in model.parameters())


def clone(model: TextClassifier) -> TextClassifier:
    """A copy that shares nothing with the model."""
    copied: Any = copy.deepcopy(model)
    assert isinstance(copied, TextClassifier)
    return copied
