"""The generated policies: least, enough, legal; and the pipeline held to them, statement by statement."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import REPOSITORY, running_cloud
from support.iam import Deployer, lint, recorded
from support.tiny_package import write_scores
from support.toy_archive import write_archive

from askline.clients import LOCAL_KEY_VARIABLES, aws_client
from askline.command_line import load_config
from askline.config import PipelineConfig
from askline.errors import AsklineError, ConfigError
from askline.records import DeployPlan, PackageRef, Scores, Target
from askline.store import ArtifactStore, sha256_of_file
from deployments.iam.__main__ import main
from deployments.iam.files import policy_files
from tasks.aws.iam import Scope, Statement, characters, scope_of
from tasks.deploy_api.deploy_api import deploy_api
from tasks.deploy_serverless import registry
from tasks.deploy_serverless.deploy_serverless import deploy_serverless
from tasks.deploy_serverless.plan import plan_deploy
from tasks.deployed.inventory import take_inventory
from tasks.deployed.rollback import rollback
from tasks.deployed.status import status
from tasks.deployed.teardown import carry_out, find_stack, plan_teardown
from tasks.fine_tune.launch.permissions import has_its_own_role, training_role_policy
from tasks.package.package import ARCHIVE
from tasks.package.upload import upload_package
from tasks.preflight.deployer import deployer_policies
from tasks.preflight.execution import execution_policy
from tasks.preflight.preflight import preflight, require
from tasks.smoke_invoke.smoke_invoke import smoke_api, smoke_invoke
from tasks.workplace import Workplace

EXAMPLE = ["--config", str(REPOSITORY / "configs" / "aws.toml")]
#: Configurations that between them switch everything on.
VARIANTS = {
    "the example": [],
    "everything": [
        *("--api.kms-key", "create", "--api.question-log.enabled", "true", "--api.keep-warm-minutes", "5"),
        *("--api.alarms.notify", "you@example.org", "--api.logs.access-log-role", "true", "--api.logs.tracing", "true"),
    ],
    "an API key": ["--api.auth", "key", "--api.limits.requests-per-day", "1000", "--api.limits.concurrency", "2"],
    "real-time": [
        *("--deploy.target", "real-time", "--deploy.autoscaling.max", "3", "--deploy.data-capture.percentage", "10"),
        *("--deploy.vpc.subnets", '["subnet-1"]', "--deploy.vpc.security-groups", '["sg-1"]'),
    ],
    "async": [
        *("--deploy.target", "async", "--api.enabled", "false", "--deploy.autoscaling.max", "2"),
        *("--deploy.asynchronous.success-topic", "arn:aws:sns:us-east-1:123456789012:done"),
        *("--deploy.asynchronous.output-path", "s3://elsewhere/out"),
    ],
    "training in SageMaker": ["--training.where", "sagemaker"],
    "training with a role of its own": [
        *("--training.where", "sagemaker", "--training.cluster.role-arn", "arn:aws:iam::123456789012:role/a/trainer"),
        *("--training.cluster.bucket", "for-training", "--training.cluster.checkpoint-uri", "s3://kept/checkpoints"),
    ],
    "a shared bucket": ["--artifact-store", "s3://shared/askline", "--training.checkpoint-store", "s3://kept/here"],
    "everything together": [
        *("--deploy.target", "real-time", "--deploy.autoscaling.max", "3", "--deploy.vpc.subnets", '["subnet-1"]'),
        *("--deploy.vpc.security-groups", '["sg-1"]', "--deploy.data-capture.percentage", "10"),
        *("--training.where", "sagemaker", "--artifact-store", "s3://shared", "--api.alarms.notify", "you@example.org"),
    ],
}
#: What parliament remarks on that is meant: what is granted is what the step is for, on named resources.
MEANT = re.compile(
    r"CREDENTIALS_EXPOSURE.*'ecr:getauthorizationtoken'\]|PERMISSIONS_MANAGEMENT_ACTIONS"
    # Newer than parliament's list of actions.
    r"|UNKNOWN_ACTION: Unknown action lambda:GetFunctionScalingConfig "
)


def scope(*options: str, **more: Any) -> Scope:
    return scope_of(load_config([*EXAMPLE, *options]), **more)


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_the_linter_finds_nothing_and_IAM_takes_the_length(options: list[str]) -> None:  # noqa: N802
    for file in policy_files(scope(*options)):
        if "trust" in file.name:  # parliament reads no trust policies
            assert set(file.document["Statement"][0]) == {"Effect", "Principal", "Action"}
            continue
        assert [remark for remark in lint(file.document) if not MEANT.match(remark)] == [], file.name
        assert characters(file.document) <= 6144


def test_the_linter_would_find_something() -> None:
    wrong = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObjekt", "Resource": "*"}]}
    assert any("UNKNOWN_ACTION" in remark for remark in lint(wrong))


@pytest.mark.parametrize("options", VARIANTS.values(), ids=VARIANTS)
def test_a_star_has_a_reason_and_no_action_is_one(options: list[str]) -> None:
    found = scope(*options)
    policies = [*deployer_policies(found), execution_policy(found)]
    if has_its_own_role(found):
        policies.append(training_role_policy(found))
    statements = [statement for policy in policies for statement in policy.statements]
    for statement in statements:
        assert not any("*" in action for action in statement.actions), statement.sid
        assert ("*" in statement.resources) == bool(statement.why_any), statement.sid
        if "iam:PassRole" in statement.actions:
            assert "iam:PassedToService" in statement.condition["StringEquals"]
    for policy in policies:
        sids = [statement.sid for statement in policy.statements]
        assert len(set(sids)) == len(sids)
        assert all(sid.isalnum() for sid in sids), "IAM takes letters and digits only"


def test_the_files_in_the_repository_are_those_of_the_example(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*EXAMPLE, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    folder = REPOSITORY / "deployments" / "iam"
    written = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert written == {path.name: path.read_text() for path in folder.glob("*.json")}
    for name in written:
        assert str(tmp_path / name) in said
    assert said.count("aws iam ") == 10


def test_what_cannot_be_filled_in_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"for which AWS account.*--account"):
        scope_of(PipelineConfig())
    with pytest.raises(ConfigError, match="of account 123456789012, not of 210987654321"):
        scope(account="210987654321")
    with pytest.raises(ConfigError, match="twelve digits"):
        scope_of(PipelineConfig(), account="12")


def test_an_mlkey_in_capitals_is_met_in_both_cases() -> None:
    found = scope("--deploy.mlkey", "Bio")
    assert found.endpoints == tuple(
        f"arn:aws:sagemaker:us-east-1:123456789012:endpoint/serv-hf-endpoint-{name}" for name in ("bio", "Bio")
    )
    assert scope(all_mlkeys=True).endpoints[0].endswith(":endpoint/serv-hf-endpoint-*")


#: What handlers of CloudFormation can call, and do not for this template.
NOT_FOR_US = re.compile(
    r"""ec2:|elasticfilesystem:|s3files:            # no VPC, no file system
    |lambda:(AssociateRuntimeAlias|DeleteFunctionCodeSigningConfig|GetCodeSigningConfig|GetLayerVersion
      |PassCapacityProvider|PublishVersion|PutFunctionCodeSigningConfig|PutFunctionRecursionConfig
      |PutFunctionScalingConfig|PutRuntimeManagementConfig)$   # no signed code, layers, versions, runtime settings
    |s3:GetObjectVersion$                       # the function's zip is named without a version
    |s3:REST\.PUT\.OBJECT$                      # no action
    |firehose:|logs:(CreateLogDelivery|.*DataProtectionPolicy|.*IndexPolic(y|ies)|.*ResourcePolic(y|ies)
      |PutBearerTokenAuthentication|PutLogGroupDeletionProtection)$   # nothing of these in the template's log groups
    |iam:(.*PermissionsBoundary|AttachRolePolicy|DetachRolePolicy)$   # no boundaries; attached with access_log_role
    |apigateway:UpdateRestApiPolicy$            # no resource policy
    |sns:(Put|Get)DataProtectionPolicy$|iam:GetRole$
    |kms:(CreateGrant|Decrypt|DescribeKey|Encrypt|GenerateDataKey)$   # with a key only
    |logs:(Dis)?[Aa]ssociateKmsKey$             # with a key only
    |s3:.*(Accelerate|Analytics|Cors|CORS|Intelligent|Inventory|Logging|Metrics|MetadataTable|Notification|ObjectLock
      |Replication|Versioning|Website|Tagging|Abac|Acl|TagResource|UntagResource|ListTagsForResource|S3TableBucket
      |DeleteBucket|ListAllMyBuckets|GetBucketPolicy|Metadata\w*Table).*|s3tables:|s3-object-lambda:|iam:PassRole$
    """,
    re.VERBOSE,
)


def handlers() -> dict[str, set[str]]:
    """Return the actions of CloudFormation's handlers by type of resource: cfn-lint has a copy of the registry."""
    import cfnlint

    template = (REPOSITORY / "deployments" / "api.yaml").read_text()
    types = set(re.findall(r"Type: (AWS::\w+::\w+)", template))
    folder = Path(cfnlint.__file__).parent / "data" / "schemas" / "resources"
    found: dict[str, set[str]] = {}
    for path in folder.glob("*.json"):
        text = path.read_text()
        if any(f'"{kind}"' in text for kind in types) and (schema := json.loads(text)).get("typeName") in types:
            steps = schema.get("handlers", {})
            done = [steps[name]["permissions"] for name in ("create", "read", "update", "delete") if name in steps]
            actions = {action for each in done for action in each}
            found.setdefault(schema["typeName"], set()).update(actions)
    assert found.keys() == types
    return found


