"""The largest values of an update, and where they belong."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation.adapter_state import AdapterSchema
from fedtt_lightning.federation.codecs.codec import UploadCodec
from fedtt_lightning.federation.codecs.quantized import saturated
from fedtt_lightning.federation.wire import Layout


class TopK(UploadCodec):
    """Sends the values of largest magnitude of the whole update, in half precision; 0 for others.

    Aji and Heafield, arXiv 1704.05021. Positions are written in Elias-Fano code (Elias, J. ACM
    1974): of k in n values each takes about 2 + log2(n / k) bits, whatever they are, half a bit
    more than the least possible. Without error feedback small values may never be sent.

    Args:
        fraction: share of the values that is sent, at least one of them.
        error_feedback: whether clients keep what was left out for later, see `UploadCodec`.
    """

    def __init__(self, fraction: float = 0.1, error_feedback: bool = True) -> None:
        super().__init__(error_feedback)
        self.fraction = fraction

    def check(self) -> None:
        if not 0 < self.fraction <= 1:
            raise ConfigError(
                f"federation.upload.fraction is {self.fraction}, but must lie in (0, 1]"
            )

    def layout(self, schema: AdapterSchema) -> Layout:
        kept, low, high = self._sizes(schema)
        return {
            "values": (torch.float16, kept),
            "positions": (torch.uint8, -(-(high + kept * low) // 8)),
        }

    def pack(self, values: Tensor, schema: AdapterSchema, key: int) -> dict[str, Tensor]:
        kept, low, high = self._sizes(schema)
        # NaN counts as the largest, so that it is sent.
        places = torch.topk(values.abs(), kept, sorted=False).indices.sort().values
        positions = places.numpy()
        # The upper bits in unary: the i-th one stands at its value plus i. The lower as they are.
        ones = np.zeros(high, dtype=np.uint8)
        ones[(positions >> low) + np.arange(kept)] = 1
        lower = ((positions[:, None] >> np.arange(low)) & 1).astype(np.uint8)
        bits = np.packbits(np.concatenate([ones, lower.reshape(-1)]))
        return {
            "values": saturated(values[places], torch.float16),
            "positions": torch.from_numpy(bits),
        }

    def unpack(self, buffers: dict[str, Tensor], schema: AdapterSchema) -> Tensor:
        """Return the values with zeros in between.

        Raises:
            FederationError: the positions are none of this schema's.
        """
        kept, low, high = self._sizes(schema)
        bits = np.unpackbits(buffers["positions"].numpy(), count=high + kept * low).astype(np.int64)
        ones = np.flatnonzero(bits[:high])
        if len(ones) == kept:
            lower = bits[high:].reshape(kept, low) @ (1 << np.arange(low))
            places = ((ones - np.arange(kept)) << low) + lower
        if len(ones) != kept or (np.diff(places, append=schema.numel) < 1).any():
            raise FederationError(
                f"the payload does not hold the positions of {kept} of {schema.numel} values"
            )
        values = torch.zeros(schema.numel, dtype=torch.float64)
        values[torch.from_numpy(places)] = buffers["values"].double()
        return values

    def _sizes(self, schema: AdapterSchema) -> tuple[int, int, int]:
        """Return how many values are sent, the lower bits of a position, and all upper bits."""
        if not schema.numel:
            return 0, 0, 0
        kept = max(1, round(self.fraction * schema.numel))
        low = (schema.numel // kept).bit_length() - 1
        return kept, low, kept + ((schema.numel - 1) >> low) + 1
