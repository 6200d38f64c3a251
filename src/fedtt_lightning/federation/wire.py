"""Messages as safetensors: flat buffers by name, with the hash of what they are in the header."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from fedtt_lightning.errors import FederationError

Layout = Mapping[str, tuple[torch.dtype, int]]
"""Dtype and length of each flat buffer of a message, by name."""


def write_message(buffers: Mapping[str, Tensor], digest: str) -> bytes:
    """Serialize flat buffers, with the hash of their schema."""
    return save({name: buffer.cpu() for name, buffer in buffers.items()}, {"schema": digest})


def message_length(layout: Layout, digest: str) -> int:
    """Return the bytes of `write_message`, header and all, without any values at hand."""
    empty = {name: torch.empty(0, dtype=dtype) for name, (dtype, _) in layout.items()}
    header, end = _header(write_message(empty, digest)), 0
    for name in [name for name in header if name != "__metadata__"]:  # as they are laid out
        dtype, length = layout[name]
        start, end = end, end + length * dtype.itemsize
        header[name] |= {"shape": [length], "data_offsets": [start, end]}
    text = len(json.dumps(header, separators=(",", ":")))
    return 8 + -(-text // 8) * 8 + end


def read_message(data: bytes, layout: Layout, digest: str) -> dict[str, Tensor]:
    """Read what `write_message` wrote, checked against what this side expects.

    Raises:
        FederationError: the bytes are no safetensors, or belong to another schema.
    """
    metadata = _header(data).get("__metadata__")
    found = metadata.get("schema") if isinstance(metadata, dict) else None
    if found != digest:
        raise FederationError(
            f"the payload's schema {str(found)[:12]!a} is not the expected {digest[:12]!r}: both "
            "sides need the same model, method, codec and round"
        )
    try:
        buffers = load(data)
    except (SafetensorError, KeyError) as error:  # the latter for dtypes that torch has not got
        raise FederationError(f"the payload is no valid safetensors: {error}") from None
    for name, (dtype, length) in layout.items():
        buffer = buffers.get(name)
        if buffer is None or buffer.dtype != dtype or buffer.shape != (length,):
            raise FederationError(
                f"the payload has no buffer {name} of {length} {str(dtype)[6:]} values"
            )
    return {name: buffers[name] for name in layout}


def _header(data: bytes) -> dict[str, Any]:
    """Read a safetensors header, of which the library's `load` leaves the metadata out."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size]) if 2 <= size <= len(data) - 8 else None
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise FederationError("the payload is no safetensors: its header cannot be read")
    return header
