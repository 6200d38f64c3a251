import numpy as np
import pytest
from datasets import Dataset
from torch.utils.data import Subset

from fedtt_lightning.data.by_column import ByColumn
from fedtt_lightning.data.partition import Examples
from fedtt_lightning.errors import ConfigError

USERS = ["ann", "bob", "ann", "cem", "bob", "ann", "dee"]


@pytest.fixture(params=["datasets", "list of dicts", "subset"])
def examples(request):
    if request.param == "datasets":
        return Examples(Dataset.from_dict({"user": USERS}))
    rows = [{"user": user} for user in USERS]
    return Examples(
        Subset([{"user": "zoe"}, *rows], range(1, 8)) if "sub" in request.param else rows
    )


def test_one_client_a_value_in_ascending_order(examples):
    for clients in (None, 4):
        partition = ByColumn("user")(examples, clients, np.random.default_rng(0))
        assert [part.tolist() for part in partition] == [[0, 2, 5], [1, 4], [3], [6]]


def test_values_are_grouped_to_even_sizes_and_never_torn(examples):
    partition = ByColumn("user")(examples, 2, np.random.default_rng(0))
    assert [part.tolist() for part in partition] == [[0, 2, 5, 6], [1, 3, 4]]


def test_more_clients_than_values_says_how_many_there_are(examples):
    with pytest.raises(ConfigError, match="4 distinct values; set it to 4 or less, or to null"):
        ByColumn("user")(examples, 5, np.random.default_rng(0))


def test_an_unknown_column_names_those_there_are(examples):
    with pytest.raises(ConfigError, match="no column 'hospital'; it has user"):
        ByColumn("hospital")(examples, 2, np.random.default_rng(0))