def test_CloudFormation_can_make_change_and_delete_all_that_the_template_holds() -> None:  # noqa: N802
    found = scope(*VARIANTS["everything"])
    keyed = scope(*VARIANTS["an API key"])
    granted = {
        action
        for each in (found, keyed)
        for policy in deployer_policies(each)
        for statement in policy.statements
        for action in statement.actions
    }
    missing = {
        kind: sorted(action for action in actions - granted if not NOT_FOR_US.match(action))
        for kind, actions in handlers().items()
    }
    assert {kind: actions for kind, actions in missing.items() if actions} == {}


# -- the pipeline, held to its policies --------------------------------------------------------------------------------


class Place(NamedTuple):
    """An embedded cloud that enforces permissions, with a deployer and two packages."""

    target: Target
    config: PipelineConfig
    scope: Scope
    deployer: Deployer
    store: ArtifactStore
    scores: Scores
    packages: dict[str, PackageRef]
    """By version."""
    plan: DeployPlan


CODE = """
import json
def model_fn(model_dir):
    return "{version}"
def predict_fn(data, model):
    heard = "heard " + data["inputs"]
    return {{"answers": [{{"answer": heard, "confidence": 1.0}}], "model_version": model}}
def output_fn(prediction, accept):
    return json.dumps(prediction)
"""
QUESTIONS = ("Who?", "Where?")


