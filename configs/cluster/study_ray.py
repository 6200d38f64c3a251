#!/usr/bin/env python
"""Run a study on the nodes of a Ray cluster, each node a share of the cells.

    pip install ray
    python configs/cluster/study_ray.py configs/studies/small.yaml

All that follows the study's file are options of `study`. RAY_ADDRESS names the cluster; without it
a cluster of this machine alone is started. Nodes share the folder that this is called from. Called
again, also with other nodes, it goes on where it was. The table is of all cells that have finished:
that of the last node to end is whole. Ctrl-C stops the cells on all nodes; they can go on.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray would send how it is used
os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # and take cells' lines for one another

try:
    import ray
except ImportError:
    sys.exit("error: Ray is not installed: pip install ray")
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

_SECONDS_TO_STOP = 60


@ray.remote(max_retries=0)
def run_share(folder: str, share: str, arguments: list[str]) -> int:
    """Run a share of the cells on a node, and return the exit code of `study`."""
    command = [sys.executable, "-m", "fedtt_lightning", "study", "--cells", share]
    # Ray's OMP_NUM_THREADS is the node's cores, which `study` shares out among its cells.
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    with subprocess.Popen([*command, *arguments], cwd=folder, env=environment) as study:
        try:
            return study.wait()
        except KeyboardInterrupt:
            study.send_signal(signal.SIGINT)
            return study.wait()


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        print(__doc__)
        return 0 if arguments[:1] in (["--help"], ["-h"]) else 2
    if any(argument.startswith("--cells") for argument in arguments):
        print("error: leave out --cells: each node has a share of them", file=sys.stderr)
        return 2
    ray.init()
    nodes = [n for n in ray.nodes() if n["Alive"] and n["Resources"].get("CPU")]
    shares = []
    for number, node in enumerate(nodes, start=1):
        whole = run_share.options(
            num_cpus=node["Resources"]["CPU"],
            num_gpus=node["Resources"].get("GPU", 0),
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        share = f"{number}/{len(nodes)}"
        shares.append(whole.remote(os.getcwd(), share, ["--config", *arguments]))
    code = 0
    try:
        for node, share in zip(nodes, shares, strict=True):
            try:
                code = max(code, ray.get(share))
            except ray.exceptions.RayError as error:
                print(f"error: node {node['NodeManagerAddress']}: {error}", file=sys.stderr)
                code = 1
    except KeyboardInterrupt:
        for share in shares:
            ray.cancel(share)
        ray.wait(shares, num_returns=len(shares), timeout=_SECONDS_TO_STOP)
        return 130
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
