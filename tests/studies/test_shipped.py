"""Every study that is shipped is read, and says on its first line how to run it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedtt_lightning.studies.cells import cells_of
from fedtt_lightning.studies.study_file import read_study
from studies.study_files import ROOT

STUDIES = sorted(path.relative_to(ROOT) for path in (ROOT / "configs/studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=str)
def test_shipped_study(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    lines = path.read_text().splitlines()
    assert lines[0].startswith(f"# python -m fedtt_lightning study --config {path}")
    study = read_study(str(path))
    cells = cells_of(study)
    head = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    assert f" {len(cells)} cells" in " ".join(head)
    assert study.folder == Path("runs/studies") / path.stem
    for name in ("data", "backbone"):
        used = any(f"{{{name}}}" in str(cell.options) for cell in cells)
        assert used == (f"--{name} " in lines[0])
    assert path.name in (ROOT / "docs/studies.md").read_text()
