"""The versions of an MLKey, as its history of promotions tells them, and which one to go back to."""

from collections.abc import Iterable

from askline.errors import ConfigError
from tasks.deploy_serverless.registry import RegistryEntry


def versions(promotions: Iterable[RegistryEntry]) -> list[RegistryEntry]:
    """Return the newest promotion of each deployment, in the order given; going back to one counts as the same."""
    found: list[RegistryEntry] = []
    for entry in promotions:
        if not any(same_deployment(entry, other) for other in found):
            found.append(entry)
    return found


def same_deployment(one: RegistryEntry, other: RegistryEntry) -> bool:
    """Say whether two promotions are of the same archive and, as far as it is known, the same configuration."""
    if one.archive_sha256 != other.archive_sha256:
        return False
    return one.served_by is None or other.served_by is None or one.served_by == other.served_by


def choose(promotions: tuple[RegistryEntry, ...], to: str | None) -> RegistryEntry:
    """Return the promotion to go back to.

    Parameters
    ----------
    promotions
        The MLKey's history, the newest first; at least one.

    Raises
    ------
    ConfigError
        If there is none, or ``to`` fits several; the message lists those that there are.
    """
    current = promotions[0]
    if to is None:
        earlier = [
            entry for entry in promotions if entry.version < origin(current) and not same_deployment(entry, current)
        ]
        if not earlier:
            raise ConfigError(f"{current.mlkey} has no earlier version to go back to.\n{listing(promotions)}")
        return earlier[0]
    found = [
        entry
        for entry in versions(promotions)
        if to and (entry.model_version.startswith(to) or entry.archive_sha256.startswith(to))
    ]
    if not found:
        raise ConfigError(f"{current.mlkey} has no version {to!r}.\n{listing(promotions)}")
    if len({(entry.model_version, entry.archive_sha256) for entry in found}) > 1:
        raise ConfigError(
            f"{to!r} fits {len(found)} versions of {current.mlkey}; give more of it.\n{listing(promotions)}"
        )
    return found[0]


def listing(promotions: tuple[RegistryEntry, ...]) -> str:
    """Return the versions of an MLKey, one a line, the newest first."""
    lines = [
        f"  {entry.model_version}  package {entry.archive_sha256[:12]}  promoted {entry.promoted_at}"
        + ("  (answers now)" if number == 0 else "")
        for number, entry in enumerate(versions(promotions))
    ]
    return "\n".join(["Its versions are:", *lines])


def origin(entry: RegistryEntry) -> int:
    """Return the number of the promotion that a rollback went back to, or the entry's own."""
    return entry.version if entry.restores is None else entry.restores


def named(entry: RegistryEntry) -> str:
    """Return what a person calls this version."""
    return f"{entry.model_version} (package {entry.archive_sha256[:12]})"
