"""Does it learn? Train on a simulated world of 200,000 d-pixels and score on ground kept aside.

    python -m benchmarks.learning                       the study, about an hour on two cores
    python -m benchmarks.learning --quick               a tenth of the steps, to see that it runs
    python -m benchmarks.learning --archive FOLDER      score on a labelled archive as well

The world is simulated, packed without the ground that is evaluated, and a teacher, its targets and a
student are made by the product's own stages (`tasks.searching.project`), once for each training
seed. Then everything is scored by one fixed probe on grouped folds, against the same networks
untrained and against what practitioners make of the raw series. An interrupted study goes on where it
stopped. Results go to `benchmarks/results/learning.json` and `learning.png`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.learning_features import PREFIXES, embeddings, rivals
from benchmarks.learning_plot import draw
from benchmarks.learning_scores import Features, Kept, interval, open_kept, summarise
from benchmarks.measuring import RESULTS, machine
from tasks.params import Params, read_params
from tasks.progress import say, track
from tasks.searching.project import complete, open_project
from tasks.simulate import write_archive
from tasks.simulator.config import SimulatorConfig
from tasks.workspace import Workspace

REPOSITORY = Path(__file__).parents[1]
PRESET = REPOSITORY / "infra" / "params" / "world.yaml"
WORLD = SimulatorConfig(num_tiles=36, tile_size_px=56, years=(2020, 2021, 2022))
CORNER = SimulatorConfig(num_tiles=9, tile_size_px=56, years=(2020, 2021, 2022))
"""The corner of the world that is evaluated: other tiles of the same map, other fields."""
_CORNER_PX = 200  # with the rest of the blocks of a kilometre that packing leaves out
STUDENT = "S"
_QUICK = 10

Facts = dict[str, Any]


def simulate(work: Path) -> tuple[Path, Path]:
    """Return the archives of the world and of its corner, made if need be.

    The world's copy of the corner loses its labels: they rank the checkpoints of a training.
    """
    made = []
    for name, config in (("world", WORLD), ("corner", CORNER)):
        folder = work / name
        if not folder.exists():
            say(f"simulating {config.num_tiles * len(config.years)} tiles of {folder}")
            write_archive(config, folder)
        made.append(folder)
    world, corner = made
    for raster in (world / "labels").glob("*/*.tif"):
        left, top = (int(part) for part in raster.name.split("_")[:2])
        if max(left, top) < _CORNER_PX:
            raster.unlink()
    return world, corner


def train(work: Path, world: Path, corner: Path, seed: int, share: int) -> Path:
    """Train a teacher and a student and return their project's folder of outputs."""
    base = read_params(PRESET)
    changes: dict[str, dict[str, Any]] = {
        "ingest": {"archive": str(world)},
        "pack": {"holdout": str(corner)},
        "pretrain": {"seed": seed, "steps": base.pretrain.steps // share},
        "distill": {"seed": seed, "steps": base.distill.steps // share},
    }
    root = work / f"training-{seed}"
    project = open_project(Workspace(REPOSITORY), root, PRESET, changes)
    for stage in ("ingest", "validate", "pack", "pretrain", "cache_targets", f"distill@{STUDENT}"):
        say(f"training {seed}: {stage}")
        complete(project, stage, {})
    return project.artifacts


def features_of(kept: Kept, trained: dict[int, Path], pack: Path) -> list[dict[str, Features]]:
    """Return the features of each training seed; the rivals are the same for all."""
    some = next(iter(trained.values()))
    width = json.loads((some / "cache_targets" / "index.json").read_text())["dim"]
    common = rivals(kept, pack, (*PREFIXES, width))
    return [
        common
        | embeddings(kept, outputs / "pretrain", "teacher", seed)
        | embeddings(kept, outputs / "distill" / STUDENT, "student", seed)
        for seed, outputs in trained.items()
    ]


def judge(kept: Kept, features: list[dict[str, Features]]) -> Facts:
    """Score all features on every draw; draw s takes the network of training s, in turn."""
    scored: dict[str, Facts] = {}
    for name in track(list(features[0]), label="probe", total=len(features[0])):
        of = [features[seed % len(features)][name] for seed in range(len(kept.draws))]
        scored[name] = summarise([kept.scores(f, seed) for seed, f in enumerate(of)])
    names = [task.name for task in kept.draws[0].tasks]
    return {"tasks": names, "features": scored, "claims": claims(scored)}


def claims(scored: Facts) -> Facts:
    """Return what was asked: differences from the rivals, seed by seed, and the shares kept."""
    teacher = next(name for name in scored if name.startswith("teacher"))
    length = teacher.rpartition(" ")[2]
    found: Facts = {}
    for ours, dim in ((teacher, length), (f"student {PREFIXES[-1]}", str(PREFIXES[-1]))):
        against = (f"untrained {ours}", "statistics", "harmonics", "statistics and harmonics")
        for rival in (*against, "seasonal quantiles", f"components {dim}"):
            found[f"{ours} - {rival}"] = _difference(scored[ours], scored[rival])
    for ours, whole in ((f"student {PREFIXES[-1]}", teacher), ("student 16", "student 128")):
        found[f"{ours} / {whole}"] = scored[ours]["mean"] / scored[whole]["mean"]
    return found


def _difference(ours: Facts, rival: Facts) -> dict[str, float]:
    mean, low, high = interval(np.subtract(ours["seeds"], rival["seeds"]).tolist())
    return {"mean": mean, "low": low, "high": high}


def table(ground: Facts) -> str:
    """Return the ranking as text."""
    tasks = ground["tasks"]
    lines = [f"{'features':28} {'mean':>6} {'95 % interval':>16}  " + "  ".join(tasks)]
    for name, facts in sorted(ground["features"].items(), key=lambda item: -item[1]["mean"]):
        cells = "  ".join(f"{facts['tasks'][task]:{len(task)}.3f}" for task in tasks)
        span = f"[{facts['low']:.3f}, {facts['high']:.3f}]"
        lines.append(f"{name:28} {facts['mean']:6.3f} {span:>16}  {cells}")
    for name, value in ground["claims"].items():
        lines.append(f"{name}: {_said(value)}")
    return "\n".join(lines)


def _said(value: float | dict[str, float]) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}]"


