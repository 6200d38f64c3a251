"""Which classes a configuration key takes, to say so where it names none of them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import isabstract, signature

_OURS = tuple(
    f"fedtt_lightning.{name}" for name in ("federation", "callbacks", "data", "modules", "adapters")
)
_OTHERS = ("lightning.pytorch.callbacks", "peft")
KEYS = {
    "ClientSampler": "federation.sampler",
    "AggregationRule": "federation.aggregation",
    "ServerOptimizer": "federation.server",
    "ClientRanks": "federation.ranks",
    "ClientFailures": "federation.failures",
    "UploadCodec": "federation.upload",
    "Partitioner": "data.partition",
    "FreezingSchedule": "FactorFreezing.schedule",
    "Callback": "trainer.callbacks",
    "LightningModule": "model",
    "LightningDataModule": "data",
}


def nearest(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the known name nearest to `name`, "" if none is near."""
    close = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unknown_class(class_path: str, bases: Iterable[str]) -> str:
    """Say that there is no such class, or none of this kind, and what to write instead.

    Args:
        class_path: the name as given, with or without a module.
        bases: import paths of the kinds that the key takes.
    """
    name = class_path.rpartition(".")[2]
    bases = tuple(bases)
    if (home := _home(name)) and not set(home[0]) & set(bases):
        kind = " or ".join(base.rpartition(".")[2] for base in bases)
        return f"{class_path} is no {kind}: it belongs in {home[1]}"
    kinds = _choices(bases)
    guess = nearest(name, {**kinds, **_choices(bases, _OTHERS)})
    return f"there is no class {class_path!r}" + (guess or _listed(kinds))


def belongs(class_path: str) -> str:
    """Return `: it belongs in KEY` for a class of ours that another key takes, else ""."""
    home = _home(class_path.rpartition(".")[2])
    return f": it belongs in {home[1]}" if home else ""


def no_class(value: str, key: str, bases: Iterable[str]) -> str:
    """Say that a value is no class, which classes there are, and how to give one."""
    kinds = _choices(bases)
    message = f"is {value}, but must be a class{_listed(kinds)}"
    if not kinds:
        return message
    own = key.rpartition(".")[2]  # of RankColumn, RankList and RankShares, RankList takes `ranks`
    arguments = {name: list(signature(kind).parameters) for name, kind in kinds.items()}
    name = min(sorted(kinds), key=lambda name: own not in arguments[name])
    message += f", as in --{key}={name}"
    for argument in arguments[name][:1]:
        same = argument == own and value.startswith("[")
        message += f" --{key}.{argument}={value.replace(' ', '') if same else '...'}"
    return message


def _listed(kinds: Iterable[str]) -> str:
    names = sorted(kinds)
    return f": one of {', '.join(names[:14])}" if names else ""


def _choices(bases: Iterable[str], modules: Iterable[str] = _OURS) -> dict[str, type]:
    """Return the classes of these kinds that modules export, of those imported already."""
    kinds = tuple(kind for base in bases if (kind := _loaded(base)) is not None)
    return {
        name: found
        for module in map(sys.modules.get, modules)
        for name in getattr(module, "__all__", ())
        if isinstance(found := vars(module).get(name), type)
        and issubclass(found, kinds)
        and not isabstract(found)
    }


def _home(name: str) -> tuple[list[str], str] | None:
    """Return the import paths of the bases of one of our classes and the key that takes it."""
    found = _choices(["builtins.object"]).get(name)
    for base in found.__mro__ if found is not None else ():
        if base.__name__ in KEYS:
            assert found is not None
            paths = [f"{kind.__module__}.{kind.__qualname__}" for kind in found.__mro__]
            return paths, KEYS[base.__name__]
    return None


def _loaded(path: str) -> type | None:
    """Return a class of a module that is imported already."""
    module, _, name = path.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None
