"""What it takes to bring up the API's stack: CloudFormation makes and deletes its resources with the caller's rights.

The actions of each kind of resource are those of its handlers in the CloudFormation registry, without those for what
the template does not use; ``tests/deployments/test_iam.py`` compares the two.
"""

from collections.abc import Iterator

from tasks.aws.iam import Scope, Statement

#: CloudFormation names a resource <stack>-<logical id>-<random>, and shortens the stack's name where that is too long.
_KEPT_OF_A_NAME = 24


def api_statements(scope: Scope) -> Iterator[Statement]:
    """Yield the statements for the API of a configuration: only what it switches on."""
    api = scope.config.api
    made = api.stack_name[:_KEPT_OF_A_NAME]
    yield Statement(
        sid="ApiUpload",
        step="upload the function, and let Lambda read it",
        actions=("s3:GetObject", "s3:PutObject"),
        resources=(scope.s3(f"{scope.bucket}/api/*"),),
    )
    yield Statement(
        sid="ApiStack",
        step="bring up, update and take down the API's stack",
        actions=(
            "cloudformation:CreateStack",
            "cloudformation:DeleteStack",
            "cloudformation:DescribeStackEvents",
            "cloudformation:DescribeStacks",
            "cloudformation:UpdateStack",
        ),
        resources=(scope.arn("cloudformation", f"stack/{api.stack_name}/*"),),
    )
    roles = [f"role/{made}*-Role-*"]
    if api.logs.access_log_role:
        roles.append(f"role/{made}*-GatewayLogRole-*")
    yield Statement(
        sid="ApiRole",
        step="make the role of the function",
        actions=(
            "iam:AttachRolePolicy",
            "iam:CreateRole",
            "iam:DeleteRole",
            "iam:DeleteRolePolicy",
            "iam:DetachRolePolicy",
            "iam:GetRole",
            "iam:GetRolePolicy",
            "iam:ListAttachedRolePolicies",
            "iam:ListRolePolicies",
            "iam:PutRolePolicy",
            "iam:TagRole",
            "iam:UntagRole",
            "iam:UpdateAssumeRolePolicy",
            "iam:UpdateRole",
            "iam:UpdateRoleDescription",
        )
        if api.logs.access_log_role
        else (
            "iam:CreateRole",
            "iam:DeleteRole",
            "iam:DeleteRolePolicy",
            "iam:GetRole",
            "iam:GetRolePolicy",
            "iam:ListAttachedRolePolicies",
            "iam:ListRolePolicies",
            "iam:PutRolePolicy",
            "iam:TagRole",
            "iam:UntagRole",
            "iam:UpdateAssumeRolePolicy",
            "iam:UpdateRole",
            "iam:UpdateRoleDescription",
        ),
        resources=tuple(scope.iam(role) for role in roles),
    )
    services = ["lambda.amazonaws.com"] + (["apigateway.amazonaws.com"] if api.logs.access_log_role else [])
    yield Statement(
        sid="ApiPassRole",
        step="hand its role to the function",
        actions=("iam:PassRole",),
        resources=tuple(scope.iam(role) for role in roles),
        condition={"StringEquals": {"iam:PassedToService": services if len(services) > 1 else services[0]}},
    )
    yield Statement(
        sid="ApiFunction",
        step="make the function",
        actions=(
            "lambda:AddPermission",
            "lambda:CreateFunction",
            "lambda:DeleteFunction",
            "lambda:DeleteFunctionConcurrency",
            "lambda:DeleteFunctionEventInvokeConfig",
            "lambda:GetFunction",
            "lambda:GetFunctionCodeSigningConfig",
            "lambda:GetFunctionEventInvokeConfig",
            "lambda:GetFunctionRecursionConfig",
            "lambda:GetFunctionScalingConfig",
            "lambda:GetPolicy",
            "lambda:GetRuntimeManagementConfig",
            "lambda:PutFunctionConcurrency",
            "lambda:PutFunctionEventInvokeConfig",
            "lambda:RemovePermission",
            "lambda:TagResource",
            "lambda:UntagResource",
            "lambda:UpdateFunctionCode",
            "lambda:UpdateFunctionConfiguration",
            "lambda:UpdateFunctionEventInvokeConfig",
            *(("lambda:InvokeFunction",) if api.auth == "cognito" else ()),
        ),
        resources=(scope.arn("lambda", f"function:{made}*-Function-*"),),
    )
    gateway = f"arn:{scope.partition}:apigateway:{scope.region}::"
    yield Statement(
        sid="ApiGateway",
        step="make the API, its stage and its methods",
        actions=("apigateway:DELETE", "apigateway:GET", "apigateway:PATCH", "apigateway:POST", "apigateway:PUT"),
        resources=(
            f"{gateway}/restapis",
            f"{gateway}/restapis/*",
            f"{gateway}/tags/*",
            *(
                (
                    f"{gateway}/apikeys",
                    f"{gateway}/apikeys/*",
                    f"{gateway}/usageplans",
                    f"{gateway}/usageplans/*",
                )
                if api.auth == "key"
                else ()
            ),
        ),
    )
    account_actions = ("apigateway:GET", "apigateway:PATCH") if api.logs.access_log_role else ("apigateway:GET",)
    yield Statement(
        sid="ApiAccount",
        step="see whether API Gateway may write logs",
        actions=account_actions,
        resources=(f"{gateway}/account",),
    )
    groups = [scope.arn("logs", f"log-group:/aws/{kind}/{api.stack_name}*") for kind in ("lambda", "apigateway")]
    yield Statement(
        sid="ApiLogs",
        step="make the log groups, and count what the access log holds",
        actions=(
            *(("logs:AssociateKmsKey", "logs:DisassociateKmsKey") if api.kms_key else ()),
            "logs:CreateLogGroup",
            "logs:DeleteLogGroup",
            "logs:DeleteMetricFilter",
            "logs:DeleteRetentionPolicy",
            "logs:DescribeMetricFilters",
            "logs:GetDataProtectionPolicy",
            "logs:ListTagsForResource",
            "logs:PutMetricFilter",
            "logs:PutRetentionPolicy",
            "logs:TagResource",
            "logs:UntagResource",
        ),
        resources=tuple(groups),
    )
    yield Statement(
        sid="ApiLogsLook",
        step="look for the log groups",
        actions=("logs:DescribeIndexPolicies", "logs:DescribeLogGroups"),
        resources=("*",),
        why_any="log groups are looked for among all",
    )
    if api.logs.access_log != "off":
        yield Statement(
            sid="ApiAccessLog",
            step="let the stage write its access log",
            actions=(
                "logs:CreateLogDelivery",
                "logs:DeleteLogDelivery",
                "logs:DescribeResourcePolicies",
                "logs:GetLogDelivery",
                "logs:ListLogDeliveries",
                "logs:PutResourcePolicy",
                "logs:UpdateLogDelivery",
            ),
            resources=("*",),
            why_any="log deliveries have no resources",
        )
    if api.auth == "iam" or (api.auth == "auto" and scope.config.target == "aws"):
        yield Statement(
            sid="ApiAsk",
            step="ask the deployed API, which takes signed requests only",
            actions=("execute-api:Invoke",),
            resources=(scope.arn("execute-api", f"*/{api.stage}/*"),),
        )
    yield from _when_switched_on(scope, made)


