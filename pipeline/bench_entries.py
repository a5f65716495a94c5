"""Which engines `make bench` times: what was asked for, of what is proven and can run here."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from models.errors import ParamsError, near_matches
from pipeline.contenders import Contender, Metrics, Refusal, contenders
from pipeline.params import Params


@dataclass(frozen=True)
class Wanted:
    """What is to be timed; None stands for all there is."""

    variants: list[str] | None = None
    precisions: list[str] | None = None
    backends: list[str] | None = None
    batch_sizes: list[int] | None = None
    all_levels: bool = False  # else level 0, the chosen and the deepest


@dataclass(frozen=True)
class Entries:
    """The engines of one run.

    Attributes:
        timed: those that are timed.
        refused: those that are not, with the reason.
        removed: the blocks that a variant's level lacks.
        chosen: each variant's chosen level.
        first: the first variant asked for.
    """

    timed: list[Contender]
    refused: list[Refusal]
    removed: Mapping[tuple[str, int], list[str]]
    chosen: Mapping[str, int]
    first: str


def settled(params: Params, wanted: Wanted) -> tuple[list[str], Params]:
    """Return the variants to time, and the parameters with the batch sizes asked for.

    Raises:
        ParamsError: a name is unknown, or a batch size is not one that engines take.
    """
    variants = _known(wanted.variants, params.variants, "variant")
    if wanted.batch_sizes is None:
        return variants, params
    sizes, allowed = sorted(set(wanted.batch_sizes)), params.build.batch
    if sizes[0] < allowed.min or sizes[-1] > allowed.max:
        raise ParamsError(
            f"batch sizes {sizes}: engines take {allowed.min} to {allowed.max} images, "
            "as build.batch says"
        )
    timing = params.benchmark.model_copy(update={"batch_sizes": sizes})
    return variants, params.model_copy(update={"benchmark": timing})


def entries(
    facts: Mapping[str, Mapping[str, Metrics]],
    folders: Mapping[str, Path],
    wanted: Wanted,
    params: Params,
) -> Entries:
    """Find the engines to time.

    Args:
        facts: ``{variant: {stage: metrics}}`` of `heal`, `build` and `verify`.
        folders: in which each variant's engines lie.
        wanted: what to time.
        params: what the engines were built for.

    Raises:
        ParamsError: no engine has a precision or backend of that name.
        ArtifactError: an engine file is missing.
    """
    timed: list[Contender] = []
    refused: list[Refusal] = []
    for variant, of in facts.items():
        found = contenders(variant, of["build"], of["verify"], folders[variant], params.build)
        timed += found[0]
        refused += [*found[1], *_without_backend(variant, of["build"])]
    everything: list[Contender | Refusal] = [*timed, *refused]
    precisions = _known(wanted.precisions, _names(everything, "precision"), "precision")
    backends = _known(wanted.backends, _names(everything, "backend"), "backend")
    levels = {variant: _levels(of["heal"], wanted) for variant, of in facts.items()}

    def is_wanted(one: Contender | Refusal) -> bool:
        return (
            one.precision in (*precisions, "")
            and one.backend in backends
            and one.level in levels[one.variant]
        )

    return Entries(
        timed=[one for one in timed if is_wanted(one)],
        refused=[one for one in refused if is_wanted(one)],
        removed={
            (variant, level["level"]): level["removed"]
            for variant, of in facts.items()
            for level in of["heal"]["levels"]
        },
        chosen={variant: of["heal"]["chosen_level"] for variant, of in facts.items()},
        first=next(iter(facts)),
    )


def _without_backend(variant: str, built: Metrics) -> list[Refusal]:
    return [
        Refusal(variant, 0, "", backend, f"not built: {reason}")
        for backend, reason in built["not_available"].items()
    ]


def _levels(healed: Metrics, wanted: Wanted) -> set[int]:
    levels = [level["level"] for level in healed["levels"]]
    return set(levels) if wanted.all_levels else {0, healed["chosen_level"], max(levels)}


def _names(everything: Sequence[Contender | Refusal], kind: str) -> list[str]:
    return list(dict.fromkeys(name for one in everything if (name := getattr(one, kind))))


def _known(names: Sequence[str] | None, known: Collection[str], what: str) -> list[str]:
    """Return the names asked for, or all; `ParamsError` where one is unknown."""
    for name in names or []:
        if name not in known:
            raise ParamsError(
                f"no {what} {name!r}{near_matches(name, known)}; there are {', '.join(known)}"
            )
    return list(known) if names is None else list(dict.fromkeys(names))
