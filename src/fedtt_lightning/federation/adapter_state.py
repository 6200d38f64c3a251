"""What travels between clients and server: the trainable tensors as flat buffers with a schema."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from math import prod

import torch
from torch import Tensor

from fedtt_lightning.federation.wire import message_length, read_message, write_message


@dataclass(frozen=True)
class TensorSpec:
    """What is known of one tensor besides its values.

    Attributes:
        name: of the parameter in its model.
        shape: its sizes.
        dtype: without the `torch.` prefix.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @cached_property
    def numel(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True)
class AdapterSchema:
    """The order, shapes and dtypes of an adapter's tensors, identified by a hash.

    Attributes:
        specs: one for each tensor.
    """

    specs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> AdapterSchema:
        """Describe named tensors in their given order."""
        return cls(
            tuple(
                TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
                for name, tensor in tensors.items()
            )
        )

    @classmethod
    def from_rows(cls, rows: Iterable[tuple[str, Sequence[int], str]]) -> AdapterSchema:
        """Read what `rows` gave."""
        return cls(tuple(TensorSpec(name, tuple(shape), dtype) for name, shape, dtype in rows))

    def rows(self) -> list[tuple[str, list[int], str]]:
        """Return name, shape and dtype of each tensor as plain values, for a checkpoint."""
        return [(spec.name, list(spec.shape), spec.dtype) for spec in self.specs]

    def select(self, names: Collection[str]) -> AdapterSchema:
        """Keep the specs whose name is in `names`, in this schema's order."""
        return AdapterSchema(tuple(spec for spec in self.specs if spec.name in names))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(spec.name for spec in self.specs)

    @property
    def numel(self) -> int:
        return sum(spec.numel for spec in self.specs)

    @property
    def nbytes(self) -> int:
        """Bytes of the raw values, without any header."""
        return sum(spec.numel * getattr(torch, spec.dtype).itemsize for spec in self.specs)

    @cached_property
    def message_nbytes(self) -> int:
        """Bytes of `AdapterState.to_bytes`, header and all, without any values at hand."""
        return message_length(self.layout, self.digest)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the names, shapes and dtypes, in hexadecimal."""
        return sha256(json.dumps(self.rows()).encode()).hexdigest()

    @cached_property
    def by_dtype(self) -> dict[str, tuple[TensorSpec, ...]]:
        """The specs of each dtype, which share one flat buffer."""
        groups: dict[str, list[TensorSpec]] = {}
        for spec in self.specs:
            groups.setdefault(spec.dtype, []).append(spec)
        return {dtype: tuple(specs) for dtype, specs in groups.items()}

    @property
    def layout(self) -> dict[str, tuple[torch.dtype, int]]:
        """The buffers of a message: dtype and length, by the dtype's name."""
        return {
            dtype: (getattr(torch, dtype), sum(spec.numel for spec in specs))
            for dtype, specs in self.by_dtype.items()
        }


@dataclass(frozen=True)
class AdapterState:
    """The values of a schema's tensors: one flat buffer for each dtype, in the schema's order.

    Attributes:
        schema: names, shapes and dtypes.
        buffers: by dtype, each of shape (values of that dtype,).

    Examples:
        >>> state = AdapterState.capture({"core": torch.ones(2, 3), "bias": torch.zeros(2)})
        >>> state.schema.names, state.schema.nbytes
        (('core', 'bias'), 32)
        >>> again = AdapterState.from_bytes(state.to_bytes(), state.schema)
        >>> again.tensors()["core"].shape
        torch.Size([2, 3])
    """

    schema: AdapterSchema
    buffers: dict[str, Tensor]

    @classmethod
    def capture(
        cls, tensors: Mapping[str, Tensor], schema: AdapterSchema | None = None
    ) -> AdapterState:
        """Copy the current values of named tensors, of `schema`'s names only if it is given."""
        schema = schema or AdapterSchema.of(tensors)
        buffers = {
            dtype: torch.cat([tensors[spec.name].detach().reshape(-1) for spec in specs])
            for dtype, specs in schema.by_dtype.items()
        }
        return cls(schema, buffers)

    def tensors(self) -> dict[str, Tensor]:
        """Return the named tensors as views of the buffers, in the schema's order."""
        return dict(self._views)

    @cached_property
    def _views(self) -> dict[str, Tensor]:
        """Made once: every client of a round begins from the same state."""
        views = {}
        for dtype, specs in self.schema.by_dtype.items():
            parts = self.buffers[dtype].split([spec.numel for spec in specs])
            for spec, part in zip(specs, parts, strict=True):
                views[spec.name] = part.view(spec.shape)
        if len(self.buffers) > 1:
            views = {name: views[name] for name in self.schema.names}
        return views

    @torch.no_grad()
    def copy_into(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the values into the tensors of the same names, in place."""
        if not (values := self._views):
            return
        torch._foreach_copy_([tensors[name] for name in values], list(values.values()))

    def select(self, schema: AdapterSchema) -> AdapterState:
        """Return a copy with the names of `schema` only."""
        return self if schema == self.schema else AdapterState.capture(self.tensors(), schema)

    def cut(self, schema: AdapterSchema) -> AdapterState:
        """Return the first entries along each axis, of the shapes in `schema`."""
        if schema == self.schema:
            return self
        tensors = self.tensors()
        corners = {
            spec.name: tensors[spec.name][tuple(map(slice, spec.shape))] for spec in schema.specs
        }
        return AdapterState.capture(corners, schema)

    def padded(self, schema: AdapterSchema) -> AdapterState:
        """Return the values with zeros behind them, up to the shapes in `schema`."""
        if schema == self.schema:
            return self
        whole = {}
        for spec, (name, small) in zip(schema.specs, self.tensors().items(), strict=True):
            whole[name] = small.new_zeros(spec.shape)
            whole[name][tuple(map(slice, small.shape))] = small
        return AdapterState.capture(whole, schema)

    def clone(self) -> AdapterState:
        """Return a copy that shares no memory."""
        return AdapterState(self.schema, {k: buffer.clone() for k, buffer in self.buffers.items()})

    def is_finite(self) -> bool:
        """Tell whether no value is NaN or infinite."""
        return all(bool(torch.isfinite(buffer).all()) for buffer in self.buffers.values())

    def to_bytes(self) -> bytes:
        """Serialize as safetensors: a flat tensor for each dtype and the schema's hash."""
        return write_message(self.buffers, self.schema.digest)

    @classmethod
    def from_bytes(cls, data: bytes, schema: AdapterSchema) -> AdapterState:
        """Read what `to_bytes` wrote, checked against the schema this side expects.

        Raises:
            FederationError: the bytes are no safetensors, or belong to another schema.
        """
        return cls(schema, read_message(data, schema.layout, schema.digest))

    def minus(self, other: AdapterState) -> AdapterState:
        """Return the difference in float64: an update, when `other` is where training began."""
        buffers = {
            dtype: buffer.double() - other.buffers[dtype].double()
            for dtype, buffer in self.buffers.items()
        }
        return AdapterState(self.schema, buffers)
