"""Whether an index may take the place of what a database already has under its name."""

from dataclasses import dataclass

from job.core.errors import StorageError
from job.indexing.stamp import Stamp


@dataclass(frozen=True)
class Existing:
    """What a name points to: the physical table or collection, and its stamp.

    Without a stamp it is no index of ours, or not one that a name only points to.
    """

    physical: str
    stamp: Stamp | None


def require_replaceable(found: Existing | None, stamp: Stamp, place: str, *, alias: bool) -> None:
    """Refuse what is not ours, and an index of another model or corpus unless `alias` is set."""
    if found is None:
        return
    if found.stamp is None:
        msg = f"`{found.physical}` in {place} was not made by this command. Choose another name: "
        raise StorageError(msg + "`--collection`.")
    differences = stamp.differences(found.stamp, ignored=("shard_size",))
    if differences and not alias:
        msg = f"`{found.physical}` in {place} is another index; these differ: "
        msg += f"{'; '.join(differences)}. Queries of one model find nothing in an index of "
        msg += "another. `--alias` builds the new one beside it and then lets the name point to "
        raise StorageError(msg + "it; `--collection` chooses another name.")
