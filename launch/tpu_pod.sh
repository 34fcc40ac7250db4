#!/usr/bin/env bash
# A Cloud TPU slice from nothing to a finished run: made or used again, installed, trained, torn down.
#   launch/tpu_pod.sh --project P --zone us-west4-a --name mine --type v5litepod-16 create
#   launch/tpu_pod.sh --project P --zone us-west4-a --name mine install
#   launch/tpu_pod.sh --project P --zone us-west4-a --name mine fetch minilm-l6 dinov2-small
#   launch/tpu_pod.sh --project P --zone us-west4-a --name mine run --config configs/base_emoji.py --workdir /mnt/runs/a
#   launch/tpu_pod.sh --project P --zone us-west4-a --name mine tail
#   launch/tpu_pod.sh --project P --zone us-west4-a --name mine delete
# `run` goes on where it was when it is given again. Not run on a pod: every command is checked
# against a gcloud that only records (tests/run/test_launch.py). See launch/README.md.
set -euo pipefail

usage() {
  sed -n '2,9s/^# \{0,1\}//p' "$0" >&2
  exit 2
}

project='' zone='' name='' type='' version='v2-alpha-tpuv5-lite' spot=''
repo='mmjax' log='mmjax.log'
while (($#)); do
  case $1 in
    --project | --zone | --name | --type | --version | --repo)
      (($# > 1)) || usage
      printf -v "${1#--}" '%s' "$2"
      shift 2
      ;;
    --spot) spot=yes && shift ;;
    -h | --help) usage ;;
    -*)
      echo "error: unknown option $1" >&2
      usage
      ;;
    *) break ;;
  esac
done
(($#)) && [[ $zone && $name ]] || usage
action=$1
shift
where=(--zone "$zone" ${project:+--project "$project"})
tpu=(gcloud compute tpus tpu-vm)

on_all() { # COMMAND: on every host of the slice
  "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all --command "$1"
}

quoted() { # ARGUMENTS...: as one shell word each
  printf '%q ' "$@"
}

case $action in
  create)
    [[ $type ]] || usage
    if "${tpu[@]}" describe "$name" "${where[@]}" --format='value(state)' 2>/dev/null | grep -q .; then
      echo "$name is there already and is used again"
    else
      "${tpu[@]}" create "$name" "${where[@]}" --accelerator-type "$type" --version "$version" \
        ${spot:+--spot}
    fi
    ;;
  install)
    # What is committed here, in the same place on every host.
    archive=$(mktemp "${TMPDIR:-/tmp}/mmjax.XXXXXX.tar.gz")
    trap 'rm -f "$archive"' EXIT
    git archive --format=tar.gz --output "$archive" HEAD
    "${tpu[@]}" scp "$archive" "$name:mmjax.tar.gz" "${where[@]}" --worker=all
    on_all "mkdir -p $(quoted "$repo")&& tar -xzf mmjax.tar.gz -C $(quoted "$repo")\
&& cd $(quoted "$repo")&& python3 -m venv .venv && .venv/bin/python -m pip install --quiet '.[tpu]'"
    ;;
  fetch)
    on_all "cd $(quoted "$repo")&& .venv/bin/python -m mmjax.assets fetch $(quoted "$@")"
    ;;
  run)
    on_all "cd $(quoted "$repo")&& .venv/bin/python -m mmjax.main --distributed $(quoted "$@")\
2>&1 | tee -a $(quoted "$log")"
    ;;
  tail)
    "${tpu[@]}" ssh "$name" "${where[@]}" --worker=0 --command "tail -n 100 -f $(quoted "$repo/$log")"
    ;;
  delete)
    "${tpu[@]}" delete "$name" "${where[@]}" --quiet
    ;;
  *)
    echo "error: unknown action $action; create, install, fetch, run, tail or delete" >&2
    exit 2
    ;;
esac
