"""Lists as SageMaker gives them: filtered, sorted, and in pages that stay right while rows come and go."""

import base64
import json
import operator
from collections.abc import Iterable
from typing import Any

from local_cloud.sagemaker.errors import validation_error
from local_cloud.sagemaker.state import Record

DEFAULT_PAGE = 10


def page_of(
    records: Iterable[Record], request: Record, *, name: str, status: str = "EndpointStatus"
) -> tuple[list[Record], Record]:
    """Return the rows of one page, and ``{"NextToken": …}`` where there are more.

    Parameters
    ----------
    name, status
        The members of a record that hold its name and its status.

    Raises
    ------
    ApiError
        ValidationException for a token that was not given out, or for a list with another ``SortBy``.
    """
    field = {"Name": name, "Status": status}.get(request.get("SortBy", ""), "CreationTime")
    descending = request.get("SortOrder", "Descending") == "Descending"
    found = sorted(
        (record for record in records if _matches(record, request, name, status)),
        key=lambda record: (record[field], record[name]),
        reverse=descending,
    )
    if "NextToken" in request:
        # The token is the last row's place in the order, so rows that come and go do not shift the page.
        last = _decode_token(request["NextToken"])
        after = operator.lt if descending else operator.gt
        try:
            found = [record for record in found if after((record[field], record[name]), last)]
        except TypeError:
            raise validation_error("The NextToken belongs to a list with another SortBy.") from None
    size = request.get("MaxResults", DEFAULT_PAGE)
    page = found[:size]
    return page, {"NextToken": _encode_token((page[-1][field], page[-1][name]))} if len(found) > size else {}


def _matches(record: Record, request: Record, name: str, status: str) -> bool:
    if request.get("NameContains", "").lower() not in record[name].lower():
        return False
    if "StatusEquals" in request and record[status] != request["StatusEquals"]:
        return False
    for member in ("CreationTime", "LastModifiedTime"):
        if f"{member}After" in request and record[member] <= request[f"{member}After"]:
            return False
        if f"{member}Before" in request and record[member] >= request[f"{member}Before"]:
            return False
    return True


def _encode_token(place: tuple[Any, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


def _decode_token(token: str) -> tuple[Any, str]:
    try:
        value, name = json.loads(base64.urlsafe_b64decode(token))
    except (ValueError, TypeError):
        raise validation_error("The NextToken is not one that this service gave out.") from None
    return value, str(name)
