"""Bytes of an upload on disk and on the wire against those of its parameters alone.

    python benchmarks/upload.py

The message of FedTT r = 5 on RoBERTa-base's shapes, float32, as clients send it (one safetensors
buffer with a hash of the schema), and the same tensors as other formats write them. Nothing is
timed, and nothing varies.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

from encoders import BERT_BASE, fedtt
from timing import Row, main


def measure(repeats: int) -> list[Row]:
    import numpy as np
    import safetensors.torch
    import torch

    from fedtt_lightning.federation import AdapterState

    parameters = fedtt(BERT_BASE).named_parameters()
    tensors = {name: p.detach() for name, p in parameters if p.requires_grad and "tt_" in name}
    raw = sum(4 * tensor.numel() for tensor in tensors.values())
    state = AdapterState.capture(tensors)
    message = state.to_bytes()
    back = AdapterState.from_bytes(message, state.schema)
    assert all(torch.equal(value, tensors[name]) for name, value in back.tensors().items())

    def written(write: Any) -> bytes:
        buffer = io.BytesIO()
        write(buffer)
        return buffer.getvalue()

    arrays = [tensor.numpy() for tensor in tensors.values()]
    sizes = {
        "our message": message,
        "safetensors, tensor by tensor": safetensors.torch.save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}
        ),
        ".npy of each array, as Flower sends": b"".join(
            written(lambda buffer, array=array: np.save(buffer, array)) for array in arrays
        ),
        "torch.save": written(lambda buffer: torch.save(tensors, buffer)),
        "pickle": pickle.dumps(tensors),
    }
    rows = []
    for name, data in sizes.items():
        value = len(data) / raw
        bar = 1.01 if name == "our message" else None
        detail = f"{len(data):,} / {raw:,} bytes"
        what = f"upload of FedTT r=5, BERT-base: {name}"
        rows.append(Row(what, "raw parameters", value, value, value, bar, detail=detail))
    return rows


if __name__ == "__main__":
    main(__doc__, measure, repeats=1)
