"""What an upload codec is: it makes an update a message, and that an update again."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from hashlib import sha256

from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.aggregation.flat import flatten, unflatten
from fedtt_lightning.federation.wire import Layout, message_length, read_message, write_message


@dataclass(frozen=True)
class UploadMessage:
    """An update in the form in which it travels.

    Attributes:
        schema: of the update.
        digest: hash of the schema and the codec, which travels.
        buffers: flat tensors of the codec's own, on the CPU.
    """

    schema: AdapterSchema
    digest: str
    buffers: dict[str, Tensor]

    def to_bytes(self) -> bytes:
        """Serialize as safetensors."""
        return write_message(self.buffers, self.digest)


class UploadCodec(ABC):
    """Writes updates (new minus old, not weights) in fewer bytes, and reads them back.

    It has no state: both sides make it from the same settings. The length of a message follows from
    its schema alone. An update that holds NaN or Inf is read back with NaN or Inf, and one without
    is read back without.

    Args:
        error_feedback: whether each client keeps what a message left out of its update, and adds it
            to its next one (see `transmit`). For clients that come back: leave it on where all or
            most take part in a round, off in cross-device federations, where what is kept is stale
            or never used, and devices should keep nothing.
    """

    def __init__(self, error_feedback: bool = True) -> None:
        self.error_feedback = error_feedback

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__name__}({settings})"

    def check(self) -> None:  # noqa: B027 - some have nothing to check
        """Raise ConfigError if a setting makes no sense."""

    @abstractmethod
    def layout(self, schema: AdapterSchema) -> Layout:
        """Return the buffers of a message with these tensors: dtypes and lengths, by name."""

    @abstractmethod
    def pack(self, values: Tensor, schema: AdapterSchema, key: int) -> dict[str, Tensor]:
        """Return the buffers that stand for an update.

        Args:
            values: all of its values, float64 (schema.numel,), on the CPU, ordered by dtype.
            key: of whatever is drawn; the same key draws the same.
        """

    @abstractmethod
    def unpack(self, buffers: dict[str, Tensor], schema: AdapterSchema) -> Tensor:
        """Return the values that buffers stand for, float64 (schema.numel,)."""

    def encode(self, update: AdapterState, key: int) -> UploadMessage:
        """Return an update as it travels.

        Args:
            key: seed of whatever is drawn, from (experiment, round, client).
        """
        schema = update.schema
        buffers = self.pack(flatten(update).cpu(), schema, key)
        return UploadMessage(schema, self.digest(schema), buffers)

    def decode(self, message: UploadMessage) -> AdapterState:
        """Return the update that the server gets, float64 buffers on the CPU."""
        return unflatten(self.unpack(message.buffers, message.schema), message.schema)

    def read(self, data: bytes, schema: AdapterSchema) -> UploadMessage:
        """Read a serialized message, checked against the schema and codec this side expects.

        Raises:
            FederationError: the bytes are no safetensors, or of another schema or codec.
        """
        digest = self.digest(schema)
        return UploadMessage(schema, digest, read_message(data, self.layout(schema), digest))

    def message_nbytes(self, schema: AdapterSchema) -> int:
        """Return the bytes of a serialized message with these tensors, without building it."""
        return message_length(self.layout(schema), self.digest(schema))

    def digest(self, schema: AdapterSchema) -> str:
        """SHA-256 of the schema and of this codec's settings, in hexadecimal."""
        return sha256(f"{schema.digest} {self!r}".encode()).hexdigest()
