"""The verbs of ``python -m pipeline``: one module each, a row in `VERBS` of pipeline/__main__.py.

A verb has a docstring, whose first line is its line in the list and whose rest teaches it, and the
functions ``add_arguments(parser)`` and ``run(arguments)``, which returns an exit code. What is slow
to import, torch above all, it imports inside `run`.
"""

DONE = 0
FAILED = 1  # an error, told in one line
WRONG_USAGE = 2  # what argparse exits with
NOTHING_FITS = 3  # `choose`: no engine obeys the limits
INTERRUPTED = 130  # Ctrl-C, as shells count it
PIPE_CLOSED = 141  # the reader went away, e.g. `| head`
