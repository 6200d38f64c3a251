"""The reference pages hold every public class, key and command, and say what each argument is."""

from __future__ import annotations

import inspect
import sys
from dataclasses import fields
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

import peft
import pytest

import fedtt_lightning
from cli_options import ROOT
from fedtt_lightning import __main__, cli_classes

pytest.importorskip("griffe", reason="needs the extra `docs`")

# Base classes whose arguments are described where they come from.
FOREIGN = {field.name for field in fields(peft.PeftConfig)}
PUBLIC = {
    (package.name, name): found
    for package in iter_modules(fedtt_lightning.__path__)
    if package.ispkg
    for name in getattr(import_module(f"fedtt_lightning.{package.name}"), "__all__", ())
    if isinstance(found := getattr(import_module(f"fedtt_lightning.{package.name}"), name), type)
}


@pytest.fixture(scope="module")
def hooks() -> dict[str, ModuleType]:
    folder = str(ROOT / "docs/hooks")
    sys.path.insert(0, folder)
    try:
        return {name: import_module(name) for name in ("commands", "reference")}
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def pages(hooks: dict[str, ModuleType]) -> dict[str, str]:
    return hooks["reference"].reference_pages()


def test_every_public_class_is_on_a_page(pages: dict[str, str]) -> None:
    assert len(PUBLIC) > 90
    for package, name in PUBLIC:
        assert f"::: fedtt_lightning.{package}.{name}\n" in f"{pages[package]}\n", name
        assert f"[{name}]({package}.md#fedtt_lightning.{package}.{name})" in pages["index"], name


def test_every_argument_is_described(hooks: dict[str, ModuleType]) -> None:
    described = hooks["reference"].described
    read = {
        (package, name): described(found)
        for package in {package for package, _ in PUBLIC}
        for name, found in hooks["reference"].public(package)
    }
    missing = [
        f"{package}.{name}: {argument}"
        for (package, name), kind in PUBLIC.items()
        if getattr(kind.__init__, "__module__", "").startswith("fedtt_lightning")
        for argument in inspect.signature(kind).parameters
        if argument not in FOREIGN and not read[package, name].get(argument, ("", ""))[1]
    ]
    assert not missing, "say what these are in the docstring of their class"


def is_abstract(member: object) -> bool:
    return bool(getattr(member, "__isabstractmethod__", False))


def test_every_key_is_there(hooks: dict[str, ModuleType], pages: dict[str, str]) -> None:
    """Those of `fit` itself, and the classes that a config may name."""
    alone = hooks["reference"].SINGLE.values()  # a key by themselves
    for key in ("federation.local_steps", "predictions.path", "serve.port", "silo.client"):
        assert f"| `{key}` |" in pages["keys"], key
    for (package, name), kind in PUBLIC.items():
        bases = {base.__name__ for base in kind.__mro__} & cli_classes.KEYS.keys()
        abstract = any(is_abstract(value) for _, value in inspect.getmembers_static(kind))
        if name in hooks["reference"].BASES:
            assert f"**[{name}](" not in pages["keys"], name
        elif bases and not abstract and f"{package}.{name}" not in alone:
            assert f"**[{name}](" in pages["keys"], name
            assert f"\n## {cli_classes.KEYS[bases.pop()]}\n" in pages["keys"]


def test_every_command_has_its_help(hooks: dict[str, ModuleType]) -> None:
    page = hooks["commands"].commands_page()
    headings = " ".join(line for line in page.splitlines() if line.startswith("## "))
    for command in __main__._COMMANDS:
        assert command in headings, command
    assert "--batch-size BATCH_SIZE" in page  # of privacy: its help is there, not its name alone
