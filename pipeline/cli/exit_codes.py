"""Exit codes of ``python -m pipeline``.

A verb is a module with a row in `VERBS` of pipeline/__main__.py, a docstring, whose first line is
its line in the list, and a click command named ``command``, whose help is that docstring and which
returns an exit code; None stands for `DONE`. What is slow to import, torch above all, it imports
inside the command.
"""

DONE = 0
FAILED = 1  # an error, one line on standard error
WRONG_USAGE = 2  # what click exits with
NOTHING_FITS = 3  # `choose`: no engine obeys the limits; `bench`: the floor of accuracy
UNSETTLED = 4  # with --strict: something disturbed the timing
HUNG_UP = 129  # the signal SIGHUP, as shells count it; so are the others
INTERRUPTED = 130  # SIGINT, Ctrl-C
PIPE_CLOSED = 141  # the reader went away, e.g. `| head`
TERMINATED = 143  # SIGTERM
