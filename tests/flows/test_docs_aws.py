"""Every command of docs/aws.md, in the order of the page, on an embedded cloud that enforces permissions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, running_cloud, write_capitals

from askline.clients import LocalKeys
from askline.config import PipelineConfig

PAGE = REPOSITORY / "docs" / "aws.md"
ROLES_AND_OPTIONS = REPOSITORY / "docs" / "ezsmdeploy.md"

OUTPUT = (
    "{}aws cloudformation describe-stacks --stack-name askline-api --query "
    """"Stacks[0].Outputs[?OutputKey=='{}'].OutputValue" --output text{}"""
)
#: All that is replaced: what AWS answers for itself, and where the deployer's keys are taken from.
SUBSTITUTIONS = {
    # The pipeline reads AWS's profiles on AWS only; the embedded cloud's other users are named by these variables.
    "export AWS_PROFILE=askline-deployer": "export AWS_PROFILE=askline-deployer"
    " ASKLINE_LOCAL_ACCESS_KEY_ID=$(aws configure get aws_access_key_id --profile askline-deployer)"
    " ASKLINE_LOCAL_SECRET_ACCESS_KEY=$(aws configure get aws_secret_access_key --profile askline-deployer)",
    "unset AWS_PROFILE": "unset AWS_PROFILE ASKLINE_LOCAL_ACCESS_KEY_ID ASKLINE_LOCAL_SECRET_ACCESS_KEY",
    # The stack's own output is the address on AWS.
    OUTPUT.format("API=$(", "ApiUrl", ")"): OUTPUT.format(
        "API=http://$(", "ApiId", ").execute-api.localhost:$PORT/default/"
    ),
}
#: What takes the place of the configuration's own: a dataset and a base that need no internet, and a short training.
OPTIONS = {
    "ASKLINE_TARGET": "local",
    "ASKLINE_DATASET__SOURCE": "questions.csv",
    "ASKLINE_DATASET__SPLIT_BY": "wording",
    "ASKLINE_TRAINING__BASE": "scratch",
    "ASKLINE_TRAINING__MAX_STEPS": "40",
    "ASKLINE_TRAINING__BATCH_SIZE": "16",
    "ASKLINE_EVALUATION__MIN_EXACT_MATCH": "0",
    "ASKLINE_HUB__PUSH": "never",
    "ASKLINE_SMOKE__QUESTIONS": "2",
}


def commands(text: str) -> list[str]:
    """Return the commands of a page's shell blocks; a loop is one command."""
    found: list[str] = []
    for block in re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        waiting = ""
        for line in block.splitlines():
            waiting += line + "\n"
            if not waiting.startswith("for ") or line == "done":
                found.append(waiting.strip())
                waiting = ""
        assert not waiting, f"no end: {waiting}"
    return found


def test_every_substitution_is_of_a_command_on_the_page() -> None:
    assert set(SUBSTITUTIONS) <= set(commands(PAGE.read_text()))


def test_the_page_installs_what_the_policies_print(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from deployments.iam.__main__ import main

    assert main(["--config", str(REPOSITORY / "configs" / "aws.toml"), "--out", str(tmp_path)]) == 0
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("aws iam ")]
    shown = [
        command.replace("$ACCOUNT", "123456789012").replace("file://iam/", f"file://{tmp_path}/")
        for command in commands(PAGE.read_text())
    ]
    assert [line for line in printed if line not in shown] == [
        "aws iam create-access-key --user-name askline-deployer"  # which the page puts into a profile
    ]


