"""Which backends build engines here, and which of those engines run here?"""

from collections.abc import Callable, Iterator

from models.errors import BackendError, BackendUnavailable
from pipeline.cli.doctor.finding import FAILS, OK, WARNING, Finding
from pipeline.core.params import Params
from pipeline.engines.backends.registry import BACKENDS

NOT_NEEDED = "nothing, unless it is needed: the pipeline goes on without it"


def backends(params: Params) -> Iterator[Finding]:
    """Yield a finding per backend; one that is not in `build.backends` is no cause for concern."""
    configured = params.build.backends
    found = {name: _finding(name, params, name in configured) for name in BACKENDS}
    yield from found.values()
    if not any(_builds(name) for name in configured):
        yield Finding(
            "build.backends",
            FAILS,
            f"none of {', '.join(configured) or 'none'} builds engines here",
            "add one that does, such as onnxruntime",
        )


def _finding(name: str, params: Params, configured: bool) -> Finding:
    backend = BACKENDS[name]
    aside = "" if configured else ", but is not in build.backends"
    try:
        reason = _reason(backend.check)
    except BackendError as e:
        return Finding(name, FAILS, *str(e).split("; ", 1))
    if reason:
        if not configured:
            return Finding(name, OK, f"not in build.backends, and does not build: {reason}")
        return Finding(name, WARNING, f"does not build: {reason}", NOT_NEEDED)
    version = backend.version()
    if reason := _reason(lambda: backend.runnable(params.build)):
        found = f"{version} builds{aside}, does not run here: {reason}"
        if not configured:
            return Finding(name, OK, found)
        return Finding(name, WARNING, found, "time its engines on the device: docs/bundle.md")
    return Finding(name, OK, f"{version} builds and runs{aside}")


def _builds(name: str) -> bool:
    try:
        return _reason(BACKENDS[name].check) is None
    except BackendError:
        return False


def _reason(check: Callable[[], None]) -> str | None:
    try:
        check()
    except BackendUnavailable as e:
        return str(e)
    return None
