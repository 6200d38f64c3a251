"""The configs and the README.md of a new federation."""

from __future__ import annotations

_EXPERIMENT = """\
seed_everything: 0

trainer:
  max_epochs: 12                      # communication rounds
  accelerator: cpu
  default_root_dir: {folder}
  num_sanity_val_steps: 0
{validation}  enable_model_summary: false
  callbacks:
    - class_path: fedtt_lightning.callbacks.Communication
    - class_path: fedtt_lightning.callbacks.RoundReport
    - class_path: fedtt_lightning.callbacks.FederatedCheckpoint

federation:
  local_epochs: 1                     # passes of a silo over its data in a round
{aggregation}
model:
  class_path: fedtt_lightning.SequenceClassifier
  init_args:
    backbone: builtin                 # or the name or folder of a model, the same for all
    lr: 1.0e-2
    peft:
      class_path: fedtt_lightning.TTAdapterConfig
      init_args:
        rank: 4
        bottleneck: 16
        tt_classifier: true

data:                                 # an example: {whose}
  class_path: fedtt_lightning.BuiltinText
  init_args:
    clients: {silos}
    batch_size: 32
    partition:
      class_path: fedtt_lightning.data.Dirichlet
      init_args:
        alpha: 1.0
"""

_NO_VALIDATION = """\
  limit_val_batches: 0                # a silo that validates does so before it answers
"""

_SUMS = """\
  aggregation:                        # the server learns the sum of the silos' updates alone
    class_path: fedtt_lightning.federation.SecureMean
    init_args:
      range: 1.0                      # largest magnitude of a value of an update
      clients: {silos}
      max_weight: 10000.0             # the most examples of a silo
"""

_SERVER = """\
# python -m fedtt_lightning serve --config federation.yaml
# The server of {silos} silos. It needs certificates/ and the silos' public keys, keys/*.pub.
serve:
  silos: {silos}
  host: {host}
  port: {port}
  ca_certificate: certificates/ca.crt
  certificate: certificates/server.crt
  private_key: certificates/server.key
  node_keys:
{keys}
  round_deadline: 600                 # seconds a round's silos have to answer
  join_timeout: 600                   # seconds to wait for silos
{secure}
"""

_SILO = """\
# python -m fedtt_lightning silo --config silo-{silo}.yaml
# Silo {silo} of {silos}. It needs certificates/ca.crt and its own key, keys/silo-{silo}.
silo:
  client: {silo}
  clients: {silos}
  server: {server}
  root_certificate: certificates/ca.crt
  key: keys/silo-{silo}
  socket: sockets/silo-{silo}/worker
  give_up_after: 3600                 # seconds without the server
{secure}
"""

_README = """\
# A federation of {silos} silos

Everybody needs fedtt-lightning with its extra for Flower, in one version:

    pip install "fedtt-lightning[flower]=={version}"

## On one machine, to try it

In this folder, each command in a terminal of its own:

    python -m fedtt_lightning serve --config federation.yaml
{commands}

The server trains nothing. It waits for the silos, and writes its checkpoints to `runs/server`.

## For real

1. Give each silo three files, and keep their places: `silo-K.yaml`, `certificates/ca.crt`,
   `keys/silo-K`. The last is secret; better, the silo makes its own key with
   `ssh-keygen -t ecdsa -b 384 -N "" -f keys/silo-K` and sends you `keys/silo-K.pub`.
2. The server needs `federation.yaml`, `certificates/server.crt`, `certificates/server.key`,
   `certificates/ca.crt` and `keys/*.pub`. Silos reach it as {host}; the certificate names that.
3. `certificates/ca.key` signs new certificates. Nobody needs it day by day: keep it offline.
4. All configs describe one experiment: what they say of `model`, `federation` and `seed_everything`
   must be the same, or the server refuses the silo and says what differs.
5. Replace `data` in each silo's config by its own data (with `clients: 1`), and in the server's
   by what it validates on.

The certificates are valid for {days} days. The clocks of server and silos may differ by 5 minutes.
"""


def server_config(silos: int, host: str, port: int, secure: bool) -> str:
    """Return the server's config: it listens on `host`:`port` for so many silos.

    Args:
        secure: whether it is to learn sums of updates alone.
    """
    keys = "\n".join(f"    - keys/silo-{silo}.pub" for silo in range(silos))
    top = _SERVER.format(silos=silos, host=host, port=port, keys=keys, secure=_switch(secure))
    whose = "what the server validates on"
    return top + _experiment("runs/server", silos, whose, secure)


def silo_config(silo: int, silos: int, server: str, secure: bool) -> str:
    """Return the config of one of `silos` silos, which finds its server at `server`."""
    top = _SILO.format(silo=silo, silos=silos, server=server, secure=_switch(secure))
    whose = f"part {silo} of {silos} of it is this silo's"
    return top + _experiment(f"runs/silo-{silo}", silos, whose, secure, _NO_VALIDATION)


def _switch(secure: bool) -> str:
    return "  secure_aggregation: true            # at the server and all silos\n" if secure else ""


def _experiment(folder: str, silos: int, whose: str, secure: bool, validation: str = "") -> str:
    aggregation = _SUMS.format(silos=silos) if secure else ""
    return _EXPERIMENT.format(
        folder=folder, silos=silos, whose=whose, aggregation=aggregation, validation=validation
    )


def readme(silos: int, host: str, days: int) -> str:
    """Return the README.md of a federation whose server silos reach as `host`."""
    from fedtt_lightning import __version__

    commands = "\n".join(
        f"    python -m fedtt_lightning silo --config silo-{silo}.yaml" for silo in range(silos)
    )
    return _README.format(silos=silos, host=host, days=days, commands=commands, version=__version__)
