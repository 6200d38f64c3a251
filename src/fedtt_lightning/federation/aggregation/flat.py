"""An update as one vector and back, for what treats all of its values alike."""

from __future__ import annotations

import torch
from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState


def flatten(update: AdapterState) -> Tensor:
    """Return all values of an update as one vector, float64, dtype by dtype as in its schema."""
    return torch.cat([update.buffers[dtype].double() for dtype in update.schema.by_dtype])


def unflatten(values: Tensor, schema: AdapterSchema) -> AdapterState:
    """Return what `flatten` made a vector of, float64 buffers."""
    groups = schema.by_dtype
    parts = values.split([sum(spec.numel for spec in specs) for specs in groups.values()])
    return AdapterState(schema, dict(zip(groups, parts, strict=True)))
