"""Plans for a package of flan-t5-base's size: the serverless tier and what is behind it, then instances by budget.

::

    python -m benchmarks.plans

Nothing is created and no connection is opened. The package is described by figures that were measured with one of
flan-t5-base's size in bytes (docs/sizing.md).
"""

import sys
from typing import Any

from askline.config import DeployConfig, PackageConfig
from askline.errors import AsklineError
from askline.records import Measured, PackageRef, Target
from tasks.deploy_serverless.plan import plan_deploy
from tasks.report.plan import text

ROLE = "arn:aws:iam::111122223333:role/askline-sagemaker-execution"
AWS = Target(kind="aws", region="us-east-1")
FLAN_T5_BASE = PackageRef(
    sha256="0" * 64,
    archive_sha256="0" * 64,
    size=290_000_000,
    unpacked_size=420_000_000,
    model_sha256="0" * 64,
    members=(),
    engine="onnxruntime",
    quantisation="int8",
    measured=Measured(
        load_seconds=1.9,
        load_peak_mb=540,
        peak_mb=572,
        first_answer_seconds=0.3,
        answer_seconds=0.24,
        answer_seconds_p95=0.26,
        batch_seconds=0.9,
        batch_questions=8,
        processor="AMD EPYC (avx2)",
    ),
)
#: What is asked for, by budget: more money buys more where more is asked for, and never without.
BUDGETS: tuple[dict[str, Any], ...] = (
    {"budget": 0.11, "workers": 1},
    {"budget": 0.25, "workers": 4},
    {"budget": 0.50, "workers": 8},
    {"budget": 0.80, "workers": 1, "gpu": True},
    {"budget": 5.00, "workers": 1},
    {"budget": 0.05, "workers": 1},
)


def main() -> int:
    """Print the plans and return the exit code."""
    for config in (
        DeployConfig(role_arn=ROLE),
        DeployConfig(role_arn=ROLE, target="real-time", workers=2),
        DeployConfig(role_arn=ROLE, target="async", autoscaling={"max": 3}),  # type: ignore[arg-type]
    ):
        print(text(plan_deploy(config, PackageConfig(bucket="models-111122223333"), FLAN_T5_BASE, target=AWS)))
    print(f"\n{'budget':>8} {'workers':>8} {'gpu':>5}  instance")
    for wanted in BUDGETS:
        print(
            f"{wanted['budget']:>8} {wanted['workers']:>8} {'yes' if wanted.get('gpu') else '':>5}  {_chosen(wanted)}"
        )
    return 0


def _chosen(wanted: dict[str, Any]) -> str:
    config = DeployConfig(role_arn=ROLE, target="real-time", **wanted)
    try:
        plan = plan_deploy(config, PackageConfig(bucket="models-111122223333"), FLAN_T5_BASE, target=AWS)
    except AsklineError as error:
        return f"refused: {error}"
    costs, needed = plan.costs, plan.size.needed_mb or 0
    return f"{costs.instance} at {costs.instance_usd_per_hour:g} $ an hour, for {needed / 1024:.1f} GiB"


if __name__ == "__main__":
    sys.exit(main())
