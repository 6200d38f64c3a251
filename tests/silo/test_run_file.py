"""A folder keeps the name of its run."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.silo.run_file import FederationFile, hold_folder


def test_a_folder_keeps_its_run_and_another_has_another(tmp_path: Path) -> None:
    first = FederationFile.open(tmp_path / "a")
    assert FederationFile.open(tmp_path / "a") == first
    assert FederationFile.open(tmp_path / "b").run != first.run
    known = FederationFile(first.run, (3, 1, 2))
    known.save(tmp_path / "a")
    assert FederationFile.open(tmp_path / "a") == known
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["federation.json"]


def test_a_folder_is_held_by_one(tmp_path: Path) -> None:
    held = hold_folder(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"another server or silo runs in .*default_root_dir"):
        hold_folder(tmp_path / "a")
    held.close()
    hold_folder(tmp_path / "a").close()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"run": "x"}', '{"run": "x", "examples": [""]}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "federation.json").write_text(text)
    with pytest.raises(ConfigError, match=r"federation\.json does not tell which run"):
        FederationFile.open(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot write to .*/file/folder .*default_root_dir"):
        FederationFile.open(tmp_path / "file" / "folder")
