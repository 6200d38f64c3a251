"""What every test may ask for: the folder with real data and weights, and no network."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines may be busy. The same examples in each run: a failure has to be of the change at hand.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("search", untimed)  # new ones: pytest --hypothesis-profile search
settings.register_profile("repeat", untimed, derandomize=True)
settings.load_profile("repeat")

# Before anything imports transformers or datasets: a test that needs the network must fail fast.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def _no_launcher() -> None:
    """Forget what Lightning's launcher leaves behind in a process that has started another one.

    Whoever inherited it would take itself for started by a launcher, and wait for its peers.
    """
    for name in ("LOCAL_RANK", "NODE_RANK"):
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _own_umask() -> Iterator[None]:
    """Give back the umask, which the command `silo` sets for its whole process."""
    before = os.umask(0o022)
    os.umask(before)
    yield
    os.umask(before)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder with `data/` and `weights/`, named by the environment variable FEDTT_SHARED."""
    name = os.environ.get("FEDTT_SHARED")
    if not name:
        pytest.skip("FEDTT_SHARED names no folder with data/ and weights/")
    folder = Path(name).resolve()
    assert (folder / "data").is_dir() and (folder / "weights").is_dir(), f"{folder} holds no data"
    return folder


@pytest.fixture(scope="session")
def glue_dir(shared: Path) -> Path:
    return shared / "data" / "glue"


@pytest.fixture(scope="session")
def bert_dir(shared: Path) -> Path:
    """A real pretrained BERT of 2 layers × 128, with its tokenizer."""
    return shared / "weights" / "bert-tiny-reviews"


@pytest.fixture(scope="session")
def llama_dir(shared: Path) -> Path:
    """A real pretrained LLaMA of 5 layers × 64, with its tokenizer."""
    return shared / "weights" / "stories260k-llama"


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a very small encoder of the built-in kind, hardly trained."""
    from fedtt_lightning.data.builtin_backbone import Recipe, ensure_backbone

    recipe = Recipe(corpus=300, steps=3, hidden_size=32)
    return str(ensure_backbone(tmp_path_factory.mktemp("cache"), recipe))
