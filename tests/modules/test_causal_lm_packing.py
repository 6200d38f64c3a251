"""Several examples in a row: the same loss and gradients as one a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from answer_rows import answer_rows, packed, padded, plain_loss
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules import CausalLM
from fedtt_lightning.modules.decoder_inputs import packed_mask


def build(backbone: str, **options: Any) -> CausalLM:
    torch.manual_seed(0)
    config = TTAdapterConfig(rank=2, bottleneck=8, init="loretta")
    module = CausalLM(backbone, config, dtype="float32", **options).double()
    return module.eval()  # without dropout, whose draws depend on the layout


def gradients(module: CausalLM, loss: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def loss_of(module: CausalLM, batch: dict[str, Tensor]) -> Tensor:
    return module.likelihood(batch).mean().mean()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "opt", "qwen2"])
def test_same_loss_and_gradients(decoder: Callable[..., str], family: str, attention: str) -> None:
    """Eager attention of most families computes its softmax in float32, whatever the rest is."""
    module = build(decoder(family), attn_implementation=attention)
    rows = answer_rows(7, seed=1)
    batch = packed(rows, 22)
    assert len(batch["input_ids"]) < len(rows)
    bound = 1e-10 if attention == "sdpa" or family == "gpt2" else 1e-6
    reference = plain_loss(module.model, rows)
    expected = gradients(module, reference)
    assert len(expected) > 10
    for layout in (padded(rows), padded(rows, extra=4), batch):
        loss = loss_of(module, layout)
        torch.testing.assert_close(loss, reference, rtol=bound, atol=bound)
        torch.testing.assert_close(gradients(module, loss), expected, rtol=bound, atol=bound)


def test_a_row_of_padding_alone_and_examples_that_fill_their_row(
    decoder: Callable[..., str],
) -> None:
    module = build(decoder("llama"))
    rows = answer_rows(3, seed=5)
    batch = packed(rows, sum(len(ids) for ids, _ in rows))
    batch = {name: torch.cat([value, torch.zeros_like(value)]) for name, value in batch.items()}
    batch["labels"][1] = -100
    expected = plain_loss(module.model, rows)
    loss = loss_of(module, batch)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=0)
    assert all(torch.isfinite(grad).all() for grad in gradients(module, loss).values())


def test_the_mask_is_block_diagonal_and_causal() -> None:
    segments = torch.tensor([[1, 1, 2, 2, 2, 0]])
    seen = packed_mask(segments, torch.float32, additive=False)
    assert seen.shape == (1, 1, 6, 6)
    expected = [[segments[0, i] == segments[0, j] and j <= i for j in range(6)] for i in range(6)]
    assert seen[0, 0].tolist() == expected
    additive = packed_mask(segments, torch.bfloat16, additive=True)
    least = torch.finfo(torch.bfloat16).min
    assert torch.equal(additive == 0, seen) and bool((additive[~seen] == least).all())
    assert additive.dtype == torch.bfloat16


def test_checkpointing_and_half_precision_take_packed_rows(decoder: Callable[..., str]) -> None:
    rows = answer_rows(6)
    exact = plain_loss(build(decoder("llama")).model, rows)
    recomputed = build(decoder("llama"), gradient_checkpointing=True)
    torch.testing.assert_close(loss_of(recomputed, packed(rows, 24)), exact)
    for attention in ("sdpa", "eager"):
        half = CausalLM(decoder("llama"), TTAdapterConfig(), attn_implementation=attention)
        expected = loss_of(half, padded(rows)).item()
        assert loss_of(half, packed(rows, 24)).item() == pytest.approx(expected, rel=0.01)


def test_what_cannot_be_packed_is_one_line(decoder: Callable[..., str]) -> None:
    from peft import PromptTuningConfig

    batch = packed(answer_rows(4), 24)
    narrow = build(decoder("mistral", sliding_window=16))
    prompts = CausalLM(decoder("llama"), PromptTuningConfig(num_virtual_tokens=2))
    other = build(decoder("llama"))
    other.model.config._attn_implementation = "flex_attention"
    for module, named in (
        (narrow, "sliding window of 16"),
        (prompts, "model.peft"),
        (other, "attn_implementation"),
    ):
        with pytest.raises(ConfigError, match=named) as caught:
            loss_of(module, batch)
        assert "data.packing" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"ClientEvaluation.*data\.packing"):
        build(decoder("llama")).score(batch)
