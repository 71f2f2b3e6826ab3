"""The corpus' own statistics as a ``Normalisation``, and the choice of one by name.

    normalisation.json    {"normalisation": the fields of ``Normalisation``, "digest",
                           "borrowed": {"s1_asc": "s1_desc"} where an orbit was never observed}

An orbit that the corpus does not have takes the numbers of the other one: such a model may still meet
it, and the two are nearly alike. A sensor that it does not have at all has no statistics, and none are
made up.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from models.bands import NORMALISATIONS, S1_BANDS, S2_BANDS, Normalisation
from tasks.errors import ParamsError

NORMALISATION = "normalisation.json"
CORPUS = "corpus"
"""What settings call the corpus' own statistics."""

_ORBITS = {"s1_asc": "s1_desc", "s1_desc": "s1_asc"}

Facts = dict[str, Any]


def normalisation_facts(statistics: Facts) -> Facts | None:
    """Return the content of ``normalisation.json``.

    Args:
        statistics: Content of ``statistics.json``.

    Returns:
        None where a sensor was never observed, or a band is the same number everywhere.
    """
    sensors = statistics["sensors"]
    seen = {name for name, facts in sensors.items() if _is_usable(facts)}
    borrowed = {a: b for a, b in _ORBITS.items() if a not in seen and b in seen}
    if "s2" not in seen or not seen & _ORBITS.keys():
        return None
    numbers: Facts = {}
    for name, bands in (("s2", S2_BANDS), ("s1_asc", S1_BANDS), ("s1_desc", S1_BANDS)):
        facts = sensors[borrowed.get(name, name)]["bands"]
        for moment in ("mean", "std"):
            numbers[f"{name}_{moment}"] = tuple(facts[band][moment] for band in bands)
    unnamed = Normalisation(name=CORPUS, **numbers)
    named = replace(unnamed, name=f"{CORPUS}-{unnamed.digest[:12]}")
    return {"normalisation": asdict(named), "digest": named.digest, "borrowed": borrowed}


def _is_usable(facts: Facts) -> bool:
    return all(band["std"] for band in facts["bands"].values())


def resolve(name: str, pack_folder: Path) -> Normalisation:
    """Return the statistics that a setting names.

    Args:
        name: A published set, or ``corpus`` for the corpus' own.
        pack_folder: Output of ``pack``.

    Raises:
        ParamsError: No such set, or the corpus has none of its own.
    """
    if name != CORPUS:
        if name in NORMALISATIONS:
            return NORMALISATIONS[name]
        raise ParamsError(
            f"one of {', '.join((CORPUS, *NORMALISATIONS))}",
            found=name,
            where="normalisation",
            mend="Mend the setting in params.yaml.",
        )
    path = pack_folder / NORMALISATION
    if not path.is_file():
        raise ParamsError(
            "a corpus with observations of Sentinel-2 and Sentinel-1, for statistics of its own",
            found=f"no {NORMALISATION}",
            where=str(pack_folder),
            mend=f"Set normalisation to a published set: {', '.join(NORMALISATIONS)}.",
        )
    given: Facts = json.loads(path.read_text())["normalisation"]
    fields: Facts = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    return Normalisation(**fields)
