import dataclasses
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from models.architecture import StudentConfig
from models.bands import NORMALISATIONS
from models.buckets import ladder
from models.checkpoint import checkpoint_config, checkpoint_digest, write_checkpoint
from models.dpixel import DPixels, Series, offsets_of
from models.encode import Encoder
from models.initialisation import initialise
from models.portable import INPUTS, OUTPUT, portable_inputs
from models.released import RELEASED_LADDER, write_released
from models.student import Student
from models.teacher import TEACHERS, Teacher
from tasks import portable
from tasks.errors import DataError, ParamsError
from tasks.files import sha256_of
from tasks.portable import Package, package_student
from tests.unit.models.arrays import random_dpixels, with_counts

pytestmark = pytest.mark.slow  # an export takes up to ten seconds

REPOSITORY = Path(__file__).parents[2]
SITE = Path(np.__file__).parents[1]
# What the distributions of onnxruntime and numpy put there, then those of torch and what it needs.
ONNXRUNTIME = ("onnxruntime", "numpy", "numpy.libs")
TORCH = (
    *("torch", "torchgen", "functorch", "numpy", "numpy.libs", "typing_extensions.py", "sympy"),
    *("mpmath", "networkx", "filelock", "fsspec", "jinja2", "markupsafe"),
)
SERIES = ("values", "doy", "offsets")
STATISTICS = NORMALISATIONS["tessera-v2-student"]
STEP, LARGEST = 8, 32
LADDER = ladder(STEP, LARGEST)
PLAIN = StudentConfig(latent=8, layers=2, heads=4, feedforward=32)
BLOCKS = {
    "batch of 1": random_dpixels(1, seed=1),
    "batch of 7": random_dpixels(7, seed=2, max_s2=80),
    "one observation": with_counts([1], [1], [0]),
    "beyond the ladder": with_counts([366, 33], [100, 16], [200, 17]),
    "no s2": with_counts([0, 0], [4, 0], [0, 7]),
    "no s1": with_counts([5, 40], [0, 0], [0, 0]),
    "some without anything": with_counts([0, 3, 0], [0, 2, 0], [0, 0, 4]),
    "nothing at all": with_counts([0], [0], [0]),
}


def make_student(*, qk_norm: bool, seed: int = 3) -> Student:
    student = Student(dataclasses.replace(PLAIN, qk_norm=qk_norm))
    initialise(student, seed=seed)
    return student.eval()


def write_folder(folder: Path, model: Student | Teacher) -> Path:
    config = checkpoint_config(
        model.config, STATISTICS, ladder_step=STEP, ladder_largest=LARGEST, provenance={}
    )
    write_checkpoint(folder, model.state_dict(), config)
    return folder


