"""A training step of every decoder family: gradients reach all that trains, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import peft
import pytest
import torch

from answer_rows import answer_rows, padded, plain_loss
from fedtt_lightning.adapters import TTAdapter, TTAdapterConfig
from fedtt_lightning.modules import CausalLM
from tiny_models import DECODERS

TIED = {"gpt2", "opt", "gemma", "gemma2", "gemma3_text"}


def step(module: CausalLM) -> torch.Tensor:
    batch = padded(answer_rows(4))
    loss = module.training_step(batch, 0)
    loss.backward()
    return loss


@pytest.mark.parametrize("family", DECODERS)
def test_adapters_learn_and_the_head_is_left_alone(
    decoder: Callable[..., str], family: str
) -> None:
    config = TTAdapterConfig(rank=2, bottleneck=8, init="loretta")
    module = CausalLM(decoder(family), config, dtype="float32").eval()
    assert sum(isinstance(part, TTAdapter) for part in module.modules()) == 4
    loss = step(module)
    torch.testing.assert_close(loss, plain_loss(module.model, answer_rows(4)))
    for name, parameter in module.named_parameters():
        assert parameter.requires_grad == ("tt_adapter" in name), name
        assert (parameter.grad is not None) == parameter.requires_grad, name
        if "core" in name:
            assert parameter.grad.abs().max() > 0, name
    embeddings = module.model.get_input_embeddings().weight
    tied = module.model.get_output_embeddings().weight is embeddings
    assert tied == (family in TIED)
    assert module.model.peft_config["default"].task_type == "CAUSAL_LM"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_full_fine_tuning_of_tied_and_of_separate_embeddings(
    decoder: Callable[..., str], family: str
) -> None:
    module = CausalLM(decoder(family), dtype="bfloat16").eval()
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    step(module)
    assert all(p.grad is not None for p in module.parameters())


METHODS: dict[str, Any] = {
    "lora": lambda: peft.LoraConfig(r=2),
    "ia3": lambda: peft.IA3Config(),
    "prompt": lambda: peft.PromptTuningConfig(num_virtual_tokens=3),
    "p-tuning": lambda: peft.PromptEncoderConfig(num_virtual_tokens=3, encoder_hidden_size=8),
    "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=3),
    "norms": lambda: peft.LNTuningConfig(target_modules=["input_layernorm", "norm"]),
    "tt and norms": lambda: TTAdapterConfig(rank=2, bottleneck=8, train_layernorms=True),
    "dense": lambda: TTAdapterConfig(tensorized=False, bottleneck=8),
    "head": lambda: TTAdapterConfig(rank=2, bottleneck=8, modules_to_save=["lm_head"]),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("method", METHODS)
def test_any_method_trains_in_float32(decoder: Callable[..., str], method: str, dtype: Any) -> None:
    """Of a half-precision backbone too, whose other weights stay as they are."""
    torch.manual_seed(0)
    module = CausalLM(decoder("llama"), METHODS[method](), dtype=dtype)
    trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
    assert trained and {p.dtype for p in trained.values()} == {torch.float32}
    frozen = {p.dtype for p in module.parameters() if not p.requires_grad}
    assert frozen == {getattr(torch, dtype)}
    with torch.no_grad():
        for parameter in trained.values():
            parameter += 0.1 * torch.randn_like(parameter)
    loss = step(module)
    assert torch.isfinite(loss) and loss.dtype == torch.float32
    for name, parameter in trained.items():
        assert parameter.grad is not None, name
    exact = CausalLM(decoder("llama"), METHODS[method](), dtype="float32").double()
    exact.load_state_dict(module.state_dict())
    assert float(loss) == pytest.approx(float(step(exact.double())), rel=0.02)
