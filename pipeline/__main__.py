"""Compare, choose and ship what Shoal made.

examples:
  python -m pipeline doctor                       does everything that is needed work here?
  python -m pipeline repro                        run what has changed, for all variants
  python -m pipeline compare --by latency         all variants, levels and precisions
  python -m pipeline choose --latency-ms 4        which one to ship within 4 ms
  python -m pipeline VERB --help                  how a verb is used, with examples

exit codes:
  0    done
  1    an error, told in one line; or a part failed
  2    wrong usage: an unknown verb, option or value
  3    choose: nothing obeys the limits
  130  stopped by Ctrl-C
  141  the reader of a pipe went away
"""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from types import ModuleType

from pipeline.commands import INTERRUPTED, PIPE_CLOSED
from pipeline.guard import one_line_errors
from pipeline.progress import QUIET

VERBS = {
    "repro": "pipeline.commands.repro",
    "sweep": "pipeline.commands.sweep",
    "status": "pipeline.commands.status",
    "compare": "pipeline.commands.compare",
    "choose": "pipeline.commands.choose",
    "bundle": "pipeline.commands.bundle",
    "doctor": "pipeline.commands.doctor",
}


def main(argv: Sequence[str]) -> int:
    """Run one verb and return the exit code of the process."""
    try:
        arguments = _parser(argv).parse_args(argv, argparse.Namespace(quiet=False))
        if arguments.quiet:
            os.environ[QUIET] = "1"
        with one_line_errors():
            code: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # What is still buffered would raise once more when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    return code


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with the verb that `argv` names, or with all: modules cost time."""
    named = next((word for word in argv if word in VERBS), None)
    quiet = argparse.ArgumentParser(add_help=False)
    quiet.add_argument(
        *("-q", "--quiet"),
        action="store_true",
        default=argparse.SUPPRESS,  # stands before or after the verb
        help="results and errors alone: no progress",
    )
    summary, _, epilog = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description=summary,
        epilog=epilog,
        parents=[quiet],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in [named] if named else VERBS:
        _add(verb, importlib.import_module(VERBS[verb]), verbs, [quiet])
    return parser


def _add(
    verb: str,
    module: ModuleType,
    verbs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    parents: list[argparse.ArgumentParser],
) -> None:
    doc = module.__doc__ or ""
    parser = verbs.add_parser(
        verb,
        help=doc.partition("\n")[0],
        description=doc,
        parents=parents,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
