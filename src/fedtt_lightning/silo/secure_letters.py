"""What clients and server write each other in a secure sum: records of fixed length, no more."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import numpy as np

from fedtt_lightning.errors import FederationError

SECRET = 32
"""Bytes of a secret, a share of one, a key and a commitment."""

_SEAL = 16  # bytes that sealing adds
_COUNT = struct.Struct("<I")

KEYS = 2 * SECRET
"""Bytes of a client's public keys: one for masks, one for letters."""

LETTER = 2 * SECRET + _SEAL
"""Bytes of a sealed letter: a share of the mask's seed and one of the mask's private key."""


def write_records(records: Mapping[int, bytes]) -> bytes:
    """Write texts of equal length, each behind the number of its client, in their order."""
    return b"".join(_COUNT.pack(client) + records[client] for client in sorted(records))


def read_records(data: bytes, length: int) -> dict[int, bytes]:
    """Read texts of `length` bytes.

    Raises:
        FederationError: the bytes are no such records, or out of order, or repeat a client.
    """
    size = _COUNT.size + length
    if len(data) % size:
        raise FederationError(
            f"{len(data)} bytes of secure aggregation are no records of {size} bytes each"
        )
    rows = [data[start : start + size] for start in range(0, len(data), size)]
    clients = [_COUNT.unpack_from(row)[0] for row in rows]
    if clients != sorted(set(clients)):
        raise FederationError("clients of secure aggregation are out of order or repeated")
    return {client: row[_COUNT.size :] for client, row in zip(clients, rows, strict=True)}


def write_clients(clients: Iterable[int]) -> bytes:
    """Write clients' numbers."""
    return write_records(dict.fromkeys(clients, b""))


def read_clients(data: bytes) -> set[int]:
    """Read clients' numbers.

    Raises:
        FederationError: the bytes are no such list.
    """
    return set(read_records(data, 0))


def write_book(needed: int, keys: Mapping[int, bytes]) -> bytes:
    """Write the public keys of those who take part, and how many shares make a secret."""
    return _COUNT.pack(needed) + write_records(keys)


def read_book(data: bytes) -> tuple[int, dict[int, bytes]]:
    """Read what `write_book` wrote.

    Raises:
        FederationError: the bytes are no such book.
    """
    if len(data) < _COUNT.size:
        raise FederationError("a book of public keys of secure aggregation is cut off")
    return _COUNT.unpack_from(data)[0], read_records(data[_COUNT.size :], KEYS)


def write_integers(values: np.ndarray, bits: int) -> bytes:
    """Write integers modulo 2^bits, uint64 (n,), in as few whole bytes each as hold them."""
    rows = np.ascontiguousarray(values, dtype="<u8").view(np.uint8).reshape(-1, 8)
    return rows[:, : integer_bytes(bits)].tobytes()


def read_integers(data: bytes, bits: int, size: int) -> np.ndarray:
    """Read `size` integers, uint64 (size,).

    Raises:
        FederationError: there are more or fewer, or one is 2^bits or more.
    """
    width = integer_bytes(bits)
    if len(data) != size * width:
        raise FederationError(
            f"a masked update has {len(data)} bytes, not {size * width}: {size} values of {width}"
        )
    rows = np.zeros((size, 8), dtype=np.uint8)
    rows[:, :width] = np.frombuffer(data, dtype=np.uint8).reshape(size, width)
    values = rows.reshape(-1).view("<u8")
    if bool((values >> np.uint64(bits)).any()):
        raise FederationError(f"a masked update has a value of more than {bits} bits")
    return values


def integer_bytes(bits: int) -> int:
    """Return the bytes in which an integer modulo 2^bits travels."""
    return -(-bits // 8)
