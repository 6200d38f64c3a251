"""What a model writes: greedily, one row at a time or many, and how it is judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from answer_rows import answer_rows, padded
from byte_tokenizer import byte_tokenizer
from fedtt_lightning.adapters import TTAdapterConfig
from fedtt_lightning.data import SuperGlueData
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.modules import CausalLM
from quiet_trainer import quiet_trainer

END = 2


def with_tokenizer(folder: str, marks: tuple[str, ...] = ()) -> str:
    """Save a tokenizer of the words w0 … w59, of which w2 is the end, and none is for padding."""
    words = Tokenizer(WordLevel({f"w{i}": i for i in range(60)}, unk_token="w1"))
    words.pre_tokenizer = Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="w2")
    tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    tokenizer.save_pretrained(folder)
    return folder


def build(folder: str, **options: Any) -> CausalLM:
    torch.manual_seed(1)
    config = options.pop("peft", TTAdapterConfig(rank=2, bottleneck=8, init="loretta"))
    return CausalLM(folder, config, task="squad", **{"dtype": "float32", **options}).eval()


def greedy(model: torch.nn.Module, ids: torch.Tensor, tokens: int) -> str:
    """The most likely next token again and again, each from a forward pass over the whole text."""
    start = len(ids)
    for _ in range(tokens):
        with torch.no_grad():
            best = model(input_ids=ids[None]).logits[0, -1].argmax()
        if best == END:
            break
        ids = torch.cat([ids, best[None]])
    return " ".join(f"w{i}" for i in ids[start:].tolist())


def prompts() -> dict[str, Any]:
    rows = answer_rows(5, seed=3)
    batch: dict[str, Any] = padded(rows, "left")
    del batch["labels"]
    return batch | {"references": [["w5 w6"], ["w7"], ["w8"], ["w9", "w10"], ["w11"]]}


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_padded_batches_give_what_each_prompt_gives_alone(
    decoder: Callable[..., str], family: str
) -> None:
    wide = {"initializer_range": 0.3, "init_std": 0.3}  # so that what is written depends on prompts
    folder = with_tokenizer(decoder(family, eos_token_id=END, **wide))
    module = build(folder, peft=peft.LoraConfig(r=2), generate_max_tokens=6)
    expected = [greedy(module.model, ids, 6) for ids, _ in answer_rows(5, seed=3)]
    assert len(set(expected)) > 1
    assert module.predict_step(prompts(), 0) == {"prediction": expected}


@pytest.mark.parametrize("of_model", [END, 4, [4, 5], None])
def test_writing_ends_at_the_end_token(decoder: Callable[..., str], of_model: Any) -> None:
    """The tokenizer's, whatever the model's files name."""
    folder = with_tokenizer(decoder("llama", eos_token_id=of_model))
    module = build(folder, peft=None, generate_max_tokens=20)
    with torch.no_grad():
        module.model.lm_head.weight[END] = 2 * module.model.lm_head.weight[7:].mean(0)
    alone = [greedy(module.model, ids, 20) for ids, _ in answer_rows(5, seed=3)]
    assert module.predict_step(prompts(), 0)["prediction"] == alone


def test_exact_match_and_f1_are_logged(decoder: Callable[..., str], tmp_path: Path) -> None:
    folder = with_tokenizer(decoder("llama", eos_token_id=END))
    module = build(folder, generate_max_tokens=3)
    batch = prompts()
    written = module.predict_step(batch, 0)["prediction"]
    batch["references"] = [["w59"], [written[1]], ["w59"], ["w59", written[3]], [" "]]
    trainer = quiet_trainer(tmp_path, 1, [], precision="32-true")
    data = DataLoader([batch], batch_size=None)  # type: ignore[arg-type]
    (validated,) = trainer.validate(module, data, verbose=False)
    assert validated == pytest.approx({"val_em": 0.4, "val_f1": 0.4})
    module.generate_max_tokens = 0
    with pytest.warns(UserWarning, match="generate_max_tokens is 0"):
        assert trainer.validate(module, data, verbose=False) == [{}]
    module.generate_max_tokens = 2
    (tested,) = trainer.test(module, data, verbose=False)
    assert set(tested) == {"test_em", "test_f1"}


@pytest.mark.parametrize(
    "method", [peft.LoraConfig(r=2), peft.PromptTuningConfig(num_virtual_tokens=2)]
)
def test_any_method_writes_in_half_precision(decoder: Callable[..., str], method: Any) -> None:
    folder = with_tokenizer(decoder("llama", eos_token_id=END))
    module = build(folder, peft=method, dtype="bfloat16", generate_max_tokens=4)
    found = module.predict_step(prompts(), 0)["prediction"]
    assert len(found) == 5 and all(len(text.split()) <= 4 for text in found)


def test_stops_at_what_ends_a_turn(decoder: Callable[..., str]) -> None:
    """A chat's turn may end in a special token that nothing names as the end."""
    folder = with_tokenizer(decoder("llama", eos_token_id=END))
    (words,) = (text.split() for text in write(folder)[:1])
    assert len(words) == 6
    stopped = write(with_tokenizer(folder, marks=(words[3],)))[0].split()
    assert stopped == words[: words.index(words[3])]


