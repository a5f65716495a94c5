"""Compare, choose and ship what Shoal made.

examples:
  dvc repro                                       run what has changed, for all variants
  python -m pipeline doctor                       does everything that is needed work here?
  python -m pipeline compare --by latency         all variants, levels and precisions
  python -m pipeline choose --latency-ms 4        which one to ship within 4 ms
  python -m pipeline VERB --help                  how a verb is used, with examples

exit codes:
  0    done
  1    an error, one line on standard error; or a part failed
  2    wrong usage: an unknown verb, option or value
  3    choose: nothing obeys the limits; bench: the floor of accuracy is not held
  129  stopped by SIGHUP: the terminal was closed
  130  stopped by Ctrl-C
  141  the reader of a pipe went away
  143  stopped by SIGTERM
"""

import ast
import copy
import importlib
import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path

try:
    import click
except ModuleNotFoundError as e:  # as with any Python but that of the environment
    sys.exit(f"error: {e}; make setup, then use .venv/bin/python")

from pipeline.cli.exit_codes import DONE
from pipeline.core.exits import ProcessFrame, end_at_once_on_signals, one_line_errors
from pipeline.core.progress import QUIET

VERBS = {
    "doctor": "pipeline.cli.doctor.command",
    "preset": "pipeline.cli.preset",
    "sweep": "pipeline.cli.sweep.command",
    "status": "pipeline.cli.status",
    "compare": "pipeline.cli.compare",
    "choose": "pipeline.cli.choose",
    "bench": "pipeline.cli.bench",
    "bundle": "pipeline.cli.bundle",
    "download": "pipeline.cli.download",
    "ui": "pipeline.cli.ui",
}


def main(argv: Sequence[str]) -> int:
    """Run one verb and return the exit code of the process."""
    try:
        with ProcessFrame():
            return _run(argv)
    except SystemExit as e:
        if isinstance(e.code, int):
            return e.code
        raise  # with the line of an error


def _run(argv: Sequence[str]) -> int:
    """Return what the verb returns; click's own `main` has other exit codes."""
    try:
        with one_line_errors(), shoal.make_context("python -m pipeline", [*argv]) as context:
            code: int | None = shoal.invoke(context)
    except click.exceptions.Exit as e:  # of --help
        return e.exit_code
    except click.ClickException as e:
        e.show()
        return e.exit_code
    return code or DONE


class Verbs(click.Group):
    """The verbs of `VERBS`; the module of the one that is named is imported, and no other."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """Return a verb, with its help as it is written."""
        if cmd_name not in VERBS:
            raise click.NoSuchCommand(cmd_name, possibilities=VERBS, ctx=ctx)
        module = importlib.import_module(VERBS[cmd_name])
        verb: click.Command = copy.copy(module.command)
        verb.name = cmd_name
        verb.help = _as_written(verb.help)
        verb.params = [*verb.params, quiet]
        return verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the verbs."""
        with formatter.section("verbs"):
            formatter.write_dl([(verb, _first_line(module)) for verb, module in VERBS.items()])


def _as_written(text: str | None) -> str:
    """Return a text that click breaks no lines of: ``\\b`` in front of each paragraph says so."""
    paragraphs = inspect.cleandoc(text or "").replace("\b\n", "").split("\n\n")
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in paragraphs)


def _first_line(module: str) -> str:
    """Return the first line of a module's docstring; the module is not imported."""
    source = Path(__file__).parents[1] / f"{module.replace('.', '/')}.py"
    docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _be_quiet(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        os.environ[QUIET] = "1"


# It stands before or after the verb.
quiet = click.Option(
    ["-q", "--quiet"],
    is_flag=True,
    expose_value=False,
    callback=_be_quiet,
    help="Results and errors alone: no progress.",
)

shoal = Verbs(
    help=_as_written(__doc__),
    params=[quiet],
    subcommand_metavar="VERB …",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

if __name__ == "__main__":
    end_at_once_on_signals()
    sys.exit(main(sys.argv[1:]))
