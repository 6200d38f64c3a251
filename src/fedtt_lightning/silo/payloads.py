"""Adapters and updates inside messages: what changed, of which names, and whether it fits."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Collection, Sequence
from hashlib import blake2b

import numpy as np
import torch

from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterSchema, AdapterState, UploadCodec


def pack_names(names: Collection[str], among: Sequence[str]) -> str:
    """Return which of the names `among` are in `names`, a bit each, as text."""
    bits = np.packbits(np.array([name in names for name in among], dtype=bool))
    return urlsafe_b64encode(bits.tobytes()).decode()


def unpack_names(text: str, among: Sequence[str]) -> frozenset[str]:
    """Read what `pack_names` wrote.

    Raises:
        FederationError: it is not about as many names.
    """
    try:
        bits = np.frombuffer(urlsafe_b64decode(text.encode()), np.uint8)
    except ValueError:
        bits = np.empty(0, np.uint8)
    flags = np.unpackbits(bits)[: len(among)]
    names = frozenset(name for name, flag in zip(among, flags, strict=False) if flag)
    if pack_names(names, among) != text:
        raise FederationError(f"the message is not about the {len(among)} tensors of the adapter")
    return names


def schema_hash(schema: AdapterSchema) -> str:
    """Return 128 bits of a schema's hash, in hexadecimal."""
    return schema.digest[:32]


def adapter_hash(adapter: AdapterState) -> str:
    """Return a hash of an adapter's values, in hexadecimal; give it those that travel."""
    digest = blake2b(adapter.schema.digest.encode(), digest_size=16)
    for buffer in adapter.buffers.values():
        digest.update(buffer.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_values(adapter: AdapterState, names: Collection[str]) -> bytes:
    """Serialize the values of some names of an adapter; no bytes for none."""
    schema = adapter.schema.select(names)
    return adapter.select(schema).to_bytes() if schema.specs else b""


def read_values(payload: bytes, schema: AdapterSchema, names: Collection[str]) -> AdapterState:
    """Read what `write_values` wrote, of an adapter of this schema.

    Raises:
        FederationError: the payload is no safetensors, or of other tensors.
    """
    schema = schema.select(names)
    if schema.specs:
        return AdapterState.from_bytes(payload, schema)
    if payload:
        raise FederationError(f"the payload has {len(payload)} bytes, but no names")
    return AdapterState(schema, {})


def read_update(
    payload: bytes,
    start: AdapterState,
    travels: AdapterSchema,
    sent: AdapterSchema,
    codec: UploadCodec | None,
) -> AdapterState:
    """Return the update in a silo's payload, float64 buffers on the device of `start`.

    Args:
        payload: a codec's message; without one the weights after the visit, in the model's dtype,
            so that the update is bit for bit the one that was trained.
        start: what the silo began from.
        travels: the schema of what travels in the round, at full rank.
        sent: the same in the shapes in which it travels.

    Raises:
        FederationError: the payload is not of this schema, round and codec.
    """
    if codec is None:
        read = AdapterState.from_bytes(payload, sent)
    else:
        read = codec.decode(codec.read(payload, sent))
    devices = {dtype: start.buffers[dtype].device for dtype in read.buffers}
    read = AdapterState(sent, {d: b.to(devices[d]) for d, b in read.buffers.items()})
    if codec is None:
        read = read.minus(start.select(travels).cut(sent))
    return read.padded(travels)
