"""When each client takes part in a planned run, which is known before anything is spent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fedtt_lightning.federation import RoundPlanner

# The rounds (0-based) in which a client trains and sends, and the batches of each, in order.
Participation = Sequence[tuple[int, int]]


def participations(
    planner: RoundPlanner, rounds: int, advance: Callable[[], object] = lambda: None
) -> dict[int, Participation]:
    """Return the visits of every client that has any in the first `rounds` rounds.

    With those whose upload nobody uses, being late or of a round that is skipped: it is sent all
    the same. Cohorts, dropouts and caps depend on no data, so this tells nothing about anybody's.

    Args:
        advance: called after each round.
    """
    found: dict[int, list[tuple[int, int]]] = {}
    for round in range(rounds):
        plan = planner.plan(round)
        for visit in plan.visits:
            found.setdefault(visit.client, []).append((round, visit.num_batches))
        for client in (*plan.late, *plan.unused):
            found.setdefault(client, []).append((round, planner.batches_of(client)))
        advance()
    return dict(found)


def last_affordable(
    visits: Mapping[int, Participation], affordable: Callable[[int, int], int]
) -> dict[int, int]:
    """Return, for each client whose budget does not last, the round from which it is left out.

    Args:
        affordable: gives the steps that fit into the budget, for a client and its planned steps.
    """
    retired = {}
    for client, planned in visits.items():
        left = affordable(client, sum(steps for _, steps in planned))
        for round, steps in planned:
            left -= steps
            if left < 0:
                retired[client] = round
                break
    return retired
