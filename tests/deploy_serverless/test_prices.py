"""The price file: what ships, what the Price List's documents become, and a command that is cut short."""

import json
from pathlib import Path
from typing import Any, get_args

import boto3
import pytest
from botocore.exceptions import ClientError

from askline.config import MemoryTier
from askline.errors import CloudError, ConfigError
from deployments.prices import fetch_prices, main, write_prices
from tasks.deploy_serverless.prices import PRICES, TIERS, load_prices, parse_price_list

SHIPPED = load_prices("us-east-1")


def entry(unit: str, *prices: str, family: str = "ML Instance", **facts: str) -> str:
    """One document as ``pricing:GetProducts`` gives it: JSON in a string."""
    dimensions = {
        f"SKU.JRTCKXETXF.{number}": {
            "unit": unit,
            "beginRange": str(number),
            "endRange": "Inf",
            "description": "a price",
            "appliesTo": [],
            "rateCode": f"SKU.JRTCKXETXF.{number}",
            "pricePerUnit": {"USD": price},
        }
        for number, price in enumerate(prices)
    }
    return json.dumps(
        {
            "product": {
                "productFamily": family,
                "attributes": {
                    "regionCode": "eu-central-1",
                    "servicecode": "AmazonSageMaker",
                    "locationType": "AWS Region",
                    **facts,
                },
                "sku": "SKU",
            },
            "serviceCode": "AmazonSageMaker",
            "terms": {
                "OnDemand": {"SKU.JRTCKXETXF": {"priceDimensions": dimensions, "sku": "SKU", "termAttributes": {}}}
            },
            "version": "20261001000000",
            "publicationDate": "2026-10-01T00:00:00Z",
        }
    )


def hosting(name: str, price: str, vcpu: str = "4", memory: str = "16 GiB", **more: str) -> str:
    facts = {"component": "Hosting", "instanceName": name, "instanceType": f"{name}-Hosting", "vCpu": vcpu}
    facts |= {"memory": memory, "gpu": "N/A", "usagetype": f"EUC1-Host:{name}", **more}
    return entry("Hrs", price, **facts)


def serverless(gb: int, *prices: str) -> str:
    return entry("Seconds", *prices, family="ML Serverless", usagetype=f"EUC1-ServerlessInf:Mem-{gb}GB")


LIST = [
    hosting("ml.m5.xlarge", "0.2760000000"),
    hosting("ml.m5d.large", "0.1630000000", vcpu="2", memory="8 GiB"),
    hosting("ml.g4dn.xlarge", "0.9210000000", gpu="1"),
    hosting("ml.u.huge", "99.0", vcpu="448", memory="1,024 GiB"),
    hosting("ml.m5.xlarge", "0.9", component="Training", usagetype="EUC1-Train:ml.m5.xlarge"),
    hosting("ml.m5.xlarge", "0.1", regionCode="us-west-2"),
    hosting("ml.free.large", "0.0000000000"),
    hosting("ml.odd.large", "0.1", vcpu="N/A"),
    *(serverless(gb, "0.0000000000", f"{0.000024 * gb:.7f}") for gb in range(1, 7)),
    entry("Seconds", "0.5", family="ML Serverless", usagetype="EUC1-ServerlessInf:ProvisionedConcurrency:Mem-1GB"),
    entry("GB-Mo", "0.168", family="Storage", usagetype="EUC1-Host:VolumeUsage.gp2"),
    json.dumps({"product": {}, "terms": {}}),
]


class Pricing:
    """A ``pricing`` client that answers in pages, or fails on one of them."""

    def __init__(self, documents: list[str], *, fails_on: int | None = None) -> None:
        self.documents = documents
        self.fails_on = fails_on
        self.asked: dict[str, Any] = {}

    def get_paginator(self, operation: str) -> "Pricing":
        assert operation == "get_products"
        return self

    def paginate(self, **asked: Any) -> Any:
        self.asked = asked
        for number, start in enumerate(range(0, len(self.documents), 5)):
            if number == self.fails_on:
                raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetProducts")
            yield {"FormatVersion": "aws_v1", "PriceList": self.documents[start : start + 5]}


