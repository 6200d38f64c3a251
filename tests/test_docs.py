"""The documentation names every preset, and nothing that does not exist."""

from __future__ import annotations

import re

import pytest

import fedtt_lightning
from cli_options import ROOT
from fedtt_lightning import adapters, callbacks, data, federation, strategies

METHODS = (ROOT / "docs/methods.md").read_text()
PAGES = {
    name: (ROOT / name).read_text()
    for name in (
        "README.md",
        "docs/methods.md",
        "docs/cluster.md",
        "docs/silos.md",
        "docs/studies.md",
    )
}
FOLDERS = ("callbacks", "configs/methods")
NAMED = (*FOLDERS, "configs/cluster", "configs/studies")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_preset_is_listed(folder: str) -> None:
    for path in (ROOT / folder).glob("*.yaml"):
        assert path.name in METHODS, f"{path.name} is not in docs/methods.md"


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    named = re.findall(r"\b((?:callbacks|configs|benchmarks|tests|docs)/[\w/.]+\.\w+)", PAGES[page])
    assert named
    for name in named:
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"`(\w+\.yaml)`", PAGES[page]):
        assert any((ROOT / folder / name).is_file() for folder in NAMED), name


@pytest.mark.parametrize("page", PAGES)
def test_named_classes_exist(page: str) -> None:
    """Names in backticks that look like classes, with or without their arguments."""
    parts = (federation, callbacks, data, adapters, strategies, fedtt_lightning)
    known = {name for part in parts for name in dir(part)}
    lightning = {"EarlyStopping", "ModelCheckpoint", "LightningModule", "PeftConfig"}
    for name in re.findall(r"`([A-Z][a-zA-Z]*[a-z][A-Z]\w*)(?:\([\w, ]*\))?`", PAGES[page]):
        assert name in known | lightning | set(fedtt_lightning.__all__), name
