"""A small ONNX network damaged in every way, and what the product makes of each damaged file.

Run as a script, it writes one line of JSON per file: a crash of native code ends this process, not
that of the tests.
"""

import json
import random
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto
from tiny_onnx import some_images, write_network

from models.errors import ShoalError
from pipeline.collapse.rewrite import collapse_onnx
from pipeline.core.params import Build
from pipeline.engines.backends.interface import Job
from pipeline.engines.backends.registry import BACKENDS
from pipeline.engines.precision.typed_graphs import open_level
from pipeline.export.boundaries import Boundary, load_onnx, record_boundaries
from pipeline.export.session import runner

MEMORY = 8 * 2**30
BLOCK = Boundary("block", ["relu0"], ["relu1"], "")
KEPT = Boundary("kept", ["relu1"], ["relu2"], "")
OPTIONS = Build.model_validate(
    {
        "backends": ["onnxruntime"],
        "compute_capabilities": ["8.6"],
        "batch": {"min": 1, "opt": 1, "max": 4},
    }
)
IMAGES = some_images(3)
Bytes = Callable[[bytearray, random.Random], None]
Change = Callable[[ModelProto, random.Random], None]


def write_original(path: Path) -> None:
    write_network(path, depth=3)
    model = onnx.load(path)
    record_boundaries(model, [BLOCK, KEPT])
    onnx.save(model, path)


