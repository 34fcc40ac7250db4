#!/usr/bin/env bash
# Every host of a Cloud TPU slice runs the same command; jax finds its peers from the TPU's metadata.
# NOT TESTED: written after the documentation of Cloud TPU and jax, never run on a pod.
#   TPU=my-slice ZONE=us-central2-b launch/tpu_pod.sh --config configs/language_emoji.py --workdir gs://bucket/runs/a
# Before: this repository at the same path ($REPO) on every host, with .venv made by
#   python3 -m venv .venv && .venv/bin/python -m pip install '.[tpu]'
# A run folder must be one that all hosts see.
set -euo pipefail
: "${TPU:?set TPU to the name of the slice}" "${ZONE:?set ZONE to its zone}"
repo=${REPO:-mmjax}
command=$(printf '%q ' .venv/bin/python -m mmjax.main --distributed "$@")
exec gcloud compute tpus tpu-vm ssh "$TPU" --zone "$ZONE" --worker=all \
  --command "cd $(printf '%q' "$repo") && $command"
