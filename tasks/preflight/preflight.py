"""What must be so before anything is created: looked at in one go, each failure with its remedy.

::

    found = preflight(config, plan, package, place=place)
    require(found)

It only reads. What these credentials may not look at counts as not checked, never as a failure. It is made after the
plan and before the upload; a failure leaves all that is deployed as it is.
"""

from collections.abc import Iterator

from askline.config import PipelineConfig
from askline.errors import PreflightError
from askline.records import DeployPlan, PackageRef, Preflight, PreflightCheck
from tasks.preflight.account import account_checks
from tasks.preflight.archive import archive_checks
from tasks.preflight.names import name_checks
from tasks.preflight.permissions import permission_checks
from tasks.preflight.quotas import other_names, quota_checks
from tasks.preflight.shared_api import shared_api_checks
from tasks.workplace import Workplace


def preflight(
    config: PipelineConfig,
    plan: DeployPlan,
    package: PackageRef,
    *,
    place: Workplace,
) -> Preflight:
    """Check names, archive, image, role, bucket, queues, quotas and permissions. Creates and changes nothing.

    Raises
    ------
    CloudError
        If AWS cannot be reached at all.
    """
    target = place.target
    found: list[PreflightCheck] = []
    groups = (
        ("names", name_checks(config, plan)),
        ("the archive", archive_checks(config, plan, package, store=place.store, target=target)),
        ("role, bucket and topics", account_checks(config, plan, target=target)),
        ("other endpoints", other_names(plan, target=target)),
        ("quotas", quota_checks(config, plan, target=target)),
        ("the shared API", shared_api_checks(config, target=target)),
        ("permissions", permission_checks(config, plan, target=target, found=found)),
    )
    for number, (what, checks) in enumerate(groups):  # generators: nothing is looked at before its turn
        place.progress(number / len(groups), f"checking {what}")
        found += checks
    result = Preflight(checks=tuple(found))
    place.progress(1.0, result.summary)
    return result


def require(result: Preflight) -> None:
    """Return if no check failed.

    Raises
    ------
    PreflightError
        With every check that failed, what was found, and what to do.
    """
    if result.failed:
        raise PreflightError(
            f"nothing was created: {len(result.failed)} of {len(result.checks)} checks before the deployment failed\n"
            + "\n".join(_told(result))
        )


def _told(result: Preflight) -> Iterator[str]:
    for check in result.failed:
        yield f"  {check.name}: {check.found}"
        if check.remedy:
            yield f"    → {check.remedy}"
