"""Opaque bytes in Flower's messages, in the form that adds the least to them."""

from __future__ import annotations

from flwr.app import ConfigRecord, Message, RecordDict

from fedtt_lightning.errors import FederationError


def pack(payload: bytes) -> RecordDict:
    """Return what a message with `payload` contains."""
    return RecordDict({"p": ConfigRecord({"b": payload})})


def unpack(message: Message) -> bytes:
    """Return the payload of a message that `pack` made, or raise FederationError."""
    if message.has_error():
        raise FederationError(message.error.reason or f"Flower's error {message.error.code}")
    record = message.content.config_records.get("p", {})
    payload = record.get("b")
    if not isinstance(payload, bytes):
        raise FederationError("the message holds no payload of fedtt-lightning")
    return payload
