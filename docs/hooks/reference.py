"""Pages on the package's public classes and on the keys of a config, read from its docstrings.

The sources are parsed, not imported, so that a page takes no torch and no second.
"""

from __future__ import annotations

import json
import re
from ast import literal_eval
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import griffe

from fedtt_lightning.cli_classes import KEYS

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "callbacks": "Callbacks",
    "federation": "Federation",
    "data": "Data",
    "modules": "Modules",
    "adapters": "Adapters",
    "strategies": "Strategies",
    "tensor_train": "Tensor trains",
    "report": "Reports",
}
# Which key of a config takes the classes of which base, Lightning's and PEFT's included.
HOMES = {
    **KEYS,
    "BasePredictionWriter": "trainer.callbacks",
    "DDPStrategy": "trainer.strategy",
    "FixedPointCodec": "federation.aggregation.codec",
    "ModelCheckpoint": "trainer.callbacks",
    "PeftConfig": "model.peft",
}
# Keys that are no class to choose: what is under them are the arguments of one.
SINGLE = {
    "federation": "callbacks.FederatedRounds",
    "predictions": "callbacks.PredictionFile",
    "serve": "silo.serve_settings.ServeSettings",
    "silo": "silo.silo_settings.SiloSettings",
}
BASES = ("ClientDataModule", "TextData")  # of datamodules, which no method tells
_KEYS_INTRO = """# Config keys

What a config file holds, and what is an option on the command line, too:
`--federation.local_epochs 2`. A key that takes a class is given as `class_path` and `init_args` in
a file, and on the command line as `--federation.sampler PoissonSampler`, followed by
`--federation.sampler.rate 0.1`. Your own classes are named by their import path.

All of Lightning's keys are there as well:
[`trainer`](https://lightning.ai/docs/pytorch/stable/common/trainer.html) (of which `max_epochs` are
rounds), `optimizer`, `lr_scheduler`, `seed_everything`, `ckpt_path`. The file of a study has
[keys of its own](../studies.md#the-study-file).
"""


def reference_pages() -> dict[str, str]:
    """Return the pages by name: an index, one a package, and the keys."""
    return {
        "index": "\n".join(_index()),
        "keys": "\n".join(_keys()),
        **{package: "\n".join(_package(package)) for package in PACKAGES},
    }


def described(kind: griffe.Object) -> dict[str, tuple[str, str]]:
    """Return default and description of each argument of a class; "" for what is missing."""
    arguments, fields = {}, {}
    if isinstance(kind, griffe.Class):
        fields = dict(_field_help(kind))
    if kind.docstring is not None:
        for section in kind.docstring.parse("google"):
            if section.kind in (
                griffe.DocstringSectionKind.parameters,
                griffe.DocstringSectionKind.attributes,
            ):
                fields |= {item.name: " ".join(item.description.split()) for item in section.value}
    for parameter in getattr(kind, "parameters", ()):
        if parameter.name != "self" and not parameter.name.startswith("_"):
            arguments[parameter.name] = (_default(parameter), fields.get(parameter.name, ""))
    return arguments


@cache
def _root() -> griffe.Module:
    extensions = griffe.load_extensions(str(Path(__file__).parent / "field_help.py"))
    root = griffe.load("fedtt_lightning", search_paths=[ROOT / "src"], extensions=extensions)
    assert isinstance(root, griffe.Module)
    return root


def public(package: str) -> Iterator[tuple[str, griffe.Object]]:
    """Yield names and objects that a package exports."""
    module = _root()[package]
    for name in module.exports or ():
        found = module[str(name)]
        yield str(name), found.final_target if found.is_alias else found


def _default(parameter: griffe.Parameter) -> str:
    """Return the default as YAML writes it."""
    if parameter.kind is griffe.ParameterKind.var_keyword:
        return ""
    if parameter.default is None:
        return "required"
    try:
        value = literal_eval(str(parameter.default))
    except ValueError:  # a call or a constant's name
        return f"`{parameter.default}`"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


