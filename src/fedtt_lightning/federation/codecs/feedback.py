"""Error feedback: what a message leaves out of an update is sent with a later one."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fedtt_lightning.federation.adapter_state import AdapterSchema, AdapterState
from fedtt_lightning.federation.codecs.codec import UploadCodec, UploadMessage


def transmit(
    codec: UploadCodec,
    update: AdapterState,
    key: int,
    residual: Mapping[str, Tensor] | None = None,
    schema: AdapterSchema | None = None,
) -> tuple[AdapterState, dict[str, Tensor], UploadMessage]:
    """Return what the server reads of a client's message, what the client keeps, and the message.

    Seide et al. (Interspeech 2014); Karimireddy et al., arXiv 1901.09847. The client sends its
    update plus what it kept, and keeps the difference to what is read, so that over its visits what
    is read plus what is kept adds up to its updates. Of tensors that do not travel it keeps what it
    kept before.

    Args:
        update: new minus start, float64 buffers on any device.
        key: seed of whatever the codec draws, from (experiment, round, client).
        residual: what the client kept of earlier updates, float64, by name.
        schema: the shapes that travel, where the client's rank is smaller; the update is zero
            behind them.
    """
    kept = dict(residual or {})
    wanted = update.tensors()
    wanted = {n: t + kept[n].to(t.device) if n in kept else t for n, t in wanted.items()}
    whole = AdapterState.capture(wanted, update.schema)
    small = whole.cut(schema or update.schema)
    message = codec.encode(small, key)
    read = codec.decode(message).padded(update.schema)
    received = {name: tensor.to(wanted[name].device) for name, tensor in read.tensors().items()}
    kept |= {name: wanted[name] - tensor for name, tensor in received.items()}
    return AdapterState.capture(received, update.schema), kept, message
