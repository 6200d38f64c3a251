"""One TT adapter with the gradient of each example, against the same one without.

    python benchmarks/private_adapter.py

Forward and backward of an adapter of d = 768, bottleneck 64, rank 5, on 32 sequences of 128 tokens:
as in training without privacy; with each example's gradients in closed form, as LocalDP takes them;
the same with clipping, noise and the sum over examples; and by opacus's general path, which runs
torch.func over the module. First it is checked, here and in float64, that the examples' gradients
are those of backward passes one by one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

from timing import Row, main, ratio, take_turns

FEATURES, BATCH, TOKENS, RANK = 768, 32, 128, 5


def check() -> None:
    """Raise AssertionError unless closed-form gradients are those of each example alone."""
    import torch

    from fedtt_lightning.privacy.per_example import PerExampleGradients

    module = _adapter().double()
    x = torch.randn(4, 16, FEATURES, dtype=torch.float64)
    hooks = PerExampleGradients(module)
    module(x).square().sum().backward()
    sampled = [p.grad_sample for p in module.parameters()]
    hooks.detach()
    for i in range(len(x)):
        module.zero_grad()
        module(x[i : i + 1]).square().sum().backward()
        for sample, parameter in zip(sampled, module.parameters(), strict=True):
            torch.testing.assert_close(sample[i], parameter.grad)


def measure(repeats: int) -> list[Row]:
    import torch
    from opacus.grad_sample import GradSampleHooks

    from fedtt_lightning.privacy.optimizer import PrivateOptimizer
    from fedtt_lightning.privacy.per_example import PerExampleGradients

    warnings.filterwarnings("ignore", message="Full backward hook is firing")
    torch.manual_seed(0)
    check()
    x = torch.randn(BATCH, TOKENS, FEATURES)
    gradient = torch.randn(BATCH, TOKENS, FEATURES) / 1e3

    def one_pass(module: torch.nn.Module) -> Callable[[], None]:
        inputs = x.clone().requires_grad_()

        def run() -> None:
            inputs.grad = None
            for parameter in module.parameters():
                parameter.grad = parameter.grad_sample = None
            module(inputs).backward(gradient)

        return run

    plain, closed, general = _adapter(), _adapter(), _adapter()
    PerExampleGradients(closed)
    GradSampleHooks(general, loss_reduction="sum", force_functorch=True)
    parameters = list(closed.parameters())
    optimizer = PrivateOptimizer(torch.optim.AdamW(parameters))
    optimizer.begin_visit(parameters, noise_multiplier=1.0, clip=1.0, expected_batch_size=BATCH)
    private = one_pass(closed)

    def with_noise() -> None:
        private()
        optimizer.arm(seed=1, examples=BATCH, empty=False)
        optimizer.pre_step()

    times = take_turns(
        {
            "plain": one_pass(plain),
            "private": private,
            "noise": with_noise,
            "general": one_pass(general),
        },
        repeats,
    )
    against = f"without privacy, {BATCH}×{TOKENS} tokens, d = {FEATURES}"
    return [
        ratio(times, "private", "plain", "TT adapter, each example's gradients", against, 1.2),
        ratio(times, "noise", "plain", "… clipped, noised and summed", against),
        ratio(times, "general", "plain", "… by opacus's general path", against),
    ]


def _adapter():  # type: ignore[no-untyped-def]
    import torch

    from fedtt_lightning.adapters import TTAdapter
    from fedtt_lightning.tensor_train import TTShape

    torch.manual_seed(0)
    shapes = TTShape.choose(FEATURES, 64), TTShape.choose(64, FEATURES)
    return TTAdapter(*shapes, RANK, activation="gelu", init="loretta").train()


if __name__ == "__main__":
    main(__doc__, measure, repeats=30)
