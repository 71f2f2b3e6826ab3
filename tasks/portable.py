"""Package a student as one file that runs without this project.

    student.onnx   for onnxruntime or any other ONNX runtime; no torch needed
    student.pt2    for `torch.export.load`; nothing but torch needed

The one idea: the file is compared with `models.encode` before it gets its name. A graph that some
exporter wrote is trusted only for d-pixels of every kind it will meet: many lengths, a sensor
missing, both missing, more observations than the ladder's end.

The same checkpoint gives the same bytes with the same versions: what the exporters note about the
source files they traced is taken out, which also keeps paths of this machine out of the file.

It deliberately does not quantise. How the file is used stands in `docs/portable.md`.
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

from models.bands import S1_BANDS, S2_BANDS
from models.dpixel import DPixels, Series, offsets_of
from models.encode import Encoder
from models.portable import INPUTS, OUTPUT, PortableStudent, portable_inputs
from models.student import Student
from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.errors import DataError, ParamsError
from tasks.files import write_bytes

FORMATS = {".onnx": "onnx", ".pt2": "torch"}
"""Format of a package by the suffix of its file."""

TOLERANCE = 1e-4
"""Largest difference from torch in any coordinate; embeddings have variance 1."""

_OPSET = 18  # the oldest that the exporter writes without converting; runtimes since 2024 know it
_FACTS = "tessera.json"  # extra file of a .pt2

Arrays = dict[str, npt.NDArray[np.float32]]
Runner = Callable[[Arrays], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Package:
    """What was written."""

    path: Path
    size_bytes: int
    difference: float
    """Largest difference from torch in any coordinate of the d-pixels compared."""


def package_student(checkpoint: str | Path, out: Path, form: str | None = None) -> Package:
    """Write a student as one file, once it was found to give the embeddings of torch.

    Args:
        checkpoint: As for ``open_checkpoint``.
        out: File to write; an older one is replaced in one step.
        form: A value of ``FORMATS``; None for that of the suffix of ``out``.

    Raises:
        ParamsError: There is no such checkpoint, it is a teacher, the format is not known, or
            ``out`` is a folder.
        DataError: The package differs from torch by more than ``TOLERANCE``.
        LineageError: The registry has no such model.
        ValueError: The checkpoint is incomplete or does not fit its own configuration.
    """
    form = _form_of(out, form)
    opened = open_checkpoint(checkpoint)
    program, facts = _trace(opened.encoder, where=str(checkpoint)), _facts(opened)
    if form == "onnx":
        content = _as_onnx(program, facts)
        run = _onnx_runner(content)
    else:
        content = _as_torch(program, facts)
        run = _torch_runner(content)
    difference = _check(run, opened.encoder, where=str(out))
    write_bytes(out, content)
    return Package(out, len(content), difference)


def _form_of(out: Path, form: str | None) -> str:
    known = tuple(FORMATS.values())
    if out.is_dir():
        raise ParamsError(
            "a file to write", found="a folder", where=str(out), mend=f"Say {out}/student.onnx."
        )
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


def _facts(opened: Checkpoint) -> dict[str, str]:
    """Return what the package says about itself."""
    encoder = opened.encoder
    return {
        "format": "tessera-portable/1",
        "s2_bands": ",".join(S2_BANDS),
        "s1_bands": ",".join(S1_BANDS),
        "normalisation": encoder.normalisation.name,
        "normalisation_digest": encoder.normalisation.digest,
        "ladder_step": str(encoder.ladder[0]),
        "ladder_largest": str(encoder.ladder[-1]),
        "prefixes": ",".join(map(str, opened.prefixes)),
        "checkpoint": opened.digest,
    }


def _trace(encoder: Encoder, *, where: str) -> ExportedProgram:
    """Return the graph, free in the batch and in each of the three lengths.

    Raises:
        ParamsError: The model is a teacher.
    """
    if not isinstance(encoder.model, Student):
        raise ParamsError(
            "a student", found="a teacher", where=where, mend="Name one, e.g. artifacts/distill/S."
        )
    inputs = portable_inputs(_made_up([5, 3, 1], [4, 0, 1], [2, 3, 0]), encoder.ladder)
    example = tuple(torch.from_numpy(inputs[name]) for name in INPUTS)
    portable = PortableStudent(encoder.model, encoder.normalisation)
    portable.eval().requires_grad_(False)
    program = torch.export.export(portable, example, dynamic_shapes=_free_axes())
    for node in program.graph.nodes:
        for note in ("stack_trace", "nn_module_stack", "source_fn_stack"):
            node.meta.pop(note, None)
    return program


def _free_axes() -> dict[str, dict[int, Dim]]:
    """Return the axes of each input that may have any length, by number, with their names."""
    batch = Dim("batch")
    axes: dict[str, dict[int, Dim]] = {}
    for name in ("s2", "s1_asc", "s1_desc"):
        length = Dim(f"{name}_length")
        axes |= {f"{name}{part}": {0: batch, 1: length} for part in ("", "_doy", "_copies")}
    return axes


def _as_onnx(program: ExportedProgram, facts: dict[str, str]) -> bytes:
    with _quiet_exporter():
        written = cast(
            torch.onnx.ONNXProgram,
            torch.onnx.export(
                program,
                input_names=INPUTS,
                output_names=[OUTPUT],
                dynamic_shapes=_free_axes(),  # again, for the names
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
    """Hold back what the exporter says about torchvision, which no student uses, and itself.

    Among the latter that an axis which several inputs share is named once.
    """
    log = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`isinstance.treespec, LeafSpec", FutureWarning)
            warnings.filterwarnings("ignore", "# The axis name", UserWarning)
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


def _check(run: Runner, encoder: Encoder, *, where: str) -> float:
    """Return the largest difference from torch, or refuse it.

    Raises:
        DataError: It is above the tolerance, or not a number where torch has numbers.
    """
    step, largest = encoder.ladder[0], encoder.ladder[-1]
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
