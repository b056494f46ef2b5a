"""Make the price file of a region anew, from the AWS Price List API.

::

    python -m deployments.prices                        # us-east-1, into deployments/price_lists/us-east-1.json
    python -m deployments.prices --region eu-central-1  # another region, into deployments/price_lists/eu-central-1.json
    python -m deployments.prices --out prices.json      # somewhere else

Costs nothing. Needs AWS credentials with the permission ``pricing:GetProducts``.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from askline.errors import AsklineError
from askline.files import write_whole
from tasks.aws.errors import explained
from tasks.deploy_serverless.prices import DEFAULT_REGION, PRICES, Prices, load_prices, parse_price_list

#: The Price List API answers for all regions, and lives in few.
API_REGION = "us-east-1"


def fetch_prices(client: Any, region: str, *, read: str, before: Prices) -> Prices:
    """Read the prices of a region.

    Parameters
    ----------
    client
        A boto3 ``pricing`` client.
    before
        Local storage of the instances and the price of data are taken from here.

    Raises
    ------
    CloudError
        If AWS refuses, or the list does not hold what it should.
    """
    documents: list[str] = []
    with explained(f"read the SageMaker prices of {region} (pricing:GetProducts)"):
        for page in client.get_paginator("get_products").paginate(
            ServiceCode="AmazonSageMaker",
            Filters=[{"Type": "TERM_MATCH", "Field": "regionCode", "Value": region}],
        ):
            documents += page["PriceList"]
    return parse_price_list(
        documents,
        region=region,
        read=read,
        local_nvme_gb={each.name: each.local_nvme_gb for each in before.instances},
        data_usd_per_gb=before.data_usd_per_gb,
        api=before.api,
    )


def write_prices(prices: Prices, file: Path) -> None:
    """Write a price file, whole or not at all."""
    write_whole(file, prices.model_dump_json(indent=2) + "\n")


def main(arguments: Sequence[str] | None = None, *, client: Any = None) -> int:
    """Make a price file anew; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m deployments.prices", description="Make the price file of a region anew from the AWS Price List."
    )
    parser.add_argument("--region", default=DEFAULT_REGION, help="region (default %(default)s)")
    parser.add_argument("--out", type=Path, help="file to write (default deployments/price_lists/<region>.json)")
    given = parser.parse_args(arguments)
    try:
        before = load_prices(given.region)
        if client is None:
            import boto3

            with explained("open the Price List API"):
                client = boto3.session.Session(region_name=API_REGION).client("pricing")
        prices = fetch_prices(client, given.region, read=datetime.now(UTC).date().isoformat(), before=before)
    except AsklineError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the program's one message
        return 1
    file = given.out or PRICES / f"{given.region}.json"
    write_prices(prices, file)
    print(f"{file}: {len(prices.instances)} instances, {len(prices.serverless_usd_per_second)} serverless tiers")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
