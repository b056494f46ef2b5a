"""What is known of instance types: their memory and their own disks, from the project's price lists."""

import json
import re
from dataclasses import dataclass
from functools import cache

from local_cloud.sagemaker.settings import PROJECT_ROOT

_PRICE_LISTS = PROJECT_ROOT / "deployments" / "price_lists"

#: GiB for each vCPU, by the letter that a family's name begins with: general purpose, compute, memory.
_GIB_PER_VCPU = {"m": 4, "c": 2, "r": 8}

#: Disk of an instance without a disk of its own where VolumeSizeInGB is not given. AWS sizes it by the type.
DEFAULT_VOLUME_GB = 30


@dataclass(frozen=True)
class InstanceType:
    """What an instance type has."""

    name: str
    memory_mb: int | None
    """None where it is not known; then there is no limit."""
    local_nvme_gb: int = 0


@cache
def _listed() -> dict[str, InstanceType]:
    found = {}
    for file in sorted(_PRICE_LISTS.glob("*.json")):
        for each in json.loads(file.read_text(encoding="utf-8"))["instances"]:
            memory_mb = round(each["memory_gib"] * 1024)
            found[each["name"]] = InstanceType(each["name"], memory_mb, round(each["local_nvme_gb"]))
    return found


def instance_type(name: str) -> InstanceType:
    """Return what is known of ``ml.<family>.<size>``; where no price list has it, memory follows from its name."""
    if name in _listed():
        return _listed()[name]
    match = re.fullmatch(r"ml\.([mcr])\d\w*\.(\d*x?)large", name)
    if match is None:
        return InstanceType(name, None)
    family, size = match.groups()
    vcpus = 2 if not size else 4 * int(size[:-1] or 1)
    return InstanceType(name, vcpus * _GIB_PER_VCPU[family] * 1024)


def listed_types() -> list[str]:
    """Return the instance types of the price lists."""
    return sorted(_listed())
