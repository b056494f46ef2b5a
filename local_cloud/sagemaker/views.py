"""How an endpoint's record is shown by DescribeEndpoint."""

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
    change = {"Creating": "Creating", "Updating": "Updating", "Deleting": "Deleting"}.get(record["EndpointStatus"])
    shown = active or pending
    if shown:
        since = (pending or shown)["StartTime"] if change != "Deleting" else record["LastModifiedTime"]
        answer["ProductionVariants"] = [_variant(shown, change, since)]
    if pending:
        answer["PendingDeploymentSummary"] = {
            "EndpointConfigName": pending["EndpointConfigName"],
            "ProductionVariants": [_variant(pending, "Creating", pending["StartTime"])],
            "StartTime": pending["StartTime"],
        }
    return answer


def _variant(deployment: Record, change: str | None, since: float) -> Record:
    variant, image = deployment["Variant"], deployment["Container"]["Image"]
    weight = variant.get("InitialVariantWeight", 1.0)
    shown: Record = {
        "VariantName": variant["VariantName"],
        "DeployedImages": [
            {"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": deployment["StartTime"]}
        ],
        "CurrentWeight": weight,
        "DesiredWeight": weight,
    }
    if "ServerlessConfig" in variant:
        shown["CurrentServerlessConfig"] = shown["DesiredServerlessConfig"] = variant["ServerlessConfig"]
        shown["CurrentInstanceCount"] = 0
    else:
        shown["CurrentInstanceCount"] = shown["DesiredInstanceCount"] = variant["InitialInstanceCount"]
    if change:
        shown["VariantStatus"] = [{"Status": change, "StartTime": since}]
    return shown
