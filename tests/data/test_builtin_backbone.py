import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from fedtt_lightning.data import builtin_backbone
from fedtt_lightning.data.builtin_backbone import Recipe, ensure_backbone, pretrain, word_vectors
from fedtt_lightning.data.builtin_text import VERDICTS, generate_corpus
from fedtt_lightning.errors import ConfigError
from launch import launch

QUICK = Recipe(corpus=300, steps=3)


def weights(folder):
    return AutoModelForMaskedLM.from_pretrained(folder).state_dict()


def test_the_folder_loads_as_any_pretrained_model(tmp_path):
    folder = ensure_backbone(tmp_path, QUICK)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(["the soup was tasty", "not bland"], padding=True, return_tensors="pt")
    assert model(**batch).logits.shape == (2, 2)
    assert tokenizer.decode(batch["input_ids"][0]) == "[CLS] the soup was tasty [SEP]"
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}


def test_it_is_trained_once_and_again_for_another_recipe(tmp_path, monkeypatch):
    first = ensure_backbone(tmp_path, QUICK)
    made = (first / "recipe.json").stat().st_mtime_ns
    assert ensure_backbone(tmp_path, QUICK) == first
    assert (first / "recipe.json").stat().st_mtime_ns == made
    other = ensure_backbone(tmp_path, Recipe(corpus=300, steps=4))
    assert other != first
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert ensure_backbone(recipe=QUICK).parent == tmp_path / "cache" / "fedtt-lightning"


def test_training_is_deterministic_and_leaves_the_global_state_alone(tmp_path):
    torch.manual_seed(5)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first = pretrain(QUICK).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    torch.manual_seed(6)
    second = pretrain(QUICK).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    saved = weights(ensure_backbone(tmp_path, QUICK))
    assert all(torch.equal(first[name], saved[name]) for name in first)


def test_an_interrupted_training_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupted(recipe):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builtin_backbone, "pretrain", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ensure_backbone(tmp_path, QUICK)
    assert list(tmp_path.iterdir()) == []
    # A folder without its recipe, as no complete one is, is replaced.
    (tmp_path / f"builtin-{QUICK.key()}").mkdir()
    (tmp_path / f"builtin-{QUICK.key()}" / "model.safetensors").write_bytes(b"half")
    assert (ensure_backbone(tmp_path, QUICK) / "recipe.json").is_file()


@pytest.mark.processes
def test_two_processes_at_once_agree(tmp_path):
    assert launch(ensure_backbone, tmp_path, QUICK, processes=2) == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == [f"builtin-{QUICK.key()}"]
    made, expected = weights(tmp_path / f"builtin-{QUICK.key()}"), pretrain(QUICK).state_dict()
    assert all(torch.equal(made[name], expected[name]) for name in expected)


def test_a_cache_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        ensure_backbone(tmp_path / "file" / "cache", QUICK)


def test_word_vectors_factor_the_pointwise_mutual_information():
    rng = np.random.default_rng(0)
    tokens = rng.integers(5, 12, size=(400, 6))
    tokens[:, -1] = 0
    vectors = word_vectors(tokens, 12, 12)
    # The reference: counted pair by pair, straight from the definition.
    together = np.zeros((12, 12))
    for text in tokens:
        words = set(text.tolist()) - {0}
        for a in words:
            for b in words - {a}:
                together[a, b] += 1
    total, times = together.sum(), together.sum(axis=1)
    singular = np.linalg.svd(vectors @ vectors.T)[1]
    ppmi = np.zeros((12, 12))
    for a in range(5, 12):
        for b in range(5, 12):
            if together[a, b]:
                ppmi[a, b] = max(np.log(together[a, b] * total / (times[a] * times[b])), 0)
    # U S U^T of the factors has the singular values of the matrix itself.
    assert np.allclose(np.sort(singular), np.sort(np.linalg.svd(ppmi)[1]), atol=1e-4)
    assert np.allclose(vectors[:5], 0, atol=1e-4)


def test_the_pretrained_encoder_has_learned_what_the_words_mean_in_their_order(tmp_path):
    folder = ensure_backbone(tmp_path)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    pairs = generate_corpus(600, seed=9)
    hidden = [text.replace(f"{word} it", "[MASK] it") for text, word in pairs]
    batch = tokenizer(hidden, padding=True, return_tensors="pt")
    choices = torch.tensor(tokenizer.convert_tokens_to_ids([w for pair in VERDICTS for w in pair]))
    positive = torch.tensor([word in {pair[1] for pair in VERDICTS} for _, word in pairs])
    with torch.no_grad():
        logits = model(**batch).logits
    at_mask = logits[batch["input_ids"] == tokenizer.mask_token_id]
    for guesses in (at_mask, logits[:, 0]):
        said_positive = guesses[:, choices].argmax(dim=1) % 2 == 1
        assert (said_positive == positive).float().mean() > 0.88


def test_the_number_of_threads_changes_nothing():
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads):
            found.append(pretrain(QUICK).state_dict())
    torch.set_num_threads(before)
    assert all(torch.equal(found[0][name], value) for name, value in found[1].items())
