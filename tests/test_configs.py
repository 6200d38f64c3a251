"""Every config and preset that is shipped parses, and says on its first lines how to run it."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from fedtt_lightning.__main__ import main

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml"))
PRESETS = sorted(path.relative_to(ROOT) for path in (ROOT / "callbacks").glob("*.yaml"))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_config(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    command = f"python -m fedtt_lightning fit --config {config}"
    assert config.read_text().splitlines()[0] == f"# {command}"
    with pytest.raises(SystemExit) as stop:
        main([*command.split()[3:], "--print_config"])
    assert stop.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["model"]["class_path"]


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_preset_adds(
    preset: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    base = ["fit", "--config", "configs/quickstart.yaml"]
    printed = []
    for more in ([], ["--config", str(preset)]):
        with pytest.raises(SystemExit):
            main([*base, *more, "--print_config"])
        printed.append(yaml.safe_load(capsys.readouterr().out))
    before, after = (config["trainer"]["callbacks"] for config in printed)
    assert after[: len(before)] == before
    assert len(after) > len(before) or printed[1]["federation"] != printed[0]["federation"]
