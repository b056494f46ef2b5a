"""The control plane: the operations on models, endpoint configurations, endpoints and tags."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from local_cloud.sagemaker.alarms import Alarms
from local_cloud.sagemaker.api import checks
from local_cloud.sagemaker.api.listing import page_of
from local_cloud.sagemaker.api.quotas import Quotas
from local_cloud.sagemaker.api.validation import service_model, validate
from local_cloud.sagemaker.api.views import describe_endpoint
from local_cloud.sagemaker.errors import ApiError, validation_error
from local_cloud.sagemaker.serving.deployment import instance_count
from local_cloud.sagemaker.serving.endpoints import Endpoints, new_generation
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import NAME_MEMBER, Kind, Record, State

_NOUN: dict[Kind, str] = {
    "model": "model",
    "endpoint-config": "endpoint configuration",
    "endpoint": "endpoint",
    "training-job": "training job",
}
_MAX_TAGS = 50

Operation = Callable[[Record], Awaitable[Record]]


class ControlPlane:
    """Answers ``SageMaker.<Operation>`` calls.

    ``scaled`` says by which policy, if any, Application Auto Scaling looks after an endpoint; ``others`` are operations
    that somebody else answers.
    """

    def __init__(
        self,
        state: State,
        endpoints: Endpoints,
        settings: Settings,
        *,
        quotas: Quotas,
        alarms: Alarms,
        scaled: Callable[[str], str | None],
        others: Mapping[str, Operation],
        s3: Any,
        iam: Any,
    ) -> None:
        self._state = state
        self._endpoints = endpoints
        self._settings = settings
        self._quotas = quotas
        self._alarms = alarms
        self._scaled = scaled
        self._s3 = s3
        self._iam = iam
        self._operations: dict[str, Operation] = {
            "CreateModel": self._create_model,
            "CreateEndpointConfig": self._create_endpoint_config,
            "CreateEndpoint": self._create_endpoint,
            "UpdateEndpoint": self._update_endpoint,
            "UpdateEndpointWeightsAndCapacities": self._update_weights_and_capacities,
            "DescribeModel": self._describer("model"),
            "DescribeEndpointConfig": self._describer("endpoint-config"),
            "DescribeEndpoint": self._describe_endpoint,
            "DeleteModel": self._deleter("model"),
            "DeleteEndpointConfig": self._deleter("endpoint-config"),
            "DeleteEndpoint": self._delete_endpoint,
            "ListModels": self._lister("model", "Models", ["ModelName", "ModelArn", "CreationTime"]),
            "ListEndpointConfigs": self._lister(
                "endpoint-config", "EndpointConfigs", ["EndpointConfigName", "EndpointConfigArn", "CreationTime"]
            ),
            "ListEndpoints": self._lister(
                "endpoint",
                "Endpoints",
                ["EndpointName", "EndpointArn", "CreationTime", "LastModifiedTime", "EndpointStatus"],
            ),
            "AddTags": self._add_tags,
            "ListTags": self._list_tags,
            "DeleteTags": self._delete_tags,
            **others,
        }

    async def call(self, operation: str, request: Any) -> Record:
        """Check a request against the service model and answer it.

        Raises
        ------
        ApiError
            With AWS's code and wording, for whatever is wrong with it.
        """
        handler = self._operations.get(operation)
        if handler is None:
            raise ApiError(
                "UnknownOperationException",
                f"the embedded SageMaker does not offer {operation or 'a call without an operation'}; "
                f"it offers {', '.join(sorted(self._operations))}",
            )
        validate(service_model("sagemaker").operation_model(operation).input_shape, request)
        return await handler({name: value for name, value in request.items() if value is not None})

    # -- create and update -------------------------------------------------------------------------------------------

    async def _create_model(self, request: Record) -> Record:
        arn = self._free("model", request["ModelName"])
        container = checks.model_container(request)
        if "ExecutionRoleArn" not in request:
            raise validation_error(
                "ExecutionRoleArn is needed: the role that SageMaker takes on to read the model data."
            )
        for member in ("EnableNetworkIsolation", "VpcConfig", "InferenceExecutionConfig"):
            if request.get(member):
                raise checks.not_offered(member)
        url = container["ModelDataUrl"]
        role, region = request["ExecutionRoleArn"], self._settings.region
        await asyncio.to_thread(checks.execution_role, self._iam, role, url, region)
        await asyncio.to_thread(checks.model_data, self._s3, container)
        self._free("model", request["ModelName"])  # again: others may have called while IAM and S3 answered
        shown = _only(request, "PrimaryContainer", "Containers", "ExecutionRoleArn")
        record = {"ModelName": request["ModelName"], "ModelArn": arn, **shown, "EnableNetworkIsolation": False}
        self._keep("model", record, request)
        return {"ModelArn": arn}

    async def _create_endpoint_config(self, request: Record) -> Record:
        arn = self._free("endpoint-config", request["EndpointConfigName"])
        variant = checks.endpoint_config(request)
        self._get("model", variant["ModelName"])
        captured = _only(request, "DataCaptureConfig", "AsyncInferenceConfig")
        shown = _only(request, "KmsKeyId", "ExecutionRoleArn", "MetricsConfig") | captured
        record = {
            "EndpointConfigName": request["EndpointConfigName"],
            "EndpointConfigArn": arn,
            "ProductionVariants": [{"InitialVariantWeight": 1.0, **variant}],
            **shown,
            "EnableNetworkIsolation": False,
        }
        self._keep("endpoint-config", record, request)
        return {"EndpointConfigArn": arn}

    async def _create_endpoint(self, request: Record) -> Record:
        name = request["EndpointName"]
        arn = self._free("endpoint", name)
        plan = self._plan(request)
        await self._check_alarms(plan)
        self._quotas.check(name, plan["Variant"], instance_count(plan))
        self._endpoints.create(name, arn, plan, request.get("Tags", []), request.get("DeploymentConfig"))
        return {"EndpointArn": arn}

    async def _update_endpoint(self, request: Record) -> Record:
        name = request["EndpointName"]
        record = self._get("endpoint", name)
        if request.get("RetainDeploymentConfig") and "LastDeploymentConfig" in record:
            request.setdefault("DeploymentConfig", record["LastDeploymentConfig"])
        plan = self._plan(request)
        if request.get("RetainAllVariantProperties") and "Active" in record:
            _retain(plan, record["Active"], request.get("ExcludeRetainedVariantProperties", []))
        await self._check_alarms(plan)
        record = self._get("endpoint", name)
        kinds = [part["Variant"].get("InstanceType") for part in (record.get("Active", plan), plan)]
        if kinds[0] != kinds[1] and (target := self._scaled(name)):
            raise validation_error(
                f'Cannot update endpoint "{record["EndpointArn"]}": its variant {target} is registered with '
                "Application Auto Scaling, and the update would change its instance type. Deregister it first."
            )
        self._quotas.check(name, plan["Variant"], instance_count(plan))
        self._endpoints.update(name, plan, request.get("DeploymentConfig"))
        return {"EndpointArn": record["EndpointArn"]}

    async def _update_weights_and_capacities(self, request: Record) -> Record:
        name = request["EndpointName"]
        record = self._get("endpoint", name)
        if record["EndpointStatus"] != "InService":
            raise validation_error(f'Cannot update in-progress endpoint "{record["EndpointArn"]}".')
        facts = record["Active"]
        for wanted in request["DesiredWeightsAndCapacities"]:
            if wanted["VariantName"] != facts["Variant"]["VariantName"]:
                raise validation_error(f"The variant {wanted['VariantName']} was not found in endpoint {name}.")
            facts = resized(facts, wanted)
        variant = facts["Variant"]
        more = 0 if "ServerlessConfig" in variant else instance_count(facts) - instance_count(record["Active"])
        if "ServerlessConfig" in variant or more > 0:
            self._quotas.check(name, variant, more)
        self._endpoints.resize(name, facts)
        return {"EndpointArn": record["EndpointArn"]}

    def _plan(self, request: Record) -> Record:
        """Copy what is deployed: the endpoint lives on when its configuration and model are deleted."""
        config = self._get("endpoint-config", request["EndpointConfigName"])
        variant = config["ProductionVariants"][0]
        checks.deployment_config(request.get("DeploymentConfig", {}), variant)
        container = checks.model_container(self._get("model", variant["ModelName"]))
        if container.get("Mode") == "MultiModel" and (
            "ServerlessConfig" in variant or "AsyncInferenceConfig" in config
        ):
            raise validation_error("A multi-model container is served by real-time endpoints on instances only.")
        plan = {
            "Generation": new_generation(),
            "EndpointConfigName": config["EndpointConfigName"],
            "Variant": variant,
            "Container": container,
            "StartTime": time.time(),
            **_only(config, "AsyncInferenceConfig", "DataCaptureConfig"),
            **_only(request, "DeploymentConfig"),
        }
        if "ServerlessConfig" not in variant:
            plan["InstanceCount"] = variant["InitialInstanceCount"]
        return plan

    async def _check_alarms(self, plan: Record) -> None:
        watched = plan.get("DeploymentConfig", {}).get("AutoRollbackConfiguration", {}).get("Alarms", [])
        names = [alarm["AlarmName"] for alarm in watched]
        if not names:
            return
        try:
            found = await self._alarms.look(names)
        except Exception as error:
            raise ApiError("InternalFailure", f"CloudWatch cannot be reached: {error}", status=500) from error
        if missing := [name for name in names if name not in found]:
            raise validation_error(f"Could not find the alarms of AutoRollbackConfiguration: {', '.join(missing)}.")

    # -- describe, delete, list --------------------------------------------------------------------------------------

    def _describer(self, kind: Kind) -> Operation:
        async def describe(request: Record) -> Record:
            record = self._get(kind, request[NAME_MEMBER[kind]])
            return {name: value for name, value in record.items() if name != "Tags"}

        return describe

    async def _describe_endpoint(self, request: Record) -> Record:
        return describe_endpoint(self._get("endpoint", request["EndpointName"]))

    def _deleter(self, kind: Kind) -> Operation:
        async def delete(request: Record) -> Record:
            name = request[NAME_MEMBER[kind]]
            self._get(kind, name)
            self._state.delete(kind, name)
            return {}

        return delete

    async def _delete_endpoint(self, request: Record) -> Record:
        self._get("endpoint", request["EndpointName"])
        self._endpoints.delete(request["EndpointName"])
        return {}

    def _lister(self, kind: Kind, member: str, shown: list[str]) -> Operation:
        async def list_records(request: Record) -> Record:
            page, more = page_of(self._state.all(kind), request, name=NAME_MEMBER[kind])
            return {member: [{name: record[name] for name in shown} for record in page], **more}

        return list_records

    # -- tags --------------------------------------------------------------------------------------------------------

    async def _add_tags(self, request: Record) -> Record:
        kind, record = self._by_arn(request["ResourceArn"])
        tags = {tag["Key"]: tag["Value"] for tag in [*record["Tags"], *request["Tags"]]}
        if len(tags) > _MAX_TAGS:
            raise validation_error(f"A resource has at most {_MAX_TAGS} tags; these would be {len(tags)}.")
        return {"Tags": self._set_tags(kind, record, tags)}

    async def _list_tags(self, request: Record) -> Record:
        _kind, record = self._by_arn(request["ResourceArn"])
        return {"Tags": record["Tags"]}

    async def _delete_tags(self, request: Record) -> Record:
        kind, record = self._by_arn(request["ResourceArn"])
        gone = set(request["TagKeys"])
        self._set_tags(kind, record, {tag["Key"]: tag["Value"] for tag in record["Tags"] if tag["Key"] not in gone})
        return {}

    def _set_tags(self, kind: Kind, record: Record, tags: dict[str, str]) -> list[Record]:
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        self._state.put(kind, {**record, "Tags": listed})
        return listed

    # -- names -------------------------------------------------------------------------------------------------------

    def _arn(self, kind: Kind, name: str) -> str:
        return f"arn:aws:sagemaker:{self._settings.region}:{self._settings.account}:{kind}/{name}"

    def _free(self, kind: Kind, name: str) -> str:
        arn = self._arn(kind, name)
        if self._state.taken(kind, name):
            raise validation_error(f'Cannot create already existing {_NOUN[kind]} "{arn}".')
        return arn

    def _get(self, kind: Kind, name: str) -> Record:
        record = self._state.get(kind, name)
        if record is None:
            raise validation_error(f'Could not find {_NOUN[kind]} "{self._arn(kind, name)}".')
        return record

    def _by_arn(self, arn: str) -> tuple[Kind, Record]:
        kind, _, name = arn.rpartition(":")[2].partition("/")
        for known in _NOUN:
            record = self._state.get(known, name) if known == kind else None
            if record is not None and self._arn(known, name) == arn:
                return known, record
        raise validation_error(f'Could not find resource "{arn}".')

    def _keep(self, kind: Kind, record: Record, request: Record) -> None:
        keys = [tag["Key"] for tag in request.get("Tags", [])]
        if len(keys) != len(set(keys)):
            raise validation_error("Duplicate tag keys are not allowed.")
        self._state.put(kind, {**record, "CreationTime": time.time(), "Tags": request.get("Tags", [])})


def resized(facts: Record, wanted: Record) -> Record:
    """Return a deployment's record with a DesiredWeightAndCapacity put into effect.

    Raises
    ------
    ApiError
        If it does not fit the kind of the endpoint.
    """
    variant = facts["Variant"]
    serverless, count = wanted.get("ServerlessUpdateConfig"), wanted.get("DesiredInstanceCount")
    if "DesiredWeight" in wanted:
        facts = {**facts, "Weight": wanted["DesiredWeight"]}
    if "ServerlessConfig" in variant:
        if count is not None:
            raise validation_error("DesiredInstanceCount cannot be set for a serverless variant.")
        changed = variant["ServerlessConfig"] | (serverless or {})
        if changed.get("ProvisionedConcurrency", 0) > changed["MaxConcurrency"]:
            raise validation_error(
                f"ProvisionedConcurrency must be less than or equal to MaxConcurrency ({changed['MaxConcurrency']})."
            )
        return {**facts, "Variant": {**variant, "ServerlessConfig": changed}}
    if serverless:
        raise validation_error("ServerlessUpdateConfig can be set for a serverless variant only.")
    if count is None:
        return facts
    if count == 0 and "AsyncInferenceConfig" not in facts:
        raise validation_error("DesiredInstanceCount must be at least 1: only asynchronous endpoints scale to 0.")
    return {**facts, "InstanceCount": count}


def _retain(plan: Record, active: Record, excluded: list[Record]) -> None:
    """Keep what an update is to leave as it is, if the variant is the same one."""
    without = {each["VariantPropertyType"] for each in excluded}
    if plan["Variant"]["VariantName"] != active["Variant"]["VariantName"]:
        return
    if "DesiredInstanceCount" not in without and "InstanceCount" in plan and "InstanceCount" in active:
        plan["InstanceCount"] = active["InstanceCount"]
    if "DesiredWeight" not in without and "Weight" in active:
        plan["Weight"] = active["Weight"]
    if "DataCaptureConfig" not in without and "DataCaptureConfig" in active:
        plan["DataCaptureConfig"] = active["DataCaptureConfig"]


def _only(request: Record, *members: str) -> Record:
    return {member: request[member] for member in members if member in request}
