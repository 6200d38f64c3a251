"""What does not fit is answered by one line that names the key and what would fit."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from fedtt_lightning.adapters import TTAdapter, TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from tiny_models import classifier


def refused(family, *fragments, **options):
    with pytest.raises(ConfigError) as error:
        get_peft_model(classifier(family), TTAdapterConfig(**options))
    message = str(error.value)
    assert "\n" not in message
    assert all(fragment in message for fragment in fragments), message


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"rank": 0}, ["rank=0"]),
        ({"rank": 2.5}, ["rank=2.5"]),
        ({"bottleneck": -1}, ["bottleneck=-1"]),
        ({"activation": "swish"}, ["'swish'", "silu"]),
        ({"init": "zeros"}, ["'zeros'", "orthonormal"]),
        ({"dropout": 1.0}, ["dropout=1.0"]),
        ({"classifier_rank": 3}, ["classifier_rank", "tt_classifier"]),
        ({"classifier_modes": [8, 8]}, ["classifier_modes", "tt_classifier"]),
    ],
)
def test_values_no_model_could_take(options, fragments):
    with pytest.raises(ConfigError) as error:
        TTAdapterConfig(**options)
    assert all(fragment in str(error.value) for fragment in fragments)


def test_targets_that_match_nothing_name_close_ones():
    refused(
        "bert",
        "'attention.ouput.dense'",
        "attention.output.dense",
        target_modules=["attention.ouput.dense"],
    )
    refused("llama", "'oproj'", "o_proj", target_modules=["oproj", "down_proj"])
    refused("bert", "'zzz'", "linears here", "intermediate.dense", target_modules=["zzz"])
    refused("bert", "matches no module", target_modules=r"layer\.7\..*")


def test_names_that_would_be_ignored_are_refused():
    refused("bert", "target_modules is empty", target_modules=[])
    refused("bert", "'word_embedings'", "word_embeddings", modules_to_save=["word_embedings"])


def test_targets_that_are_no_linear_are_refused():
    refused("bert", "BertAttention", "no linear", target_modules=["attention"])
    refused("gpt2", "Embedding", target_modules=["wte"])


def test_ranks_and_modes_that_do_not_fit_the_model():
    refused("bert", "rank=9", "largest 8", "layer.0.attention.output.dense", rank=9, bottleneck=8)
    refused("bert", "down_modes=[8, 8]", "[4, 8, 8]", bottleneck=8, rank=2, down_modes=[8, 8])
    refused("bert", "up_modes", "do not split", bottleneck=8, rank=2, up_modes=[2, 16, 8])
    refused(
        "bert",
        "classifier_modes",
        bottleneck=8,
        rank=2,
        tt_classifier=True,
        classifier_modes=[4, 4],
    )


def test_heads_without_a_dense_layer():
    refused("llama", "tt_classifier", "llama", tt_classifier=True, rank=2, bottleneck=8)


class Plain(nn.Module):
    """A user's own model, of no known type."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"mix": nn.Linear(6, 6)}) for _ in range(2))
        self.classifier = nn.Linear(6, 2)

    def forward(self, x):
        for block in self.blocks:
            x = block["mix"](x)
        return self.classifier(x)


def test_a_model_of_no_known_type_needs_targets_and_takes_them():
    with pytest.raises(ConfigError, match=r"set target_modules.*classifier, mix"):
        get_peft_model(Plain(), TTAdapterConfig())
    config = TTAdapterConfig(target_modules=["mix"], rank=2, bottleneck=4, init="loretta")
    model = get_peft_model(Plain(), config)
    assert sum(isinstance(m, TTAdapter) for m in model.modules()) == 2
    model(torch.randn(3, 6)).sum().backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert {n for n, p in model.named_parameters() if p.grad is not None} == trained
    assert any("classifier.modules_to_save" in name for name in trained)
