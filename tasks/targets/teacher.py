"""Whose embeddings become targets: the pretrained teacher, or one from outside.

Decision: one from outside is named together with its digest. Its name alone (a path, an alias of the
registry) may mean other weights tomorrow, DVC compares names and not what lies behind them, and the
students of a teacher must not depend on the day.
"""

from tasks.checkpoints import Checkpoint, open_checkpoint
from tasks.errors import DigestMismatch, ParamsError
from tasks.settings.products import CacheTargetsParams
from tasks.workspace import Workspace

_WHERE = "cache_targets.teacher_digest in params.yaml"


def open_foreign(workspace: Workspace, section: CacheTargetsParams) -> Checkpoint:
    """Open the teacher that the settings name.

    Raises:
        ParamsError: No such checkpoint, or no digest beside its name.
        DigestMismatch: It is another than that of the digest.
        LineageError, ValueError: As ``open_checkpoint``.
    """
    source = section.teacher
    if not source.startswith("models:"):
        source = str(workspace.root / source)
    opened = open_checkpoint(source, max_tokens=section.max_tokens, device=section.device)
    if not section.teacher_digest:
        raise ParamsError(
            "the digest of a teacher from outside",
            found="none",
            where=_WHERE,
            mend=f"If {section.teacher} is the one you mean, set it to {opened.digest}",
        )
    if opened.digest != section.teacher_digest:
        raise DigestMismatch(
            f"the teacher {section.teacher_digest[:12]}",
            found=opened.digest[:12],
            where=section.teacher,
            mend=f"Restore that teacher, or take this one: set {_WHERE} to {opened.digest}",
        )
    return opened
