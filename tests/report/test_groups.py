"""Which runs are averaged, and which are kept apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedtt_lightning.report.groups import Task, choice_words, flatten, group_runs
from fedtt_lightning.report.run_folder import Run, read_runs
from run_files import NOT_A_NUMBER, write_run


def grouped(*folders: Path) -> tuple[list[Task], list[Run]]:
    runs, _ = read_runs(folders)
    return group_runs(runs), runs


def test_seeds_are_averaged(tmp_path: Path) -> None:
    scores = [0.7, 0.75, 0.62]
    folders = [write_run(tmp_path / f"{s}", [0.5, x], seed=s) for s, x in enumerate(scores)]
    (task,), _ = grouped(*folders)
    (group,) = task.groups
    assert task.name == "GlueData, task: sst2" and group.label == "1 FedTT"
    assert group.values("val_acc") == scores
    assert group.series("val_acc")[0] == (1, (0.5, 0, 3))
    round, score = group.series("val_acc")[1]
    assert round == 2
    assert score == pytest.approx((np.mean(scores), np.std(scores, ddof=1), 3))
    assert task.differences() == {}


def test_runs_that_another_logger_has_seen(tmp_path: Path) -> None:
    """Their rounds are unknown, but not how they ended."""
    for name, seed in (("a", 0), ("b", 1)):
        write_run(tmp_path / name, [0.5, 0.6 + seed / 10], seed=seed)
    logs = [tmp_path / name / "lightning_logs/version_0/metrics.csv" for name in "ab"]
    logs[0].unlink()
    (task,), _ = grouped(tmp_path)
    assert task.groups[0].series("val_acc") == [(1, (0.5, None, 1)), (2, (0.7, None, 1))]
    assert task.groups[0].values("val_acc") == [0.6, 0.7]
    logs[1].unlink()
    (task,), runs = grouped(tmp_path)
    ((round, end),) = task.groups[0].series("val_acc")
    assert round == 2 and end == pytest.approx((0.65, 0.1 / 2**0.5, 2))
    assert all("name CSVLogger in trainer.logger" in run.problems[0] for run in runs)


def test_one_nan_is_not_averaged_away(tmp_path: Path) -> None:
    good, bad = write_run(tmp_path / "a", [0.5]), tmp_path / "b"
    (task,), _ = grouped(good, write_run(bad, [NOT_A_NUMBER], seed=1))
    assert np.isnan(task.groups[0].series("val_acc")[0][1].mean)


def test_tasks_are_kept_apart(tmp_path: Path) -> None:
    sst = write_run(tmp_path / "a")
    tasks, _ = grouped(sst, write_run(tmp_path / "b", seed=1, task="qnli"))
    assert [task.name for task in tasks] == ["GlueData, task: sst2", "GlueData, task: qnli"]
    assert [len(task.groups[0].runs) for task in tasks] == [1, 1]


def test_configurations_are_kept_apart_and_told_apart(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{rank}", rank=rank) for rank in (2, 8)]
    plus = write_run(tmp_path / "plus", method="FedTT+", rank=2, seed=5)
    log = plus / "lightning_logs" / "version_0" / "config.yaml"
    text = log.read_text()
    callback = "fedtt_lightning.callbacks.FactorFreezing"
    added = f"trainer:\n  callbacks:\n  - class_path: {callback}\n    init_args: {{count: 1}}\n"
    log.write_text(text.replace("trainer:\n", added))
    (task,), _ = grouped(*folders, plus)
    labels = [group.label for group in task.groups]
    assert labels == ["1 FedTT, rank 2", "2 FedTT, rank 8", "3 FedTT+"]
    assert task.differences() == {
        "model.peft.rank": ["2", "8", "2"],
        "trainer.callbacks.FactorFreezing": ["", "", "FactorFreezing"],
        "trainer.callbacks.FactorFreezing.count": ["", "", "1"],
    }


def test_the_same_run_counts_once(tmp_path: Path) -> None:
    (task,), runs = grouped(write_run(tmp_path / "a"), write_run(tmp_path / "b"))
    assert len(task.groups) == 1 and task.groups[0].runs == runs[:1]
    assert runs[1].problems == ["the same configuration and seed as a: not counted"]


def test_an_unfinished_run_is_not_averaged_with_finished_ones(tmp_path: Path) -> None:
    (write_run(tmp_path / "b", [0.5, 0.6], seed=1) / "summary.json").unlink()
    (task,), _ = grouped(write_run(tmp_path / "a", [0.5, 0.6]), tmp_path / "b")
    assert [len(group.runs) for group in task.groups] == [1, 1]
    assert task.groups[1].label == "2 b, unfinished: 2 rounds"


def test_runs_that_ended_early_are_averaged(tmp_path: Path) -> None:
    early = write_run(tmp_path / "b", [0.5, 0.6, 0.8], seed=1)
    config = early / "lightning_logs" / "version_0" / "config.yaml"
    config.write_text(config.read_text().replace("max_epochs: 3", "max_epochs: 2"))
    (task,), _ = grouped(write_run(tmp_path / "a", [0.5, 0.7]), early)
    (group,) = task.groups
    assert group.values("val_acc") == [0.7, 0.8]
    assert [r for r, _ in group.series("val_acc")] == [1, 2]


def test_runs_without_a_config_stay_alone(tmp_path: Path) -> None:
    for name in "ab":
        (write_run(tmp_path / name) / "lightning_logs" / "version_0" / "config.yaml").unlink()
    (task,), _ = grouped(tmp_path / "a", tmp_path / "b")
    assert task.name == "unknown task (val_acc)" and len(task.groups) == 2


def test_configurations_by_dotted_keys() -> None:
    config = {"a": {"class_path": "x.Y", "init_args": {"b": [1, 2], "c": None}}, 7: True}
    assert flatten(config) == {"a": "Y", "a.b": "[1, 2]", "a.c": "null", "7": "true"}


@pytest.mark.parametrize("args", ["ta", 7, [1], None])
def test_arguments_that_were_cut_short(args: object) -> None:
    assert flatten({"data": {"class_path": "x.Y", "init_args": args}}) == {"data": "Y"}


def test_choices_that_are_values_go_with_their_axis() -> None:
    values = ["8", "-1", "0.01", "true", "null", "[8, 4]", "{}"]
    assert [choice_words({"model.lr": value}) for value in values] == [[f"lr {v}"] for v in values]
    names = ["iid", "2 factors", "both, 10 steps", "", "-", '"8"']
    assert choice_words({str(i): name for i, name in enumerate(names)}) == names
