"""Which backends build engines here, and which of those engines run here?"""

from collections.abc import Callable, Iterator

from models.errors import BackendUnavailable
from pipeline.checks.finding import FAILS, OK, WARNING, Finding
from pipeline.engines import BACKENDS
from pipeline.params import Params

LEFT_OUT = "nothing, unless it is needed: the pipeline goes on without it"


def backends(params: Params) -> Iterator[Finding]:
    """Yield a finding per backend; one that is not in `build.backends` is no cause for concern."""
    configured = params.build.backends
    buildable = [name for name in configured if _refusal(BACKENDS[name].check) is None]
    for name in BACKENDS:
        yield _finding(name, params, name in configured)
    if not buildable:
        yield Finding(
            "build.backends",
            FAILS,
            f"none of {', '.join(configured) or 'none'} builds engines here",
            "add one that does, such as onnxruntime",
        )


def _finding(name: str, params: Params, configured: bool) -> Finding:
    backend = BACKENDS[name]
    aside = "" if configured else ", but is not in build.backends"
    if reason := _refusal(backend.check):
        if not configured:
            return Finding(name, OK, f"not in build.backends, and does not build: {reason}")
        return Finding(name, WARNING, f"does not build: {reason}", LEFT_OUT)
    version = backend.version()
    if reason := _refusal(lambda: backend.runnable(params.build)):
        told = f"{version} builds{aside}, does not run here: {reason}"
        if not configured:
            return Finding(name, OK, told)
        return Finding(name, WARNING, told, "time its engines on the device: docs/bundle.md")
    return Finding(name, OK, f"{version} builds and runs{aside}")


def _refusal(check: Callable[[], None]) -> str | None:
    try:
        check()
    except BackendUnavailable as e:
        return str(e)
    return None
