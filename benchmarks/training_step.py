"""A whole training step of FedTT against frozen layers, PEFT's LoRA and weights built anew.

    python benchmarks/training_step.py

Forward, backward and AdamW step on 8 sequences of 128 tokens in float32. The floor is the frozen
encoder with gradients that flow through it to its first layer, and a head that trains. All methods
train that same head. LoRETTA's way builds each weight from its cores in every step. First it is
checked that it computes what the fused adapter does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from encoders import BERT_BASE, SMALL, TOKENS, fedtt, floor, inputs, lora, loretta
from timing import Row, main, ratio, take_turns

BATCH = 8


def measure(repeats: int) -> list[Row]:
    check()
    rows = []
    recompute = partial(fedtt, recompute_input=True)
    base = {"floor": floor, "fedtt": fedtt, "lora": lora, "recompute": recompute}
    times = take_turns({name: step(build(BERT_BASE)) for name, build in base.items()}, repeats)
    what = f"training step, BERT-base shape, {BATCH}×{TOKENS}, FedTT r=5"
    rows.append(ratio(times, "fedtt", "floor", what, "frozen floor", 1.05))
    rows.append(ratio(times, "fedtt", "lora", what, "PEFT LoRA r=8", 1.0))
    rows.append(ratio(times, "recompute", "fedtt", f"{what}, recompute_input", "without"))
    small = {**base, "loretta": loretta}
    times = take_turns({name: step(build(SMALL)) for name, build in small.items()}, 4 * repeats)
    what = f"training step, 4 layers × 256, {BATCH}×{TOKENS}, FedTT r=5"
    rows.append(ratio(times, "fedtt", "lora", what, "PEFT LoRA r=8", 0.95))
    rows.append(ratio(times, "fedtt", "loretta", what, "weights built from cores", 0.85))
    rows.append(ratio(times, "fedtt", "floor", what, "frozen floor"))
    other = what.replace("FedTT r=5", "PEFT LoRA r=8")
    rows.append(ratio(times, "lora", "floor", other, "frozen floor"))
    rows.append(ratio(times, "recompute", "fedtt", f"{what}, recompute_input", "without"))
    return rows


def step(model: Any) -> Callable[[], None]:
    import torch

    batch = inputs(BATCH)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-4, fused=True)

    def run() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    return run


def check() -> None:
    """Raise AssertionError unless fused and rebuilt adapters give the same loss and gradients."""
    import torch

    gradients = []
    for build in (fedtt, loretta):
        model = build(SMALL)
        loss = model(**inputs(2)).loss
        loss.backward()
        gradients.append([loss, *(p.grad for p in model.parameters() if p.requires_grad)])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main(__doc__, measure, repeats=8)
