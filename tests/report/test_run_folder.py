"""What is read of a run's folder, whole or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.report.run_folder import Run, read_runs
from run_files import NOT_A_NUMBER, write_rounds, write_run

LOGS = "lightning_logs"


def read(folder: Path) -> Run:
    (run,), problems = read_runs([folder])
    assert not problems
    return run


def test_a_whole_run(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "a"))
    assert run.problems == []
    assert run.series["val_acc"] == {1: 0.5, 2: 0.6, 3: 0.7}
    assert run.series["comm/upload_bytes_total"] == {1: 1000, 2: 2000, 3: 3000}
    assert run.rounds == 3 and run.last("val_acc") == 0.7 and run.last("none") is None
    assert [row["global"] for row in run.tables["clients"]] == ["0.9", "0.4", "0.7"]
    assert run.config["seed_everything"] == 0 and run.summary["method"] == "FedTT"


def test_a_resumed_run_is_one_series(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", rounds=5)
    write_rounds(folder / LOGS / "version_1", [0.75, 0.8, 0.9], first=3)
    run = read(folder)
    assert run.series["val_acc"] == {1: 0.5, 2: 0.6, 3: 0.75, 4: 0.8, 5: 0.9}
    assert run.problems == []


def test_a_folder_used_again_forgets_the_older_run(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    write_rounds(folder / LOGS / "version_10", [0.1])
    write_rounds(folder / LOGS / "version_9", [0.9, 0.9])
    run = read(folder)
    assert run.series["val_acc"] == {1: 0.1}
    (problem,) = run.problems
    assert "summary.json is of 3 rounds, but metrics.csv of 1" in problem
    assert run.summary == {}


def test_a_run_that_stopped_inside_a_round_has_ended(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "a", rounds=2))
    assert run.problems == [] and run.summary["rounds"] == 2


def test_files_cut_short(tmp_path: Path) -> None:
    """Each is named, and the others are read."""
    folder = write_run(tmp_path / "a")
    metrics = folder / LOGS / "version_0" / "metrics.csv"
    metrics.write_text(metrics.read_text().rpartition(",")[0])
    for name in ("summary.json", f"{LOGS}/version_0/config.yaml"):
        text = (folder / name).read_text()
        (folder / name).write_text(text[: len(text) // 2] + "\n  - }")
    (folder / "clients.csv").write_bytes(b"client,global\n\xff\xfe,1\n")
    run = read(folder)
    assert run.series["val_acc"] == {1: 0.5, 2: 0.6, 3: 0.7}
    assert max(run.series["fed/drift"]) == 2  # not of the row that is cut
    assert run.config == run.summary == {} and "partition" in run.tables
    for name in ("config.yaml", "summary.json", "clients.csv"):
        assert any(f"{name} cannot be read: " in problem for problem in run.problems), name
    assert "metrics.csv: 1 rows are cut short: left out" in run.problems
    assert all("\n" not in problem for problem in run.problems)


def test_a_row_that_was_being_written(tmp_path: Path) -> None:
    """Its last number may be the beginning of another."""
    folder = write_run(tmp_path / "a")
    metrics = folder / LOGS / "version_0" / "metrics.csv"
    lines = metrics.read_text().splitlines()
    place = lines[0].split(",").index("fed/drift")
    cells = lines[-1].split(",")
    lines[-1] = ",".join([*cells[:place], "0.5", *cells[place + 1 :]])[:-1]
    metrics.write_text("\n".join(lines))
    run = read(folder)
    assert max(run.series["fed/drift"]) == max(run.series["comm/download_bytes_total"]) == 2
    assert "metrics.csv: 1 rows are cut short: left out" in run.problems


def test_a_config_that_holds_itself(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a")
    (folder / LOGS / "version_0" / "config.yaml").write_text("data: &all [*all]\n")
    run = read(folder)
    assert run.config == {} and run.problems[0].startswith("config.yaml cannot be read: ")


@pytest.mark.parametrize("text", ["[1, 2]", '"a"', "7", ""])
def test_a_summary_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    (tmp_path / "summary.json").write_text(text)
    run = read(tmp_path)
    assert run.summary == {} and "summary.json cannot be read" in run.problems[0]


def test_an_older_summary_without_metrics(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"rounds": "many", "metrics": [1]}')
    run = read(tmp_path)
    assert run.rounds == 0 and run.last("val_acc") is None
    assert any("no rounds in metrics.csv" in problem for problem in run.problems)


def test_values_that_are_not_finite_are_named(tmp_path: Path) -> None:
    run = read(write_run(tmp_path / "a", [0.5, NOT_A_NUMBER, 0.7]))
    assert run.problems == ["NaN or infinite in some rounds: val_acc"]
    assert run.series["val_acc"][2] != run.series["val_acc"][2]


def test_runs_in_and_below_folders(tmp_path: Path) -> None:
    for name in ("study/b", "study/deep/c", "alone"):
        write_run(tmp_path / name)
    (tmp_path / "empty").mkdir()
    folders = [tmp_path / name for name in ("alone", "study", "empty", "missing", "study/b")]
    runs, problems = read_runs(folders)
    assert [run.name for run in runs] == ["alone", "study/b", "study/deep/c"]
    assert [problem.partition(" ")[2] for problem in problems] == ["holds no run", "is no folder"]


def test_a_logger_without_a_name(tmp_path: Path) -> None:
    """Its logs are in the run's own folder, whether or not the run has ended."""
    for name in "ab":
        folder = write_run(tmp_path / name)
        for log in (folder / LOGS).iterdir():
            log.rename(folder / log.name)
        (folder / LOGS).rmdir()
    (tmp_path / "b/summary.json").unlink()
    runs, _ = read_runs([tmp_path])
    assert [(run.name, run.rounds) for run in runs] == [("a", 3), ("b", 3)]
    assert [run.config["seed_everything"] for run in runs] == [0, 0]


def test_stray_logs_hide_no_run_below(tmp_path: Path) -> None:
    write_rounds(tmp_path / LOGS / "version_0", [0.1])
    write_run(tmp_path / "runs" / "a")
    runs, _ = read_runs([tmp_path])
    assert [run.folder for run in runs] == [tmp_path, tmp_path / "runs" / "a"]


def test_no_run_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no run: name trainer\.default_root_dir of a fit"):
        read_runs([tmp_path])


@pytest.mark.parametrize("count", ["nan", "inf", "-3", "many", "1e40"])
def test_a_count_that_is_none(tmp_path: Path, count: str) -> None:
    folder = write_run(tmp_path / "a")
    (folder / "partition.csv").write_text(f"client,examples,bad\n0,7,7\n1,{count},{count}\n")
    run = read(folder)
    assert run.problems == ["partition.csv: 2 cells are no numbers of examples: shown as 0"]
    assert [row["bad"] for row in run.tables["partition"]] == ["7", "0"]
