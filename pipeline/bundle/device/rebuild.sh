#!/usr/bin/env bash
# Build the plan for this very device: bash rebuild.sh [tensorrt | tensorrt_rtx] [flags of the builder]
#
# Writes built/<backend>.plan, the builder's log, and the timing cache that makes the next build
# quick; ends by verifying the plan. run.py prefers one that passed; one that failed is deleted. Needs trtexec of
# TensorRT 10 or 11 (JetPack: /usr/src/tensorrt/bin), or the tool tensorrt_rtx of TensorRT-RTX's
# SDK, and Python 3 with NumPy and Pillow.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

backend=${1:-tensorrt}
shift || true
case $backend in
    tensorrt) tool=trtexec ;;
    tensorrt_rtx) tool=tensorrt_rtx ;;
    *)
        echo "error: no backend '$backend'; there are tensorrt and tensorrt_rtx" >&2
        exit 1
        ;;
esac
PATH=$PATH:/usr/src/tensorrt/bin
if ! command -v "$tool" >/dev/null; then
    echo "error: no $tool here; install TensorRT, or add the folder of its tools to PATH" >&2
    exit 1
fi

# The files are verified first. The graph for this backend, and the minimum, optimum and maximum
# shape: NAME:NxCxHxW.
shapes=$(python3 verify.py --backend "$backend" --shapes)
read -r graph min opt max <<<"$shapes"

# The types are in the graph: TensorRT 11 always follows them, 10 only with --stronglyTyped. Flags
# that this version of the builder does not have are not passed.
help=$("$tool" --help 2>&1 || true)
flags=()
for flag in --stronglyTyped --skipInference "--timingCacheFile=built/$backend.timing"; do
    if [[ $help == *"${flag%%=*}"* ]]; then
        flags+=("$flag")
    fi
done
mkdir -p built
rm -f "built/$backend.plan.new"
"$tool" --onnx="$graph" --saveEngine="built/$backend.plan.new" \
    --minShapes="$min" --optShapes="$opt" --maxShapes="$max" \
    ${flags[@]+"${flags[@]}"} "$@" \
    >"built/$backend.log" 2>&1 || {
    echo "error: $tool could not build $graph; the end of built/$backend.log:" >&2
    tail -n 5 "built/$backend.log" >&2
    exit 1
}
python3 verify.py --backend "$backend"
