"""Every config and preset that is shipped parses, and says on its first lines how to run it."""

from __future__ import annotations

import re
from contextlib import chdir, redirect_stdout
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml

from fedtt_lightning.__main__ import main
from fedtt_lightning.adapters import TTAdapterConfig

ROOT = Path(__file__).parents[1]
METHODS = sorted(path.relative_to(ROOT) for path in (ROOT / "configs/methods").glob("*.yaml"))
CONFIGS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.parent.name not in ("methods", "studies")
)
PRESETS = sorted(path.relative_to(ROOT) for path in (ROOT / "callbacks").glob("*.yaml"))
BASE = "python -m fedtt_lightning fit --config configs/quickstart.yaml"


def command_of(config: Path) -> str:
    """The command in the file's first two lines; it ends in the file's name."""
    lines = (ROOT / config).read_text().splitlines()[:2]
    commands = [line.removeprefix("# ") for line in lines if line.startswith("# python -m")]
    assert len(commands) == 1, f"{config} names no command"
    assert commands[0].endswith(f" --config {config}")
    return commands[0]


@cache
def shown(command: str) -> str:
    """What `--print_config` shows of a command."""
    output = StringIO()
    with chdir(ROOT), redirect_stdout(output), pytest.raises(SystemExit) as stop:
        main([*command.split()[3:], "--print_config"])
    assert stop.value.code == 0
    return output.getvalue()


def config_of(command: str) -> dict[str, Any]:
    return yaml.safe_load(shown(command))


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_config(config: Path) -> None:
    command = command_of(config)
    assert command == f"python -m fedtt_lightning fit --config {config}"
    assert config_of(command)["model"]["class_path"]


@pytest.mark.parametrize("preset", PRESETS, ids=str)
def test_preset_adds(preset: Path) -> None:
    command = command_of(preset)
    assert command.startswith(f"{BASE} ")
    without = config_of(re.sub(f" --config {preset}", "", command))
    config = config_of(command)
    before = without["trainer"]["callbacks"]
    assert config["trainer"]["callbacks"][: len(before)] == before
    assert config != without
    assert config["model"] == without["model"] and config["data"] == without["data"]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_method_changes_the_model_alone(method: Path) -> None:
    command = command_of(method)
    assert command == f"{BASE} --config {method}"
    assert set(yaml.safe_load((ROOT / method).read_text())) == {"model"}
    before, config = config_of(BASE), config_of(command)
    model, former = config.pop("model")["init_args"], before.pop("model")["init_args"]
    assert config == before
    assert model["backbone"] == former["backbone"]


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_method_goes_into_a_decoder_too(method: Path) -> None:
    decoder = "python -m fedtt_lightning fit --config configs/llama/boolq_fedtt.yaml"
    before, config = config_of(decoder), config_of(f"{decoder} --config {method}")
    assert config["model"]["class_path"] == "fedtt_lightning.CausalLM"
    assert config["data"] == before["data"]


def test_texts_of_ones_own_take_nothing_from_the_stories() -> None:
    text = (ROOT / "configs/llama/stories_fedtt.yaml").read_text()
    (options,) = re.findall(r"^#  +(--data TextCorpus .*)$", text, re.MULTILINE)
    folder = ROOT / "configs"  # any with texts will do
    command = command_of(Path("configs/llama/stories_fedtt.yaml"))
    data = config_of(f"{command} {options.replace('FOLDER', str(folder))}")["data"]
    assert data["init_args"]["partition"] is None and data["init_args"]["clients"] is None


FORMER = {
    "tensorized": True, "rank": 3, "init": "loretta", "down_modes": [8, 8, 16],
    "tt_classifier": True, "classifier_rank": 2, "target_modules": ["query"],
    "modules_to_save": ["embeddings"],
}  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_method_leaves_nothing_of_the_one_before(method: Path, tmp_path: Path) -> None:
    """jsonargparse carries over the settings that the classes of both methods have."""
    peft = {"class_path": "fedtt_lightning.TTAdapterConfig", "init_args": FORMER}
    model = {"class_path": "fedtt_lightning.SequenceClassifier", "init_args": {"peft": peft}}
    (tmp_path / "former.yaml").write_text(yaml.safe_dump({"model": model}))
    alone = config_of(command_of(method))["model"]["init_args"]
    both = config_of(f"{BASE} --config {tmp_path}/former.yaml --config {method}")
    after = both["model"]["init_args"]
    if "adapter" in method.stem or "fedtt" in method.stem:  # places, and for FedTT sizes, stay
        assert after["peft"]["class_path"] == alone["peft"]["class_path"]
        assert after["peft"]["init_args"]["target_modules"] == ["query"]
        if method.stem == "dense_adapter":
            TTAdapterConfig(**after["peft"]["init_args"])  # refuses what is of tensor trains
    else:
        assert after == alone
