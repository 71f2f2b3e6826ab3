"""What can go wrong, as one tree.

    TesseraError
    |-- ParamsError            a setting or an option is not what is needed
    |-- DataError              an input is not what its contract says
    |   |-- ValidationFailed   the archive or a shard broke an expectation
    |   |-- DigestMismatch     bytes differ from those that were recorded
    |   |-- ShardDamaged       a block of a shard is missing, cut short, or has other bytes
    |   `-- TargetsUnfit       a teacher's embeddings are not finite, or have collapsed
    |-- StageBusy              another process is running the same stage
    |-- Preempted              the stage was asked to end, and did; run again, it goes on
    |-- StageFailed            a stage run by somebody else ended with an error
    |-- LineageError           a parent is missing or does not fit
    |-- TrackingError        the MLflow store does not answer
    |-- StorageError         the DVC remote does not answer
    `-- PromotionRefused       the gate kept the incumbent

Each message says what was expected, what was found, where, and what to do. ``ValueError`` belongs
to ``models``; ``assert`` is for our own logic only.
"""


class TesseraError(Exception):
    """Root of everything that a user may meet and mend.

    Args:
        expected: What the contract asks for.
        found: What was there instead.
        where: File, tile, field or process that is meant.
        mend: What the user can do about it.
    """

    def __init__(self, expected: str, *, found: str, where: str, mend: str) -> None:
        self.expected, self.found, self.where, self.mend = expected, found, where, mend
        super().__init__(f"{where}: expected {expected}; found {found.rstrip('.')}. {mend}")


class ParamsError(TesseraError):
    """A setting or an option is missing, malformed, or outside its range."""


class DataError(TesseraError):
    """An input file breaks its contract."""


class ValidationFailed(DataError):
    """An archive or a shard broke at least one expectation; the verdict says which."""


class DigestMismatch(DataError):
    """A file's bytes are not those that its manifest or catalogue recorded."""


class ShardDamaged(DataError):
    """A block of a shard cannot be read as it was written."""


class TargetsUnfit(DataError):
    """A teacher's embeddings are none, or say too little, to distil from."""


class StageBusy(TesseraError):
    """Another process holds the lock of the stage."""


class Preempted(TesseraError):
    """The stage was asked to end and did, with its work saved; time heals it.

    Args:
        step: Training steps that are done and saved; ``None`` outside a training.
        where: The stage.
    """

    def __init__(self, step: int | None = None, *, where: str = "this stage") -> None:
        self.step = step
        saved = "" if step is None else f", with {step} steps saved"
        super().__init__(
            "the time to finish",
            found=f"a request to end (SIGTERM){saved}",
            where=where,
            mend="Run again: it goes on from there.",
        )


class StageFailed(TesseraError):
    """A stage that was started as a process of its own ended with an error."""


class LineageError(TesseraError):
    """A parent's manifest is missing, incomplete, or of another kind."""


class TrackingError(TesseraError):
    """The MLflow store cannot be read or written."""


class StorageError(TesseraError):
    """A store of objects does not answer, or refuses whoever asks."""


class PromotionRefused(TesseraError):
    """The promotion gate kept the incumbent model."""