def _flip(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice([1, 1, 3, 20])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def _cut_out(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.choice([1, 4, 100])]


def _overwrite(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start : start + 8] = rng.randbytes(8)


def _drop_node(model: ModelProto, rng: random.Random) -> None:
    del model.graph.node[rng.randrange(len(model.graph.node))]


def _repeat_node(model: ModelProto, rng: random.Random) -> None:
    model.graph.node.append(rng.choice(model.graph.node))


def _drop_initializer(model: ModelProto, rng: random.Random) -> None:
    del model.graph.initializer[rng.randrange(len(model.graph.initializer))]


def _rename_tensor(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice(model.graph.node)
    names = rng.choice([node.input, node.output])
    others = [name for other in model.graph.node for name in other.output]
    names[rng.randrange(len(names))] = rng.choice(["", "nothing", "images", *others])


def _cycle(model: ModelProto, rng: random.Random) -> None:
    first, last = sorted(rng.sample(range(len(model.graph.node)), 2))
    model.graph.node[first].input[0] = model.graph.node[last].output[0]


def _retype(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_type = rng.choice([0, 1, 6, 7, 9, 10, 11, 16, 17, 22, 99])


def _reshape(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.dims[rng.randrange(len(tensor.dims))] = rng.choice([-1, 0, 1, 2, 9, 2**31, 2**62])


def _other_form(model: ModelProto, rng: random.Random) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    kind = rng.randrange(4)
    if kind == 0:
        value.type.tensor_type.elem_type = rng.choice([0, 7, 10, 99])
    elif kind == 1:
        value.type.tensor_type.ClearField("shape")
    elif kind == 2:
        value.type.Clear()
    else:
        value.type.tensor_type.shape.dim[0].dim_value = rng.choice([-1, 0, 1, 2**40])


def _other_operator(model: ModelProto, rng: random.Random) -> None:
    kinds = ["Relu", "Conv", "Flatten", "Gemm", "Add", "Identity", "Loop", "If", "Nothing", ""]
    rng.choice(model.graph.node).op_type = rng.choice(kinds)


def _other_attribute(model: ModelProto, rng: random.Random) -> None:
    node = rng.choice([node for node in model.graph.node if node.attribute])
    attribute = rng.choice(node.attribute)
    value = rng.choice([-1, 0, 3, 2**40])
    attribute.i = value
    attribute.ints[:] = [value] * rng.choice([0, 1, 4])
    attribute.type = rng.choice([1, 2, 5, 7, attribute.type])


def _other_version(model: ModelProto, rng: random.Random) -> None:
    model.ir_version = rng.choice([-1, 0, 3, 10, 99])
    model.opset_import[0].version = rng.choice([-1, 0, 1, 7, 20, 999])


def _no_ends(model: ModelProto, rng: random.Random) -> None:
    rng.choice([model.graph.ClearField])(rng.choice(["input", "output", "node", "initializer"]))


def _external(model: ModelProto, rng: random.Random) -> None:
    tensor = rng.choice(model.graph.initializer)
    tensor.data_location = TensorProto.EXTERNAL
    place = rng.choice(["../../../etc/passwd", "/etc/passwd", "missing.bin", ""])
    tensor.external_data.add(key="location", value=place)
    if rng.random() < 0.5:
        tensor.ClearField("raw_data")


def _other_boundaries(model: ModelProto, rng: random.Random) -> None:
    names = [*(node.output[0] for node in model.graph.node), "images", "nothing", ""]
    record_boundaries(
        model, [Boundary("block", [rng.choice(names)], [rng.choice(names)], ""), KEPT]
    )


def _damaged_boundaries(model: ModelProto, rng: random.Random) -> None:
    broken = ["", "{}", "[1]", "null", '[{"name": 1}]', '{"a": {"name": "block"}}']
    broken += ['[{"name": "block", "inputs": 1, "outputs": null, "reason": ""}]']
    broken += ['[{"name": "block", "inputs": [{}], "outputs": [[]], "reason": ""}]']
    model.metadata_props[0].value = rng.choice(broken)


BYTES: list[Bytes] = [_flip, _truncate, _cut_out, _overwrite]
CHANGES: list[Change] = [
    *(_drop_node, _repeat_node, _drop_initializer, _rename_tensor, _cycle, _retype, _reshape),
    *(_other_form, _other_operator, _other_attribute, _other_version, _no_ends, _external),
    *(_other_boundaries, _damaged_boundaries),
]


def mutant(original: bytes, number: int) -> tuple[str, bytes]:
    """Return what was done to the file, and the file."""
    rng = random.Random(f"mutant {number}")
    if number % 3 == 0:
        damage = rng.choice(BYTES)
        data = bytearray(original)
        damage(data, rng)
        return damage.__name__, bytes(data)
    change = CHANGES[number % len(CHANGES)]
    model = ModelProto.FromString(original)
    change(model, rng)
    return change.__name__, model.SerializeToString()


def _bypassed(path: Path) -> bytes:
    """Return a network with its block bypassed, by other means than the product's."""
    model = load_onnx(path)
    [block] = [
        Boundary(**entry)
        for prop in model.metadata_props
        for entry in json.loads(prop.value)
        if entry["name"] == "block"
    ]
    bypass = onnx.helper.make_node("Identity", block.inputs, ["bypassed"])
    for node in model.graph.node:
        node.input[:] = ["bypassed" if name == block.outputs[0] else name for name in node.input]
    places = [i for i, node in enumerate(model.graph.node) if block.inputs[0] in node.output]
    model.graph.node.insert(max(places, default=-1) + 1, bypass)
    return model.SerializeToString()


def _answer(work: Callable[[], Any]) -> tuple[str, Any]:
    try:
        return "value", work()
    except ShoalError as e:
        return ("told" if str(e).strip() else "silent"), str(e)


def judge(path: Path) -> str:
    """Return in a word what the product made of a file; a traceback is for the caller."""
    target = path.with_name("collapsed.onnx")
    target.unlink(missing_ok=True)
    found = _answer(lambda: collapse_onnx(path, target, ["block"]))
    if found[0] == "silent":
        return "silent"
    if found[0] == "told":
        assert not target.exists()
    else:
        expected, got = (_answer(lambda s=s: runner(s)(IMAGES)) for s in (_bypassed(path), target))
        if expected[0] == "value":
            assert got[0] == "value", got
            assert np.allclose(expected[1], got[1], rtol=1e-4, atol=1e-5, equal_nan=True)
    job = Job(path, path.with_name("engine.onnx"), "fp32", OPTIONS)
    backend = BACKENDS["onnxruntime"]
    for work in (
        lambda: open_level(0, path, IMAGES),
        lambda: (backend.build(job), backend.inspect(job)),
    ):
        assert _answer(work)[0] != "silent"
    return found[0]


def main(folder: Path, first: int, last: int) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    original = folder / "original.onnx"
    write_original(original)
    for number in range(first, last):
        path = folder / "mutant.onnx"
        damage, data = mutant(original.read_bytes(), number)
        path.write_bytes(data)
        line = {"number": number, "damage": damage}
        print(json.dumps(line), flush=True)
        try:
            line["end"] = judge(path)
        except Exception as e:  # noqa: BLE001 - whatever comes is what is looked for
            line |= {
                "end": f"{type(e).__name__}: {e}"[:300],
                "where": traceback.format_exc()[-900:],
            }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