def test_the_price_list_becomes_a_price_file() -> None:
    made = parse_price_list(
        LIST, region="eu-central-1", read="2026-10-02", local_nvme_gb={"ml.m5d.large": 75}, data_usd_per_gb=0.02
    )
    assert (made.region, made.read, made.data_usd_per_gb) == ("eu-central-1", "2026-10-02", 0.02)
    assert made.serverless_usd_per_second == pytest.approx({1024 * gb: 0.000024 * gb for gb in range(1, 7)})
    assert [each.name for each in made.instances] == ["ml.g4dn.xlarge", "ml.m5.xlarge", "ml.m5d.large", "ml.u.huge"]
    gpu, plain, disk, huge = made.instances
    assert (plain.usd_per_hour, plain.vcpu, plain.memory_gib, plain.gpus) == (0.276, 4, 16, 0)
    assert (gpu.gpus, disk.local_nvme_gb, huge.memory_gib) == (1, 75, 1024)


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([], "the serverless tiers 1024, 2048"),
        ([text for text in LIST if "Mem-6GB" not in text], "the serverless tiers 6144 MB"),
        ([text for text in LIST if "Host:ml" not in text], "any instance for hosting"),
    ],
)
def test_a_list_that_lacks_something_is_refused(documents: list[str], said: str) -> None:
    with pytest.raises(CloudError, match=said):
        parse_price_list(documents, region="eu-central-1", read="2026-10-02")


def test_all_pages_are_read_for_the_region_alone() -> None:
    client = Pricing(LIST)
    made = fetch_prices(client, "eu-central-1", read="2026-10-02", before=SHIPPED)
    assert client.asked["ServiceCode"] == "AmazonSageMaker"
    assert client.asked["Filters"] == [{"Type": "TERM_MATCH", "Field": "regionCode", "Value": "eu-central-1"}]
    assert len(made.instances) == 4
    assert {each.name: each.local_nvme_gb for each in made.instances}["ml.m5d.large"] == 75


def test_the_call_is_one_that_aws_knows() -> None:
    client = boto3.client("pricing", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    assert client.can_paginate("get_products")
    shape = client.meta.service_model.operation_model("GetProducts").input_shape
    assert {"ServiceCode", "Filters"} <= set(shape.members)


def test_the_command_writes_a_file_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "eu-central-1.json"
    assert main(["--region", "eu-central-1", "--out", str(file)], client=Pricing(LIST)) == 0
    assert "4 instances, 6 serverless tiers" in capsys.readouterr().out
    assert load_prices("eu-central-1", file.parent).per_second(1024) == pytest.approx(0.000024)
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_command_that_fails_half_way_leaves_the_old_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "us-east-1.json"
    write_prices(SHIPPED, file)
    before = file.read_bytes()
    for client in (Pricing(LIST, fails_on=1), Pricing(LIST[:3])):
        assert main(["--out", str(file)], client=client) == 1
        assert file.read_bytes() == before
    said = capsys.readouterr().err
    assert "pricing:GetProducts" in said
    assert "AccessDenied" in said


def test_the_shipped_file_says_where_its_figures_come_from() -> None:
    assert SHIPPED.source
    assert SHIPPED.notes
    assert SHIPPED.read.count("-") == 2
    assert set(SHIPPED.serverless_usd_per_second) == set(TIERS)
    assert set(TIERS) == set(get_args(get_args(MemoryTier)[0])) - {"auto"}
    rates = {usd / (tier / 1024) for tier, usd in SHIPPED.serverless_usd_per_second.items()}
    assert max(rates) == pytest.approx(min(rates))


def test_every_shipped_instance_is_one_that_sagemaker_hosts_on() -> None:
    client = boto3.client("sagemaker", region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="x")
    hosted = set(client.meta.service_model.shape_for("ProductionVariantInstanceType").enum)
    names = [each.name for each in SHIPPED.instances]
    assert len(names) == len(set(names)) >= 20
    assert set(names) <= hosted
    for each in SHIPPED.instances:
        assert (each.local_nvme_gb > 0) == (each.name.split(".")[1] in ("m5d", "g4dn", "g5", "g6"))
        assert (each.gpus > 0) == each.name.startswith("ml.g")


def test_a_region_without_a_file_takes_that_of_us_east_1_and_says_so(tmp_path: Path) -> None:
    assert load_prices("mars-north-1").region == "us-east-1"
    other = SHIPPED.model_copy(update={"region": "mars-north-1"})
    write_prices(other, tmp_path / "mars-north-1.json")
    assert load_prices("mars-north-1", tmp_path).region == "mars-north-1"


@pytest.mark.parametrize("content", [b"", b"{", b'{"region": "x"}', b"\xff", None])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "us-east-1.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"us-east-1\.json.*deployments\.prices|cannot be read"):
        load_prices("us-east-1", tmp_path)


def test_a_tier_that_the_file_lacks_is_an_error() -> None:
    with pytest.raises(ConfigError, match="512 MB"):
        SHIPPED.per_second(512)
    assert (PRICES / "us-east-1.json").is_file()
