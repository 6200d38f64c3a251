"""Updates in 16 bits a value, or in 8."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema
from fedtt_lightning.federation.codecs.codec import UploadCodec
from fedtt_lightning.federation.wire import Layout

_LEVELS = 127  # of int8 on either side of 0


class Float16(UploadCodec):
    """Sends each value of the update in IEEE half precision: 2 bytes, rounded to nearest.

    The relative error is at most 2^-11 down to 6e-5, and the absolute error 3e-8 below. Values
    beyond ±65504 are sent as that.

    Args:
        error_feedback: whether clients keep what was left out for later, see `UploadCodec`.
    """

    dtype = torch.float16

    def layout(self, schema: AdapterSchema) -> Layout:
        return {"values": (self.dtype, schema.numel)}

    def pack(self, values: Tensor, schema: AdapterSchema, key: int) -> dict[str, Tensor]:
        return {"values": saturated(values, self.dtype)}

    def unpack(self, buffers: dict[str, Tensor], schema: AdapterSchema) -> Tensor:
        return buffers["values"].double()


class BFloat16(Float16):
    """Sends each value of the update in bfloat16: 2 bytes, rounded to nearest.

    The relative error is at most 2^-8, over all of float32's range.

    Args:
        error_feedback: whether clients keep what was left out for later, see `UploadCodec`.
    """

    dtype = torch.bfloat16


class Int8(UploadCodec):
    """Sends each value of the update in a byte, as one of 255 steps of its tensor's scale.

    The scale, 4 bytes a tensor, is the largest magnitude divided by 127. A value between two steps
    becomes either, with the chances that make its expectation the value itself: stochastic
    rounding, unbiased (as in QSGD, arXiv 1610.02132, with the largest magnitude in place of the
    norm). The error is below one step.

    Args:
        error_feedback: whether clients keep what was left out for later, see `UploadCodec`.

    Examples:
        >>> from fedtt_lightning.federation import AdapterState
        >>> update = AdapterState.capture({"core": torch.linspace(-1, 1, 1000)})
        >>> codec = Int8()
        >>> codec.message_nbytes(update.schema), len(update.to_bytes())
        (1228, 4168)
        >>> read = codec.decode(codec.encode(update, key=0)).tensors()["core"]
        >>> bool((read - update.tensors()["core"]).abs().max() < 1 / 127)
        True
    """

    def layout(self, schema: AdapterSchema) -> Layout:
        return {
            "levels": (torch.int8, schema.numel),
            "scales": (torch.float32, len(schema.specs)),
        }

    def pack(self, values: Tensor, schema: AdapterSchema, key: int) -> dict[str, Tensor]:
        zero = values.new_zeros(1)  # of tensors without a value
        parts = values.abs().split(_lengths(schema))
        largest = torch.stack([torch.cat([part, zero]).max() for part in parts])
        scales = saturated(largest / _LEVELS, torch.float32)
        low = scales.double() * _LEVELS < largest  # rounded down: no value may stick out
        limit = scales.new_tensor(torch.finfo(torch.float32).max)
        scales = torch.where(low, torch.nextafter(scales, limit), scales)
        step = _spread(scales, schema)
        uniform = torch.from_numpy(np.random.default_rng(key).random(len(values)))
        levels = torch.floor(values / torch.where(step > 0, step, 1.0) + uniform)
        # NaN and Inf are in the scale.
        levels = torch.nan_to_num(levels, 0.0).clamp(-_LEVELS, _LEVELS)
        return {"levels": levels.to(torch.int8), "scales": scales}

    def unpack(self, buffers: dict[str, Tensor], schema: AdapterSchema) -> Tensor:
        return buffers["levels"].double() * _spread(buffers["scales"], schema)


def saturated(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Return values in a smaller dtype; what is finite stays finite, and what is not does not."""
    largest = torch.finfo(dtype).max
    return torch.where(values.isinf(), values, values.clamp(-largest, largest)).to(dtype)


def _spread(scales: Tensor, schema: AdapterSchema) -> Tensor:
    """Return each value's scale, float64, from those of the tensors."""
    return torch.repeat_interleave(scales.double(), torch.tensor(_lengths(schema)))


def _lengths(schema: AdapterSchema) -> list[int]:
    """Return the number of values of each tensor, ordered as in a flat update."""
    return [spec.numel for specs in schema.by_dtype.values() for spec in specs]
