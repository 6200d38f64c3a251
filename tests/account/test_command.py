"""The command as a user types it."""

import json

import pytest
import torch

from fedtt_lightning.account import main
from fedtt_lightning.account.methods import methods, part_of


def test_json_holds_what_the_methods_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--family", "bert-base", "--rank", "4", "--dtype", "float16", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert (result["family"], result["rank"], result["dtype"]) == ("bert-base", 4, "float16")
    rows = {row["method"]: row for row in result["methods"]}
    found = {m.name: m for m in methods("bert-base", rank=4, bottleneck=64)}
    assert list(rows) == list(found)
    plus = rows["FedTT+"]
    sizes = found["FedTT+"].message_sizes(torch.float16, head=False)
    assert plus["parameters"] == found["FedTT+"].parameters()
    assert (plus["upload"]["least"], plus["upload"]["most"]) == (min(sizes), max(sizes))
    assert plus["upload"]["mean"] == pytest.approx(sum(sizes) / len(sizes))
    assert plus["upload_with_head"]["mean"] > plus["upload"]["mean"]
    assert rows["LoRA r=8"]["reference_ratio"] == 1
    assert rows["LoRA r=4"]["reference_ratio"] == pytest.approx(2, rel=0.01)


def test_table_shows_every_method_and_the_published_ratio(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--family", "roberta-base"]) == 0
    lines = capsys.readouterr().out.splitlines()
    codecs = next(i for i, line in enumerate(lines) if line.startswith("up, with a codec"))
    rows = {line.split("  ")[0]: line.split() for line in lines[:codecs]}
    assert {"FedTT", "FedTT+", "LoRA r=8", "FFA-LoRA r=8", "RoLoRA r=8"} <= set(rows)
    assert rows["FedTT"][1:5] == ["37,440", "19,968", "0", "3,386"]
    assert rows["FedTT"][-1] == "5.13x"  # 294,912 / 57,408 and two headers
    assert max(map(len, lines)) < 140
    rows = {line.split("  ")[0]: line.split() for line in lines[codecs:]}
    assert rows["method"] == [
        "method",
        "(B)Float16",
        "ratio",
        "Int8",
        "ratio",
        "TopK",
        "0.1",
        "ratio",
    ]
    assert rows["FedTT"][1:] == ["114,992", "10.3x", "58,800", "20.1x", "15,490", "76.2x"]


@pytest.mark.parametrize(("family", "ratio"), [("bert-base", 75), ("llama-2-7b", 360)])
def test_fedtt_plus_in_int8_beside_lora_in_float32(
    family: str, ratio: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Bytes of a byte a value, a scale of 4 a tensor, and a header; of LoRA 4 a value."""
    assert main(["--family", family, "--json"]) == 0
    rows = {row["method"]: row for row in json.loads(capsys.readouterr().out)["methods"]}
    sent = rows["FedTT+, factors only"]["codecs"]["Int8"]
    assert sent["reference_ratio"] == pytest.approx(ratio, rel=0.01)
    method = next(m for m in methods(family, 5, 64) if m.name == "FedTT+, factors only")
    values = [
        sum(t.numel() + 4 for n, t in method.tensors.items() if n in names and part_of(n) != "head")
        for names in method.rounds
    ]
    header = sent["upload"]["mean"] - sum(values) / len(values)
    assert 0 < header < 320


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], "--family"),
        (["--family", "gpt-5"], "roberta-base"),
        (["--family", "bert-base", "--rank", "x"], "--rank"),
        (["--family", "bert-base", "--rank", "0"], "rank=0"),
        (["--family", "bert-base", "--rank", "500"], "largest"),
        (["--family", "bert-base", "--bottleneck", "-1"], "bottleneck"),
        (["--family", "bert-base", "--loud"], "--loud"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    argv: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert named in captured.err


@pytest.mark.parametrize(
    ("family", "said"),
    [
        ("llama-2-7b", "407,040 parameters without the head, 65% of them biases: 10.30x fewer"),
        ("llama-2-13b", "585,120 parameters without the head, 71% of them biases: 11.20x fewer"),
    ],
)
def test_the_table_says_what_llama_trains(
    family: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--family", family]) == 0
    lines = capsys.readouterr().out.splitlines()
    (line,) = (line for line in lines if line.startswith("FedTT trains"))
    assert said in line and len(line) < 140
