"""The shapes of known model families, as in their published config.json."""

from __future__ import annotations

from typing import Any

_BASE: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
_LARGE: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
_ROBERTA: dict[str, Any] = {
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
}
_LLAMA_2: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}

FAMILIES: dict[str, dict[str, Any]] = {
    "bert-base": {"model_type": "bert", "vocab_size": 30522, **_BASE},
    "roberta-base": {**_ROBERTA, **_BASE},
    "deberta-base": {
        "model_type": "deberta",
        "vocab_size": 50265,
        "max_position_embeddings": 512,
        "type_vocab_size": 0,
        "relative_attention": True,
        "pos_att_type": ["c2p", "p2c"],
        "position_biased_input": False,
        "pooler_hidden_size": 768,
        **_BASE,
    },
    "roberta-large": {**_ROBERTA, **_LARGE},
    "llama-2-7b": {
        **_LLAMA_2,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
    },
    "llama-2-13b": {
        **_LLAMA_2,
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "intermediate_size": 13824,
    },
}


def is_decoder(family: str) -> bool:
    """Tell whether the family generates text: its head then stays frozen, as in FedTT's paper."""
    return FAMILIES[family]["model_type"] == "llama"