@pytest.mark.slow
def test_every_command_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    todo = commands(PAGE.read_text())
    assert len(todo) > 30
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "aws.toml").write_text((REPOSITORY / "configs" / "aws.toml").read_text())
    write_capitals(tmp_path / "questions.csv")
    (tmp_path / "config").write_text("[default]\nregion = us-east-1\n")
    state = tmp_path / "state"
    with running_cloud(state, "--enforce-iam") as target:
        key, secret = LocalKeys.of(target)[:2]
        (tmp_path / "credentials").write_text(
            f"[default]\naws_access_key_id = {key}\naws_secret_access_key = {secret}\n"
        )
        script = ["set -euo pipefail"]
        for number, command in enumerate(todo):
            script += [f"printf '\\n@@ {number}\\n'", SUBSTITUTIONS.get(command, command)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
            **OPTIONS,
            "ASKLINE_STATE_DIR": str(state),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "PORT": target.endpoints["s3"].rpartition(":")[2],
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_PAGER": "",
            "AWS_ENDPOINT_URL": target.endpoints["s3"],
            "AWS_ENDPOINT_URL_SAGEMAKER": target.endpoints["sagemaker"],
            "AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME": target.endpoints["sagemaker-runtime"],
        }
        done = subprocess.run(
            ["bash", "-c", "\n".join(script)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        parts = re.split(r"^@@ (\d+)\n", done.stdout, flags=re.MULTILINE)
        said = {todo[int(number)]: text for number, text in zip(parts[1::2], parts[2::2], strict=True)}
        assert done.returncode == 0, f"{list(said)[-1]}\n{done.stdout[-6000:]}"
        assert len(said) == len(set(todo))
        plan = said["python -m flows.full_pipeline --config aws.toml --plan"]
        run = said["python -m flows.full_pipeline --config aws.toml"]
        assert "askline-deployer holds all" in plan
        assert "the upload makes it" in plan
        assert "smoke-invoke" in run
        (asked,) = [text for name, text in said.items() if name.startswith("curl ")]
        assert '"model_version"' in asked
        assert (tmp_path / "answer.json").read_text().startswith('{"answers"')
        assert "biography" in said["python -m flows.status --config aws.toml"]
        assert "model.tar.gz" in said[next(name for name in said if name.startswith("aws s3 ls "))]
        left = subprocess.run(
            [
                "bash",
                "-c",
                "aws s3 ls && aws iam list-users && aws sagemaker list-models && aws ssm describe-parameters",
            ],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert left.returncode == 0, left.stderr
        assert "askline" not in left.stdout, "something was left"


# -- coming from Ezsmdeploy -------------------------------------------------------------------------------------------

#: The parameters of Deploy(...) in version 2 of Ezsmdeploy, and the two of the first version's own copy.
PARAMETERS = (
    "model script framework requirements dependencies name autoscale autoscaletarget serverless serverless_memory "
    "serverless_concurrency wait wait_time bucket prefix volume_size session image dockerfilepath dockerextras "
    "instance_type instance_count budget ei monitor asynchronous foundation_model foundation_model_version "
    "huggingface_model huggingface_model_task huggingface_model_quantize bucket_folder aws_role"
)


def rows() -> list[list[str]]:
    lines = [line for line in ROLES_AND_OPTIONS.read_text().splitlines() if line.startswith("| `")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def option(name: str) -> object:
    """Return an option's field in the configuration; an error if there is none."""
    model: object = PipelineConfig
    for part in name.split("."):
        field = model.model_fields[part]  # type: ignore[attr-defined]
        model = field.annotation
    return field


def test_every_parameter_of_Ezsmdeploy_has_its_row() -> None:  # noqa: N802
    named = {name for row in rows() for name in re.findall(r"`(\w+)`", row[0])}
    assert named >= set(PARAMETERS.split())


def test_every_option_that_is_named_there_exists() -> None:
    text = ROLES_AND_OPTIONS.read_text()
    sections = "|".join(PipelineConfig.model_fields)
    named = set(re.findall(rf"`((?:{sections})(?:\.\w+)*)`", text))
    assert len(named) > 25
    for name in named:
        option(name)
    for flag in re.findall(r"--([a-z]+(?:\.[a-z-]+)+)", text):
        option(flag.replace("-", "_"))
    for row in rows():
        assert row[2], row
        assert row[1] != "–" or len(row[2]) > 5, f"{row[0]}: it works, or there is a reason"
        if row[1] != "–":
            assert re.search(r"`[\w.]+`", row[1]), row


@pytest.mark.parametrize("page", ["aws.md", "iam.md", "ezsmdeploy.md", "first-version.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (REPOSITORY / "docs" / page).read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (REPOSITORY / "docs" / link).exists(), link


def test_the_statements_that_the_pages_name_are_there() -> None:
    from askline.command_line import load_config
    from tasks.aws.iam import scope_of
    from tasks.preflight.deployer import deployer_policies

    example = ["--config", str(REPOSITORY / "configs" / "aws.toml")]
    asynchronous = ["--deploy.target", "async", "--api.enabled", "false"]
    topic = ["--deploy.asynchronous.error-topic", "arn:aws:sns:us-east-1:123456789012:t"]
    known = {
        statement.sid
        for options in (example, [*example, *asynchronous, *topic])
        for policy in deployer_policies(scope_of(load_config(options)))
        for statement in policy.statements
    }
    prefixes = "Upload|Preflight|Look|Deploy|Smoke|Promote|Status|Teardown|Plan|Api"
    named = set(re.findall(rf"`((?:{prefixes})[A-Z]\w+)`", (REPOSITORY / "docs" / "iam.md").read_text()))
    assert named
    assert named <= known
