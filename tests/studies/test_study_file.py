"""Study files: what they may say, and one line for what they may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.studies.study_file import Choice, as_text, read_study
from studies.study_files import ROOT, said, write

PLUS = str(ROOT / "callbacks/fedtt_plus.yaml")


def test_axes_are_keys_or_named_settings(tmp_path: Path) -> None:
    grid = {
        "model.peft.rank": [1, 2],
        "method": {"FedTT": None, "FedTT+": {"configs": PLUS, "model.lr": 0.1}},
    }
    study = read_study(write(tmp_path, said(tmp_path, grid=grid)))
    assert study.grid == {
        "model.peft.rank": (
            Choice("1", (), {"model.peft.rank": 1}),
            Choice("2", (), {"model.peft.rank": 2}),
        ),
        "method": (Choice("FedTT", (), {}), Choice("FedTT+", (PLUS,), {"model.lr": 0.1})),
    }
    assert study.seeds == (0, 1) and study.folder == tmp_path / "runs"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grid": {}}, "grid is empty"),
        ({"grid": {"model.lr": []}}, "grid.model.lr is []"),
        ({"grid": {"model.lr": [1, 2, 1]}}, "grid.model.lr lists 1 twice"),
        ({"grid": {"data.partition": [{"alpha": 1}]}}, "give it a name"),
        ({"grid": {"method": {"LoRA": 3}}}, "grid.method.LoRA is 3"),
        ({"grid": {"method": {"A": {"configs": "no.yaml"}}}}, "method.A.configs names no.yaml"),
        ({"grid": {"seed_everything": [1]}}, "grid.seed_everything is set by the study: use seeds"),
        ({"options": {"trainer.default_root_dir": "x"}}, "options.trainer.default_root_dir is set"),
        ({"options": [1]}, "options is [1]"),
        ({"configs": ["no/such.yaml"]}, "configs names no/such.yaml"),
        ({"configs": []}, "configs is empty"),
        ({"seeds": [0, 3, 3]}, "seeds lists 3 twice"),
        ({"seeds": []}, "seeds is []"),
        ({"seeds": [True]}, "seeds is [True]"),
        ({"seeds": [-1]}, "seeds lists -1"),
        ({"metric": None}, "metric is None: give a name, such as val_acc"),
        ({"gird": {}}, "unknown key 'gird'; did you mean 'grid'?"),
    ],
)
def test_bad_input(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, said(tmp_path, **changes))
    with pytest.raises(ConfigError) as caught:
        read_study(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_no_yaml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("seeds: [0]\ngrid: {a: [1\nfolder: x\n")
    with pytest.raises(ConfigError, match=r"study.yaml:3: no YAML: "):
        read_study(str(path))
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_study(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        read_study(str(tmp_path / "none.yaml"))


def test_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    config = tmp_path / "base.yaml"
    study = write(tmp_path, said(tmp_path, configs=[str(config)]))
    config.write_text("model:\n  lr: [0.1\n")
    with pytest.raises(ConfigError, match=r"base.yaml:3: no YAML: "):
        read_study(study)
    config.write_bytes("# größer".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"base.yaml is not UTF-8 text"):
        read_study(study)


def test_no_name_is_given_twice(tmp_path: Path) -> None:
    path = write(tmp_path, said(tmp_path, grid={"method": {"A": {"model.lr": 1}, "B": None}}))
    text = Path(path).read_text()
    line = text[: text.index("    B:")].count("\n") + 1
    Path(path).write_text(text.replace("    B:", "    A:"))
    with pytest.raises(ConfigError, match=rf"study.yaml:{line}: no YAML: A is there twice: rename"):
        read_study(path)
    merged = "A: &a {model.lr: 1, model.peft.rank: 2}\n    B: {<<: *a, model.lr: 3}\n    C:"
    Path(path).write_text(text.replace("A:\n      model.lr: 1\n    B:", merged))
    assert [choice.options.get("model.lr") for choice in read_study(path).grid["method"]] == [
        *(1, 3, None)
    ]


def test_values_that_json_has_not(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    study = said(tmp_path, grid={"x": "VALUES"}, options={"y": "MORE"})
    values = "[.inf, -.inf, 2024-01-31, 1e-3, null, [8, 4]]"
    text = Path(write(tmp_path, study)).read_text().replace("VALUES", values)
    path.write_text(text.replace("MORE", "{a: [2024-01-31, .nan]}"))
    found = read_study(str(path))
    names = [choice.name for choice in found.grid["x"]]
    assert names == [".inf", "-.inf", "2024-01-31", "1e-3", "null", "[8, 4]"]
    assert as_text(found.options["y"]) == "{a: [2024-01-31, .nan]}"