def _when_switched_on(scope: Scope, made: str) -> Iterator[Statement]:
    api = scope.config.api
    if api.alarms.enabled:
        yield Statement(
            sid="ApiAlarms",
            step="make the alarms",
            actions=(
                "cloudwatch:DeleteAlarms",
                "cloudwatch:ListTagsForResource",
                "cloudwatch:PutMetricAlarm",
                "cloudwatch:TagResource",
                "cloudwatch:UntagResource",
            ),
            resources=(scope.arn("cloudwatch", f"alarm:{made}*"),),
        )
        yield Statement(
            sid="ApiAlarmsLook",
            step="look at the alarms",
            actions=("cloudwatch:DescribeAlarms",),
            resources=(scope.arn("cloudwatch", "alarm:*"),),
        )
        if api.alarms.notify and not api.alarms.notify.startswith("arn:"):
            yield Statement(
                sid="ApiTopic",
                step="make the topic that sends alarms by e-mail",
                actions=(
                    "sns:CreateTopic",
                    "sns:DeleteTopic",
                    "sns:GetDataProtectionPolicy",
                    "sns:GetTopicAttributes",
                    "sns:ListSubscriptionsByTopic",
                    "sns:ListTagsForResource",
                    "sns:SetTopicAttributes",
                    "sns:Subscribe",
                    "sns:TagResource",
                    "sns:UntagResource",
                ),
                resources=(scope.arn("sns", f"{made}*"),),
            )
            yield Statement(
                sid="ApiTopicLeave",
                step="end the subscription of the address",
                actions=("sns:Unsubscribe",),
                resources=("*",),
                why_any="a subscription is no resource of IAM's",
            )
    if api.keep_warm_minutes:
        yield Statement(
            sid="ApiKeepWarm",
            step="ask a question every few minutes",
            actions=(
                "events:DeleteRule",
                "events:DescribeRule",
                "events:ListTagsForResource",
                "events:ListTargetsByRule",
                "events:PutRule",
                "events:PutTargets",
                "events:RemoveTargets",
                "events:TagResource",
                "events:UntagResource",
            ),
            resources=(scope.arn("events", f"rule/{made}*"),),
        )
    if api.kms_key == "create":
        yield Statement(
            sid="ApiMakeKey",
            step="make the key for logs and questions",
            actions=("kms:CreateKey",),
            resources=("*",),
            why_any="a key that is not there yet has no resource",
        )
    if api.kms_key:
        yield Statement(
            sid="ApiKey",
            step="look after the key for logs and questions, and encrypt the function's environment with it",
            actions=(
                "kms:CreateGrant",
                "kms:Decrypt",
                "kms:DescribeKey",
                "kms:Encrypt",
                "kms:GenerateDataKey",
                *(
                    (
                        "kms:DisableKey",
                        "kms:DisableKeyRotation",
                        "kms:EnableKey",
                        "kms:EnableKeyRotation",
                        "kms:GetKeyPolicy",
                        "kms:GetKeyRotationStatus",
                        "kms:ListResourceTags",
                        "kms:PutKeyPolicy",
                        "kms:ScheduleKeyDeletion",
                        "kms:TagResource",
                        "kms:UntagResource",
                        "kms:UpdateKeyDescription",
                    )
                    if api.kms_key == "create"
                    else ()
                ),
            ),
            resources=(scope.arn("kms", "key/*") if api.kms_key == "create" else api.kms_key,),
        )
    if api.question_log.enabled and api.question_log.bucket is None:
        yield Statement(
            sid="ApiQuestionLog",
            step="make the bucket of the question log",
            actions=(
                "s3:CreateBucket",
                "s3:DeleteBucketPolicy",
                "s3:GetBucketOwnershipControls",
                "s3:GetBucketPolicy",
                "s3:GetBucketPublicAccessBlock",
                "s3:GetEncryptionConfiguration",
                "s3:GetLifecycleConfiguration",
                "s3:ListBucket",
                "s3:PutBucketOwnershipControls",
                "s3:PutBucketPolicy",
                "s3:PutBucketPublicAccessBlock",
                "s3:PutBucketTagging",
                "s3:PutEncryptionConfiguration",
                "s3:PutLifecycleConfiguration",
            ),
            resources=(scope.s3(f"{made.lower()}*-questionbucket-*"),),
        )
    if api.question_log.enabled:
        bucket = api.question_log.bucket or f"{made.lower()}*-questionbucket-*"
        yield Statement(
            sid="QuestionLog",
            step="read the question log (flows.collect_feedback)",
            actions=("s3:GetObject", "s3:ListBucket"),
            resources=(scope.s3(bucket), scope.s3(f"{bucket}/{api.question_log.prefix}/*")),
        )
