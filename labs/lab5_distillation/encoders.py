"""Any BERT-like encoder of transformers, the mean of its tokens, and one linear map."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from common.data import load
from common.data.fetch import DataError, notice
from common.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from labs.lab5_distillation.tokens import Batch

# torchao, which transformers imports, warns about kernels for GPUs that this process may not have,
# and registers its enums in a way that newer versions of torch remark on.
os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)

PACKAGED = "minilm"
LAYERS = ("encoder.layer", "transformer.layer", "layers", "h")  # where encoders keep their layers
FILES = ("config.json", "model.safetensors", "tokenizer.json")
WORDS = ("vocab.txt", "tokenizer_config.json")  # a WordPiece tokenizer before tokenizer.json
CONVERTER = "SFconvertbot"  # whose pull requests on the Hub hold a model's weights as safetensors
# Positions of these begin behind the one of padding, so they have fewer than the table has rows.
SHIFTED = ("roberta", "xlm-roberta", "camembert", "mpnet")


def folder_of(name: str) -> Path:
    """The folder with an encoder's ``config.json``, ``model.safetensors`` and ``tokenizer.json``.

    A ``vocab.txt`` may stand for ``tokenizer.json``. Weights that the Hub has only as a pickle are
    taken from its own conversion to safetensors, where that exists; a pickle is never read. Where
    the Hub cannot be asked for one, a pull request in its cache that is a whole encoder is taken.

    Parameters
    ----------
    name
        ``"minilm"``, which a package carries; a folder; or a name on the Hugging Face Hub.

    Raises
    ------
    InputError
        A folder that lacks one of the files, or no possible name.
    DataError
        The Hub cannot be reached, has no such model, or not as safetensors.
    """
    if name == PACKAGED:
        return load("minilm").path("config.json").parent
    if Path(name).is_dir():
        if missing := _missing(Path(name)):
            raise InputError(f"{name} holds no {missing}; an encoder is {', '.join(FILES)}")
        return Path(name)
    from huggingface_hub.errors import HFValidationError

    try:
        found = _from_hub(name)
    except HFValidationError as error:
        raise InputError(f"{name!r} is neither a folder nor a name on the Hub: {error}") from error
    except _unreachable() as error:
        raise DataError(
            f"encoder {name!r} is no folder, and is neither in the cache of the Hugging Face Hub "
            f"nor to be had from it ({type(error).__name__}); give a folder that holds "
            f"{', '.join(FILES)}, or {PACKAGED!r}, which a package carries"
        ) from error
    if missing := _missing(found):
        raise DataError(
            f"encoder {name!r} is on the Hub without {missing}; convert it where it is trusted "
            f"(save_pretrained of its model and its tokenizer) and give that folder"
        )
    return found


def _missing(folder: Path) -> str | None:
    """The first file that an encoder's folder lacks."""
    lacks = [file for file in FILES if not (folder / file).is_file()]
    if lacks == ["tokenizer.json"] and (folder / "vocab.txt").is_file():
        return None
    return lacks[0] if lacks else None


def _from_hub(name: str) -> Path:
    """A folder of the Hub's cache: the model's own files, or those of its conversion."""
    from huggingface_hub import get_repo_discussions, snapshot_download

    wanted = [*FILES, *WORDS]
    found = Path(snapshot_download(name, allow_patterns=wanted))
    if (found / "model.safetensors").is_file():
        return found
    try:
        for request in get_repo_discussions(
            name, author=CONVERTER, discussion_type="pull_request", discussion_status="open"
        ):
            reference = request.git_reference
            found = Path(snapshot_download(name, allow_patterns=wanted, revision=reference))
            if (found / "model.safetensors").is_file():
                break
    except _unreachable():
        if (cached := _cached_conversion(name)) is None:
            raise
        return cached
    return found


def _cached_conversion(name: str) -> Path | None:
    """A pull request of the model in the Hub's cache that holds all files of an encoder."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    model = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    requests = [each for each in (model / "refs/refs/pr").glob("*") if each.name.isdecimal()]
    for request in sorted(requests, key=lambda each: int(each.name)):
        folder = model / "snapshots" / request.read_text().strip()
        if _missing(folder) is None:
            notice(f"{name}: the Hub cannot be asked; weights of refs/pr/{request.name}, cached")
            return folder
    return None


def _unreachable() -> tuple[type[Exception], ...]:
    """What a call to the Hub raises: its client's errors of a connection are no OSError."""
    from huggingface_hub.errors import HfHubHTTPError

    client = next(each for each in HfHubHTTPError.__mro__ if each.__name__ == "HTTPError")
    return OSError, client


