"""Commands for the store of cached targets: see it, check it, make room."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from tasks.commands.output import AsJson
from tasks.workspace import find_workspace

if TYPE_CHECKING:
    from tasks.targets.store import TargetStore
    from tasks.targets.upkeep import Kept

app = typer.Typer()
targets = typer.Typer(
    help="Look after cached targets: list, verify, prune.\n\n"
    "Examples: tessera targets list | tessera targets prune --max-gb 200",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(targets, name="targets")

_GB = 1e9


@targets.command(
    "list",
    help="Show what is kept, by teacher.\n\n"
    "Bytes that an output or DVC's cache links to as well are not freed by removing them here; the last column leaves them out. docs/targets.md says what an entry is.\n\n"
    "Examples: tessera targets list | tessera targets list --json",
)
def show(as_json: AsJson = False) -> None:
    """List the entries, summed by teacher."""
    from tasks.targets.upkeep import list_entries

    store = _store()
    entries = list_entries(store)
    if as_json:
        typer.echo(json.dumps([_plain(kept) for kept in entries]))
        return
    for (teacher, dtype), group in _grouped(entries).items():
        typer.echo(
            f"{teacher[:12]:12}  {dtype:8}  {_sum(group)}, last used {group[-1].used:%F %H:%M}"
        )
    typer.echo(f"{store.folder}: {_sum(entries)}")


@targets.command(
    help="Read every entry and say which are damaged; exit code 1 if any is.\n\n"
    "A damaged entry is never used: the next run makes it again.\n\n"
    "Example: tessera targets verify"
)
def verify(as_json: AsJson = False) -> None:
    """Hash everything that is kept."""
    from tasks.targets.upkeep import find_damaged, list_entries

    store = _store()
    faults = find_damaged(store)
    if as_json:
        typer.echo(json.dumps(faults))
    else:
        for fault in faults.values():
            typer.echo(fault)
        typer.echo(f"{len(list_entries(store))} entries read, {len(faults)} damaged")
    raise typer.Exit(bool(faults))


@targets.command(
    help="Make room: remove what was used longest ago. Says what would go, and removes it with --apply.\n\n"
    "Targets that are removed are made again when they are wanted; what a run is at is left alone.\n\n"
    "Examples: tessera targets prune --max-gb 200 | tessera targets prune --unused-days 60 --apply | "
    "tessera targets prune --max-gb 0 --teacher 3fa9 --apply"
)
def prune(
    max_gb: Annotated[
        float | None, typer.Option(min=0, help="Keep this much at most, the last used.")
    ] = None,
    unused_days: Annotated[
        float | None, typer.Option(min=0, help="Remove what was not used for so long.")
    ] = None,
    teacher: Annotated[
        str, typer.Option(help="Only targets of the teacher whose digest begins so.")
    ] = "",
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Remove; without it, only say.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove entries by size and age."""
    from datetime import UTC, datetime

    from tasks.targets.upkeep import choose, list_entries, remove

    if max_gb is None and unused_days is None:
        raise typer.BadParameter("expected --max-gb, --unused-days, or both")
    store = _store()
    chosen = choose(
        list_entries(store),
        datetime.now(UTC),
        max_bytes=None if max_gb is None else int(max_gb * _GB),
        unused_days=unused_days,
        teacher=teacher,
    )
    removed = remove(store, chosen, apply=apply)
    if as_json:
        gone, busy = ([_plain(kept) for kept in part] for part in (removed.entries, removed.busy))
        content = {"applied": apply, "removed": gone, "busy": busy, "leftovers": removed.leftovers}
        typer.echo(json.dumps(content))
        return
    for kept in removed.busy:
        typer.echo(f"left, a run is at it: {kept.address[:12]}")
    done = "removed" if apply else "would remove"
    typer.echo(f"{done} {_sum(removed.entries)}, and {removed.leftovers} half-made")
    if not apply and (removed.entries or removed.leftovers):
        typer.echo("Nothing was removed yet: add --apply.")


def _store() -> "TargetStore":
    from tasks.targets.store import TargetStore

    return TargetStore(find_workspace().target_store)


def _grouped(entries: "list[Kept]") -> "dict[tuple[str, str], list[Kept]]":
    groups: dict[tuple[str, str], list[Kept]] = {}
    for kept in entries:
        groups.setdefault((kept.teacher, kept.dtype), []).append(kept)
    return groups


def _sum(entries: "list[Kept]") -> str:
    rows, size, own = (
        sum(getattr(kept, name) for kept in entries) for name in ("rows", "bytes", "own_bytes")
    )
    return (
        f"{len(entries)} shards of {rows:,} rows, {size / _GB:.3f} GB ({own / _GB:.3f} only here)"
    )


def _plain(kept: "Kept") -> dict[str, object]:
    return asdict(kept) | {"used": kept.used.isoformat(timespec="seconds")}
