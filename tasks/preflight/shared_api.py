"""What this run would change of the API that stands and that other MLKeys share."""

from askline.config import PipelineConfig
from askline.errors import ConfigError
from askline.records import Target
from tasks.deploy_api.deploy_api import planned_changes
from tasks.deploy_api.standing import require_leave
from tasks.preflight.checks import Checks, bad, good, unknown


def shared_api_checks(config: PipelineConfig, *, target: Target) -> Checks:
    """Yield what changes of the shared API, and whether something becomes less strict that nobody asked for."""
    from botocore.exceptions import BotoCoreError, ClientError

    if not config.api.enabled:
        return
    try:
        agreed = planned_changes(config.api, target, config.deploy.mlkey)
    except (BotoCoreError, ClientError):
        yield unknown("shared API", f"not checked: the stack {config.api.stack_name} could not be looked at")
        return
    try:
        require_leave(config.api, agreed)
    except ConfigError:
        remedy = "leave the option out to keep what is deployed, or add --api.allow-weaker true if that is meant"
        yield bad("shared API", f"{config.api.stack_name} would become less strict: {'; '.join(agreed.weaker)}", remedy)
        return
    yield good("shared API", "; ".join(agreed.changes) or f"{config.api.stack_name} keeps its options, or is new")
