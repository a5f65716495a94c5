"""Run first by run.py and verify.py: `edge` is imported from its .py files alone.

Bytecode, compiled modules and packages beside them are never run, and no bytecode is written.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import Any

EDGE = Path(__file__).resolve().parent


class _Source(SourceFileLoader):
    def path_stats(self, path: str) -> Any:
        raise OSError  # what is not dated has no bytecode


class _Finder:
    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: Any = None
    ) -> ModuleSpec | None:
        package, _, module = name.partition(".")
        if package != EDGE.name:
            return None
        file = str(EDGE / f"{module or '__init__'}.py")
        if not Path(file).is_file():
            raise ImportError(f"{file} is missing")
        places = None if module else []
        return spec_from_file_location(
            name, file, loader=_Source(name, file), submodule_search_locations=places
        )


sys.dont_write_bytecode = True
sys.meta_path.insert(0, _Finder)
