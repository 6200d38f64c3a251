"""A training step through torch.compile: FedTT against itself uncompiled, and the frozen floor.

    python benchmarks/compiled_step.py

Forward, backward and AdamW step of an encoder of 4 layers × 256 on 8 sequences of 128 tokens in
float32. Inductor compiles the forward and backward pass, for which a CPU needs a C++ compiler; the
first steps, in which it does, are not counted. The floor is the frozen encoder with gradients that
flow to its first layer, past the first attention, where FedTT's end. First it is checked that
compiled and eager steps give the same gradients.
"""

from __future__ import annotations

from typing import Any

from encoders import SMALL, TOKENS, fedtt, floor, inputs
from timing import Row, main, ratio, take_turns
from training_step import BATCH, step


def measure(repeats: int) -> list[Row]:
    check()
    cases = {
        "eager": step(fedtt(SMALL)),
        "compiled": step(compiled(fedtt)),
        "eager floor": step(floor(SMALL)),
        "compiled floor": step(compiled(floor)),
    }
    times = take_turns(cases, repeats)
    what = f"training step, 4 layers × 256, {BATCH}×{TOKENS}, FedTT r=5, torch.compile"
    return [
        ratio(times, "compiled", "eager", what, "not compiled"),
        ratio(times, "compiled", "compiled floor", what, "frozen floor, torch.compile"),
        ratio(times, "compiled", "eager floor", what, "frozen floor, not compiled"),
    ]


def compiled(build: Any) -> Any:
    import torch

    return torch.compile(build(SMALL))


def check() -> None:
    """Raise AssertionError unless compiled code gives the loss and gradients of eager code."""
    import torch

    found = []
    for model in (fedtt(SMALL), compiled(fedtt)):
        loss = model(**inputs(BATCH)).loss
        loss.backward()
        found.append([loss, *(p.grad for p in model.parameters() if p.requires_grad)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


if __name__ == "__main__":
    main(__doc__, measure, repeats=20)
