"""Tokens kept from run to run: made once, read by memory map, shared by all processes."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn

from fedtt_lightning.data.cache_dir import default_cache_dir
from fedtt_lightning.data.token_rows import Lists

_FORMAT = 1  # raise it with any change of how texts are tokenized or tokens written


def cache_key(tokenizer: Any, max_length: int, texts: Mapping[str, Sequence[str]]) -> str:
    """Return the hash of all that the tokens of texts, cut to `max_length`, depend on.

    `texts` are the columns in the order in which the tokenizer takes them.
    """
    settings = {
        "format": _FORMAT,
        "versions": {name: version(name) for name in ("tokenizers", "transformers")},
        "class": type(tokenizer).__qualname__,
        "columns": list(tokenizer.model_input_names),
        "cut": tokenizer.truncation_side,
        "split_special_tokens": tokenizer.split_special_tokens,
        "special": tokenizer.special_tokens_map,
        "max_length": max_length,
    }
    digest = sha256()
    for part in (json.dumps(settings), _state(tokenizer), json.dumps(list(texts.items()))):
        digest.update(sha256(part.encode()).digest())
    return digest.hexdigest()


def cached_tokens(key: str, make: Callable[[], dict[str, Lists]]) -> dict[str, Lists]:
    """Return the tokens of a key as read from its file, making both if need be.

    The files are in `tokens` of `default_cache_dir`, which only the user may open; they appear
    whole or not at all, and one whose content is not what was written is made anew. Where the
    folder cannot be used, a warning says so and the tokens stay in memory.
    """
    folder = default_cache_dir() / "tokens"
    file = folder / f"{key}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)  # before it is trusted: it fails in a folder of somebody else
    except OSError as error:
        _warn(folder, error)
        return make()
    if (kept := _read(file)) is not None:
        return kept
    tokens = make()
    try:
        _write(file, tokens)
    except OSError as error:
        _warn(folder, error)
    return _read(file) or tokens


def _warn(folder: Path, error: OSError) -> None:
    rank_zero_warn(
        f"tokens cannot be kept in {folder} ({error.strerror}): set XDG_CACHE_HOME to a folder "
        "that can be written, or data.token_cache to false"
    )


def _state(tokenizer: Any) -> str:
    """Return everything a tokenizer is made of, whether it is a fast one or one in Python."""
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        # Left behind by the latest call, and set again by the next.
        backend.no_truncation()
        backend.no_padding()
        return str(backend.to_str())
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return json.dumps([[f.name, sha256(f.read_bytes()).hexdigest()] for f in files])


def _read(file: Path) -> dict[str, Lists] | None:
    """Return what a file holds, as memory maps, or None if it is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            written = (content.metadata() or {}).get("sha256")
    except (OSError, SafetensorError):
        return None
    if written != _digest(tensors):
        return None
    names = [name.removesuffix(" starts") for name in tensors if name.endswith(" starts")]
    return {name: Lists(tensors[name], tensors[f"{name} starts"]) for name in sorted(names)}


def _write(file: Path, tokens: Mapping[str, Lists]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: column.values for name, column in tokens.items()}
    tensors |= {f"{name} starts": column.starts for name, column in tokens.items()}
    handle, part = tempfile.mkstemp(prefix=f"{file.stem[:16]}.", dir=file.parent)
    os.close(handle)
    try:
        save_file(tensors, part, {"sha256": _digest(tensors)})
        os.replace(part, file)
    except SafetensorError as error:  # a full disk, among others
        raise OSError(0, str(error)) from error
    finally:
        Path(part).unlink(missing_ok=True)


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {len(tensor)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()
