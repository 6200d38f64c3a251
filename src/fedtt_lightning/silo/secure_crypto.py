"""Keys, sealed letters, shared secrets and masks of secure aggregation, by well-known libraries.

Both come with Flower, whose own SecAgg+ is built from them too: its key agreement, encryption and
secret sharing are sound. Its masks are not, in 1.41: each is drawn by a generator of NumPy whose
seed is the agreed secret folded to 32 bits, so that whoever sees a masked update can try all.
"""

from __future__ import annotations

from secrets import token_bytes

import numpy as np
from Crypto.Protocol.SecretSharing import Shamir
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, Hash
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.secure_letters import SECRET

_CHUNK = 16  # bytes that Shamir's scheme splits at once, in the field of 2^128 elements


class KeyPair:
    """A private key of X25519, for one round, and its public half (32 bytes)."""

    def __init__(self, secret: bytes | None = None) -> None:
        key = X25519PrivateKey
        self._private = key.generate() if secret is None else key.from_private_bytes(secret)
        self.secret = self._private.private_bytes_raw()
        self.public = self._private.public_key().public_bytes_raw()

    def agree(self, other: bytes, purpose: bytes) -> bytes:
        """Return the 32 bytes that this pair and the owner of a public key share for a purpose.

        Raises:
            FederationError: the public key is none.
        """
        try:
            shared = self._private.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError:
            raise FederationError("a public key of secure aggregation is none") from None
        return HKDF(SHA256(), SECRET, salt=None, info=purpose).derive(shared)


def new_secret() -> bytes:
    """Return 32 random bytes of the system."""
    return token_bytes(SECRET)


def commitment(secret: bytes, purpose: bytes) -> bytes:
    """Return 32 bytes by which a random secret is known again and from which it is not found."""
    digest = Hash(SHA256())
    digest.update(purpose + secret)
    return digest.finalize()


def seal(key: bytes, text: bytes, purpose: bytes) -> bytes:
    """Encrypt and authenticate a text; a key must seal one text only."""
    return AESGCM(key).encrypt(bytes(12), text, purpose)


def unseal(key: bytes, letter: bytes, purpose: bytes) -> bytes:
    """Return the text of a sealed letter.

    Raises:
        FederationError: it was sealed with another key or for another purpose, or was changed.
    """
    try:
        return AESGCM(key).decrypt(bytes(12), letter, purpose)
    except (InvalidTag, ValueError):
        raise FederationError("a sealed share of secure aggregation cannot be opened") from None


def split_secret(secret: bytes, needed: int, parts: int) -> list[bytes]:
    """Return shares of a secret, of which `needed` make it and fewer tell nothing (Shamir)."""
    halves = [secret[i : i + _CHUNK] for i in range(0, len(secret), _CHUNK)]
    split = [Shamir.split(needed, parts, half, ssss=False) for half in halves]
    return [b"".join(half[part][1] for half in split) for part in range(parts)]


def join_secret(shares: dict[int, bytes]) -> bytes:
    """Return the secret of shares, by their index in what `split_secret` gave.

    Too few shares, or wrong ones, give another secret.
    """
    chunks = range(0, SECRET, _CHUNK)
    return b"".join(
        Shamir.combine([(part + 1, share[i : i + _CHUNK]) for part, share in shares.items()], False)
        for i in chunks
    )


def mask(key: bytes, size: int) -> np.ndarray:
    """Return the integers that a key stands for, uint64 (size,): AES-256 in counter mode.

    A key must make the mask of one vector only.
    """
    stream = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor()
    return np.frombuffer(stream.update(bytes(8 * size)), dtype="<u8")
