"""How an endpoint's record is shown by DescribeEndpoint."""

from local_cloud.sagemaker.serving.deployment import instance_count
from local_cloud.sagemaker.state import Record


def describe_endpoint(record: Record) -> Record:
    """Return DescribeEndpoint's answer; members that do not apply are left out, never empty.

    The official SDK cannot read an empty ``DataCaptureConfig``, for example.
    """
    plain = (
        "EndpointName",
        "EndpointArn",
        "EndpointConfigName",
        "EndpointStatus",
        "FailureReason",
        "CreationTime",
        "LastModifiedTime",
        "LastDeploymentConfig",
    )
    answer = {name: record[name] for name in plain if name in record}
    active, pending = record.get("Active"), record.get("Pending")
    changes = {"Creating": "Creating", "Updating": "Updating", "RollingBack": "Updating", "Deleting": "Deleting"}
    change = changes.get(record["EndpointStatus"])
    shown = active or pending
    if shown:
        since = pending["StartTime"] if pending and change != "Deleting" else record["LastModifiedTime"]
        answer["ProductionVariants"] = [_variant(shown, record.get("Resized") or shown, change, since)]
        if "AsyncInferenceConfig" in shown:
            answer["AsyncInferenceConfig"] = shown["AsyncInferenceConfig"]
        if "DataCaptureConfig" in shown:
            answer["DataCaptureConfig"] = _data_capture(shown["DataCaptureConfig"])
    if pending:
        answer["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending["EndpointConfigName"],
            "ProductionVariants": [_variant(pending, pending, "Creating", pending["StartTime"])],
            "StartTime": pending["StartTime"],
        }
    return answer


def _data_capture(config: Record) -> Record:
    enabled = config.get("EnableCapture", True)
    return {
        "EnableCapture": enabled,
        "CaptureStatus": "Started" if enabled else "Stopped",
        "CurrentSamplingPercentage": config["InitialSamplingPercentage"],
        "DestinationS3Uri": config["DestinationS3Uri"],
        "KmsKeyId": config.get("KmsKeyId", ""),
    }


def _variant(deployment: Record, desired: Record, change: str | None, since: float) -> Record:
    """Return a production variant as it is and as it is to become."""
    variant, image = deployment["Variant"], deployment["Container"]["Image"]
    weight = deployment.get("Weight", variant.get("InitialVariantWeight", 1.0))
    shown: Record = {
        "VariantName": variant["VariantName"],
        "DeployedImages": [
            {"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": deployment["StartTime"]}
        ],
        "CurrentWeight": weight,
        "DesiredWeight": desired.get("Weight", weight),
    }
    if "ServerlessConfig" in variant:
        shown["CurrentServerlessConfig"] = variant["ServerlessConfig"]
        shown["DesiredServerlessConfig"] = desired["Variant"]["ServerlessConfig"]
        shown["CurrentInstanceCount"] = 0
    else:
        shown["CurrentInstanceCount"] = instance_count(deployment)
        shown["DesiredInstanceCount"] = instance_count(desired)
    if "RoutingConfig" in variant:
        shown["RoutingConfig"] = variant["RoutingConfig"]
    if change:
        shown["VariantStatus"] = [{"Status": change, "StartTime": since}]
    return shown
