"""What clients have spent is held against what was planned for them."""

from __future__ import annotations

import pytest
import torch

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import FederatedLoop, RoundPlanner
from fedtt_lightning.privacy.ledger import PrivacyLedger
from fedtt_lightning.privacy.local_plan import LocalBudget, plan_local
from fedtt_lightning.privacy.participation import participations

NOISE = 1.5


@pytest.mark.parametrize(
    ("spent", "exact", "or_less"),
    [
        ({0: 4, 1: 6}, True, True),
        ({0: 4, 1: 3}, False, True),
        ({0: 4}, False, True),
        ({0: 5, 1: 6}, False, False),
        ({0: 4, 1: 7}, False, False),
    ],
)
@pytest.mark.parametrize("noise", [NOISE, 1.6], ids=["as planned", "other noise"])
def test_spent(spent: dict[int, int], exact: bool, or_less: bool, noise: float) -> None:
    """After two rounds, in each of which client 0 takes two steps and client 1 three."""
    planner = RoundPlanner(0, [8, 12], lambda size: size // 4)
    budget = LocalBudget(None, 1e-3, NOISE, "gdp")
    plan = plan_local(budget, planner, participations(planner, 3))
    loop = FederatedLoop(planner, {"weight": torch.zeros(2)})
    loop.plan, loop.is_open = planner.plan(1), False
    ledger = PrivacyLedger(1e-3, "gdp")
    for client, steps in spent.items():
        ledger.add(client, noise, [1 / 2, 1 / 3][client], steps)
    for fits, lenient in ((exact, False), (or_less, True)):
        if fits and noise == NOISE:
            plan.check_spent(ledger, loop, lenient)
        else:
            with pytest.raises(ConfigError, match=r"the checkpoint's account of client [01] has"):
                plan.check_spent(ledger, loop, lenient)
