"""Small models on disk: a BERT, its pretraining imagined (the encoder's weights, without pooler or
head), and a causal language model of any family."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel

from tiny_models import language_model

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


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Folder with a tiny causal language model of a family, its config changed as asked."""
    folders: dict[str, str] = {}

    def folder(family: str, **config: object) -> str:
        key = f"{family} {config}"
        if key not in folders:
            folders[key] = str(tmp_path_factory.mktemp(family))
            language_model(family, **config).save_pretrained(folders[key])
        return folders[key]

    return folder
