"""Counts and bytes against the published figures and against independent arithmetic."""

import pytest
import torch
from safetensors.torch import load

from fedtt_lightning.account.families import FAMILIES, is_decoder
from fedtt_lightning.account.methods import Method, message_size, methods, part_of
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import AdapterState

# Trained by FedTT at rank 5, bottleneck 64: factors, biases, LayerNorms, tensorized head.
PUBLISHED = {
    "bert-base": (37_440, 19_968, 38_400, 3_386),
    "roberta-base": (37_440, 19_968, 38_400, 3_386),
    "deberta-base": (37_440, 19_968, 38_400, 3_386),
    "roberta-large": (80_640, 52_224, None, None),
    "llama-2-7b": (140_800, 266_240, None, 0),
    "llama-2-13b": (170_400, 414_720, None, 0),
}
LORA_8 = {
    "bert-base": 294_912,
    "roberta-base": 294_912,
    "deberta-base": 294_912,
    "roberta-large": 786_432,
    "llama-2-7b": 4_194_304,
    "llama-2-13b": 6_553_600,
}


@pytest.fixture(scope="module", params=list(FAMILIES))
def counted(request: pytest.FixtureRequest) -> tuple[str, dict[str, Method]]:
    return request.param, {m.name: m for m in methods(request.param, rank=5, bottleneck=64)}


def test_fedtt_trains_what_is_published(counted: tuple[str, dict[str, Method]]) -> None:
    family, found = counted
    factors, biases, norms, head = PUBLISHED[family]
    parts = found["FedTT"].parameters()
    assert (parts["factors"], parts["biases"], parts["norms"]) == (factors, biases, 0)
    assert head in (None, parts["head"])
    with_norms = found["FedTT, norms too"].parameters()
    assert norms in (None, with_norms["norms"])
    assert {**with_norms, "norms": 0} == parts


def test_lora_trains_what_is_published(counted: tuple[str, dict[str, Method]]) -> None:
    family, found = counted
    assert found["LoRA r=8"].parameters()["factors"] == LORA_8[family]
    assert found["LoRA r=4"].parameters()["factors"] == LORA_8[family] // 2
    # B is (out x r); DeBERTa's query, key and value are one linear of three times its input.
    share = 3 / 4 if family == "deberta-base" else 1 / 2
    assert found["FFA-LoRA r=8"].parameters()["factors"] == LORA_8[family] * share
    assert found["RoLoRA r=8"].parameters()["factors"] == LORA_8[family]


def test_dense_adapters_are_two_linears_in_each_place(
    counted: tuple[str, dict[str, Method]],
) -> None:
    family, found = counted
    config = FAMILIES[family]
    width, places = config["hidden_size"], 2 * config["num_hidden_layers"]
    parts = found["dense adapter 64"].parameters()
    assert parts["factors"] == places * 2 * width * 64
    assert parts["biases"] == places * (width + 64)


def test_rolora_alternates_and_ffa_sends_b(counted: tuple[str, dict[str, Method]]) -> None:
    _, found = counted
    b, a = found["RoLoRA r=8"].rounds
    assert all("lora_B" not in name for name in a)
    assert all("lora_A" not in name for name in b)
    assert a | b == set(found["LoRA r=8"].tensors)
    assert found["FFA-LoRA r=8"].rounds == (b,)


def test_head_trains_in_encoders_only(counted: tuple[str, dict[str, Method]]) -> None:
    family, found = counted
    for method in found.values():
        assert (method.parameters()["head"] == 0) == is_decoder(family), method.name


@pytest.mark.parametrize(
    ("family", "least", "most", "mean"),
    [("roberta-base", 13_440, 18_240, 15_040), ("llama-2-7b", 44_800, 44_800, 44_800)],
)
def test_fedtt_plus_sends_what_is_published(family: str, least: int, most: int, mean: int) -> None:
    found = {m.name: m for m in methods(family, rank=5, bottleneck=64)}
    method = found["FedTT+, factors only"]
    sent = [
        sum(
            tensor.numel()
            for name, tensor in method.tensors.items()
            if name in names and part_of(name) == "factors"
        )
        for names in method.rounds
    ]
    assert (min(sent), max(sent), sum(sent) / len(sent)) == (least, most, mean)
    assert all(part_of(name) != "biases" for names in method.rounds for name in names)


@pytest.mark.parametrize(("family", "ratio"), [("llama-2-7b", 10.30), ("llama-2-13b", 11.2)])
def test_lora_sends_ten_times_as_much_on_llama(family: str, ratio: float) -> None:
    found = {m.name: m for m in methods(family, rank=5, bottleneck=64)}
    (fedtt,) = found["FedTT"].message_sizes(torch.float32, head=False)
    (lora,) = found["LoRA r=8"].message_sizes(torch.float32, head=False)
    assert lora / fedtt == pytest.approx(ratio, abs=0.05)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_message_size_is_that_of_a_real_message(dtype: torch.dtype) -> None:
    tensors = {"model.x.lora_A.w": torch.randn(3, 5), "model.classifier.bias": torch.randn(2)}
    real = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    message = AdapterState.capture(real).to_bytes()
    assert message_size(tensors, dtype) == len(message)
    assert sum(t.numel() for t in load(message).values()) == 17
    without = message_size(tensors, dtype, head=False)
    assert 0 < len(message) - without <= 2 * dtype.itemsize + 8  # the header is padded to 8


def test_rank_that_does_not_fit_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="rank"):
        list(methods("bert-base", rank=500, bottleneck=64))
