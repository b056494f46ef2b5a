"""Which of the pipeline's resources nothing refers to any more."""

from datetime import UTC, datetime, timedelta

from askline.records import Record
from tasks.deploy_serverless.endpoint import PASSING
from tasks.deployed.inventory import Inventory, Resource
from tasks.deployed.versions import versions

#: Versions of each MLKey that can be gone back to, and whose resources are therefore no orphans.
KEEP = 5
#: As many as Parameter Store keeps.
ALL = 100
#: What is younger may belong to a deployment under way, which makes its endpoint and its registry entry last.
GRACE = timedelta(hours=1)


class Orphan(Record):
    """A resource of ours that nothing refers to."""

    resource: Resource
    why: str
    recent: bool
    """Younger than the grace period: it may belong to a deployment under way, and is not to be deleted."""


def find_orphans(
    inventory: Inventory, *, keep: int = KEEP, grace: timedelta = GRACE, now: datetime | None = None
) -> tuple[Orphan, ...]:
    """Return what of ours no endpoint and none of the last ``keep`` versions of its MLKey refers to.

    An endpoint that no registry entry names is an orphan too, and with it what only it uses.

    Parameters
    ----------
    grace
        What changed less than this long ago is marked as recent, and keeps what it refers to.
    now
        An aware time; the default is the present.
    """
    now = now or datetime.now(UTC)

    def recent(found: Resource) -> bool:
        return found.status in PASSING or (found.changed is not None and now - found.changed < grace)

    registered = {promotions[0].endpoint for promotions in inventory.history.values()}
    orphans = [
        Orphan(resource=found, why="no registry entry names it", recent=recent(found))
        for found in inventory.of("endpoint").values()
        if found.managed and found.name not in registered
    ]
    orphans += [
        Orphan(resource=found, why="the endpoint that it scales is not there", recent=recent(found))
        for found in inventory.of("scaling").values()
        if not set(found.uses) & inventory.of("endpoint").keys()
    ]
    leaving = {orphan.resource.name for orphan in orphans if not orphan.recent}
    configs, models = inventory.of("endpoint configuration"), inventory.of("model")
    kept = {used for found in inventory.of("endpoint").values() if found.name not in leaving for used in found.uses}
    kept |= _promoted(inventory, keep)
    # From referrers to what they refer to. Things of others, and recent ones, keep what they use as well.
    for found in (*configs.values(), *models.values()):
        if found.name in kept or not found.managed or recent(found):
            kept |= set(found.uses)
    last = "not the last version" if keep == 1 else f"none of the last {keep} versions"
    why = f"no endpoint and {last} refers to it"
    orphans += [
        Orphan(resource=found, why=why, recent=recent(found))
        for found in (*configs.values(), *models.values(), *inventory.of("archive").values())
        if found.managed and found.name not in kept
    ]
    return tuple(orphans)


def _promoted(inventory: Inventory, keep: int) -> set[str]:
    """Return the names of what the last versions of every MLKey are served with."""
    names: set[str] = set()
    configs, models = inventory.of("endpoint configuration"), inventory.of("model")
    for mlkey, promotions in inventory.history.items():
        for entry in versions(promotions)[:keep]:
            folder = f"/{mlkey}/{entry.archive_sha256[:12]}/"
            names |= {name for name in inventory.of("archive") if folder in name}
            if entry.served_by is not None:
                names |= {entry.served_by.config_name, entry.served_by.model_name, entry.served_by.archive_uri}
                continue
            # An older entry does not say its configuration: all that serve its archive are kept.
            serving = {name for name, model in models.items() if any(folder in uri for uri in model.uses)}
            names |= {name for name, config in configs.items() if serving & set(config.uses)} | serving
    return names
