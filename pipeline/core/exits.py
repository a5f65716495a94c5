"""How a process of Shoal ends, a stage or a verb: in one line, never in a traceback.

An error that a user can fix ends with 1; SIGINT, SIGTERM and SIGHUP with 130, 143 and 129, as
shells count them; a reader that went away (``| head``) with 141 and in silence.
"""

import errno
import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import NoReturn

from models.errors import ShoalError, enough_memory

# What the file system may answer through no fault of the code, and what helps.
UNUSABLE = {
    errno.ENOSPC: "the disk is full (writing {}); free some space",
    errno.EDQUOT: "the disk quota is used up (writing {}); free some space",
    errno.EFBIG: "{} would be larger than a file may be here; raise the limit (ulimit -f)",
    errno.EROFS: "{} is on a read-only file system; make it writable, or move the project",
    errno.EACCES: "{} may not be read or written by this user; change its permissions",
    errno.EPERM: "{} may not be changed, even by this user; remove its protection (lsattr)",
    errno.EIO: "the disk fails at {}; check the disk",
    errno.EMFILE: "too many files are open (opening {}); raise the limit (ulimit -n 4096)",
    errno.ENFILE: "too many files are open on this machine (opening {}); end other programs",
    errno.ENOTDIR: "{} lies below something that is no folder; move that away",
}

HELD_AT_ONCE = (
    *("train.batch_size", "score.samples", "plan.replacement_samples", "precision.samples"),
    *("verify.samples", "benchmark.batch_sizes", "prepare.image_size"),
)
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PIPE_CLOSED = 141
WORKER = "TORCHELASTIC_RUN_ID"  # in the environment of one process of several, whose starter speaks


class Stopped(KeyboardInterrupt):
    """A signal asks this process to end."""

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        named = "" if number == signal.SIGINT else f" by {self.signal.name}"
        super().__init__(f"stopped{named}")


def stop_at_once(number: int, _: FrameType | None = None) -> NoReturn:
    """End this process, in which nothing is under way that would have to be undone."""
    if WORKER not in os.environ:
        with suppress(OSError):
            os.write(2, f"{Stopped(number)}\n".encode())
    os._exit(128 + number)


def end_at_once_on_signals() -> None:
    """Handle signals while modules are imported, before `ProcessFrame` does."""
    for number in STOPS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, stop_at_once)


class ProcessFrame:
    """What all of a process runs in: signals, closed pipes and terminals without UTF-8."""

    def __enter__(self) -> None:
        """Raise `Stopped` from now on where a signal asks to end; a second one ends at once."""
        self.stopped: Stopped | None = None
        self.before = {number: signal.getsignal(number) for number in STOPS}
        for number, handler in self.before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._stop)
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")

    def _stop(self, number: int, _: FrameType | None) -> NoReturn:
        if self.stopped:
            stop_at_once(number)
        self.stopped = Stopped(number)
        raise self.stopped

    def __exit__(
        self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None
    ) -> None:
        """End by `SystemExit` where a signal came, whatever it led to, or the reader is away."""
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.stopped is None and isinstance(error, KeyboardInterrupt):
            self.stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        try:
            if self.stopped and WORKER not in os.environ:
                print(self.stopped, file=sys.stderr, flush=True)
            if sys.stdout and not isinstance(error, BrokenPipeError):
                sys.stdout.flush()
        except BrokenPipeError as e:
            error = e
        if isinstance(error, BrokenPipeError):
            # What is still buffered would raise once more when Python ends.
            for stream in filter(None, (sys.stdout, sys.stderr)):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if self.stopped:
            raise SystemExit(128 + self.stopped.signal) from None
        if isinstance(error, BrokenPipeError):
            raise SystemExit(PIPE_CLOSED) from None


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line where what is inside ends by an error that a user can fix.

    Those are a `ShoalError`, a shortage of memory, and what the file system refuses.
    """
    try:
        with enough_memory(f"lower what is held at once: {', '.join(HELD_AT_ONCE)}"):
            yield
    except ShoalError as e:
        sys.exit(f"error: {e}")
    except OSError as e:
        if e.errno not in UNUSABLE:
            raise
        sys.exit(f"error: {UNUSABLE[e.errno].format(e.filename or 'an output')}")
