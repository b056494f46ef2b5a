"""The policies as files, and the commands that install them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from askline.errors import ConfigError
from askline.files import write_whole
from askline.records import Record
from deployments.iam.lambda_role import lambda_role
from tasks.aws.iam import MOST_CHARACTERS, Scope, characters
from tasks.fine_tune.launch.permissions import has_its_own_role, role_of, training_role_policy
from tasks.preflight.deployer import deployer_policies
from tasks.preflight.execution import execution_policy, trust


class PolicyFile(Record):
    """One JSON file."""

    name: str
    purpose: str
    document: dict[str, Any]


def policy_files(scope: Scope) -> tuple[PolicyFile, ...]:
    """Return every policy of a configuration.

    Raises
    ------
    ConfigError
        If one is longer than IAM takes.
    """
    execution = execution_policy(scope)
    files = [
        PolicyFile(
            name="execution-role-trust.json",
            purpose="who may take the execution role on: SageMaker",
            document=trust(),
        ),
        PolicyFile(
            name=f"{execution.name}.json",
            purpose=f"the execution role: {execution.purpose}",
            document=execution.document(),
        ),
    ]
    if has_its_own_role(scope):
        training = training_role_policy(scope)
        files.append(
            PolicyFile(
                name="training-role-trust.json",
                purpose="who may take the training role on: SageMaker",
                document=trust(),
            )
        )
        files.append(
            PolicyFile(
                name=f"{training.name}.json",
                purpose=f"the training role: {training.purpose}",
                document=training.document(),
            )
        )
    files += [
        PolicyFile(
            name=f"deployer-{policy.name}.json",
            purpose=f"the deployer: {policy.purpose}",
            document=policy.document(),
        )
        for policy in deployer_policies(scope)
    ]
    if scope.config.api.enabled:
        trusted, allowed = lambda_role(scope)
        note = "to read only: the API's stack makes this role itself (deployments/api.yaml)"
        files.append(
            PolicyFile(
                name="lambda-role-trust.json",
                purpose=f"who may take the function's role on; {note}",
                document=trusted,
            )
        )
        files.append(
            PolicyFile(name="lambda-role.json", purpose=f"what the API's function may do; {note}", document=allowed)
        )
    for file in files:
        if characters(file.document) > MOST_CHARACTERS:
            raise ConfigError(
                f"{file.name} has {characters(file.document):,} characters, and IAM takes {MOST_CHARACTERS:,}; shorten "
                "deploy.mlkey, package.prefix or api.stack_name"
            )
    return tuple(files)


def write(files: tuple[PolicyFile, ...], folder: Path) -> None:
    """Write the files, each whole or not at all.

    Raises
    ------
    ConfigError
        If the folder cannot be written.
    """
    try:
        for file in files:
            write_whole(folder / file.name, json.dumps(file.document, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"cannot write the policies to {folder}: {error.strerror}; choose another --out") from error


def install_commands(scope: Scope, folder: Path) -> Iterator[str]:
    """Yield the commands that make the roles and the user, and give them their policies."""
    yield from _make_role(scope.role, folder / "execution-role")
    if has_its_own_role(scope):
        yield from _make_role(role_of(scope), folder / "training-role")
    yield f"aws iam create-user --user-name {scope.user}"
    for policy in deployer_policies(scope):
        name = f"{scope.user}-{policy.name}"
        arn = scope.iam(f"policy/{name}")
        file = folder / f"deployer-{policy.name}.json"
        yield f"aws iam create-policy --policy-name {name} --policy-document file://{file}"
        yield f"aws iam attach-user-policy --user-name {scope.user} --policy-arn {arn}"
    yield f"aws iam create-access-key --user-name {scope.user}"


def _make_role(arn: str, file: Path) -> Iterator[str]:
    path, _, role = arn.partition(":role/")[2].rpartition("/")
    at = f" --path /{path}/" if path else ""
    yield f"aws iam create-role --role-name {role}{at} --assume-role-policy-document file://{file}-trust.json"
    yield f"aws iam put-role-policy --role-name {role} --policy-name askline --policy-document file://{file}.json"
