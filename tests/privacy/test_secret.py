"""A secret file keys the noise, and is refused where it keeps no secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import seed_for
from fedtt_lightning.privacy.secret import fingerprint, noise_key


def test_without_a_file_the_seed_keys_the_noise() -> None:
    assert noise_key(42, None) == 42
    assert fingerprint(None) == "noise keyed by the seed"


def test_a_file_keys_the_noise_by_its_bytes_alone(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one", "copy", "other"))
    for file, last in ((one, b"\0"), (copy, b"\0"), (other, b"\1")):
        file.write_bytes(bytes(31) + last)
    assert noise_key(1, one) == noise_key(2, str(copy)) != noise_key(1, other)
    assert fingerprint(one) == fingerprint(copy) != fingerprint(other)
    assert 2**63 < noise_key(1, one) < 2**127
    assert 0 <= seed_for(noise_key(1, one), "noise") < 2**63


def test_the_fingerprint_is_no_part_of_the_key(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(bytes(range(32)))
    name = fingerprint(file).rsplit(" ", 1)[-1]
    assert len(name) == 8
    assert name not in f"{noise_key(0, file):x}" and name not in f"{2 * noise_key(0, file):x}"


@pytest.mark.parametrize("content", [None, b"", b"fifteen letters"])
def test_refuses_what_keeps_no_secret(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    for function in (lambda: noise_key(1, file), lambda: fingerprint(file)):
        with pytest.raises(ConfigError, match=rf"secret_file {file}.*openssl rand -out"):
            function()
