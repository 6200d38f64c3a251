"""Checkpoints without the frozen pretrained weights, checked when they are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any

from torch import Tensor

from fedtt_lightning.errors import ConfigError

WRITTEN = "written_weights"
_KEY = "frozen_fingerprint"
_SAMPLES = 1024
_ADVICE = "use the model.backbone, model.peft and model.num_labels it was trained with"


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """Identify weights by SHA-256 over names, shapes and about 1024 values of each, in float32."""
    digest = sha256()
    for name, tensor in tensors.items():
        flat = tensor.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // _SAMPLES)].float().cpu().contiguous()
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()


def leave_out(checkpoint: dict[str, Any], frozen: Mapping[str, Tensor], identity: str) -> None:
    """Drop the frozen tensors from a Lightning checkpoint and note their fingerprint instead.

    Those stay that a callback has named in `checkpoint["written_weights"]`: it wrote to them.
    """
    state, written = checkpoint["state_dict"], checkpoint.get(WRITTEN, ())
    checkpoint["state_dict"] = {
        name: state[name] for name in state if name not in frozen or name in written
    }
    checkpoint[_KEY] = identity


def put_back(
    checkpoint: dict[str, Any],
    state: Mapping[str, Tensor],
    frozen: Mapping[str, Tensor],
    identity: str,
) -> None:
    """Undo `leave_out` with the frozen tensors of the model at hand, whose state is `state`.

    Raises:
        ConfigError: the checkpoint has other names or shapes, or belongs to other frozen weights.
    """
    saved, written = checkpoint.get("state_dict", {}), checkpoint.get(WRITTEN, ())
    own = {n: value for n, value in state.items() if n not in frozen or n in written}
    missing = [name for name in own if name not in saved]
    unexpected = [name for name in saved if name not in own]
    if missing or unexpected:
        parts = [_some("lacks", missing)] * bool(missing)
        parts += [_some("has besides", unexpected)] * bool(unexpected)
        raise ConfigError(
            f"the checkpoint is of another model or method: it {' and '.join(parts)}; {_ADVICE}"
        )
    for name, value in own.items():
        if saved[name].shape != value.shape:
            raise ConfigError(
                f"the checkpoint is of another model or method: {name} has shape "
                f"{tuple(saved[name].shape)} there and {tuple(value.shape)} here; {_ADVICE}"
            )
    if checkpoint.get(_KEY) != identity:
        raise ConfigError(
            "the checkpoint was trained on another backbone: the frozen weights are not those it "
            "was trained with; set model.backbone, and a CausalLM's model.dtype, to what it names"
        )
    checkpoint["state_dict"] = {**frozen, **saved}


def _some(verb: str, names: Iterable[str], limit: int = 2) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{verb} {', '.join(names[:limit])}{more}"
