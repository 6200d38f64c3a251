"""What keys the noise of private training: the experiment's seed, or a secret that nobody knows."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

from fedtt_lightning.errors import ConfigError

_FEWEST_BYTES = 16
KNOWN_SEED = (
    "noise is keyed by the experiment's seed, and whoever knows it can subtract the noise: give "
    "secret_file before what is trained leaves the building"
)


def noise_key(experiment: int, secret_file: Path | str | None) -> int:
    """Return the number that keys all noise and private sampling of a run.

    Noise protects from those only who cannot draw it again. An experiment's seed is in its config,
    so a published model needs a secret file: 16 bytes or more, such as `openssl rand -out FILE 32`
    writes, that stay with whoever adds the noise and are never used for two experiments.

    Args:
        experiment: the seed of the experiment, used without a file.
        secret_file: a file of random bytes.

    Returns:
        The seed, or a number of 127 bits, a hash of the file's bytes.

    Raises:
        ConfigError: the file cannot be read, or is shorter than 16 bytes.
    """
    if secret_file is None:
        return experiment
    return int.from_bytes(_digest(secret_file, b"fedtt noise key"), "big") >> 1


def fingerprint(secret_file: Path | str | None) -> str:
    """Return words that tell secrets apart and reveal none, for a checkpoint.

    Raises:
        ConfigError: the file cannot be read, or is shorter than 16 bytes.
    """
    if secret_file is None:
        return "noise keyed by the seed"
    return f"noise keyed by secret {_digest(secret_file, b'fedtt noise name')[:4].hex()}"


def _digest(secret_file: Path | str, person: bytes) -> bytes:
    try:
        secret = Path(secret_file).read_bytes()
    except OSError as error:
        raise ConfigError(
            f"secret_file {secret_file}: {error.strerror}: write one with "
            f"`openssl rand -out {secret_file} 32`, or leave secret_file out"
        ) from None
    if len(secret) < _FEWEST_BYTES:
        raise ConfigError(
            f"secret_file {secret_file} holds {len(secret)} bytes, but a key that cannot be "
            f"guessed needs {_FEWEST_BYTES} or more: write one with "
            f"`openssl rand -out {secret_file} 32`"
        )
    return blake2b(secret, digest_size=16, person=person).digest()