def store_package(store: ArtifactStore, version: str) -> PackageRef:
    """Keep an archive of a few lines that answers for itself."""
    with store.new("package") as draft:
        path = draft.folder / ARCHIVE
        write_archive(path, CODE.format(version=version))
        facts = {"archive_sha256": sha256_of_file(path), "size": path.stat().st_size, "unpacked_size": 1000}
        return PackageRef(sha256=draft.commit(), model_sha256="m" * 64, members=(), **facts)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("iam")
    options = ["--without", "prefect", "--without", "hub", "--enforce-iam"]
    with running_cloud(folder, *options) as target, pytest.MonkeyPatch.context() as environment:
        role = "arn:aws:iam::000000000000:role/askline-sagemaker-execution"
        config = load_config(
            ["--state-dir", str(folder), "--deploy.role-arn", role, "--api.auth", "iam", "--deploy.mlkey", "held"]
        )
        found = scope_of(config)
        deployer = Deployer(target, found)
        for name, value in deployer.keys.items():
            environment.setenv(name, value)
        store = ArtifactStore(folder / "artifacts")
        packages = {version: store_package(store, version) for version in ("first", "second")}
        scores = write_scores(store, "m" * 64, {question: f"heard {question}" for question in QUESTIONS})
        plan = plan_deploy(config.deploy, config.package, packages["first"], target=target)
        yield Place(target, config, found, deployer, store, scores, packages, plan)


