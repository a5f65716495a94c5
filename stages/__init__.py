"""One thin script per DVC stage, run as ``python -m stages.<name> [variant]``."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

if sys.argv[:1] == ["-m"]:  # a stage is about to be imported, which takes seconds, and then run
    if find_spec("torch") is None:  # this is not the Python of the environment
        venv = Path(__file__).parents[1] / ".venv"
        python = str(venv / "bin" / "python")
        if not Path(python).exists() or Path(sys.prefix).resolve() == venv.resolve():
            sys.exit(f"error: {sys.executable} lacks Shoal's packages; make setup, then make repro")
        os.execv(python, [python, *sys.orig_argv[1:]])

    from pipeline.core.exits import end_at_once_on_signals

    end_at_once_on_signals()
