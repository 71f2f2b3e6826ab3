"""A small corpus, a small teacher and a store: what the tests of target caching start from."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.architecture import TeacherConfig
from models.bands import NORMALISATIONS
from models.checkpoint import checkpoint_config, write_checkpoint
from models.dpixel import DPixels
from models.initialisation import initialise
from models.teacher import Teacher
from tasks.cache_targets import write_targets
from tasks.checkpoints import open_checkpoint
from tasks.params import read_params
from tasks.settings.products import CacheTargetsParams
from tasks.streaming.corpus import Corpus, open_corpus
from tasks.targets.store import TargetStore
from tests.corpora import make_dpixels, write_corpus

ROWS, BLOCK_ROWS, SHARD_BLOCKS = 210, 16, 5
SHARD_ROWS = BLOCK_ROWS * SHARD_BLOCKS
"""Three shards: 80, 80 and 50 rows, the last block short."""

ARCHITECTURE = TeacherConfig(
    latent=4, layers=1, heads=2, feedforward=16, repr_dim=24, fusion_layers=2, fusion_heads=4
)
_REPOSITORY = Path(__file__).parents[1]


def make_teacher(seed: int = 1) -> Teacher:
    """Return a teacher whose embeddings differ from d-pixel to d-pixel."""
    teacher = Teacher(ARCHITECTURE)
    initialise(teacher, seed=seed)
    return teacher


def save_teacher(folder: Path, teacher: Teacher, normalisation: str = "tessera-v2-teacher") -> None:
    """Write a checkpoint folder of ours."""
    config = checkpoint_config(
        teacher.config,
        NORMALISATIONS[normalisation],
        ladder_step=8,
        ladder_largest=64,
        provenance={},
    )
    write_checkpoint(folder, teacher.state_dict(), config)


def small_dpixels() -> DPixels:
    """Return the d-pixels of the corpus; each has observations."""
    return make_dpixels(ROWS, seed=5, least=1)


def write_small(folder: Path, dpixels: DPixels) -> None:
    """Write d-pixels as a corpus of small shards."""
    write_corpus(folder, dpixels, block_rows=BLOCK_ROWS, shard_blocks=SHARD_BLOCKS)


def settings(**changes: Any) -> CacheTargetsParams:
    """Return the project's settings with changes."""
    section = read_params(_REPOSITORY / "params.yaml").cache_targets
    given = {name: getattr(section, name) for name in CacheTargetsParams.model_fields}
    return CacheTargetsParams.model_validate(given | changes)


@dataclass
class Bench:
    """What the stage does, without the stage: a corpus, a teacher, a store and an output."""

    root: Path

    def __post_init__(self) -> None:
        self.cost: dict[str, Any] = {}
        self.content: dict[str, Any] = {}
        self.pack(small_dpixels())
        self.pretrain(make_teacher())

    @property
    def store(self) -> Path:
        """Where targets are kept."""
        return self.root / "store"

    @property
    def output(self) -> Path:
        """What is made."""
        return self.root / "targets"

    def pack(self, dpixels: DPixels) -> None:
        """Make d-pixels the corpus."""
        shutil.rmtree(self.root / "pack", ignore_errors=True)
        write_small(self.root / "pack", dpixels)

    def pretrain(self, teacher: Teacher, normalisation: str = "tessera-v2-teacher") -> None:
        """Make a teacher the one whose targets are wanted."""
        shutil.rmtree(self.root / "teacher", ignore_errors=True)
        save_teacher(self.root / "teacher", teacher, normalisation)

    def dpixels(self) -> Corpus:
        """Return the corpus."""
        return open_corpus(str(self.root / "pack"), "dpixels")

    def cache(self, **changes: Any) -> Corpus:
        """Make the output anew and open it."""
        section = settings(**changes)
        shutil.rmtree(self.output, ignore_errors=True)
        self.output.mkdir()
        teacher = open_checkpoint(self.root / "teacher", max_tokens=section.max_tokens)
        store = TargetStore(self.store)
        self.content, self.cost = write_targets(
            store, teacher, self.dpixels(), self.output, section
        )
        return open_corpus(str(self.output), "targets")

    @property
    def made(self) -> tuple[int, int]:
        """Shards that were made and that were re-used in the last run."""
        return self.cost["shards_made"], self.cost["shards_reused"]

    def entries(self) -> dict[str, Path]:
        """Return the entries of the store by address."""
        return {path.parent.name: path.parent for path in self.store.glob("*/*/entry.json")}


def all_targets(corpus: Corpus) -> np.ndarray:
    """Return all targets of a corpus as float32."""
    return np.concatenate(
        [corpus.targets(n)[1].astype(np.float32) for n in range(corpus.num_blocks)]
    )


def bytes_below(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
