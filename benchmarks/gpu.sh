#!/usr/bin/env bash
# Photographs on an NVIDIA GPU: trained, exported, verified and measured; the results go to benchmarks/results.
#     make setup && benchmarks/gpu.sh
# Other than the defaults: PYTHON=python3 WORKERS=4 CONNECTIONS=128 benchmarks/gpu.sh
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
workers=${WORKERS:-8}
connections=${CONNECTIONS:-256}
served=photos-aoti-bf16

[ -e artifacts/photos/weights.safetensors ] || "$python" -m training photos --arch resnet50 --epochs 30
for runtime in eager torchscript onnx aoti torchscript-bf16 aoti-bf16; do
    [ -e "model_store/photos-$runtime-1.0.mar" ] ||
        "$python" -m export photos --device cuda --decoder nvjpeg-or-cpu --runtime "$runtime"
done

trap '"$python" -m serve down' EXIT
"$python" -m serve up photos
"$python" -m client verify
"$python" -m serve down

"$python" -m benchmarks.servers --name gpu --archive "$served" --peers none --workers "$workers" --connections "$connections"

"$python" -m serve up "$served"
"$python" -m serve scale "$served" "$workers"
"$python" -m client load "$served" --data .bench/pictures --slo-p99 50 --find-max --output benchmarks/results/gpu-load.json
