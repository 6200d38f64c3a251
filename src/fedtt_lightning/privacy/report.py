"""The plan of a run's privacy as a table, with the options that bring it about."""

from __future__ import annotations

from typing import Any

_OTHER = {"epsilon": "noise", "noise": "epsilon"}


def as_text(plan: dict[str, Any]) -> str:
    """Return what `plan_privacy` found as text, and how to run it."""
    return "\n".join([*_heading(plan), "", *_table(plan), "", *_notes(plan), "", *_to_run(plan)])


def _heading(plan: dict[str, Any]) -> list[str]:
    run, local, central = plan["run"], plan["local"], plan["central"]
    cohorts = f"{run['cohort']:,} in each, drawn uniformly"
    if run["sampling"] == "poisson":
        cohorts = f"{run['cohort']:,} in each on average (Poisson sampling)"
    if run["cohort"] == run["clients"]:
        cohorts = "all in each"
    lines = [
        f"{run['clients']:,} clients, {run['rounds']:,} rounds, {cohorts}, delta "
        f"{run['delta']:g}, accountant {run['accountant']}, seed {run['seed']}",
        "",
    ]
    if local is None:
        lines.append("local DP    not planned: it needs --examples, the examples of each client")
    else:
        batch, examples = local["expected_batch"], run["examples"]
        lines += [
            "local DP    protects each example of a client",
            f"            {local['clients']:,} clients take part, in {_range(local['visits'])} "
            f"rounds and with {_range(local['steps'])} steps in all;",
            f"            an example is in a step's batch with a chance of {local['rate']:.4g} "
            f"({batch:.4g} of {examples:,})",
        ]
    pays = "each client pays for every round"
    if run["sampling"] == "uniform":
        pays = f"who comes most often pays for {central['rounds_paid']:,} rounds"
    lines += [
        "central DP  protects each client",
        f"            {pays}, at a sampling rate of {central['rate']:.4g}",
    ]
    return lines


def _table(plan: dict[str, Any]) -> list[str]:
    asked = plan["asked"]
    found = _OTHER[asked]
    models = ("local", "central") if plan["local"] is not None else ("central",)
    rows = [[asked, *(f"{model} {what}" for model in models for what in (found, "std"))]]
    for row in plan["plans"]:
        cells = [_range(row[model][what]) for model in models for what in (found, "std")]
        rows.append([f"{row[asked]:g}", *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    header, *body = (
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )
    return [header, "-" * len(header), *body]


def _notes(plan: dict[str, Any]) -> list[str]:
    run = plan["run"]
    lines = [
        "noise: standard deviation of the noise on the sum, in units of the clip. std: the same on",
        "the mean gradient of a batch (local) or the mean update of a round (central).",
    ]
    if plan["local"] is not None:
        lines.append(
            "A client of fewer examples spends more, or needs more noise: LocalDP plans for each."
        )
    if run["sampling"] == "poisson" and run["cohort"] < run["clients"]:
        lines.append("Central DP counts on hidden cohorts: keep them so with its secret_file.")
    if run["accountant"] == "gdp":
        lines.append("gdp may underestimate epsilon: check it with --accountant prv.")
    return lines


def _to_run(plan: dict[str, Any]) -> list[str]:
    """Return the command line of the first value, for each model."""
    models = ("local", "central") if plan["local"] is not None else ("central",)
    value = plan["plans"][0][plan["asked"]]
    lines = [f"To run it at {plan['asked']} {value:g}, with a config file of yours:"]
    for model in models:
        lines += ["", " \\\n    ".join(_options(plan, model, value))]
    return lines


def _options(plan: dict[str, Any], model: str, value: float) -> list[str]:
    run = plan["run"]
    callback = "--trainer.callbacks."  # the last one, which the preset appends
    wanted = f"{callback}epsilon {value!r}"
    if plan["asked"] == "noise":
        wanted = f"{callback}noise_multiplier {value!r} {callback}epsilon null"
    sampler = f"PoissonSampler --federation.sampler.rate {plan['central']['rate']!r}"
    if run["sampling"] == "uniform" or run["cohort"] == run["clients"]:
        sampler = f"UniformSampler --federation.sampler.clients_per_round {run['cohort']}"
    training = f"--federation.local_steps {run['local_steps'] or 'null'}"
    if run["local_steps"] is None:
        training += f" --federation.local_epochs {run['local_epochs']}"
    size = [f"--data.batch_size {run['batch_size']} {training}"] if model == "local" else []
    return [
        f"python -m fedtt_lightning fit --config CONFIG --config callbacks/{model}_dp.yaml",
        wanted,
        f"{callback}delta {run['delta']!r} {callback}accountant {run['accountant']}",
        f"--federation.sampler {sampler}",
        *size,
        f"--trainer.max_epochs {run['rounds']} --data.clients {run['clients']} "
        f"--seed_everything {run['seed']}",
    ]


def _range(value: Any) -> str:
    """Return a number, or the least and the most of several."""
    if value is None:
        return "inf"
    if not isinstance(value, dict):
        return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}"
    least, most = _range(value["least"]), _range(value["most"])
    return least if least == most else f"{least} to {most}"