@dataclasses.dataclass(frozen=True)
class Packaged:
    student: Student
    checkpoint: Path
    onnx: Package
    torch: Package


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "qk-norm"])
def packaged(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    folder = tmp_path_factory.mktemp("packaged")
    student = make_student(qk_norm=request.param)
    checkpoint = write_folder(folder / "checkpoint", student)
    by_suffix = (package_student(checkpoint, folder / f"student.{s}") for s in ("onnx", "pt2"))
    return Packaged(student, checkpoint, *by_suffix)


@pytest.fixture(scope="module")
def runners(packaged: Packaged) -> dict[str, Callable[[DPixels], np.ndarray]]:
    session = onnxruntime.InferenceSession(
        str(packaged.onnx.path), providers=["CPUExecutionProvider"]
    )
    module = torch.export.load(packaged.torch.path).module()

    def run_torch(dpixels: DPixels) -> np.ndarray:
        inputs = portable_inputs(dpixels, LADDER)
        found: torch.Tensor = module(*(torch.from_numpy(inputs[name]) for name in INPUTS))
        return found.numpy()

    return {
        "onnx": lambda dpixels: session.run([OUTPUT], portable_inputs(dpixels, LADDER))[0],
        "torch": run_torch,
    }


def test_axes_that_are_free_have_names(packaged: Packaged) -> None:
    graph = onnx.load(packaged.onnx.path).graph
    axes = {
        value.name: [axis.dim_param or axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    expected: dict[str, list[str | int]] = {}
    for name, bands in (("s2", 10), ("s1_asc", 2), ("s1_desc", 2)):
        free = ["batch", f"{name}_length"]
        expected |= {name: [*free, bands], f"{name}_doy": [*free], f"{name}_copies": [*free]}
    assert expected | {"embedding": ["batch", 128]} == axes


@pytest.mark.parametrize("form", ["onnx", "torch"])
@pytest.mark.parametrize("block", BLOCKS)
def test_package_gives_the_embeddings_of_torch(
    packaged: Packaged,
    runners: dict[str, Callable[[DPixels], np.ndarray]],
    form: str,
    block: str,
) -> None:
    expected = Encoder(packaged.student, STATISTICS, LADDER).encode(BLOCKS[block])
    actual = runners[form](BLOCKS[block])
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-4, rtol=0)


def test_package_is_one_file_that_says_what_it_is(packaged: Packaged) -> None:
    files = {"checkpoint", "student.onnx", "student.pt2"}
    assert files == {path.name for path in packaged.onnx.path.parent.iterdir()}
    model = onnx.load(packaged.onnx.path, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert {
        "format": "tessera-portable/1",
        "s2_bands": "B04,B02,B03,B08,B8A,B05,B06,B07,B11,B12",
        "s1_bands": "VV,VH",
        "normalisation": "tessera-v2-student",
        "normalisation_digest": STATISTICS.digest,
        "ladder_step": "8",
        "ladder_largest": "32",
        "prefixes": "16,32,64,128",
        "checkpoint": checkpoint_digest(packaged.checkpoint),
    } == facts
    extra = {"tessera.json": ""}
    torch.export.load(packaged.torch.path, extra_files=extra)
    assert '"checkpoint": "' + facts["checkpoint"] in extra["tessera.json"]


def test_the_same_checkpoint_gives_the_same_bytes_without_paths(
    packaged: Packaged, tmp_path: Path
) -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom tasks.portable import package_student\n"
        "for form in ('onnx', 'torch'):\n"
        "    package_student(Path(sys.argv[1]), Path(sys.argv[2]) / form, form)"
    )
    arguments = [sys.executable, "-c", code, str(packaged.checkpoint), str(tmp_path)]
    subprocess.run(arguments, cwd=REPOSITORY, env=os.environ | {"PYTHONHASHSEED": "7"}, check=True)
    for form, first in (("onnx", packaged.onnx), ("torch", packaged.torch)):
        assert sha256_of(first.path) == sha256_of(tmp_path / form)
        content = first.path.read_bytes()
        assert str(REPOSITORY).encode() not in content
        assert b".py" not in content


def test_teacher_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    teacher = Teacher(TEACHERS["demo"])
    initialise(teacher, seed=1)
    folder = write_folder(tmp_path / "teacher", teacher)
    with pytest.raises(ParamsError, match="expected a student; found a teacher"):
        package_student(folder, tmp_path / "out" / "teacher.onnx")
    assert not (tmp_path / "out").exists()


def test_absent_checkpoint_and_unfit_output_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="found nothing there"):
        package_student(tmp_path / "none", tmp_path / "student.onnx")
    with pytest.raises(ParamsError, match=r"\.onnx or \.pt2; found student\.bin"):
        package_student(tmp_path, tmp_path / "student.bin")
    with pytest.raises(ParamsError, match="found a folder"):
        package_student(tmp_path, tmp_path, "onnx")
    with pytest.raises(ParamsError, match="onnx or torch; found tflite"):
        package_student(tmp_path, tmp_path / "student.onnx", "tflite")


def test_package_that_differs_is_refused_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = write_folder(tmp_path / "student", make_student(qk_norm=False))
    out = tmp_path / "out" / "student.pt2"
    out.parent.mkdir()
    out.write_bytes(b"old")

    trace = portable._trace
    other = Encoder(make_student(qk_norm=False, seed=4), STATISTICS, LADDER)
    monkeypatch.setattr(portable, "_trace", lambda _, *, where: trace(other, where=where))
    with pytest.raises(DataError, match=r"within 0\.0001 of torch"):
        package_student(checkpoint, out)
    assert [out] == list(out.parent.iterdir())
    assert out.read_bytes() == b"old"


def bare_python(folder: Path, names: tuple[str, ...], code: str, *arguments: Path) -> str:
    """Run code where nothing can be imported but the standard library and these."""
    library = folder / "library"
    library.mkdir()
    for name in names:
        source = REPOSITORY / name if name == "models" else SITE / name
        (library / name).symlink_to(source)
    start = f"import sys\nsys.path.insert(0, {str(library)!r})\n"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-W", "error", "-c", start + code, *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def absent(*names: str) -> str:
    return (
        f"import importlib.util\nassert not [n for n in {names} if importlib.util.find_spec(n)]\n"
    )


def test_program_of_the_page_runs_with_onnxruntime_alone(
    packaged: Packaged, tmp_path: Path
) -> None:
    page = (REPOSITORY / "docs" / "portable.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.S)
    (tmp_path / "student.onnx").write_bytes(packaged.onnx.path.read_bytes())
    keep = (
        "np.savez('out.npz', embeddings=embeddings, **{f'{row}_{name}_{i}': part[i]\n"
        "    for row, pixel in enumerate(pixels) for name, part in pixel.items() for i in (0, 1)})"
    )
    code = absent("torch", "models", "tasks", "onnx", "google") + program + keep
    assert "(4, 128)" in bare_python(tmp_path, ONNXRUNTIME, code)
    with np.load(tmp_path / "out.npz") as out:
        dpixels = DPixels(
            np.arange(4, dtype=np.uint64),
            _series_of(out, "s2", np.uint16),
            _series_of(out, "s1_asc", np.int16),
            _series_of(out, "s1_desc", np.int16),
        )
        expected = Encoder(packaged.student, STATISTICS, LADDER).encode(dpixels)
        np.testing.assert_allclose(out["embeddings"], expected, atol=1e-4, rtol=0)


def _series_of(out: np.lib.npyio.NpzFile, name: str, dtype: type) -> Series:
    values, days = ([out[f"{row}_{name}_{i}"] for row in range(4)] for i in (0, 1))
    counts = np.array([len(part) for part in days])
    doy = np.concatenate(days).astype(np.int16)
    return Series(np.concatenate(values).astype(dtype), doy, offsets_of(counts))


def test_rule_of_copies_on_the_page_is_the_ladders_for_every_count() -> None:
    page = (REPOSITORY / "docs" / "portable.md").read_text()
    (rule,) = re.findall(r"^def copies_of.*?\n\n\n", page, re.S | re.M)
    for step, largest in ((8, 32), (8, 256), (16, 64)):
        scope: dict[str, Any] = {"np": np, "step": step, "largest": largest}
        exec(rule, scope)  # noqa: S102 - our own page
        for count in range(367):
            dpixels = with_counts([count], [0], [0])
            expected = portable_inputs(dpixels, ladder(step, largest))["s2_copies"][0]
            np.testing.assert_array_equal(expected, scope["copies_of"](count))


def test_student_is_encoded_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    student = make_student(qk_norm=True)
    write_released(tmp_path / "student.pt", student)
    dpixels = with_counts([3, 0, 20], [2, 5, 0], [1, 0, 0])
    series = {"s2": dpixels.s2, "asc": dpixels.s1_asc, "desc": dpixels.s1_desc}
    parts = {f"{n}_{p}": getattr(s, p) for n, s in series.items() for p in SERIES}
    np.savez(tmp_path / "in.npz", **parts)
    code = absent("jaxtyping", "safetensors", "onnxruntime", "tasks", "pydantic", "pandas") + (
        "from pathlib import Path\nimport numpy as np\nimport torch\n"
        "import models.student\nimport models.portable\n"
        "from models.dpixel import DPixels, Series\nfrom models.encode import Encoder\n"
        "from models.released import RELEASED_LADDER, read_released, released_normalisation\n"
        "given = np.load('in.npz')\n"
        f"series = [Series(*(given[f'{{n}}_{{p}}'] for p in {SERIES})) for n in {tuple(series)}]\n"
        "dpixels = DPixels(np.arange(3, dtype=np.uint64), *series)\n"
        "student = read_released(Path('student.pt'))\n"
        "encoder = Encoder(student, released_normalisation(student), RELEASED_LADDER)\n"
        "np.save('out.npy', encoder.encode(dpixels))\n"
    )
    bare_python(tmp_path, (*TORCH, "models"), code)
    expected = Encoder(student, STATISTICS, RELEASED_LADDER).encode(dpixels)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-5, rtol=0)


def test_pt2_runs_with_torch_alone(packaged: Packaged, tmp_path: Path) -> None:
    dpixels = BLOCKS["batch of 7"]
    np.savez(tmp_path / "in.npz", **portable_inputs(dpixels, LADDER))  # type: ignore[arg-type]
    code = absent("models", "tasks", "onnxruntime") + (
        "import numpy as np\nimport torch\ngiven = np.load('in.npz')\n"
        "module = torch.export.load(sys.argv[1]).module()\n"
        f"np.save('out.npy', module(*(torch.from_numpy(given[n]) for n in {INPUTS})).numpy())\n"
    )
    bare_python(tmp_path, TORCH, code, packaged.torch.path)
    expected = Encoder(packaged.student, STATISTICS, LADDER).encode(dpixels)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-4, rtol=0)
