"""The mean of tensor trains as operators, rounded to the server's rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.adapter_state import AdapterSchema, TensorSpec
from fedtt_lightning.federation.aggregation.operators import OperatorMean
from fedtt_lightning.federation.freezing import factor_groups


class TTRounding(OperatorMean):
    """Averages the clients' tensor trains as operators, exactly, and rounds to the server's ranks.

    Averaging core by core is not the average of what the cores multiply to. Here the trains are
    added as trains and the sum, whose ranks are the sums of the ranks, is rounded by TT-SVD
    (Oseledets, SIAM J. Sci. Comput. 2011, section 3 and algorithm 2): exact if the mean's ranks
    allow it, else within sqrt(d - 1) of the best train of d cores. Everything that is no core
    (biases, a dense head) is averaged as it is.

    Clients may have ranks of their own: one of a smaller rank starts from the server's trains
    rounded to it. Also for FedTT+, whose frozen cores the rounding moves too, so that a client
    downloads every core in every round but uploads only those that trained.
    """

    def check(self, schema: AdapterSchema, cohort: int | None) -> None:
        trains = self._named(schema)
        if not trains:
            raise ConfigError(
                "federation.aggregation TTRounding needs tensor-train cores, but no trainable "
                "parameter is one: set model.peft to TTAdapterConfig, or aggregate with FlexLoRA "
                "for LoRA, else with WeightedMean"
            )
        shapes = {spec.name: spec.shape for spec in schema.specs}
        for prefix, names in trains:
            train = [shapes[name] for name in names]
            bonds = [1, *[shape[-1] for shape in train]]
            fits = all(len(s) == 3 and s[0] == bonds[i] for i, s in enumerate(train))
            if (
                not fits
                or bonds[-1] != 1
                or names != [f"{prefix}core_{i}" for i in range(len(names))]
            ):
                raise ConfigError(
                    f"{prefix}core_* are no tensor train that TTRounding could sum: their shapes "
                    f"are {train}, but must be (1, k, r), (r, k, s), ..., (t, k, 1), all of them "
                    "trainable and none private"
                )

    def groups(self, names: Sequence[str]) -> dict[str, list[str]]:
        return factor_groups(names)

    def to_cores(self, factors: Mapping[str, Tensor]) -> list[Tensor]:
        return list(factors.values())

    def to_factors(
        self, cores: Sequence[Tensor], like: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        return dict(zip(like, cores, strict=True))

    def shape_at(self, spec: TensorSpec, rank: int) -> tuple[int, ...]:
        left, mode, right = spec.shape
        return min(left, rank), mode, min(right, rank)
