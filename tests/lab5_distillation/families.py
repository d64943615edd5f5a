"""Small random encoders of several architectures, as folders like those of the Hub."""

from __future__ import annotations

import torch

WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *"abcdefghijklmnopqrstuvwxyz", "##e", "##s", "play"]
FAMILIES = ("bert", "distilbert", "roberta", "electra", "mpnet", "modernbert")
CUT = FAMILIES[:4]  # those that are cut in width


def config_of(family, **changes):
    """Four layers, width 32, four heads, feed-forward 64, 40 positions."""
    import transformers

    sizes = {
        "vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 4,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 40,
        "pad_token_id": 0,
    }  # fmt: skip
    extra = {
        "distilbert": {"hidden_dim": 64},
        "electra": {"embedding_size": 16},
        "roberta": {"pad_token_id": 1},
        "mpnet": {"pad_token_id": 1},
        "modernbert": {
            "global_attn_every_n_layers": 3, "bos_token_id": 1, "eos_token_id": 2,
            "cls_token_id": 1, "sep_token_id": 2,
        },
    }.get(family, {})  # fmt: skip
    if family == "distilbert":
        sizes.pop("intermediate_size")
    names = {"bert": "BertConfig", "distilbert": "DistilBertConfig", "roberta": "RobertaConfig",
             "electra": "ElectraConfig", "mpnet": "MPNetConfig",
             "modernbert": "ModernBertConfig"}  # fmt: skip
    return getattr(transformers, names[family])(**{**sizes, **extra, **changes})


def encoder_of(family, seed=0, **changes):
    """A random encoder."""
    from transformers import AutoModel

    torch.manual_seed(seed)
    encoder = AutoModel.from_config(config_of(family, **changes))
    with torch.no_grad():  # the initial biases are 0, which would hide a bias that was lost
        for name, parameter in encoder.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    return encoder


def wordpiece(words=WORDS):
    """A WordPiece tokenizer of the given pieces; [CLS] is 1 and [SEP] 2."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    made = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return made


def save(folder, family="bert", words=WORDS, **changes):
    """config.json, model.safetensors and tokenizer.json; the folder's name."""
    folder.mkdir(parents=True, exist_ok=True)
    encoder_of(family, **changes).save_pretrained(folder)
    wordpiece(words).save(str(folder / "tokenizer.json"))
    return str(folder)
