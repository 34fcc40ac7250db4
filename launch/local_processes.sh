#!/usr/bin/env bash
# Several processes on this machine's CPU, as a rehearsal of several hosts.
#   launch/local_processes.sh 2 --config configs/language_emoji.py:tiny --workdir runs/two
# With --config.mesh.model=2 both hold half of the large weights; --cpu_devices 4 gives each four devices.
# All processes share the run folder; process 0's output is shown, the others' goes to a folder of logs.
set -euo pipefail
if (($# < 2)); then
  echo "usage: $0 PROCESSES --config FILE --workdir FOLDER [...]" >&2
  exit 2
fi
count=$1
shift
python=${PYTHON:-python}
logs=$(mktemp -d "${TMPDIR:-/tmp}/mmjax.XXXXXX")
port=$("$python" -c 'import socket; s = socket.socket(); s.bind(("localhost", 0)); print(s.getsockname()[1])')
export JAX_PLATFORMS=cpu JAX_COORDINATOR_ADDRESS=localhost:$port JAX_NUM_PROCESSES=$count

others=()
trap 'kill ${others[@]+"${others[@]}"} 2>/dev/null || true' EXIT
for ((index = 1; index < count; index++)); do
  JAX_PROCESS_ID=$index "$python" -m mmjax.main --distributed "$@" >"$logs/process_$index.log" 2>&1 &
  others+=($!)
done
code=0
JAX_PROCESS_ID=0 "$python" -m mmjax.main --distributed "$@" || code=$?
for pid in ${others[@]+"${others[@]}"}; do
  wait "$pid" || code=$?
done
others=()
((code == 0)) || echo "a process failed; the logs of the others are in $logs" >&2
exit "$code"