class Steps:
    """The steps of the pipeline, as the deployer."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.target, self.config = place.target, place.config
        self.version = "first"

    @property
    def package(self) -> PackageRef:
        return self.place.packages[self.version]

    def preflight(self) -> None:
        found = preflight(
            self.config,
            self.place.plan,
            self.package,
            place=Workplace(self.target, store=self.place.store),
        )
        require(found)

    def upload(self) -> None:
        self.uploaded = upload_package(
            self.config.package,
            self.package,
            mlkey=self.config.deploy.mlkey,
            tags={},
            place=Workplace(self.target, store=self.place.store),
        )

    def deploy(self) -> None:
        plan = plan_deploy(self.config.deploy, self.config.package, self.package, target=self.target)
        self.endpoint = deploy_serverless(self.config.deploy, plan, self.uploaded, place=Workplace(self.target))

    def smoke(self) -> None:
        self.asked = smoke_invoke(
            self.config.smoke,
            self.endpoint,
            self.place.scores,
            place=Workplace(self.target, store=self.place.store),
        )

    def promote(self) -> None:
        registry.promote(
            self.config.deploy.mlkey,
            endpoint=self.place.plan.endpoint_name,
            model_version=self.version,
            archive_sha256=self.package.archive_sha256,
            dataset="questions",
            exact_match=1.0,
            run_id=f"run-{self.version}",
            target=self.target,
        )
        tags = registry.tags_of(self.config.deploy.mlkey, self.target)
        assert tags.get("askline:managed") == "true", "ssm:AddTagsToResource"

    def api(self) -> None:
        mlkey = self.config.deploy.mlkey
        api = deploy_api(
            self.config.api,
            bucket=self.place.scope.bucket,
            prefix="api",
            tags={},
            mlkey=mlkey,
            place=Workplace(self.target),
        )
        smoke_api(api, self.asked, mlkey=mlkey, target=self.target)

    def status(self) -> None:
        found = status(self.config, target=self.target)
        assert found.deployed, "nothing is shown as deployed"
        inventory = take_inventory(self.config, target=self.target)
        assert not inventory.notes, inventory.notes

    def second_version(self) -> None:
        self.version = "second"
        self.upload()
        self.deploy()
        self.smoke()
        self.promote()

    def rollback(self) -> None:
        rollback(self.config.deploy.mlkey, config=self.config, place=Workplace(self.target))

    def teardown(self) -> None:
        inventory = take_inventory(self.config, target=self.target)
        plan = plan_teardown(inventory, mlkey=self.config.deploy.mlkey, archives=True)
        stack = find_stack(self.config.api.stack_name, target=self.target)
        carry_out(plan.model_copy(update={"stack": stack}), target=self.target, wait_seconds=60)


#: Which step fails without which statement, in the order of a run. After each, the step is done with all of them.
NEEDED: dict[str, tuple[str, ...]] = {
    "upload": ("UploadBucket", "UploadArchive", "UploadLook"),
    "deploy": ("Look", "DeployModel", "DeployPassRole", "DeployEndpoint", "ReadArchive"),
    "smoke": ("SmokeInvoke",),
    "promote": ("Promote",),
    "api": ("ApiUpload", "ApiStack", "ApiAsk"),
    "status": ("LookList", "StatusRegistry", "StatusRegistryList", "StatusArchives"),
    "second_version": (),
    "rollback": ("StatusRegistry",),
    "teardown": ("DeployUndo", "TeardownRegistry", "TeardownArchives"),
}
#: What CloudFormation, API Gateway and SageMaker do in the caller's name or the role's, and the embedded cloud does not
#: hold against the policies: preflight does, by IAM's own simulation.
BY_SIMULATION = (
    *("ListBucket", "WriteLog", "PullImage", "SignInToImages", "PutMetrics"),
    *("ApiRole", "ApiPassRole", "ApiFunction", "ApiGateway", "ApiAccount", "ApiLogs", "ApiLogsLook", "ApiAccessLog"),
    *("ApiAlarms", "ApiAlarmsLook"),
)
#: What nothing on the embedded cloud answers for.
NOT_HERE = {"PlanPrices": "the price list is AWS's alone"}


def statements_of(found: Scope) -> dict[str, Statement]:
    policies = [*deployer_policies(found), execution_policy(found)]
    return {statement.sid: statement for policy in policies for statement in policy.statements}


@pytest.mark.slow
def test_the_pipeline_runs_on_its_policies_and_on_no_statement_less(place: Place) -> None:
    known = statements_of(place.scope)
    steps = Steps(place)
    tried: set[str] = set()

    def fails(step: Callable[[], Any], *sids: str) -> str:
        """Expect a step to fail without some statements, in words that name an action of each."""
        tried.update(sids)
        place.deployer.allow(without=sids)
        try:
            with pytest.raises((AsklineError, AssertionError)) as refused:
                step()
        finally:
            place.deployer.allow()
        said = str(refused.value)
        for sid in sids:
            assert any(action in said for action in known[sid].actions), f"{sid}: {said}"
        return said

    said = fails(steps.preflight, *BY_SIMULATION)
    assert set(re.findall(r"the statement (\w+) of", said)) == set(BY_SIMULATION)
    steps.preflight()
    with recorded() as called:
        for name, sids in NEEDED.items():
            step = getattr(steps, name)
            for sid in sids:
                fails(step, sid)
            step()
    optional = {sid for sid, statement in known.items() if statement.without_it} - tried
    assert tried | optional | NOT_HERE.keys() == known.keys(), "a statement that no step is known to need"
    unused = {
        action
        for sid, statement in known.items()
        if sid not in (*BY_SIMULATION, *NOT_HERE) and sid not in ("ReadArchive", "ApiAsk")
        for action in statement.actions
    } - called
    assert unused <= {
        "s3:AbortMultipartUpload",  # after an upload that was cut, which tests/package/test_upload.py provokes
        "s3:ListBucketMultipartUploads",
        "application-autoscaling:DescribeScalableTargets",  # where something can scale
        "application-autoscaling:DescribeScalingPolicies",
        "s3:ListMultipartUploadParts",
        "s3:PutObjectTagging",  # sent with PutObject
        "cloudformation:DescribeStackEvents",  # for a stack that failed
        "cloudformation:UpdateStack",
        "servicequotas:ListServiceQuotas",
        "iam:GetRole",
        "iam:SimulatePrincipalPolicy",
    }, unused
    granted = {action for statement in known.values() for action in statement.actions}
    assert called - granted - {"sts:GetCallerIdentity"} == set(), "called, and granted by no statement"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sid", "check"),
    [("PreflightRole", "role"), ("PreflightQuotas", "quota"), ("PreflightOwnRights", "own permissions")],
)
def test_what_preflight_may_not_look_at_is_not_checked_and_no_failure(place: Place, sid: str, check: str) -> None:
    place.deployer.allow(without=[sid])
    try:
        found = preflight(
            place.config,
            place.plan,
            place.packages["first"],
            place=Workplace(place.target, store=place.store),
        )
    finally:
        place.deployer.allow()
    assert not found.failed
    assert [each.found for each in found.checks if each.name == check and each.passed is None]
    require(found)


@pytest.mark.slow
def test_the_deployer_cannot_reach_beyond_its_mlkey(place: Place) -> None:
    s3, sagemaker = (aws_client(place.target, name) for name in ("s3", "sagemaker"))
    for call, arguments in (
        (s3.get_object, {"Bucket": place.scope.bucket, "Key": "secrets.txt"}),
        (sagemaker.delete_endpoint, {"EndpointName": "somebody-elses"}),
        (sagemaker.delete_endpoint, {"EndpointName": "serv-hf-endpoint-other"}),
        (aws_client(place.target, "iam").put_user_policy, {"UserName": "u", "PolicyName": "p", "PolicyDocument": "{}"}),
        (aws_client(place.target, "ssm").put_parameter, {"Name": "/askline/registry/other", "Value": "x"}),
    ):
        with pytest.raises(Exception, match="AccessDenied"):
            call(**arguments)


@pytest.mark.slow
def test_a_wrong_signature_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCAL_KEY_VARIABLES[1], "x" * 40)
    with pytest.raises(Exception, match="SignatureDoesNotMatch"):
        aws_client(place.target, "sagemaker").list_endpoints()
