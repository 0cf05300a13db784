#!/usr/bin/env bash
# The checks that need an NVIDIA device: CUDA, TensorRT, agreement with the processor, batches, memory that
# runs out, NVENC. Figures go to gpu-check/gpu_check.json and .md.
#
#   scripts/gpu_check.sh                    every device part that lies beside ONNX Runtime
#   scripts/gpu_check.sh --device cuda:1    one device;  --device cpu  a rehearsal on the processor
#   scripts/gpu_check.sh --model FILE --quick --out FOLDER
#
# On another machine: carry scripts/gpu_check.sh and gpu_check.py, the program and the libraries, and name them:
#   UPSCALED_BIN     the program              [default: target/release/upscaled of this repository]
#   ORT_DYLIB_PATH   folder of ONNX Runtime   [default: where the program finds it, lib/gpu first]
# Libraries are fetched by: scripts/setup.sh --gpu --libraries-only
# Exit codes: 0 all is well, 1 a check failed, 2 wrong usage, 77 there is no such device here.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
command -v python3 >/dev/null || { echo "gpu_check: python3 is needed" >&2; exit 2; }
exec python3 "$here/gpu_check.py" "$@"
