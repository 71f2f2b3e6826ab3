"""One page about a run, made to be shown: lineage, maps, scores, curves, verdict, digests.

The one idea: the page is made from manifests and outputs alone and holds everything it shows, so it
opens anywhere, without a network, and equal runs give equal pages.

It deliberately computes no number that a stage has not written; what it draws is in
``tasks.reporting.facts`` and its neighbours.
"""

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.archive import open_archive
from tasks.files import write_bytes
from tasks.manifest import digest_of, read_manifest
from tasks.params import Params
from tasks.reporting.facts import Run, page_facts
from tasks.reporting.pictures import map_facts
from tasks.settings.section import Section
from tasks.stage import Stage, run_stage, stage_main
from tasks.workspace import Workspace

PAGE = "index.html"
TEMPLATE = "page.html.j2"


def report(workspace: Workspace, params: Params) -> None:
    """Run the stage."""
    students = tuple(f"distill@{name}" for name in params.distill.students)
    made = ("ingest", "validate", "pack", "pretrain", "cache_targets", *students)

    def body(stage: Stage) -> None:
        folders = dict(stage.parents)
        manifests = {name: read_manifest(folder) for name, folder in folders.items()}
        digests = {"archive": manifests["ingest"].parents["archive"]}
        digests |= {name: digest_of(folder) for name, folder in folders.items()}
        run = Run(folders, manifests, digests)
        facts = page_facts(run)
        facts |= map_facts(run, open_archive(workspace, folders["ingest"]))
        write_bytes(stage.build / PAGE, render(facts).encode())
        stage.counts |= {"outputs": len(folders)}

    parents = (*made, "evaluate", "export")
    run_stage("report", body, workspace=workspace, section=Section(), parents=parents)


def render(facts: dict[str, object]) -> str:
    """Fill the page's template; a fact that the template names but does not get is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(TEMPLATE).render(facts)


if __name__ == "__main__":
    stage_main(report)
