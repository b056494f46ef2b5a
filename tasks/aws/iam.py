"""What the policies are about: names, filled from the configuration, and the form of a statement."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field

from askline.config import PipelineConfig
from askline.errors import ConfigError
from askline.records import Record
from tasks.aws.execution_role import ROLE_NAME

#: The version of IAM's policy language.
VERSION = "2012-10-17"
#: Most characters of a managed policy, blanks not counted.
MOST_CHARACTERS = 6144
#: The user whose keys deploy, unless another name is given.
USER = "askline-deployer"

_ROLE_ARN = re.compile(r"arn:(?P<partition>aws[a-z-]*):iam::(?P<account>\d{12}):role/(?P<name>.+)")


class Statement(Record):
    """One statement of a policy, and what a person should know about it."""

    sid: str
    step: str
    """What cannot be done without it, in a few words."""
    actions: tuple[str, ...]
    resources: tuple[str, ...]
    condition: dict[str, dict[str, Any]] = Field(default_factory=dict)
    why_any: str = ""
    """Why its resource is ``*``, where it is."""
    without_it: str = ""
    """What becomes of the step where it is left out and that does not fail for it."""

    def document(self) -> dict[str, Any]:
        """Return it as IAM takes it."""
        written: dict[str, Any] = {
            "Sid": self.sid,
            "Effect": "Allow",
            "Action": one_or_all(self.actions),
            "Resource": one_or_all(self.resources),
        }
        return written | ({"Condition": self.condition} if self.condition else {})

    @classmethod
    def read(cls, written: Mapping[str, Any], *, steps: Mapping[str, str], why_any: Mapping[str, str]) -> "Statement":
        """Return a statement that is written as IAM takes it, with what to know about it by its name."""
        return cls(
            sid=written["Sid"],
            step=steps[written["Sid"]],
            actions=_listed(written["Action"]),
            resources=_listed(written["Resource"]),
            condition=written.get("Condition", {}),
            why_any=why_any.get(written["Sid"], ""),
        )


class Policy(Record):
    """A policy with a name."""

    name: str
    purpose: str
    statements: tuple[Statement, ...]

    def document(self) -> dict[str, Any]:
        """Return it as IAM takes it."""
        return {"Version": VERSION, "Statement": [statement.document() for statement in self.statements]}

    def without(self, *sids: str) -> "Policy":
        """Return the policy without some of its statements."""
        return self.model_copy(update={"statements": tuple(item for item in self.statements if item.sid not in sids)})


class Scope(Record):
    """The names that the policies speak of."""

    config: PipelineConfig
    partition: str
    region: str
    account: str
    bucket: str
    mlkey: str
    """An MLKey, or ``*`` for all of them."""
    role: str
    """ARN of the execution role."""
    user: str = USER

    def arn(self, service: str, resource: str) -> str:
        """Return an ARN in this account and region."""
        return f"arn:{self.partition}:{service}:{self.region}:{self.account}:{resource}"

    def iam(self, resource: str) -> str:
        """Return an ARN of IAM, which has no regions."""
        return f"arn:{self.partition}:iam::{self.account}:{resource}"

    def s3(self, path: str) -> str:
        """Return the ARN of a bucket, or of objects in one."""
        return f"arn:{self.partition}:s3:::{path}"

    @property
    def objects(self) -> str:
        """ARN of the MLKey's archives."""
        return self.s3("/".join(filter(None, [self.bucket, self.config.package.prefix.strip("/"), self.mlkey, "*"])))

    @property
    def models(self) -> tuple[str, ...]:
        """ARNs of the MLKey's models."""
        return self._named("model/askline-{}-*")

    @property
    def configurations(self) -> tuple[str, ...]:
        """ARNs of the MLKey's endpoint configurations."""
        return self._named("endpoint-config/askline-{}-*")

    @property
    def endpoints(self) -> tuple[str, ...]:
        """ARNs of the endpoints that answer for the MLKey."""
        shared = self.config.deploy.multi_model
        names = {name: None for key in filter(None, [self.mlkey, shared]) for name in self._cases(key)}
        return tuple(self.arn("sagemaker", f"endpoint/serv-hf-endpoint-{name}") for name in names)

    def _named(self, form: str) -> tuple[str, ...]:
        return tuple(self.arn("sagemaker", form.format(name)) for name in self._cases(self.mlkey))

    @staticmethod
    def _cases(name: str) -> tuple[str, ...]:
        # SageMaker writes names in ARNs in lower case, and IAM compares resources letter by letter.
        return tuple(dict.fromkeys([name.lower(), name]))


def scope_of(
    config: PipelineConfig, *, account: str | None = None, all_mlkeys: bool = False, user: str = USER
) -> Scope:
    """Return the names for a configuration.

    Parameters
    ----------
    account
        Twelve digits; the default is the account of ``deploy.role_arn``.
    all_mlkeys
        Whether the policies are for every MLKey instead of the configured one.

    Raises
    ------
    ConfigError
        If nothing says which account it is, or two things do and differ.
    """
    from botocore.session import get_session

    role = _ROLE_ARN.fullmatch(config.deploy.role_arn or "")
    if account is not None and not re.fullmatch(r"\d{12}", account):
        raise ConfigError(f"{account!r} is no AWS account: twelve digits, as `aws sts get-caller-identity` shows it")
    if role and account and role["account"] != account:
        raise ConfigError(f"deploy.role_arn is of account {role['account']}, not of {account}: SageMaker takes on none")
    account = account or (role["account"] if role else None)
    if account is None:
        raise ConfigError(
            "nothing says for which AWS account the policies are: give --account, or set deploy.role_arn (the role "
            "need not exist yet)"
        )
    partition = role["partition"] if role else get_session().get_partition_for_region(config.region)
    return Scope(
        config=config,
        partition=partition,
        region=config.region,
        account=account,
        bucket=config.package.bucket or f"askline-{account}-{config.region}",
        mlkey="*" if all_mlkeys else config.deploy.mlkey,
        role=config.deploy.role_arn or f"arn:{partition}:iam::{account}:role/{ROLE_NAME}",
        user=user,
    )


def split_s3(uri: str) -> tuple[str, str]:
    """Return bucket and folder of ``s3://bucket/folder``."""
    bucket, _, folder = uri.removeprefix("s3://").partition("/")
    return bucket, folder.strip("/")


def repository_of(image: str) -> str:
    """Return account and name of an image's repository, as an ARN of ECR has them."""
    host, _, path = image.partition("/")
    account = host.partition(".")[0]
    return f"{account if account.isdigit() else '*'}:repository/{path.partition('@')[0].partition(':')[0] or '*'}"


def characters(document: Mapping[str, Any]) -> int:
    """Return the length that IAM counts: without blanks."""
    import json

    return len(re.sub(r"\s", "", json.dumps(document)))


def _listed(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def one_or_all(items: Iterable[str]) -> str | list[str]:
    """Return one item alone, several as a list."""
    listed = list(items)
    return listed[0] if len(listed) == 1 else listed
