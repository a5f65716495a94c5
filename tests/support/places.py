"""Where the repository is, and the params.yaml that tests start from."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
# PYTHONPATH of a script among the tests.
IMPORTS = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
FIXED = ROOT / "tests" / "support" / "params.yaml"