def study(work: Path, archives: Sequence[Path], seeds: int, trainings: int, share: int) -> Facts:
    """Run everything and return the results."""
    world, corner = simulate(work)
    trained = {seed: train(work, world, corner, seed, share) for seed in range(1, trainings + 1)}
    pack = next(iter(trained.values())) / "pack"
    params: Params = read_params(PRESET)
    found: Facts = {}
    for name, folder in (("world", corner), *((path.name, path) for path in archives)):
        kept = open_kept(folder, params.evaluate, seeds)
        found[name] = judge(kept, features_of(kept, trained, pack))
        print(f"\n{name}\n{table(found[name])}\n", flush=True)
    settings = {"pretrain": params.pretrain.complete(), "distill": params.distill.complete()}
    rows = json.loads((pack / "index.json").read_text())["rows"]
    return {"dpixels": rows, "seeds": seeds, "trainings": trainings, "settings": settings} | {
        "shortened": share, "grounds": found,
    }  # fmt: skip


def main() -> None:
    """Run the study and write its results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=REPOSITORY / ".tessera" / "learning")
    parser.add_argument("--archive", type=Path, action="append", default=[])
    parser.add_argument("--seeds", type=int, default=5, help="draws of labels and folds")
    parser.add_argument("--trainings", type=int, default=2, help="networks trained from scratch")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, one training")
    chosen = parser.parse_args()
    if chosen.seeds < 2:
        parser.error(f"--seeds: an interval needs two draws or more, got {chosen.seeds}")
    share, trainings = (_QUICK, 1) if chosen.quick else (1, chosen.trainings)
    work = chosen.work / ("quick" if chosen.quick else "full")
    work.mkdir(parents=True, exist_ok=True)
    found = study(work.resolve(), chosen.archive, chosen.seeds, trainings, share)
    place = work if chosen.quick else RESULTS
    place.mkdir(exist_ok=True)
    content = {"machine": machine(), **found}
    (place / "learning.json").write_text(json.dumps(content, indent=1) + "\n")
    draw(found["grounds"], place / "learning.png")
    say(f"written: {place}/learning.json and learning.png")


if __name__ == "__main__":
    main()
