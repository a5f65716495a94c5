"""Values on the command line that click has no type for."""

import math
from typing import Any

import click

NO_LIMIT = math.inf


class Limit(click.ParamType[float]):
    """A number, 0 or more, or ``none``, which lifts a limit and is read as `NO_LIMIT`."""

    name = "number"

    def __init__(self, *, above_zero: bool = False) -> None:
        self.above_zero = above_zero

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number."""
        if value == "none":
            return NO_LIMIT
        try:
            number = float(value)
        except ValueError:
            number = -1.0
        if not 0 <= number < math.inf:
            self.fail(f"{value!r} is neither a number, 0 or more, nor `none`", param, ctx)
        if number == 0 and self.above_zero:
            self.fail("0 is too small", param, ctx)
        return number


strict = click.option("--strict", is_flag=True, help="End with 4 where the timing is unsettled.")
as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for a program.")
