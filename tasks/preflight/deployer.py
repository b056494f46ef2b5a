"""What the user or role that runs the pipeline may do: a few policies, by what one does with them.

What single rooms need stands with them: :mod:`tasks.deploy_api.permissions`, :mod:`tasks.fine_tune.launch.permissions`.
"""

from collections.abc import Iterator

from tasks.aws.execution_role import SERVICE
from tasks.aws.iam import Policy, Scope, Statement, split_s3
from tasks.aws.sharing import share_statements, shared_places
from tasks.deploy_api.permissions import api_statements
from tasks.deploy_serverless.registry import REGISTRY_PATH
from tasks.fine_tune.launch.permissions import train_statements, trains_on_sagemaker


def deployer_policies(scope: Scope) -> tuple[Policy, ...]:
    """Return the policies of the deployer: deploy, operate, and what the configuration has of api, train and share."""
    policies = [
        Policy(
            name="deploy",
            purpose="upload, preflight, deploy, smoke test, promote: a run of flows.full_pipeline up to the API",
            statements=tuple(_deploy(scope)),
        ),
        Policy(
            name="operate",
            purpose="flows.status, flows.rollback, flows.teardown and deployments.prices",
            statements=tuple(_operate(scope)),
        ),
    ]
    if scope.config.api.enabled:
        policies.append(
            Policy(
                name="api",
                purpose="the API's CloudFormation stack: CloudFormation makes what is in it with the deployer's rights",
                statements=tuple(api_statements(scope)),
            )
        )
    if trains_on_sagemaker(scope):
        policies.append(
            Policy(
                name="train",
                purpose="fine-tune in a SageMaker training job (training.where)",
                statements=tuple(train_statements(scope)),
            )
        )
    if shared_places(scope):
        policies.append(
            Policy(
                name="share",
                purpose="what several machines share in S3 (artifact_store, training.checkpoint_store)",
                statements=tuple(share_statements(scope)),
            )
        )
    return tuple(policies)


