"""Package a student as one file that runs without this project.

    student.onnx   for onnxruntime or any other ONNX runtime; no torch needed
    student.pt2    for `torch.export.load`; nothing but torch needed

The one idea: the file is compared with `models.encode` before it gets its name. A graph that some
exporter wrote is trusted only for d-pixels of every kind it will meet: many lengths, a sensor
missing, both missing, more observations than the ladder's end.

The same checkpoint gives the same bytes with the same versions: what the exporters note about the
source files they traced is taken out, which also keeps paths of this machine out of the file.

It deliberately does not quantise, and does not ask the registry: a folder or file is named. How the
file is used stands in `docs/portable.md`.
"""

import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch.export import Dim, ExportedProgram

from models.bands import S1_BANDS, S2_BANDS, Normalisation
from models.checkpoint import build, checkpoint_digest, ladder_of, normalisation_of, read_checkpoint
from models.dpixel import DPixels, Series, offsets_of
from models.encode import Encoder
from models.portable import INPUTS, OUTPUT, PortableStudent, portable_inputs
from models.released import RELEASED_LADDER, read_released, released_normalisation
from models.student import Student
from models.teacher import Teacher
from tasks.errors import DataError, ParamsError
from tasks.files import sha256_of, write_bytes

FORMATS = {".onnx": "onnx", ".pt2": "torch"}
"""Format of a package by the suffix of its file."""

TOLERANCE = 1e-4
"""Largest difference from torch in any coordinate; embeddings have variance 1."""

_OPSET = 18  # the oldest that the exporter writes without converting; runtimes since 2023 know it
_FACTS = "tessera.json"  # extra file of a .pt2

