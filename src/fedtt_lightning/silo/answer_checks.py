"""What a silo answers to a round's request: believed only if it is what was asked for."""

from __future__ import annotations

from math import sqrt

from fedtt_lightning.callbacks.exchange import VisitResult
from fedtt_lightning.errors import FederationError
from fedtt_lightning.federation import AdapterState, FederatedLoop, UploadCodec, Visit
from fedtt_lightning.silo.messages import NeedsAll, Refused, Train, Update, decode
from fedtt_lightning.silo.payloads import read_update

_OVERHEAD = 1 << 12  # bytes of a message beside its payload, at most


def read_answer(data: bytes, asked: Train, visit: Visit, largest: int) -> Update | NeedsAll:
    """Return a silo's answer to `asked`, for its visit in the round.

    Args:
        largest: bytes its payload may have.

    Raises:
        FederationError: it is no answer to that.
    """
    message = decode(data, largest + _OVERHEAD)
    if isinstance(message, Refused):
        raise FederationError(message.reason)
    if not isinstance(message, Update | NeedsAll):
        raise FederationError(f"it answered {type(message).__name__} to Train")
    if (message.run, message.round) != (asked.run, asked.round):
        raise FederationError(
            f"it answered for round {message.round + 1} of run {message.run}, not for round "
            f"{asked.round + 1} of run {asked.run}"
        )
    if isinstance(message, Update):
        if message.client != visit.client:
            raise FederationError(f"it answered as client {message.client}")
        if message.examples != visit.num_examples:
            raise FederationError(
                f"it trained on {message.examples} examples, not on {visit.num_examples}"
            )
    return message


def largest_payload(loop: FederatedLoop, codec: UploadCodec | None) -> int:
    """Return the most bytes an update of the open round can have."""
    schema = loop.travelling
    return schema.message_nbytes if codec is None else codec.message_nbytes(schema)


def visit_result(
    answer: Update,
    visit: Visit,
    loop: FederatedLoop,
    codec: UploadCodec | None,
    max_norm: float | None,
) -> VisitResult:
    """Return what the visit leaves behind, for the server to count.

    NaN and Inf are left to `FederatedLoop.accept`, as in simulation.

    Args:
        max_norm: the largest L2 norm of an update, None for any.

    Raises:
        FederationError: the update is of another schema, or too large.
    """
    travels, start = loop.travelling, loop.adapter_for(visit.client)
    sent = loop.message_schema(travels, visit.client)
    update = read_update(answer.payload, start, travels, sent, codec)
    if max_norm is not None and (norm := _norm(update)) > max_norm:
        raise FederationError(
            f"its update has the norm {norm:.4g}, but serve.max_update_norm is {max_norm:g}"
        )
    return VisitResult(visit, update, answer.loss, seconds=answer.seconds)


def _norm(update: AdapterState) -> float:
    return sqrt(sum(float(buffer.square().sum()) for buffer in update.buffers.values()))