def write(folder: str) -> list[str]:
    written: list[str] = build(folder, generate_max_tokens=6).predict_step(prompts(), 0)[
        "prediction"
    ]
    return written


def test_what_cannot_be_written_is_one_line(decoder: Callable[..., str]) -> None:
    long = build(with_tokenizer(decoder("gpt2", eos_token_id=END)), generate_max_tokens=38)
    with pytest.raises(ConfigError, match=r"40 positions.*generate_max_tokens"):
        long.predict_step(prompts(), 0)
    mute = build(decoder("llama", eos_token_id=3))
    with pytest.raises(ConfigError, match="tokenizer") as caught:
        mute.predict_step(prompts(), 0)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def squad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A question of SQuAD, and a tokenizer of bytes apart from the model."""
    folder = tmp_path_factory.mktemp("squad")
    question = {"id": "q", "question": "Where?", "answers": [{"text": "Rome"}]}
    paragraphs = [{"context": "It is in Rome.", "qas": [question]}]
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        (folder / "SQuAD").mkdir(exist_ok=True)
        content = {"data": [{"title": "Italy", "paragraphs": paragraphs}]}
        (folder / "SQuAD" / name).write_text(json.dumps(content))
    byte_tokenizer().save_pretrained(folder / "bytes")
    return folder


def data_of(squad: Path) -> SuperGlueData:
    return SuperGlueData("squad", str(squad / "bytes"), str(squad), max_length=60, clients=1)


def test_prompts_too_long_to_go_on_from_are_found_in_setup(
    decoder: Callable[..., str], squad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    prompt = "It is in Rome.\nQuestion: Where?\nAnswer:"
    tokens = len(byte_tokenizer()(prompt)["input_ids"])
    sizes = {"vocab_size": 300, "max_position_embeddings": 60}
    trainer = quiet_trainer(tmp_path, 1, [], precision="32-true")
    for more, name in ((0, "predict"), (1, "predict"), (1, "test"), (1, "validate")):
        module = build(decoder("llama", **sizes), generate_max_tokens=60 - tokens + more)
        step = {"validate": "validation"}.get(name, name)
        monkeypatch.setattr(module, f"{step}_step", no_batch)
        run = getattr(trainer, name)
        if not more:
            with pytest.raises(AssertionError, match="a batch"):
                run(module, data_of(squad))
            continue
        with pytest.raises(ConfigError, match=rf"prompts of {tokens} tokens and \d+ to generate"):
            run(module, data_of(squad))


def no_batch(batch: Any, batch_idx: int) -> None:
    raise AssertionError("a batch")


def test_texts_are_written_with_the_tokenizer_of_the_data(
    decoder: Callable[..., str], squad: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = with_tokenizer(decoder("llama", vocab_size=300, max_position_embeddings=61))
    module = build(folder, generate_max_tokens=8)
    trainer = quiet_trainer(tmp_path, 1, [], precision="32-true")
    (predicted,) = trainer.predict(module, data_of(squad)) or []
    tokens = byte_tokenizer()
    ids = tokens("It is in Rome.\nQuestion: Where?\nAnswer:", return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    for _ in range(8):
        with torch.no_grad():
            best = module.model(input_ids=ids).logits[0, -1].argmax()
        if best in tokens.all_special_ids:
            break
        ids = torch.cat([ids, best.view(1, 1)], 1)
    assert predicted["prediction"] == [tokens.decode(ids[0, start:]).strip()]
    assert ids.shape[1] == start + 8


def test_a_real_llama_tells_a_story(llama_dir: Path) -> None:
    module = CausalLM(str(llama_dir), task="instructions", generate_max_tokens=12).eval()
    tokenizer = module_tokenizer(llama_dir)
    ids = tokenizer("Once upon a time, there was a little", return_tensors="pt")
    (text,) = module.predict_step({**ids, "references": [[]]}, 0)["prediction"]
    assert text.startswith("girl named")


def module_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
