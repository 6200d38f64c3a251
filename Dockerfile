# CPU:   docker build -t fedtt-lightning .
# CUDA:  docker build -t fedtt-lightning:cuda --build-arg BASE_IMAGE=nvidia/cuda:12.8.1-runtime-ubuntu24.04 .
# Train: mkdir -p runs && docker run --rm --user "$(id -u):$(id -g)" -e XDG_CACHE_HOME=/app/runs/.cache \
#          -v "$PWD/runs:/app/runs" fedtt-lightning fit --config configs/quickstart.yaml
ARG BASE_IMAGE=python:3.12-slim
FROM ${BASE_IMAGE}

# Where pip finds torch, e.g. PyTorch's index of CPU wheels; empty = pip's own default.
ARG TORCH_INDEX_URL=""
ARG DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# CUDA bases bring no Python. /opt/venv also keeps clear of a distribution's own packages.
RUN if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then \
      apt-get update \
      && apt-get install -y --no-install-recommends python3 python3-venv \
      && rm -rf /var/lib/apt/lists/*; \
    fi \
    && python3 -c 'import sys; sys.exit(sys.version_info < (3, 11) and "BASE_IMAGE needs Python >= 3.11")' \
    && python3 -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

WORKDIR /app

# torch first, then the rest: neither layer is built again when only the source changes.
COPY constraints.txt ./
RUN pip install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} -c constraints.txt torch
COPY pyproject.toml ./
RUN python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")' \
      > /tmp/requirements.txt \
    && pip install -c constraints.txt -r /tmp/requirements.txt

COPY README.md LICENSE ./
COPY src ./src
RUN pip install --no-deps .
COPY configs ./configs
COPY callbacks ./callbacks

RUN useradd --create-home --uid 10001 fedtt && chown fedtt:fedtt /app
USER fedtt
ENTRYPOINT ["python", "-m", "fedtt_lightning"]
CMD ["--help"]
