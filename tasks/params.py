"""A typed, frozen view of ``params.yaml``; the only reader and writer of that file.

Each section belongs to the stage of the same name; what is in them is said in ``tasks.settings``.
Unknown keys are refused, so a misspelt setting never passes silently, and derived numbers are
properties, never second settings.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks.errors import ParamsError
from tasks.files import write_bytes
from tasks.settings.data import IngestParams, PackParams, SampleParams, ValidateParams
from tasks.settings.products import (
    CacheTargetsParams,
    ControlsParams,
    EvaluateParams,
    ExportParams,
    ProbeParams,
    PromoteParams,
)
from tasks.settings.section import Section
from tasks.settings.training import DistillParams, PretrainParams


class Params(Section):
    """The whole file."""

    sample: SampleParams
    ingest: IngestParams
    validate_: Annotated[ValidateParams, Field(alias="validate")]
    pack: PackParams
    pretrain: PretrainParams
    cache_targets: CacheTargetsParams
    distill: DistillParams
    probe: ProbeParams
    evaluate: EvaluateParams
    controls: ControlsParams
    promote: PromoteParams
    export: ExportParams

    @property
    def probe_settings(self) -> dict[str, Any]:
        """What a training's manifest says of the probe that selects its checkpoint."""
        own = self.probe.model_dump(mode="json") | {"block_px": self.evaluate.block_px}
        return {"probe": own}

    @property
    def probing(self) -> EvaluateParams:
        """How the probe's tasks are drawn: as the evaluation's, in the probe's sizes."""
        return self.evaluate.model_copy(update=self.probe.model_dump(exclude={"share"}))


def read_params(path: Path) -> Params:
    """Read and check a parameters file.

    Raises:
        ParamsError: Missing, not YAML, or a value or key that the contract does not allow.
    """
    try:
        content = YAML(typ="safe").load(path.read_text())
        return Params.model_validate(content)
    except OSError as error:
        found, mend = error.strerror or str(error), "Restore it: git checkout -- params.yaml"
    except YAMLError as error:
        found, mend = f"not YAML: {error}", "Mend the line that is named."
    except ValidationError as error:
        found = "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()
        )
        mend = "Mend the settings that are named."
    raise ParamsError("valid settings", found=found, where=str(path), mend=mend)


def set_archive(path: Path, archive: str) -> None:
    """Point ``ingest.archive`` at a folder, keeping every comment of the file.

    Raises:
        ParamsError: The file is not valid before or after the change.
    """
    read_params(path)
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 4096
    content = yaml.load(path.read_text())
    if content["ingest"]["archive"] == archive:
        return
    content["ingest"]["archive"] = archive
    aside = path.with_name(".params.yaml.new")
    with aside.open("w") as stream:
        yaml.dump(content, stream)
    read_params(aside)
    aside.replace(path)


def use_params(chosen: Path, path: Path) -> None:
    """Make another file's settings the workspace's ``params.yaml``.

    Raises:
        ParamsError: The chosen file is not valid; the workspace's file is left as it was.
    """
    read_params(chosen)
    if chosen.resolve() != path.resolve():
        write_bytes(path, chosen.read_bytes())