def tokenizer_of(name: str) -> Tokenizer:
    """The encoder's tokenizer, from its ``tokenizer.json`` or its ``vocab.txt``."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = folder_of(name)
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json"))
    found: Tokenizer = AutoTokenizer.from_pretrained(
        folder, trust_remote_code=False
    ).backend_tokenizer
    return found


def max_tokens_of(name: str) -> int:
    """Tokens of the longest text that the encoder has positions for."""
    config = _config(folder_of(name))
    if not isinstance(rows := getattr(config, "max_position_embeddings", None), int):
        raise InputError(f"{name} is a {config.model_type}, whose config states no longest text")
    return rows - config.pad_token_id - 1 if config.model_type in SHIFTED else rows


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:  # bad JSON; an architecture that transformers lacks
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder / 'config.json'} describes no encoder: {reason}") from error


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
        transformers' ``attn_implementation``: ``"sdpa"`` where the encoder has it, or ``"eager"``,
        the only one that gives attention maps away.
    dropout
        Rate of every dropout in the encoder and before the head.

    Raises
    ------
    InputError
        Fewer than two labels, or one twice; weights that are not those of ``config.json``. A layer
        that the file lacks is an error, where transformers would draw it at random.
    DataError
        See `folder_of`.
    """
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError(f"{len(names)} labels, {len(set(names))} of them different; 2 are needed")
    model = TextClassifier(_pretrained(name, attention), names, dropout)
    set_dropout(model, dropout)
    return model


def _pretrained(name: str, attention: str) -> PreTrainedModel:
    """An encoder with every weight from its file and without a pooler."""
    from safetensors import SafetensorError
    from transformers import AutoModel
    from transformers.models.auto.modeling_auto import MODEL_MAPPING

    folder = folder_of(name)
    config = _config(folder)
    if config.is_encoder_decoder:
        raise InputError(
            f"{name} is a {config.model_type}, an encoder with a decoder; give an encoder"
        )
    architecture: Any = MODEL_MAPPING[type(config)]
    if attention == "sdpa" and not architecture._supports_sdpa:
        attention = "eager"
    try:
        with _quiet():
            encoder, report = AutoModel.from_pretrained(
                folder, config=config, attn_implementation=attention, use_safetensors=True,
                trust_remote_code=False, dtype=torch.float32, output_loading_info=True,
            )  # fmt: skip
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{folder / 'model.safetensors'} cannot be loaded: {reason}") from error
    # A pooler is a head of the pretraining. Many files lack its weights; here nothing reads it.
    missing = sorted(key for key in report["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise InputError(
            f"{folder / 'model.safetensors'} lacks {len(missing)} weights of "
            f"{type(encoder).__name__}, {missing[0]} first; they would be random: give weights "
            "that belong to the config.json beside them"
        )
    place = _place_of_layers(encoder)
    extra = sorted(key for key in report["unexpected_keys"] if place and f".{place}." in f".{key}")
    if extra:
        raise InputError(
            f"{folder / 'model.safetensors'} holds {len(extra)} weights of layers that "
            f"config.json does not describe, {extra[0]} first; without them the encoder would be "
            "another: give the config.json that belongs to the weights"
        )
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    found: PreTrainedModel = encoder
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """No report of weights that are not used, such as those of a language model's head."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


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
    if (path := _place_of_layers(model.encoder)) is not None:
        return f"encoder.{path}"
    raise InputError(
        f"{type(model.encoder).__name__} has no list of layers at {', '.join(LAYERS)}; add its "
        "place to LAYERS"
    )


def _place_of_layers(encoder: nn.Module) -> str | None:
    """The path of `LAYERS` at which an encoder has a list of modules."""
    modules = dict(encoder.named_modules())
    return next((path for path in LAYERS if isinstance(modules.get(path), nn.ModuleList)), None)


def layers_of(model: TextClassifier) -> nn.ModuleList:
    """The encoder's layers, in order."""
    found = model.get_submodule(layers_path(model))
    assert isinstance(found, nn.ModuleList)
    return found


def freeze_embeddings(model: TextClassifier) -> None:
    """Leave word and position vectors as they are: half the parameters, and few texts move them.

    Raises
    ------
    InputError
        An encoder that keeps them elsewhere than in ``embeddings``, as GPT-2 does.
    """
    embeddings = getattr(model.encoder, "embeddings", None)
    if not isinstance(embeddings, nn.Module):
        raise InputError(
            f"{type(model.encoder).__name__} has no attribute 'embeddings', where BERT-like "
            "encoders keep their word and position vectors; give an encoder that has it, such as "
            f"{PACKAGED!r}"
        )
    embeddings.requires_grad_(False)


def n_parameters(model: nn.Module) -> int:
    """Number of parameters, those that do not learn included."""
    return sum(parameter.numel() for parameter in model.parameters())


def clone(model: TextClassifier) -> TextClassifier:
    """A copy that shares nothing with the model."""
    copied: Any = copy.deepcopy(model)
    assert isinstance(copied, TextClassifier)
    return copied
