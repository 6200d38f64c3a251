"""The published and computed parameter counts, exactly, from real shapes on the meta device."""

import re

import pytest
import torch
import transformers as hf
from peft import get_peft_model

from fedtt_lightning.adapters import TTAdapterConfig

BASE = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}


def roberta_base():
    return hf.RobertaConfig(**BASE, intermediate_size=3072, vocab_size=50265)


def deberta_base():
    return hf.DebertaConfig(
        **BASE,
        intermediate_size=3072,
        vocab_size=50265,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        type_vocab_size=0,
        position_biased_input=False,
    )


def roberta_large():
    return hf.RobertaConfig(**LARGE, intermediate_size=4096, vocab_size=50265)


def llama(hidden, layers, intermediate):
    return hf.LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 128,
        intermediate_size=intermediate,
        vocab_size=32000,
    )


def trainable(config, auto=hf.AutoModelForSequenceClassification, **options):
    """Names and sizes of what trains, with no weight ever held."""
    with torch.device("meta"):
        model = get_peft_model(auto.from_config(config), TTAdapterConfig(**options))
    assert all(p.is_meta for p in model.parameters())
    return {n: p.numel() for n, p in model.named_parameters() if p.requires_grad}


def adapters(sizes):
    return {n: size for n, size in sizes.items() if re.search("down_|up_", n)}


def cores(sizes):
    return {n: size for n, size in adapters(sizes).items() if "core" in n}


@pytest.mark.parametrize("shape", [roberta_base, deberta_base])
@pytest.mark.parametrize(
    ("options", "total"),
    [
        ({"tt_classifier": True}, 60_794),
        ({"tt_classifier": True, "train_layernorms": True}, 99_194),
        ({"tt_classifier": True, "classifier_modes": [12, 8, 8, 8, 8, 12]}, 60_634),
        ({}, 649_538),
        ({"train_layernorms": True}, 687_938),
    ],
)
@pytest.mark.parametrize("task_type", [None, "SEQ_CLS"])
def test_classifiers_of_base_size(shape, options, total, task_type):
    assert sum(trainable(shape(), task_type=task_type, **options).values()) == total


@pytest.mark.parametrize("shape", [roberta_base, deberta_base])
def test_backbones_of_base_size(shape):
    plain = trainable(shape(), hf.AutoModel)
    assert sum(plain.values()) == 57_408 and sum(cores(plain).values()) == 37_440
    with_norms = trainable(shape(), hf.AutoModel, train_layernorms=True)
    assert sum(with_norms.values()) == 95_808
    assert len([n for n in plain if "core" in n]) == 24 * 10


def test_bert_base_counts_as_roberta_base():
    config = hf.BertConfig(**BASE, intermediate_size=3072, vocab_size=30522)
    assert sum(trainable(config, tt_classifier=True).values()) == 60_794
    assert sum(trainable(config).values()) == 649_538


def test_roberta_large():
    sizes = trainable(roberta_large())
    assert sum(cores(sizes).values()) == 80_640
    assert sum(adapters(sizes).values()) == 132_864


@pytest.mark.parametrize(
    ("config", "in_cores", "with_biases"),
    [
        (llama(4096, 32, 11008), 140_800, 407_040),
        (llama(5120, 40, 13824), 170_400, 585_120),
    ],
)
def test_llama_2(config, in_cores, with_biases):
    sizes = trainable(config, hf.AutoModelForCausalLM, task_type="CAUSAL_LM")
    assert sizes == adapters(sizes), "the language model's head stays as it is"
    assert sum(cores(sizes).values()) == in_cores
    assert sum(sizes.values()) == with_biases
    without = trainable(config, hf.AutoModelForCausalLM, use_bias=False)
    assert sum(without.values()) == in_cores


def rotation(sizes):
    """Parameters a round when each train trains its first core, its last and one between."""
    trains = {}
    for name, size in cores(sizes).items():
        train, index = re.fullmatch(r"(.*)core_(\d+)", name).groups()
        trains.setdefault(train, {})[int(index)] = size
    length = {len(train) for train in trains.values()}.pop()
    return [
        sum(t[0] + t[length - 1] + t[1 + middle] for t in trains.values())
        for middle in range(length - 2)
    ]


def test_fedtt_plus_per_round():
    base = rotation(trainable(roberta_base()))
    assert (min(base), max(base), sum(base) / len(base)) == (13_440, 18_240, 15_040)
    # Mirrored modes: a small middle core of `down` always meets a large one of `up`.
    assert set(rotation(trainable(llama(4096, 32, 11008), hf.AutoModelForCausalLM))) == {44_800}
