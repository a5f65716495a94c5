#!/usr/bin/env bash
# Build the plan for this very device: bash rebuild.sh [tensorrt | tensorrt_rtx] [flags of the builder]
#
# Writes built/<backend>.plan, which run.py and verify.py then prefer, the builder's log, and the
# timing cache that makes the next build quick; ends with the proof of the plan. Needs trtexec of
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

# The graph for this backend, and the smallest, the best and the largest shape: NAME:NxCxHxW.
read -r graph min opt max < <(python3 - "$backend" <<'PYTHON'
import json, sys

manifest = json.load(open("manifest.json", encoding="utf-8"))
graphs = {graph["backend"]: graph["file"] for graph in manifest["graphs"]}
given = manifest["input"]
shapes = (
    given["name"] + ":" + "x".join(map(str, [given["batch"][size], *given["shape"][1:]]))
    for size in ("min", "opt", "max")
)
print(graphs.get(sys.argv[1], graphs[None]), *shapes)
PYTHON
)

# The types stand in the graph: TensorRT 11 knows no other way, and 10 has to be asked. Flags that
# this version of the builder does not have are left out.
help=$("$tool" --help 2>&1 || true)
flags=()
for flag in --stronglyTyped --skipInference "--timingCacheFile=built/$backend.timing"; do
    if [[ $help == *"${flag%%=*}"* ]]; then
        flags+=("$flag")
    fi
done
mkdir -p built
"$tool" --onnx="$graph" --saveEngine="built/$backend.plan.new" \
    --minShapes="$min" --optShapes="$opt" --maxShapes="$max" \
    ${flags[@]+"${flags[@]}"} "$@" \
    >"built/$backend.log" 2>&1 || {
    echo "error: $tool could not build $graph; its last words (all in built/$backend.log):" >&2
    tail -n 5 "built/$backend.log" >&2
    exit 1
}
mv "built/$backend.plan.new" "built/$backend.plan"
echo "built/$backend.plan is ready"
python3 verify.py --backend "$backend"
