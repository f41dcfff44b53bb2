#!/usr/bin/env bash
# Photographs on an NVIDIA GPU: trained, exported, verified and measured, into docs/benchmarks.md. What was trained and
# exported is kept in .bench/gpu, and is not made again.
#     make setup && benchmarks/gpu.sh
# Other than the defaults: PYTHON=python3 WORKERS=4 CONNECTIONS=192 DURATION=3 WARM_UP=5 benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
workers=${WORKERS:-7}
connections=${CONNECTIONS:-320}
served=photos-aoti-bf16
artifacts=.bench/gpu/artifacts
store=.bench/gpu/model_store

[ -e "$artifacts/photos/metrics.json" ] || "$python" -m training photos --arch resnet50 --epochs 30 --output "$artifacts"
missing() { [ ! -e "$store/photos-$1-1.0.mar" ]; }
export_one() {  # by exec, so that kill reaches Python: to be called in a subshell only, by ( ) or &
    exec "$python" -m export photos --runtime "$1" --device cuda --decoder nvjpeg-or-cpu --artifacts "$artifacts" --store "$store"
}
beside=(torchscript onnx aoti torchscript-bf16)
# Eager with the goldens, which the others share; what is measured alone, since its compiler times kernels on the GPU.
for runtime in eager aoti-bf16; do
    if missing "$runtime"; then (export_one "$runtime"); fi
done
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for runtime in "${beside[@]}"; do
    if missing "$runtime"; then export_one "$runtime" & fi
done
wait
for runtime in "${beside[@]}"; do
    if missing "$runtime"; then echo "photos-$runtime was not exported." >&2 && exit 1; fi
done

"$python" -m serve up photos --store "$store"
trap '"$python" -m serve down' EXIT
"$python" -m client verify --artifacts "$artifacts" --store "$store"
"$python" -m serve down
trap - EXIT

"$python" -m benchmarks.pictures
divided='import os; from benchmarks.processes import divide; cores = divide(list(os.sched_getaffinity(0)))
for part in cores.server, cores.generator: print(*part, sep=",")'
{ read -r server_cores; read -r generator_cores; } < <("$python" -c "$divided")
taskset --cpu-list "$server_cores" "$python" -m serve up "$served" --store "$store" --workers "$workers"
trap '"$python" -m serve down' EXIT
IFS=, read -ra generators <<<"$generator_cores"
taskset --cpu-list "$generator_cores" "$python" -m client load "$served" --data .bench/pictures --slo-p99 50 --find-max \
    --processes "${#generators[@]}" ${DURATION:+--duration "$DURATION"} \
    --artifacts "$artifacts" --store "$store" --output "$artifacts/load.json" ||
    [ $? = 1 ]  # no rate holds the objective, as the table says then
"$python" -m serve down
trap - EXIT

"$python" -m benchmarks.servers --name gpu --archive "$served" --store "$store" --peers none \
    --workers "$workers" --connections "$connections" ${WARM_UP:+--warm-up "$WARM_UP"} --highest "$artifacts/load.json"
"$python" -m benchmarks.table
