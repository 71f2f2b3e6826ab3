"""What a search tries: changes to one section of the settings, as a list, a grid, or both.

    {"learning_rate": [0.001, 0.002], "projector.width": [256, 512]}      a grid: four trials
    [{"learning_rate": 0.0005, "off_diagonal_weight": 0.02}]              a list: one

The one idea: a trial is its settings. Names are those of params.yaml, a dot goes into a mapping, and
every trial is checked before the first one runs.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from pydantic import ValidationError

from tasks.errors import ParamsError
from tasks.settings.training import PretrainParams

Override = Mapping[str, Any]


def expand(
    grid: Mapping[str, Sequence[Any]] | None, trials: Sequence[Override] | None
) -> list[Override]:
    """Return the trials of a grid in its order, the last name fastest, and then those of the list.

    Raises:
        ParamsError: There is no trial, or a name of the grid has no list of values.
    """
    wanted = dict(grid or {})
    for name, values in wanted.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ParamsError(
                "a list of values to try",
                found=repr(values),
                where=f"grid: {name}",
                mend=f"Write {name}: [{values}]; a value that is a list is [[...]].",
            )
    points = [dict(zip(wanted, values, strict=True)) for values in product(*wanted.values())]
    found = [*(points if wanted else []), *(trials or [])]
    if not found:
        raise ParamsError(
            "at least one trial",
            found="neither a grid nor a list",
            where="search",
            mend='Give one, e.g. grid={"learning_rate": [0.001, 0.002]}.',
        )
    return found


def applied(section: PretrainParams, override: Override) -> PretrainParams:
    """Return the section with a trial's changes.

    Raises:
        ParamsError: A name that the section does not have, or a value that it refuses.
    """
    content = section.complete()
    for name, value in override.items():
        *path, last = name.split(".")
        inner: Any = content
        for word in path:
            inner = inner.get(word) if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or last not in inner:
            raise ParamsError(
                "a setting of pretrain, a dot before each name inside a mapping",
                found=name,
                where="search",
                mend="See the section pretrain of params.yaml.",
            )
        inner[last] = value
    try:
        return PretrainParams.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise ParamsError(
            "values that pretraining accepts",
            found=f"{'.'.join(map(str, first['loc']))}: {first['msg']}",
            where=f"trial {dict(override)}",
            mend="Mend the trial.",
        ) from error