def _deploy(scope: Scope) -> Iterator[Statement]:
    bucket = scope.s3(scope.bucket)
    yield Statement(
        sid="UploadBucket",
        step="make the bucket, private, encrypted and tagged; not needed where it is there",
        actions=(
            "s3:CreateBucket",
            "s3:PutBucketPublicAccessBlock",
            "s3:PutBucketTagging",
            "s3:PutEncryptionConfiguration",
        ),
        resources=(bucket,),
        without_it="a bucket that is missing is not made; one that is there is used",
    )
    yield Statement(
        sid="UploadLook",
        step="look whether the bucket and the archive are there",
        actions=("s3:ListBucket",),
        resources=(bucket,),
    )
    yield Statement(
        sid="UploadArchive",
        step="upload the archive",
        actions=("s3:GetObject", "s3:PutObject", "s3:PutObjectTagging"),
        resources=(scope.objects,),
    )
    yield Statement(
        sid="UploadResumeBucket",
        step="find an upload that was cut, to go on with it",
        actions=("s3:ListBucketMultipartUploads",),
        resources=(bucket,),
        without_it="an upload that was cut begins anew",
    )
    yield Statement(
        sid="UploadResume",
        step="go on with an upload that was cut, and drop what is left of it",
        actions=("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"),
        resources=(scope.objects,),
        without_it="an upload that was cut begins anew",
    )
    yield Statement(
        sid="PreflightRole",
        step="preflight: look at the execution role, and ask IAM what it may do",
        actions=("iam:GetRole", "iam:SimulatePrincipalPolicy"),
        resources=(scope.role,),
        without_it="preflight: the role is not checked",
    )
    yield Statement(
        sid="PreflightOwnRights",
        step="preflight: ask IAM what the deployer itself may do",
        actions=("iam:SimulatePrincipalPolicy",),
        resources=(scope.iam(f"user/{scope.user}"),),
        without_it="preflight: own permissions are not checked",
    )
    yield Statement(
        sid="PreflightQuotas",
        step="preflight: read the quotas of SageMaker",
        actions=("servicequotas:ListServiceQuotas",),
        resources=("*",),
        why_any="Service Quotas has no resources for reading",
        without_it="preflight: quotas are not checked",
    )
    yield Statement(
        sid="LookList",
        step="list what is deployed: preflight (quotas in use), status and teardown",
        actions=("sagemaker:ListEndpointConfigs", "sagemaker:ListEndpoints", "sagemaker:ListModels"),
        resources=("*",),
        why_any="SageMaker's lists have no resources",
    )
    yield Statement(
        sid="Look",
        step="look at what is deployed, others' too: they count for the quotas, and may use what is ours",
        actions=(
            "sagemaker:DescribeEndpoint",
            "sagemaker:DescribeEndpointConfig",
            "sagemaker:DescribeModel",
            "sagemaker:ListTags",
        ),
        resources=tuple(scope.arn("sagemaker", f"{kind}/*") for kind in ("endpoint", "endpoint-config", "model")),
    )
    yield Statement(
        sid="ScaleLook",
        step="look how endpoints scale: what is deployed, and what is taken down with one",
        actions=(
            "application-autoscaling:DescribeScalableTargets",
            "application-autoscaling:DescribeScalingPolicies",
        ),
        resources=("*",),
        why_any="Application Auto Scaling has no resources for reading",
        without_it=""
        if scope.config.deploy.autoscaling.max
        else "what scales is not seen, nor ended with its endpoint",
    )
    yield Statement(
        sid="DeployModel",
        step="create the model and its configuration",
        actions=("sagemaker:AddTags", "sagemaker:CreateEndpointConfig", "sagemaker:CreateModel"),
        resources=(*scope.models, *scope.configurations),
    )
    yield Statement(
        sid="DeployPassRole",
        step="hand the execution role to SageMaker",
        actions=("iam:PassRole",),
        resources=(scope.role,),
        condition={"StringEquals": {"iam:PassedToService": SERVICE}},
    )
    yield Statement(
        sid="DeployEndpoint",
        step="create the endpoint, and update it in place",
        actions=("sagemaker:AddTags", "sagemaker:CreateEndpoint", "sagemaker:UpdateEndpoint"),
        resources=(*scope.endpoints, *scope.configurations),
    )
    yield Statement(
        sid="DeployUndo",
        step="delete what a failed deployment made, and what is taken down",
        actions=("sagemaker:DeleteEndpoint", "sagemaker:DeleteEndpointConfig", "sagemaker:DeleteModel"),
        resources=(*scope.endpoints, *scope.configurations, *scope.models),
    )
    yield Statement(
        sid="SmokeInvoke",
        step="ask the endpoint the smoke test's questions",
        actions=(
            "sagemaker:InvokeEndpointAsync" if scope.config.deploy.target == "async" else "sagemaker:InvokeEndpoint",
        ),
        resources=scope.endpoints,
    )
    yield Statement(
        sid="Promote",
        step="write which endpoint answers for the MLKey",
        actions=("ssm:AddTagsToResource", "ssm:GetParameter", "ssm:PutParameter"),
        resources=(scope.arn("ssm", f"parameter{REGISTRY_PATH}/{scope.mlkey}"),),
    )
    yield from _of_the_target(scope)


