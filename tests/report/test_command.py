"""The command as a user types it, on a run as `fit` leaves it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger

from fedtt_lightning import FederatedDataModule
from fedtt_lightning.__main__ import main
from fedtt_lightning.callbacks import ClientEvaluation, EarlySigns, RoundReport
from run_files import write_run
from toy import ToyData
from toy_run import make_run


def test_a_run_as_it_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    shown = [EarlySigns(), ClientEvaluation(), RoundReport()]
    trainer, module, _, record = make_run(folder, *shown, logger=CSVLogger(folder))
    module.score = lambda batch: (module.net(batch[0]).argmax(-1) == batch[1]).float()  # type: ignore[assignment]
    data = FederatedDataModule(ToyData(), clients=4, client_holdout=0.3)
    trainer.fit(module, datamodule=data)
    capsys.readouterr()

    page = tmp_path / "page.html"
    arguments = ["report", str(folder), "-o", str(page), "--json"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    numbers = json.loads(out)
    (task,) = numbers["tasks"]
    charts = {key.removeprefix("task1-"): chart["rows"] for key, chart in task["charts"].items()}
    rounds = [record.rounds[epoch] for epoch in range(3)]
    scores = [(row[1], row[2]) for row in charts["score-rounds"]]
    assert scores == [(r, pytest.approx(v["val_acc"])) for r, v in enumerate(rounds, 1)]
    sent = [v["comm/upload_bytes_total"] + v["comm/download_bytes_total"] for v in rounds]
    assert [row[1] for row in charts["score-bytes"]] == sent
    assert [row[2] for row in charts["drift"]] == pytest.approx([v["fed/drift"] for v in rounds])
    assert len(charts["clients"]) == len(charts["partition1"]) == 4
    assert sum(row[2] for row in charts["participation"]) == pytest.approx(100)
    assert task["groups"][0]["bytes_total"] == sent[-1]
    assert numbers["runs"][0]["versions"]["torch"]
    assert page.read_text().count("<svg") == len(charts)
    assert f"wrote {page}" in err and "warning: run: no config.yaml" in err


def test_the_rest_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, page = write_run(tmp_path / "a"), tmp_path / "page.html"
    assert main(["report", str(run), str(tmp_path / "typo"), "-o", str(page)]) == 0
    out, err = capsys.readouterr()
    assert out == f"wrote {page}\n" and err == f"warning: {tmp_path / 'typo'} is no folder\n"
    assert "typo is no folder" in page.read_text()


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    assert main(["report", str(tmp_path), "-o", str(page)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path} holds no run: name ") and err.count("\n") == 1
    assert not page.exists()


def test_a_page_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a")
    os.mkfifo(pipe := tmp_path / "pipe")
    odd = ((run, "it is there and no file"), (pipe, "it is there and no file"))
    for page, why in (*odd, (run / "summary.json" / "x", "File exists")):
        assert main(["report", str(run), "-o", str(page)]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"error: {page} cannot be written: {why}") and err.count("\n") == 1
    assert not list(tmp_path.rglob("*.partial")) and pipe.is_fifo()


@pytest.mark.parametrize("option", ["--output", "--figures"])
def test_an_empty_name(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["report", str(write_run(tmp_path / "a")), option, ""]) == 2
    err = capsys.readouterr().err
    assert f"{option}: the name is empty: give one" in err and err.count("\n") == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    run, link = write_run(tmp_path / "a"), tmp_path / "link.html"
    link.symlink_to("page.html")
    for _ in range(2):  # to a page that is not there yet, and to one that is
        assert main(["report", str(run), "-o", str(link)]) == 0
        assert link.is_symlink() and (tmp_path / "page.html").read_text().startswith("<!DOCTYPE")


def test_folders_are_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert capsys.readouterr().err.startswith("error: the following arguments are required")


def test_json_needs_neither_torch_nor_matplotlib(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    program = (
        "import sys; from fedtt_lightning.__main__ import main; "
        f"code = main(['report', {str(folder)!r}, '--json']); "
        "sys.exit(code or sum(name in sys.modules for name in ('torch', 'matplotlib')))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, cwd=tmp_path, check=False
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout)["runs"][0]["name"] == "a"
    assert not (tmp_path / "report.html").exists()
