"""The small encoder that `backbone="builtin"` means: pretrained here, offline, in seconds.

A random frozen encoder is useless (adapters on it stay at chance), so a real one is made, in the
two steps of a small-data language model: word vectors from a factorised co-occurrence matrix (Levy
and Goldberg, NeurIPS 2014), then masked language modelling (Devlin et al., arXiv 1810.04805) on
generated raw text, in which [CLS] predicts the hidden verdict word as well, so that it learns to
look at the whole text (as in Condenser, Gao and Callan, arXiv 2104.08253). No label is used.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from fedtt_lightning.data.builtin_text import SPECIAL_TOKENS, generate_corpus, vocabulary
from fedtt_lightning.data.cache_dir import default_cache_dir
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.seeds import seed_for

PAD, CLS, SEP, MASK = (
    SPECIAL_TOKENS.index(token) for token in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")
)


@dataclass(frozen=True)
class Recipe:
    """Everything the weights depend on; another recipe is another folder of the cache."""

    version: int = 1
    seed: int = 0
    corpus: int = 20_000
    hidden_size: int = 64
    layers: int = 2
    heads: int = 4
    # As 1/sqrt(hidden_size): at BERT's 0.02 so small a model attends evenly for long.
    initializer_range: float = 0.1
    steps: int = 500
    batch_size: int = 64
    lr: float = 2e-3
    mask_rate: float = 0.12
    verdict_mask_rate: float = 0.7

    def key(self) -> str:
        """Return the hash of the recipe and of the words it is made from."""
        content = json.dumps([asdict(self), vocabulary(), generate_corpus(50, self.seed)])
        return blake2b(content.encode(), digest_size=8).hexdigest()


def ensure_backbone(cache_dir: str | Path | None = None, recipe: Recipe | None = None) -> Path:
    """Return a folder with the built-in encoder and its tokenizer, training them if need be.

    The folder loads with `AutoModel...` and `AutoTokenizer.from_pretrained`. It appears whole or
    not at all, and one that was made by another recipe is never used. The default `cache_dir` is
    that of `default_cache_dir`. Raises ConfigError if it cannot be written.
    """
    recipe = recipe or Recipe()
    root = Path(cache_dir) if cache_dir is not None else default_cache_dir()
    folder = root / f"builtin-{recipe.key()}"
    if (folder / "recipe.json").is_file():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=root))
    except OSError as error:
        raise ConfigError(
            f"the built-in backbone cannot be kept in {root} ({error.strerror}); set "
            "XDG_CACHE_HOME to a folder that can be written"
        ) from error
    try:
        pretrain(recipe).save_pretrained(part)
        make_tokenizer().save_pretrained(part)
        (part / "recipe.json").write_text(json.dumps(asdict(recipe), indent=1))
        part.chmod(0o755)
        if not _rename(part, folder):
            shutil.rmtree(folder)
            part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def make_tokenizer() -> Any:
    """Return the word-level tokenizer of the built-in task, as transformers loads and saves it."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = {word: index for index, word in enumerate(vocabulary())}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL_TOKENS}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def pretrain(recipe: Recipe) -> Any:
    """Return a BertForMaskedLM trained by `recipe`; the global random state is left as it was."""
    from transformers import BertConfig, BertForMaskedLM

    words = {word: index for index, word in enumerate(vocabulary())}
    corpus = generate_corpus(recipe.corpus, recipe.seed)
    texts = [[CLS, *(words[word] for word in text.split()), SEP] for text, _ in corpus]
    length = max(map(len, texts))
    tokens = torch.tensor([text + [PAD] * (length - len(text)) for text in texts])
    verdicts = torch.tensor([words[verdict] for _, verdict in corpus])
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=recipe.hidden_size,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=4 * recipe.hidden_size,
        max_position_embeddings=64,
        initializer_range=recipe.initializer_range,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=PAD,
    )
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(recipe.seed, "builtin", "pretrain"))
        model = BertForMaskedLM(config)
        vectors = word_vectors(tokens.numpy(), len(words), recipe.hidden_size)
        vectors *= recipe.initializer_range / vectors.std()
        with torch.no_grad():
            embeddings = model.get_input_embeddings().weight
            embeddings[len(SPECIAL_TOKENS) :] = torch.from_numpy(vectors[len(SPECIAL_TOKENS) :])
        _train(model, tokens, verdicts, recipe)
    return model.eval()


def word_vectors(tokens: np.ndarray, num_words: int, size: int) -> np.ndarray:
    """Return word vectors [num_words, size] from texts [texts, length], padded with [PAD].

    The square root of the truncated SVD of the positive pointwise mutual information of two words
    in one text (Levy and Goldberg 2014); special tokens get zeros.
    """
    held = np.zeros((len(tokens), num_words), dtype=np.float32)
    np.put_along_axis(held, tokens, 1.0, axis=1)
    held[:, : len(SPECIAL_TOKENS)] = 0
    together = held.T.astype(np.float64) @ held
    np.fill_diagonal(together, 0)
    times = together.sum(axis=1, keepdims=True)
    expected = times @ times.T / max(together.sum(), 1)
    ratio = np.divide(together, expected, out=np.ones_like(together), where=together > 0)
    # torch's SVD, since NumPy's threads are not those of `_one_thread`, and round differently.
    left, values, _ = torch.linalg.svd(torch.from_numpy(np.maximum(np.log(ratio), 0)))
    return (left[:, :size] * values[:size].sqrt()).numpy().astype(np.float32)


def _train(model: Any, tokens: torch.Tensor, verdicts: torch.Tensor, recipe: Recipe) -> None:
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.lr, total_steps=recipe.steps, pct_start=0.1
    )
    steps = range(recipe.steps)
    for _ in tqdm(steps, desc="Pretraining the built-in encoder (once)", mininterval=1):
        rows = torch.randint(len(tokens), (recipe.batch_size,))
        batch, verdict = tokens[rows], verdicts[rows]
        batch = batch[:, : int((batch != PAD).sum(dim=1).max())]
        hide_verdict = torch.rand(len(rows)) < recipe.verdict_mask_rate
        masked = (torch.rand(batch.shape) < recipe.mask_rate) & (batch >= len(SPECIAL_TOKENS))
        is_verdict = batch == verdict[:, None]
        masked = torch.where(is_verdict, hide_verdict[:, None], masked)
        hidden = model.bert(
            input_ids=torch.where(masked, MASK, batch), attention_mask=(batch != PAD).long()
        ).last_hidden_state
        loss = cross_entropy(model.cls(hidden[masked]), batch[masked])
        loss = loss + cross_entropy(model.cls(hidden[hide_verdict, 0]), verdict[hide_verdict])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: as fast at this size, and the same sums on any number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _rename(source: Path, target: Path) -> bool:
    """Move a finished folder into place; a process that was quicker is as good."""
    try:
        source.rename(target)
    except OSError:
        return (target / "recipe.json").is_file()
    return True