def _field_help(kind: griffe.Class) -> Iterator[tuple[str, str]]:
    for name, member in kind.members.items():
        if member.is_attribute and member.docstring is not None:
            yield name, " ".join(member.docstring.value.split())


def _first_sentence(found: griffe.Object) -> str:
    text = " ".join(found.docstring.value.split("\n\n")[0].split()) if found.docstring else ""
    ends = re.search(r"(?<! [A-Z])\.(?= [A-Z`])", text)  # not that of "as A. Name has it"
    return text[: ends.end()] if ends else text


def _key(found: griffe.Object) -> str | None:
    """Return the key that takes a class, told by its bases."""
    if not isinstance(found, griffe.Class):
        return None
    family = [found, *found.mro()]
    names = [kind.name for kind in family]
    names += [str(base).rpartition(".")[2] for kind in family for base in kind.bases]
    return next((HOMES[name] for name in names if name in HOMES), None)


def _link(package: str, name: str) -> str:
    return f"[{name}]({package}.md#fedtt_lightning.{package}.{name})"


def _index() -> Iterator[str]:
    yield "# Reference\n"
    yield "[Commands](commands.md) · [Config keys](keys.md) · all public classes, by package:\n"
    for package, title in PACKAGES.items():
        yield f"\n## [{title}]({package}.md)\n\n| | |\n|---|---|"
        for name, found in public(package):
            yield f"| {_link(package, name)} | {_cell(_first_sentence(found))} |"


def _package(package: str) -> Iterator[str]:
    """Yield the lines of a page: its classes under the keys that take them, then the others."""
    module = _root()[package]
    yield f"# {PACKAGES[package]}\n\n`fedtt_lightning.{package}`: {_first_sentence(module)}\n"
    sections: dict[str | None, list[str]] = {}
    for name, found in public(package):
        sections.setdefault(_key(found), []).append(name)
    python = sections.pop(None, [])
    for key in sorted(sections, key=list(HOMES.values()).index):
        yield f"\n## Classes for `{key}`\n"
        for name in sections[key]:
            yield f"::: fedtt_lightning.{package}.{name}"
    if python:
        yield "\n## In Python\n" if sections else ""
        for name in python:
            yield f"::: fedtt_lightning.{package}.{name}"


def _keys() -> Iterator[str]:
    """Yield the lines of the page on keys."""
    yield _KEYS_INTRO
    by_key: dict[str, list[tuple[str, str, griffe.Object]]] = {}
    for package in PACKAGES:
        for name, found in public(package):
            key = None if f"{package}.{name}" in SINGLE.values() else _key(found)
            if key is not None and name not in BASES and not _is_abstract(found):
                by_key.setdefault(key, []).append((package, name, found))
    for key, path in SINGLE.items():
        yield f"\n## {key}\n\n{_first_sentence(_root()[path])}\n"
        yield from _table(described(_root()[path]), f"{key}.")
        for below in HOMES.values():
            if below.startswith(f"{key}."):
                yield from _choices(below, by_key.pop(below))
    for key in filter(by_key.get, HOMES.values()):
        yield from _choices(key, by_key.pop(key))


def _choices(key: str, classes: list[tuple[str, str, griffe.Object]]) -> Iterator[str]:
    yield f"\n## {key}\n"
    for package, name, found in classes:
        yield f"\n**{_link(package, name)}.** {_first_sentence(found)}\n"
        yield from _table(described(found), "" if key == "trainer.callbacks" else f"{key}.")


def _table(arguments: dict[str, tuple[str, str]], prefix: str) -> Iterator[str]:
    if arguments:
        yield "| key | default | |\n|---|---|---|"
    for name, (default, text) in arguments.items():
        key = "…" if name == "kwargs" else name
        yield f"| `{prefix}{key}` | {default} | {_cell(text)} |"


def _is_abstract(found: griffe.Object) -> bool:
    """Tell whether a method is left to subclasses."""
    members = found.all_members.values()
    return any("abstractmethod" in member.labels for member in members if member.is_function)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
