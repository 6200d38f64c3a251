"""A whole private training step against the same step without privacy.

    python benchmarks/private_step.py

An encoder of 4 layers × 256 with random weights, TT adapters of rank 5 and its classifier, AdamW:
zero gradients, forward, backward, optimizer step, without privacy and as LocalDP takes it (each
example's gradient, clipping, noise). For comparison PEFT's LoRA r = 8, whose examples' gradients
opacus computes. First it is checked that without noise and with a huge clip the private step moves
the parameters as the other does.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from encoders import SMALL, TOKENS, encoder, inputs
from timing import Row, main, ratio, take_turns

BATCHES = (32, 8)


class Step:
    """A model with its optimizer, stepped with or without privacy."""

    def __init__(self, peft: Any, batch: int, private: bool, noise: float, clip: float) -> None:
        import torch
        from peft import get_peft_model

        from fedtt_lightning.privacy.optimizer import PrivateOptimizer
        from fedtt_lightning.privacy.per_example import PerExampleGradients

        self.model = get_peft_model(encoder(SMALL), peft).train()
        self.batch, self.private = batch, private
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer: Any = torch.optim.AdamW(self.trained, lr=1e-3)
        if private:
            PerExampleGradients(self.model)
            self.optimizer = PrivateOptimizer(self.optimizer)
            self.optimizer.begin_visit(self.trained, noise, clip, float(batch))
        self.inputs = inputs(batch)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.model(**self.inputs).loss.backward()
        if self.private:
            self.optimizer.arm(seed=1, examples=self.batch, empty=False)
        self.optimizer.step()


def check(peft: Callable[[], Any]) -> None:
    """Raise AssertionError unless a step without noise and bound is an ordinary one."""
    import torch

    plain = Step(peft(), 4, False, 0.0, 1e6)
    private = Step(peft(), 4, True, 0.0, 1e6)
    for _ in range(2):
        plain()
        private()
    for a, b in zip(plain.trained, private.trained, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def measure(repeats: int) -> list[Row]:
    from peft import LoraConfig

    from fedtt_lightning.adapters import TTAdapterConfig

    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated")
    methods: dict[str, Callable[[], Any]] = {
        "FedTT r=5": lambda: TTAdapterConfig(rank=5),
        "LoRA r=8 (opacus)": lambda: LoraConfig(r=8, task_type="SEQ_CLS"),
    }
    rows = []
    for name, peft in methods.items():
        check(peft)
        for batch in BATCHES:
            steps = {
                "plain": Step(peft(), batch, False, 1.0, 1.0),
                "private": Step(peft(), batch, True, 1.0, 1.0),
            }
            what = f"private training step, 4 layers × 256, {name}"
            against = f"without privacy, {batch}×{TOKENS} tokens"
            bar = 1.1 if name.startswith("FedTT") else None
            times = take_turns(steps, repeats)
            rows.append(ratio(times, "private", "plain", what, against, bar))
    return rows


if __name__ == "__main__":
    main(__doc__, measure, repeats=15)