Arrays = dict[str, npt.NDArray[np.float32]]
Runner = Callable[[Arrays], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Source:
    """A student with what its embeddings depend on."""

    student: Student
    normalisation: Normalisation
    ladder: tuple[int, ...]
    digest: str
    """``checkpoint_digest`` of a folder, SHA-256 of a released file."""

    def facts(self) -> dict[str, str]:
        """Return what the package says about itself."""
        return {
            "format": "tessera-portable/1",
            "s2_bands": ",".join(S2_BANDS),
            "s1_bands": ",".join(S1_BANDS),
            "normalisation": self.normalisation.name,
            "normalisation_digest": self.normalisation.digest,
            "ladder_step": str(self.ladder[0]),
            "ladder_largest": str(self.ladder[-1]),
            "prefixes": ",".join(map(str, self.student.config.prefixes)),
            "checkpoint": self.digest,
        }


@dataclass(frozen=True, slots=True)
class Package:
    """What was written."""

    path: Path
    size_bytes: int
    difference: float
    """Largest difference from torch in any coordinate of the d-pixels compared."""


def package_student(checkpoint: Path, out: Path, form: str | None = None) -> Package:
    """Write a student as one file, once it was found to give the embeddings of torch.

    Args:
        checkpoint: A checkpoint folder, or a released ``.pt`` file.
        out: File to write; an older one is replaced in one step.
        form: A value of ``FORMATS``; None for that of the suffix of ``out``.

    Raises:
        ParamsError: There is no such checkpoint, it is a teacher, or the format is not known.
        DataError: The package differs from torch by more than ``TOLERANCE``.
        ValueError: The checkpoint is incomplete or does not fit its own configuration.
    """
    form = _form_of(out, form)
    source = open_source(checkpoint)
    program = _trace(source)
    if form == "onnx":
        content = _as_onnx(program, source.facts())
        run = _onnx_runner(content)
    else:
        content = _as_torch(program, source.facts())
        run = _torch_runner(content)
    difference = _check(run, source, where=str(out))
    write_bytes(out, content)
    return Package(out, len(content), difference)


def open_source(checkpoint: Path) -> Source:
    """Load a student from a checkpoint folder or a released file.

    Raises:
        ParamsError: There is no such checkpoint, or it is a teacher.
        ValueError: The checkpoint is incomplete or does not fit its own configuration.
    """
    if checkpoint.is_dir():
        state, config = read_checkpoint(checkpoint)
        model, digest = build(config, state), checkpoint_digest(checkpoint)
        normalisation, ladder = normalisation_of(config), ladder_of(config)
    elif checkpoint.is_file():
        model, digest = read_released(checkpoint), sha256_of(checkpoint)
        normalisation, ladder = released_normalisation(model), RELEASED_LADDER
    else:
        raise _not_a_student(checkpoint, "nothing there")
    if isinstance(model, Teacher):
        raise _not_a_student(checkpoint, "a teacher")
    return Source(model.eval(), normalisation, ladder, digest)


def _not_a_student(checkpoint: Path, found: str) -> ParamsError:
    return ParamsError(
        "a student's checkpoint folder or released .pt file",
        found=found,
        where=str(checkpoint),
        mend="Name a student, e.g. artifacts/distill/S.",
    )


def _form_of(out: Path, form: str | None) -> str:
    known = tuple(FORMATS.values())
    if form is None and out.suffix not in FORMATS:
        raise ParamsError(
            f"a file name that ends in {' or '.join(FORMATS)}",
            found=out.name,
            where="--out",
            mend=f"Rename it, or say --format {' or '.join(known)}.",
        )
    chosen = FORMATS[out.suffix] if form is None else form
    if chosen not in known:
        raise ParamsError(
            " or ".join(known), found=chosen, where="--format", mend="Choose one of them."
        )
    return chosen


def _trace(source: Source) -> ExportedProgram:
    """Return the graph, free in the batch and in each of the three lengths."""
    batch = Dim("batch")
    shapes: dict[str, dict[int, Dim]] = {}
    for name in ("s2", "s1_asc", "s1_desc"):
        length = Dim(f"{name}_length")
        shapes |= {f"{name}{part}": {0: batch, 1: length} for part in ("", "_doy", "_copies")}
    inputs = portable_inputs(_made_up([5, 3, 1], [4, 0, 1], [2, 3, 0]), source.ladder)
    example = tuple(torch.from_numpy(inputs[name]) for name in INPUTS)
    portable = PortableStudent(source.student, source.normalisation).eval().requires_grad_(False)
    program = torch.export.export(portable, example, dynamic_shapes=shapes)
    for node in program.graph.nodes:
        for note in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(note, None)
    return program


def _as_onnx(program: ExportedProgram, facts: dict[str, str]) -> bytes:
    with _quiet_exporter():
        written = cast(
            torch.onnx.ONNXProgram,
            torch.onnx.export(
                program,
                input_names=INPUTS,
                output_names=[OUTPUT],
                opset_version=_OPSET,
                dynamo=True,
                verbose=False,
            ),
        )
    model: onnx.ModelProto = written.model_proto
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        del part.metadata_props[:]
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Hold back what the exporter says about torchvision, which no student uses, and itself."""
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
            yield
    finally:
        log.setLevel(level)


def _as_torch(program: ExportedProgram, facts: dict[str, str]) -> bytes:
    content = io.BytesIO()
    text = json.dumps(facts, sort_keys=True, indent=1)
    torch.export.save(program, content, extra_files={_FACTS: text})
    return content.getvalue()


def _onnx_runner(content: bytes) -> Runner:
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda inputs: np.asarray(session.run([OUTPUT], inputs)[0])


def _torch_runner(content: bytes) -> Runner:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(inputs: Arrays) -> npt.NDArray[np.float32]:
        with torch.inference_mode():
            embedding: torch.Tensor = module(*(torch.from_numpy(inputs[n]) for n in INPUTS))
        return embedding.numpy()

    return run


def _check(run: Runner, source: Source, *, where: str) -> float:
    """Return the largest difference from torch, or refuse it.

    Raises:
        DataError: It is above the tolerance, or not a number where torch has numbers.
    """
    encoder = Encoder(source.student, source.normalisation, source.ladder)
    step, largest = source.ladder[0], source.ladder[-1]
    batches = (
        _made_up([0, 5, 0, 1, step, largest + 3], [0, 0, 3, 1, 2, step], [0, 0, 2, 0, 3, largest]),
        _made_up([2 * step + 1], [step - 1], [step + 1]),
        _made_up([0, 4], [0, 0], [0, 0]),
    )
    difference = float(np.max([_apart(run, encoder, dpixels) for dpixels in batches]))
    if not difference <= TOLERANCE:
        raise DataError(
            f"embeddings within {TOLERANCE:g} of torch",
            found=f"a difference of {difference:g}",
            where=where,
            mend="Nothing was written; the installed exporter or runtime is not fit for this.",
        )
    return difference


def _apart(run: Runner, encoder: Encoder, dpixels: DPixels) -> float:
    """Return the largest difference; NaN if only one of the two is NaN anywhere."""
    found, expected = run(portable_inputs(dpixels, encoder.ladder)), encoder.encode(dpixels)
    agreed = np.isnan(found) & np.isnan(expected)
    return float(np.max(np.abs(np.where(agreed, 0, found - expected))))


def _made_up(s2: list[int], asc: list[int], desc: list[int]) -> DPixels:
    """Return d-pixels with these numbers of observations."""
    rng = np.random.default_rng(0)

    def series(counts: list[int], num_bands: int, dtype: npt.DTypeLike) -> Series:
        values = rng.integers(1, 10_000, (sum(counts), num_bands)).astype(dtype)
        doy = rng.integers(1, 366, sum(counts), endpoint=True)
        return Series(values, doy, offsets_of(np.array(counts)))

    ids = np.arange(len(s2), dtype=np.uint64)
    radar = (series(counts, len(S1_BANDS), np.int16) for counts in (asc, desc))
    return DPixels(ids, series(s2, len(S2_BANDS), np.uint16), *radar)
