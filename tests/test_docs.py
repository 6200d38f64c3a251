"""The documentation names every preset, and nothing that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import lightning.pytorch
import peft
import pytest
import torch
import yaml

import fedtt_lightning
from cli_options import ROOT
from fedtt_lightning import adapters, callbacks, data, federation, strategies
from fedtt_lightning.__main__ import main

METHODS = (ROOT / "docs/methods.md").read_text()
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
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
    assert named or page != "README.md"
    for name in named:
        assert (ROOT / name).is_file(), name
    for name in set(re.findall(r"`(\w+\.yaml)`", PAGES[page])) - {"config.yaml"}:  # a run's own
        assert any((ROOT / folder / name).is_file() for folder in NAMED), name


@pytest.mark.parametrize("page", PAGES)
def test_named_classes_exist(page: str) -> None:
    """Names in backticks that look like classes, with or without their arguments."""
    ours = (federation, callbacks, data, adapters, strategies, fedtt_lightning)
    lightnings = (lightning.pytorch, lightning.pytorch.callbacks, lightning.pytorch.loggers)
    known = {name for part in (*ours, *lightnings, peft, torch.nn) for name in dir(part)}
    for name in re.findall(r"`([A-Z][a-zA-Z]*[a-z][A-Z]\w*)(?:\([\w, ]*\))?`", PAGES[page]):
        assert name in known | set(fedtt_lightning.__all__), name


def test_the_config_shown_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = re.search(r"```yaml\n(.*?)```", PAGES["docs/ways/config.md"], re.DOTALL)
    assert shown is not None
    (tmp_path / "mine.yaml").write_text(shown[1])
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", str(tmp_path / "mine.yaml"), "--print_config"])
    assert stop.value.code == 0
    used = yaml.safe_load(capsys.readouterr().out)
    assert any("FederatedCheckpoint" in str(one) for one in used["trainer"]["callbacks"])


def test_links_of_the_readme_lead_somewhere() -> None:
    """Those between pages are checked when the site is built."""
    links = re.findall(r"\]\((?!http)([^)#]+)(?:#([^)]+))?\)", PAGES["README.md"])
    assert links
    for page, anchor in links:
        text = (ROOT / page).read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, f"{page}#{anchor}"
