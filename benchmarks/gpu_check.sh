#!/usr/bin/env bash
# Checks and times kinet-trt on a GPU machine, which needs CUDA's driver, Python with PyTorch, CuPy, onnx, ONNX Runtime
# and OpenCV, for the tests pytest and Hypothesis, and no network.
#
#   benchmarks/gpu_check.sh --pack [FOLDER]   on any machine: the models and TensorRT for RTX in parts, in .gpu
#   benchmarks/gpu_check.sh --unpack PART...  on the GPU machine, as often as parts arrive: keeps them, joins the last
#   benchmarks/gpu_check.sh [OPTION...]       on the GPU machine: everything else; benchmarks/gpu.py --help has options
#
# A GPU machine that is reached by size-limited uploads gets one part an upload, then the rest:
#
#   benchmarks/gpu_check.sh --unpack .gpu/tensorrt/part-00; benchmarks/gpu_check.sh --sections peaks,frames --limit 120
#   benchmarks/gpu_check.sh --unpack .gpu/tensorrt/part-01 && benchmarks/gpu_check.sh    # with .gpu/models
#
# A run takes 8 minutes at most and adds to what an earlier one on that machine found (--sections runs some again).
#
# PYTHON is the interpreter (python3), KINET_TRT_RTX the folder of parts and of TensorRT for RTX (/tmp/kinet-trt-rtx),
# OUT where gpu-DEVICE.json goes (benchmarks/results).
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
rtx=${KINET_TRT_RTX:-/tmp/kinet-trt-rtx}

case "${1:-}" in
  --pack)
    shift
    exec "$python" benchmarks/gpu_pack.py "$@"
    ;;
  --unpack)
    shift
    [ $# -gt 0 ] || { echo "gpu_check: --unpack: expected folders of parts, found none" >&2; exit 2; }
    mkdir -p "$rtx/parts"
    for part in "$@"; do
      [ -f "$part/manifest.json" ] || { echo "gpu_check: $part: expected a part made by --pack, found none" >&2; exit 1; }
      cp -r "$part" "$rtx/parts/"
    done
    status=0
    "$python" "$1/pack_tensorrt.py" unpack "$rtx/parts" "$rtx/site" || status=$?
    [ "$status" -eq 3 ] && exit 0  # parts are missing, and it has said which
    exit "$status"
    ;;
esac

# The package: as it is installed by everybody, or else, where that fails, laid out beside.
if ! "$python" -c 'import kinet_trt.export' 2>/dev/null; then
  if ! "$python" -m pip install --quiet --no-index --no-deps --no-build-isolation -e . >/dev/null 2>&1 ||
     ! "$python" -c 'import kinet_trt.export.networks.kinet' 2>/dev/null; then
    echo "gpu_check: the package is not installed, a copy of it is used" >&2
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    cp -r kinet_trt "$copy/kinet_trt"
    cp -r export "$copy/kinet_trt/export"
    cp -r calibration "$copy/kinet_trt/calibration"
    # Not the folder that it is started in, which has no kinet_trt.export.
    export PYTHONSAFEPATH=1 PYTHONPATH="$copy:$PWD/benchmarks${PYTHONPATH:+:$PYTHONPATH}"
  fi
fi
[ -d "$rtx/site" ] && export PYTHONPATH="$rtx/site${PYTHONPATH:+:$PYTHONPATH}"
# No interpreter takes this one's place: the copy is removed at the end.
"$python" benchmarks/gpu.py "$@"
