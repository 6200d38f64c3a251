"""A cell of every shipped study runs whole, on files and models of the right form made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from byte_tokenizer import byte_tokenizer
from fedtt_lightning.__main__ import main
from fedtt_lightning.data.builtin_backbone import Recipe, ensure_backbone
from fedtt_lightning.studies.cells import cells_of
from fedtt_lightning.studies.study_file import read_study
from studies.study_files import ROOT
from tiny_models import language_model

STUDIES = sorted((ROOT / "configs/studies").glob("*.yaml"))
FEWER = (
    "--data.clients=10",
    "--trainer.max_epochs=1",
    "--trainer.check_val_every_n_epoch=1",
    "--trainer.limit_val_batches=2",
)
WORDS = ("a", "fine", "film", "that", "nobody", "saw", "where", "is", "it", "how", "many", "were")


def sentence(draw: Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(4, 12)))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of SST-2's, SUBJ's and TREC's files, of words without a meaning."""
    folder, draw = tmp_path_factory.mktemp("data"), Random(0)
    for name, rows, classes in (("subj", 1200, 2), ("train", 1200, 6), ("test", 60, 6)):
        lines = (f"{row % classes} {sentence(draw)}\n" for row in range(rows))
        task = folder / ("subj" if name == "subj" else "trec")
        task.mkdir(exist_ok=True)
        file = "subj.all" if name == "subj" else f"TREC.{name}.all"
        (task / file).write_text("".join(lines), encoding="latin-1")
    sst2 = folder / "glue/SST-2"
    sst2.mkdir(parents=True)
    for name, rows in (("train", 2400), ("dev", 40)):
        lines = (f"{sentence(draw)} \t{row % 2}\n" for row in range(rows))
        (sst2 / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(lines))
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of an encoder of the width that the studies are for, and of a small decoder."""
    folder = tmp_path_factory.mktemp("models")
    encoder = ensure_backbone(folder / "cache", Recipe(corpus=300, steps=3, hidden_size=128))
    (folder / "encoder").symlink_to(encoder)
    language_model("llama", vocab_size=300).save_pretrained(folder / "decoder")
    byte_tokenizer().save_pretrained(folder / "decoder")
    return folder


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_last_cell(
    path: Path, data: str, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the last choice of each axis: those that are unlike the base config."""
    monkeypatch.chdir(ROOT)
    study = read_study(str(path))
    several = "{backbone}/" in path.read_text()
    folders = {"data": data, "backbone": str(models if several else models / "encoder")}
    cell = replace(cells_of(study, folders)[-1], folder=tmp_path / "run")
    rows = ["--data.train_limit=200"] if "{data}" in str(cell.options) else []
    assert main([*cell.arguments(), *FEWER, *rows]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert study.metric in summary["metrics"]
    assert summary["uploads"] > 0
