"""Build TensorRT engines: the network is typed as its graph is, and any batch of a range fits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from models.errors import BackendError
from pipeline.artifacts import digest, locked, replace_file
from pipeline.engines.interface import Job
from pipeline.engines.messages import captured_stderr
from pipeline.engines.tensorrt import (
    Flavour,
    known_capabilities,
    messages,
    package,
    read,
    target,
    target_capabilities,
    version,
)
from pipeline.params import Batch, Build


def build(flavour: Flavour, job: Job) -> list[str]:
    """Build the engine of an ONNX file, for any batch from ``options.batch`` min to max.

    Returns:
        The builder's warnings.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the file is not a network that TensorRT can read or build, with its messages,
            or an option is unknown to it.
    """
    said = messages(flavour)
    said.clear()
    with captured_stderr() as printed:
        plan = _plan(flavour, job)
    job.target.write_bytes(plan)
    return [*said.warnings, *printed]


def _plan(flavour: Flavour, job: Job) -> Any:
    trt, said = package(flavour), messages(flavour)
    builder = trt.Builder(said)
    config = builder.create_builder_config()
    configure(flavour, config, job.options)
    # TensorRT 11 types every network strongly; 10 has to be asked.
    strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(strongly_typed)
    parser = trt.OnnxParser(network, said)
    if not parser.parse(read(job.source)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = dict.fromkeys(f"{e.node_operator()}: {e.desc()}".strip(": ") for e in errors)
        raise BackendError(f"{flavour.title} cannot read {job.source}: {'; '.join(found)}")
    config.add_optimization_profile(_profile(builder, network.get_input(0), job.options.batch))
    with _timings(flavour, config, job):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{flavour.title} cannot build {job.source}: {'; '.join(said.errors)}")
    return plan


def configure(flavour: Flavour, config: Any, options: Build) -> None:
    """Set what the engine must run on.

    Raises:
        BackendError: the package does not know a value, with those it knows.
    """
    trt = package(flavour)
    # Layer names lead back to ONNX nodes, in profiles and in the inspector.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if flavour.ahead_of_time:
        _set_capabilities(flavour, config, target_capabilities(flavour, options))
    else:
        _set_compatibility(flavour, config, options)


def _set_capabilities(flavour: Flavour, config: Any, wanted: list[str]) -> None:
    known = known_capabilities(flavour)
    for capability in wanted:
        if capability not in known:
            raise BackendError(
                f"build.compute_capabilities has {capability!r}, which {flavour.title} "
                f"{version(flavour)} cannot build for; it knows {', '.join(known)}"
            )
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        config.set_compute_capability(known[capability], index)


def _set_compatibility(flavour: Flavour, config: Any, options: Build) -> None:
    """Let the engine run on other GPUs and with other versions; either costs some speed."""
    trt = package(flavour)
    levels = trt.HardwareCompatibilityLevel.__members__
    wanted = options.hardware_compatibility.upper()
    if wanted not in levels:
        raise BackendError(
            f"build.hardware_compatibility = {options.hardware_compatibility!r} is unknown to "
            f"{flavour.title} {version(flavour)}; it knows {', '.join(map(str.lower, levels))}"
        )
    config.hardware_compatibility_level = levels[wanted]
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _profile(builder: Any, images: Any, batch: Batch) -> Any:
    _, *size = images.shape
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, *((n, *size) for n in (batch.min, batch.opt, batch.max)))
    return profile


@contextmanager
def _timings(flavour: Flavour, config: Any, job: Job) -> Iterator[None]:
    """Let a build start from the kernel timings of earlier ones, and keep what it adds.

    TensorRT-RTX times nothing ahead of time.
    """
    if flavour.ahead_of_time or job.scratch is None:
        yield
        return
    machine = {"version": version(flavour), **target(flavour, job.options)}
    kept = job.scratch / f"{flavour.package}-{digest(machine)}.timings"
    with locked(kept):
        known = kept.read_bytes() if kept.exists() else b""
    cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    keep_timings(config, config.get_timing_cache(), kept)


def keep_timings(config: Any, cache: Any, kept: Path) -> None:
    """Add what other processes have stored meanwhile, and store both."""
    with locked(kept):
        if kept.exists():
            others = config.create_timing_cache(kept.read_bytes())
            if others is not None:
                cache.combine(others, ignore_mismatch=False)
        with replace_file(kept) as temporary:
            temporary.write_bytes(cache.serialize())
