"""Runs differ in the upload alone, and the table sets what they sent side by side."""

import json
from pathlib import Path

import baselines
import pytest
import upload_codecs
import yaml
from grid import ROOT


def finish(out: Path, method: str, upload: str, seed: int, accuracy: float, total: int) -> None:
    one = upload_codecs.cell(method, upload, "i.i.d.", seed)
    summary = {
        "metrics": {"val_acc": accuracy},
        "trainable_parameters": 30,
        "upload_bytes_per_client": total / 100,
        "upload_bytes_total": total,
    }
    record = {"key": one.key, "seconds": 1.0, "head_parameters": 256, "summary": summary}
    (out / one.name).mkdir(parents=True)
    (out / one.name / "done.json").write_text(json.dumps(record))


@pytest.mark.parametrize("upload", upload_codecs.UPLOADS)
def test_a_run_is_that_of_the_baselines_but_for_its_upload(upload: str) -> None:
    base = baselines.cell("SST-2", "LoRA r=8", "severe", 10, "3e-3", 1)
    one = upload_codecs.cell("LoRA r=8", upload, "severe", 1)
    configs = one.configs[len(base.configs) :]
    options = one.options[len(base.options) :]
    assert (one.configs[: len(base.configs)], one.options[: len(base.options)]) == (
        base.configs,
        base.options,
    )
    assert (one.key == base.key) == (upload == "as it is")
    for config in configs:
        assert set(yaml.safe_load((ROOT / config).read_text())) == {"federation"}
    assert all(name.startswith("--federation.upload.") for name in options[::2])
    assert len({cell.name for cell in upload_codecs.cells()}) == len(upload_codecs.cells())


def test_the_table_says_what_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, score in enumerate((0.5, 0.75, 1.0)):
        finish(tmp_path, "LoRA r=8", "as it is", seed, score, 8 * 1024**2)
    finish(tmp_path, "FedTT+ r=5", "Int8", 0, 0.5, 1024**2)
    upload_codecs.table(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert "| LoRA r=8 | as it is | .750 ± .250 | – | 81.9 KiB | 8.00 MiB | 1.0× |" in lines
    assert "| FedTT+ r=5 | Int8 | .500 (1) | – | 10.2 KiB | 1.00 MiB | 8.0× |" in lines
    assert len(lines) == 6 and lines[-1] == "4 of 108 runs are done."
