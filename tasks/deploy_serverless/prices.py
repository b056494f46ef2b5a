"""What SageMaker costs: a data file for each region, and how to make one from the AWS Price List.

The files lie in ``deployments/price_lists`` and say when and where their figures were read;
``python -m deployments.prices`` makes them anew. Nothing here opens a connection.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from askline.errors import CloudError, ConfigError
from askline.records import Record

#: Folder of the price files.
PRICES = Path(__file__).parents[2] / "deployments" / "price_lists"
#: The region whose prices stand in for those of a region without a file.
DEFAULT_REGION = "us-east-1"
#: Tiers of serverless memory, in MB.
TIERS = (1024, 2048, 3072, 4096, 5120, 6144)

_TIER = re.compile(r"ServerlessInf:Mem-(\d+)GB$")
_MEMORY = re.compile(r"([\d.,]+) ?GiB")


class Instance(Record):
    """A kind of real-time instance, and its price on demand."""

    name: str
    usd_per_hour: float = Field(gt=0)
    vcpu: int = Field(gt=0)
    memory_gib: float = Field(gt=0)
    local_nvme_gb: int = 0
    gpus: int = 0

    @property
    def generation(self) -> int:
        """6 of ``ml.c6i.large``."""
        found = re.search(r"\d+", self.name.removeprefix("ml."))
        return int(found[0]) if found else 0


class ApiPrices(Record):
    """What a request through the API costs beside the endpoint, in US dollars."""

    read: str
    """The day on which the figures were put down."""
    source: str
    gateway_usd_per_million: float = Field(gt=0)
    """Requests to a REST API."""
    lambda_usd_per_million: float = Field(gt=0)
    """Calls of a function."""
    lambda_usd_per_gb_second: float = Field(gt=0)
    """Its memory, for as long as it runs; it waits for the endpoint's answer."""


class Prices(Record):
    """Prices of one region, in US dollars before tax and discounts."""

    region: str
    currency: str = "USD"
    read: str
    """The day on which the figures were read."""
    source: str
    notes: tuple[str, ...] = ()
    """Where single figures come from, and how sure they are."""
    serverless_usd_per_second: dict[int, float]
    """By tier, in MB."""
    data_usd_per_gb: float | None = None
    """Of questions and answers; None where it is not known."""
    instances: tuple[Instance, ...]
    api: ApiPrices | None = None
    """Of the API in front; None where they are not known."""

    def per_second(self, memory_mb: int) -> float:
        """Return what a busy second costs at a tier.

        Raises
        ------
        ConfigError
            If the price file does not have the tier.
        """
        try:
            return self.serverless_usd_per_second[memory_mb]
        except KeyError:
            raise ConfigError(
                f"the prices of {self.region} hold no serverless tier of {memory_mb} MB; make them anew with "
                f"`python -m deployments.prices --region {self.region}`"
            ) from None


def load_prices(region: str, folder: Path = PRICES) -> Prices:
    """Return the prices of a region; where there is no file for it, those of us-east-1, which ``region`` then says.

    Raises
    ------
    ConfigError
        If the file is damaged.
    """
    file = folder / f"{region}.json"
    if not file.is_file():
        file = folder / f"{DEFAULT_REGION}.json"
    try:
        return Prices.model_validate_json(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(
            f"the price file {file} cannot be read: {error}\nMake it anew with `python -m deployments.prices --region "
            f"{file.stem}`"
        ) from error


def parse_price_list(
    documents: Iterable[str | Mapping[str, Any]],
    *,
    region: str,
    read: str,
    local_nvme_gb: Mapping[str, int] | None = None,
    data_usd_per_gb: float | None = None,
    api: ApiPrices | None = None,
) -> Prices:
    """Return the prices that the Price List's documents hold.

    Parameters
    ----------
    documents
        The ``PriceList`` entries of ``pricing:GetProducts`` for the service code AmazonSageMaker, as text or parsed.
    read
        Today, ISO 8601.
    local_nvme_gb
        Local storage by instance, which the price list does not have.
    data_usd_per_gb, api
        Taken over as they are.

    Raises
    ------
    CloudError
        If no hosting instance or not every serverless tier is in them.
    """
    tiers: dict[int, float] = {}
    instances: dict[str, Instance] = {}
    for document in documents:
        entry = json.loads(document) if isinstance(document, str) else document
        product = entry.get("product", {})
        facts = product.get("attributes", {})
        if facts.get("regionCode", region) != region:
            continue
        tier = _TIER.search(facts.get("usagetype", ""))
        if tier is not None:
            price = _on_demand(entry, "second")
            if price is not None:
                tiers[1024 * int(tier[1])] = price
        elif facts.get("component") == "Hosting":
            instance = _instance(entry, facts, local_nvme_gb or {})
            if instance is not None:
                instances[instance.name] = instance
    missing = sorted(set(TIERS) - set(tiers))
    if missing or not instances:
        lacks = f"the serverless tiers {', '.join(map(str, missing))} MB" if missing else "any instance for hosting"
        raise CloudError(f"the price list of {region} does not hold {lacks}; its form may have changed")
    return Prices(
        region=region,
        read=read,
        source="AWS Price List API, offer AmazonSageMaker, on demand",
        notes=("Local storage and the price of data are taken over from the earlier file: the list lacks them.",),
        serverless_usd_per_second=dict(sorted(tiers.items())),
        api=api,
        data_usd_per_gb=data_usd_per_gb,
        instances=tuple(instances[name] for name in sorted(instances)),
    )


def _instance(entry: Mapping[str, Any], facts: Mapping[str, str], nvme: Mapping[str, int]) -> Instance | None:
    name = facts.get("instanceName") or facts.get("instanceType", "").removesuffix("-Hosting")
    memory = _MEMORY.search(facts.get("memory", ""))
    price = _on_demand(entry, "hrs")
    if not name.startswith("ml.") or memory is None or price is None or not facts.get("vCpu", "").isdigit():
        return None
    gpus = facts.get("gpu") or facts.get("physicalGpu") or "0"
    return Instance(
        name=name,
        usd_per_hour=price,
        vcpu=int(facts["vCpu"]),
        memory_gib=float(memory[1].replace(",", "")),
        local_nvme_gb=nvme.get(name, 0),
        gpus=int(gpus) if gpus.isdigit() else 0,
    )


def _on_demand(entry: Mapping[str, Any], unit: str) -> float | None:
    """Return the price on demand, past any free tier; None where there is none in dollars for that unit."""
    prices = [
        float(dimension["pricePerUnit"]["USD"])
        for term in entry.get("terms", {}).get("OnDemand", {}).values()
        for dimension in term.get("priceDimensions", {}).values()
        if dimension.get("unit", "").lower().startswith(unit) and "USD" in dimension.get("pricePerUnit", {})
    ]
    return max((price for price in prices if price > 0), default=None)
