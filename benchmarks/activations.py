"""What a training step keeps for backward: FedTT and LoRA against the frozen encoder.

    python benchmarks/activations.py

Bytes of all tensors that the nodes of the autograd graph hold after one forward pass, parameters
left out and shared storage counted once, on a BERT-base shape with 8 sequences of 128 tokens. The
floor is the frozen encoder with gradients that flow to its first layer. Nothing here is timed, and
nothing varies. First it is checked, on the floor and LoRA, that autograd's hooks on saved tensors
count the same; FedTT's recomputation is off while such hooks are set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import isclose
from typing import Any

from encoders import BERT_BASE, TOKENS, fedtt, floor, inputs, lora
from timing import Row, main

BATCH = 8


def measure(repeats: int) -> list[Row]:
    sizes = {name: held(build, BERT_BASE) for name, build in METHODS.items()}
    for name in ("floor", "PEFT LoRA r=8"):
        assert isclose(held(METHODS[name], BERT_BASE, True), sizes[name], rel_tol=1e-4), name
    rows = []
    for name, bar in BARS.items():
        value = sizes[name] / sizes["floor"]
        detail = f"{sizes[name] / 2**20:.1f} / {sizes['floor'] / 2**20:.1f} MiB"
        what = f"activations saved, BERT-base shape, {BATCH}×{TOKENS}, {name}"
        rows.append(Row(what, "frozen floor", value, value, value, bar, detail=detail))
    return rows


def held(build: Callable[..., Any], size: dict[str, int], by_hooks: bool = False) -> int:
    """Return the bytes that one forward pass leaves in the graph of its loss."""
    import torch

    model = build(size)
    if build is not floor:
        model.enable_input_require_grads()  # as the floor has it: all layers take part in backward
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: list[torch.Tensor] = []
    if by_hooks:
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: (kept.append(t), t)[1], lambda t: t
        ):
            loss = model(**inputs(BATCH)).loss
    else:
        loss = model(**inputs(BATCH)).loss
        kept = in_graph(loss.grad_fn)
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(nbytes for pointer, nbytes in storages.items() if pointer not in weights)


def in_graph(root: Any) -> list[Any]:
    """Return all tensors that the nodes below a loss hold."""
    import torch

    nodes, seen, found = [root], set(), []
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        found += list(getattr(node, "saved_tensors", ()))  # of functions written in Python
        for name in dir(node):
            if name.startswith("_saved_"):
                value = getattr(node, name)
                found += value if isinstance(value, tuple) else [value]
    return [value for value in found if isinstance(value, torch.Tensor)]


METHODS = {
    "floor": floor,
    "FedTT r=5": fedtt,
    "FedTT r=5, recompute_input": partial(fedtt, recompute_input=True),
    "PEFT LoRA r=8": lora,
}
BARS = {"FedTT r=5": 1.03, "FedTT r=5, recompute_input": 1.03, "PEFT LoRA r=8": None}

if __name__ == "__main__":
    main(__doc__, measure, repeats=1)
