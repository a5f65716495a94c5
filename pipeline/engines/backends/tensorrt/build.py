"""Build TensorRT engines: the network is typed as its graph is, and any batch of a range fits."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from models.errors import BackendError
from pipeline.core.artifacts import CACHE, digest, locked, replace_file
from pipeline.core.params import Build
from pipeline.engines.backends.interface import Job
from pipeline.engines.backends.packages import captured_stderr, read
from pipeline.engines.backends.tensorrt.package import Flavour

TIMINGS = CACHE / "timings"


def build(flavour: Flavour, job: Job) -> list[str]:
    """Build the engine of an ONNX file, for any batch from ``options.batch`` min to max.

    Returns:
        The builder's warnings.

    Raises:
        ArtifactError: there is no such file.
        BackendError: the file is not a network that TensorRT can read or build, with its messages,
            or an option is unknown to it.
    """
    flavour.logger.clear()
    with captured_stderr() as printed:
        plan = _plan(flavour, job)
    job.target.write_bytes(plan)
    return [*flavour.logger.warnings, *printed]


def _plan(flavour: Flavour, job: Job) -> Any:
    trt, log, batch = flavour.trt, flavour.logger, job.options.batch
    builder = trt.Builder(log)
    config = builder.create_builder_config()
    configure(flavour, config, job.options)
    # TensorRT 11 types every network strongly; 10 has to be asked.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(read(job.source)):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        found = dict.fromkeys(f"{e.node_operator()}: {e.desc()}".strip(": ") for e in errors)
        raise BackendError(f"{flavour.title} cannot read {job.source}: {'; '.join(found)}")
    images = network.get_input(0)
    profile = builder.create_optimization_profile()
    shapes = [(n, *tuple(images.shape)[1:]) for n in (batch.min, batch.opt, batch.max)]
    profile.set_shape(images.name, *shapes)
    config.add_optimization_profile(profile)
    machine = digest({"version": flavour.version(), **flavour.target(job.options)})
    kept = TIMINGS / f"{flavour.package}-{machine}"
    # TensorRT-RTX times nothing.
    with nullcontext() if flavour.ahead_of_time else kept_timings(config, kept):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{flavour.title} cannot build {job.source}: {'; '.join(log.errors)}")
    return plan


def configure(flavour: Flavour, config: Any, options: Build) -> None:
    """Set what the engine must run on; running on other GPUs or versions costs some speed.

    Raises:
        BackendError: the package does not know a value, with those it knows.
    """
    trt = flavour.trt
    # Layer names lead back to ONNX nodes, in profiles and in the inspector.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if flavour.ahead_of_time:
        capabilities = flavour.target(options)["compute_capabilities"]
        config.num_compute_capabilities = len(capabilities)
        known = flavour.known_capabilities()
        for index, capability in enumerate(capabilities):
            value = _known(flavour, "compute_capabilities", capability, known)
            config.set_compute_capability(value, index)
        return
    levels = {n.lower(): level for n, level in trt.HardwareCompatibilityLevel.__members__.items()}
    wanted = options.hardware_compatibility
    config.hardware_compatibility_level = _known(flavour, "hardware_compatibility", wanted, levels)
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)


def _known(flavour: Flavour, option: str, wanted: str, known: dict[str, Any]) -> Any:
    """Return the package's value of that name; `BackendError` where it has none."""
    if wanted not in known:
        raise BackendError(
            f"build.{option}: {wanted!r} is unknown to {flavour.title} {flavour.version()}; it "
            f"knows {', '.join(known)}"
        )
    return known[wanted]


@contextmanager
def kept_timings(config: Any, kept: Path) -> Iterator[None]:
    """Start a build from the kernel timings in a file, and store those that it adds.

    One build at a time: two on one GPU would slow each other's kernels.
    """
    with locked(kept):
        known = kept.read_bytes() if kept.exists() else b""
        cache = config.create_timing_cache(known) or config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
        yield
        with replace_file(kept) as temporary:
            temporary.write_bytes(config.get_timing_cache().serialize())
