#!/usr/bin/env bash
# configs/cluster/torchrun.sh configs/cluster/lanes.yaml
# Starts a config's processes by torchrun; further arguments are options of `fit`. Run it on each
# machine, of several with NODE=0, 1, … in their order:
#   export NODES=2 HEAD=first-host PROCESSES=4
#   NODE=0 configs/cluster/torchrun.sh configs/cluster/silo_ddp.yaml
# A second start goes on from the last round that was finished.
set -euo pipefail
nodes=${NODES:-1} processes=${PROCESSES:-2}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}  # of each process; more of them wait for each other
exec "${PYTHON:-python}" -m torch.distributed.run \
  --nnodes "$nodes" --node-rank "${NODE:-0}" --nproc-per-node "$processes" \
  --master-addr "${HEAD:-127.0.0.1}" --master-port "${PORT:-29500}" \
  -m fedtt_lightning fit --config "$1" \
  --trainer.num_nodes "$nodes" --trainer.devices "$processes" --ckpt_path last "${@:2}"
