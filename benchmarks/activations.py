"""What a training step keeps for backward: FedTT and LoRA against the frozen encoder.

    python benchmarks/activations.py

Bytes of all tensors that autograd saves in one forward pass, parameters left out and shared storage
counted once, on a BERT-base shape with 8 sequences of 128 tokens. The floor is the frozen encoder
with gradients that flow to its first layer. Nothing here is timed, and nothing varies.
"""

from __future__ import annotations

from typing import Any

from encoders import BERT_BASE, TOKENS, fedtt, floor, inputs, lora
from timing import Row, main

BATCH = 8


def measure(repeats: int) -> list[Row]:
    sizes = {name: saved(build) for name, build in METHODS.items()}
    rows = []
    for name, bar in (("FedTT r=5", 1.03), ("PEFT LoRA r=8", None)):
        value = sizes[name] / sizes["floor"]
        detail = f"{sizes[name] / 2**20:.1f} / {sizes['floor'] / 2**20:.1f} MiB"
        what = f"activations saved, BERT-base shape, {BATCH}×{TOKENS}, {name}"
        rows.append(Row(what, "frozen floor", value, value, value, bar, detail=detail))
    return rows


def saved(build: Any) -> int:
    """Return the bytes that a forward pass saves."""
    import torch

    model = build(BERT_BASE)
    if build is not floor:
        model.enable_input_require_grads()  # as the floor has it: all layers take part in backward
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Any] = {}

    def pack(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # holds it, so that its address is not given again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**inputs(BATCH)).loss
    total = sum(storage.nbytes() for storage in kept.values())
    del loss
    return total


METHODS = {"floor": floor, "FedTT r=5": fedtt, "PEFT LoRA r=8": lora}

if __name__ == "__main__":
    main(__doc__, measure, repeats=1)