def _of_the_target(scope: Scope) -> Iterator[Statement]:
    """What only some endpoints need: scaling, queues, topics."""
    deploy = scope.config.deploy
    if deploy.autoscaling.max is not None:
        scaling = scope.arn("application-autoscaling", "scalable-target/*")
        yield Statement(
            sid="ScaleEndpoint",
            step="scale the endpoint",
            actions=(
                "application-autoscaling:DeleteScalingPolicy",
                "application-autoscaling:DeregisterScalableTarget",
                "application-autoscaling:PutScalingPolicy",
                "application-autoscaling:RegisterScalableTarget",
            ),
            resources=(scaling,),
        )
        yield Statement(
            sid="ScaleUpdate",
            step="let Application Auto Scaling change the number of instances, with the deployer's rights",
            actions=("sagemaker:UpdateEndpointWeightsAndCapacities",),
            resources=scope.endpoints,
        )
        yield Statement(
            sid="ScaleAlarms",
            step="make the alarms by which the endpoint scales",
            actions=("cloudwatch:DeleteAlarms", "cloudwatch:PutMetricAlarm"),
            resources=(
                scope.arn("cloudwatch", "alarm:TargetTracking-endpoint/serv-hf-endpoint-*"),
                scope.arn("cloudwatch", "alarm:askline-*"),
            ),
        )
        yield Statement(
            sid="ScaleAlarmsLook",
            step="look at the alarms by which the endpoint scales",
            actions=("cloudwatch:DescribeAlarms",),
            resources=(scope.arn("cloudwatch", "alarm:*"),),
        )
        yield Statement(
            sid="ScaleServiceRole",
            step="make the role of Application Auto Scaling, once for each account",
            actions=("iam:CreateServiceLinkedRole",),
            resources=(
                scope.iam(
                    "role/aws-service-role/sagemaker.application-autoscaling.amazonaws.com/"
                    "AWSServiceRoleForApplicationAutoScaling_SageMakerEndpoint"
                ),
            ),
            condition={"StringLike": {"iam:AWSServiceName": "sagemaker.application-autoscaling.amazonaws.com"}},
        )
    if deploy.target == "async":
        inbox = scope.s3(f"{scope.bucket}/async/{scope.mlkey}/*")
        places = [split_s3(uri) for uri in (deploy.asynchronous.output_path, deploy.asynchronous.failure_path) if uri]
        others = [scope.s3(f"{bucket}/{folder}/*" if folder else f"{bucket}/*") for bucket, folder in places]
        yield Statement(
            sid="SmokeAsync",
            step="put questions where the async endpoint reads them, and read its answers",
            actions=("s3:DeleteObject", "s3:GetObject", "s3:PutObject"),
            resources=(inbox, *others),
        )
        topics = [topic for topic in (deploy.asynchronous.success_topic, deploy.asynchronous.error_topic) if topic]
        if topics:
            yield Statement(
                sid="PreflightTopics",
                step="preflight: look whether the topics are there",
                actions=("sns:GetTopicAttributes",),
                resources=tuple(dict.fromkeys(topics)),
                without_it="preflight: topics are not checked",
            )


def _operate(scope: Scope) -> Iterator[Statement]:
    entries = scope.arn("ssm", f"parameter{REGISTRY_PATH}/*")
    yield Statement(
        sid="StatusRegistry",
        step="read the registry, and earlier versions for a rollback",
        actions=("ssm:GetParameterHistory", "ssm:ListTagsForResource"),
        resources=(entries,),
    )
    yield Statement(
        sid="StatusRegistryList",
        step="list the registry",
        actions=("ssm:GetParametersByPath",),
        resources=(scope.arn("ssm", f"parameter{REGISTRY_PATH}"), entries),
    )
    yield Statement(
        sid="StatusArchives",
        step="see which archives are the pipeline's",
        actions=("s3:GetObjectTagging",),
        resources=(scope.s3(f"{scope.bucket}/*"),),
    )
    yield Statement(
        sid="TeardownRegistry",
        step="delete the registry's entry",
        actions=("ssm:DeleteParameter",),
        resources=(scope.arn("ssm", f"parameter{REGISTRY_PATH}/{scope.mlkey}"),),
    )
    yield Statement(
        sid="TeardownArchives",
        step="delete archives (flows.teardown --archives)",
        actions=("s3:DeleteObject",),
        resources=(scope.objects,),
    )
    yield Statement(
        sid="PlanPrices",
        step="read the price list (deployments.prices)",
        actions=("pricing:GetProducts",),
        resources=("*",),
        why_any="the price list has no resources",
    )
