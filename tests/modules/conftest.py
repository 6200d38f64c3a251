"""A small BERT on disk, its pretraining imagined: the encoder's weights, without pooler or head."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

VOCABULARY = 64


def save_bert(folder: Path, seed: int, **changes: int) -> Path:
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 32,
    }
    BertModel(BertConfig(**(sizes | changes)), add_pooling_layer=False).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_bert(tmp_path_factory.mktemp("bert"), seed=0))


@pytest.fixture(scope="session")
def other_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same shapes, other weights."""
    return str(save_bert(tmp_path_factory.mktemp("other"), seed=1))


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    mask = torch.ones(6, 9, dtype=torch.long)
    mask[2:4, 5:] = 0
    return {
        "input_ids": torch.randint(1, VOCABULARY, (6, 9), generator=generator) * mask,
        "attention_mask": mask,
        "labels": torch.tensor([0, 1, 1, 0, 1, 0]),
    }
