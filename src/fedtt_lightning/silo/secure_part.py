"""A silo's part of a secure sum, which stands in its answer until that leaves."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedtt_lightning.federation import FederatedLoop, SecureRule, Visit
from fedtt_lightning.silo.messages import Refused, Update
from fedtt_lightning.silo.secure_letters import write_integers


def secret_part(loop: FederatedLoop, visit: Visit, answer: Update) -> Update | Refused:
    """Return an answer with the integers that the client adds to the sum, for `SecureAnswers`.

    Raises:
        FederationError: the update does not fit the numbers of `federation.aggregation`.
    """
    rule = loop.aggregation
    assert isinstance(rule, SecureRule) and rule.bits is not None
    if loop.counted is None:
        return Refused("its update holds NaN or Inf")
    values = rule.message(visit.client, loop.counted, loop.weight(visit)).cpu().numpy()
    return replace(answer, payload=write_integers(values.astype(np.uint64), rule.bits))
