"""How large an endpoint must be, and what it costs: arithmetic on what was measured, without any connection."""

import re
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field

from askline.config import DeployConfig
from askline.errors import ConfigError, DeployError
from askline.records import PackageRef, Record
from tasks.deploy_serverless.prices import TIERS, Instance, load_prices

#: Hours of a month, as AWS's own examples count them.
HOURS_PER_MONTH = 730
#: MiB of the Hugging Face image's model server: Java 114, its launcher and its start script 31. Resident memory of
#: multi-model-server 1.1.11 under Java 21, after 200 requests to a model that does nothing.
MODEL_SERVER_MB = 145
#: MiB of its worker before model_fn: torch, transformers 5.5.3 and sagemaker-huggingface-inference-toolkit, measured
#: in the same run. An archive whose engine is transformers was measured with these libraries in its own process.
TOOLKIT_MB = 370
#: Repository of the image in deployments/container: no torch, no Java, and its server is within the headroom.
LEAN_IMAGE = "askline-serving"
#: Graviton (a "g" behind the generation), Inferentia and Trainium: not what the images and libraries are built for.
_OTHER_PROCESSOR = re.compile(r"ml\.([a-z]+\d+[a-z]*g[a-z]*|inf\d|trn\d)\b")
#: Tier for a package that nothing was measured of, unless twice its unpacked size needs more. It is also the largest
#: that a new account's quota has been seen to allow.
UNMEASURED_MB = 3072


class MemoryChoice(Record):
    """A tier of serverless memory, with the figures behind it; MiB throughout, as the tiers are."""

    memory_mb: int
    chosen: Literal["measured", "configured", "not measured"]
    """Why: it holds the measured need, the configuration names it, or nothing was measured."""
    measured_mb: float | None
    container_mb: float
    headroom: float
    needed_mb: float | None
    notes: tuple[str, ...] = ()


class Need(Record):
    """What a model needs of a real-time instance."""

    memory_mb: float = Field(gt=0)
    """Of one worker, headroom included."""
    shared_mb: float = Field(0, ge=0)
    """Of what the image runs once beside all workers, headroom included."""
    workers: int = Field(1, ge=1)
    vcpu: int = Field(1, ge=1)
    gpu: bool = False
    disk_of_its_own: bool = True
    """Whether instances with local NVMe will do; SageMaker adds no volume to these."""

    @property
    def total_mb(self) -> float:
        """Memory of all workers and of what they share."""
        return self.memory_mb * self.workers + self.shared_mb


class InstanceChoice(Record):
    """An instance for an endpoint that runs all the time, with the figures behind it; memory in MiB."""

    instance_type: str
    chosen: Literal["measured", "configured", "not measured"]
    """Why: it is the cheapest that holds the measured need, the configuration names it, or nothing was measured."""
    instance: Instance | None
    """As the price file has it; None where it does not know the configured one."""
    need: Need
    measured_mb: float | None
    worker_mb: float
    """Of the image, beside the package in each worker."""
    shared_mb: float
    """Of the image, once."""
    headroom: float
    notes: tuple[str, ...] = ()


def container_mb(image: str | None, engine: str) -> float:
    """Return what an image's own processes take beside the package's, in MiB. None is the Hugging Face image.

    An image of another name is counted as the Hugging Face image, which needs most.
    """
    if image is not None and LEAN_IMAGE in image:
        return 0
    return MODEL_SERVER_MB + (0 if engine == "transformers" else TOOLKIT_MB)


def serverless_memory(config: DeployConfig, package: PackageRef, *, region: str) -> MemoryChoice:
    """Return the smallest tier that holds (measured peak + container) × headroom, or the tier that is configured.

    Parameters
    ----------
    region
        Whose prices name the instance that would fit, where no tier does.

    Raises
    ------
    DeployError
        If no tier holds the package.
    """
    beside, headroom = container_mb(config.image, package.engine), config.memory_headroom
    notes: list[str] = []
    measured = needed = None
    if package.measured is not None:
        measured = max(package.measured.peak_mb, package.measured.load_peak_mb)
        needed = counted = (measured + beside) * headroom
        said = f"({measured:.0f} MB measured + {beside:.0f} MB for the container) × {headroom:g} = {needed:.0f} MB"
    else:
        counted = max(float(UNMEASURED_MB), 2 * package.unpacked_size / 2**20 + beside)
        said = f"about {counted:.0f} MB, since it was not measured: twice its unpacked size, and the container"
    fitting = smallest_tier(counted)
    if config.memory_mb != "auto":
        tier: int = config.memory_mb
        chosen: Literal["measured", "configured", "not measured"] = "configured"
        if needed is not None and needed > tier:
            notes.append(f"deploy.memory_mb = {tier} is less than the package should have: {said}")
        elif needed is not None and fitting != tier:
            notes.append(f"deploy.memory_mb = {tier} is more than the package needs: {said}, and {fitting} MB hold it")
    elif fitting is None:
        raise DeployError(_no_tier(said, counted, region))
    else:
        tier, chosen = fitting, "not measured" if needed is None else "measured"
        if needed is None:
            notes.append(
                f"{tier} MB is the cautious choice for a package whose memory was not measured; package it anew for "
                "the tier that fits, or set deploy.memory_mb"
            )
    if tier > UNMEASURED_MB:
        notes.append(f"new accounts may have a quota of {UNMEASURED_MB} MB for an endpoint; see Service Quotas")
    return MemoryChoice(
        memory_mb=tier,
        chosen=chosen,
        measured_mb=measured,
        container_mb=beside,
        headroom=headroom,
        needed_mb=needed,
        notes=tuple(notes),
    )


def sized_instance(config: DeployConfig, package: PackageRef, *, region: str) -> InstanceChoice:
    """Return the cheapest instance that holds all workers within the budget, or the one that is configured.

    Memory is workers × (measured peak + torch and transformers of the Hugging Face image) + its model server, all
    times the headroom; and there is a vCPU for each worker.

    Raises
    ------
    ConfigError
        If none holds the package, none that does is within the budget, or the configured one cannot run it.
    """
    prices, headroom = load_prices(region), config.memory_headroom
    beside = container_mb(config.image, package.engine)
    shared = min(beside, float(MODEL_SERVER_MB))
    measured = None
    if package.measured is not None:
        measured = max(package.measured.peak_mb, package.measured.load_peak_mb)
        worker = (measured + beside - shared) * headroom
    else:
        worker = max(float(UNMEASURED_MB), 2 * package.unpacked_size / 2**20 + beside - shared)
    need = Need(
        memory_mb=worker,
        shared_mb=shared * headroom,
        workers=config.workers,
        gpu=config.gpu,
        disk_of_its_own=config.volume_size_gb is None,
    )
    facts = {"need": need, "measured_mb": measured, "worker_mb": beside - shared, "shared_mb": shared}
    if config.instance_type != "auto":
        return _configured_instance(config, prices.instances, facts)
    ceiling = None if config.budget is None else config.budget / config.instance_count
    try:
        instance = cheapest_instance(need, prices.instances, budget_per_hour=ceiling)
    except ConfigError as error:
        many = config.instance_count > 1 and config.budget is not None
        told = f" (deploy.budget {config.budget:g} for {config.instance_count} instances)" if many else ""
        raise ConfigError(f"deploy.instance_type cannot be chosen: {error}{told}") from error
    return InstanceChoice(
        instance_type=instance.name,
        chosen="not measured" if measured is None else "measured",
        instance=instance,
        headroom=headroom,
        **facts,
    )


def _configured_instance(config: DeployConfig, instances: Iterable[Instance], facts: dict[str, Any]) -> InstanceChoice:
    name, need = config.instance_type, facts["need"]
    if _OTHER_PROCESSOR.match(name):
        raise ConfigError(
            f"deploy.instance_type {name} has another processor than x86-64, for which the image and the archive's "
            "libraries are; choose one such as ml.c6i.large or ml.m5.xlarge"
        )
    instance = next((each for each in instances if each.name == name), None)
    notes = []
    if instance is None:
        notes.append(f"the price file does not know {name}: neither its memory nor its price could be looked at")
    else:
        if instance.memory_gib * 1024 < need.total_mb or instance.vcpu < need.workers:
            notes.append(
                f"deploy.instance_type {name} ({instance.memory_gib:g} GiB, {instance.vcpu} vCPU) is less than "
                f"{need.workers} workers should have: {need.total_mb / 1024:.1f} GiB, {need.workers} vCPU"
            )
        if config.volume_size_gb is not None and instance.local_nvme_gb:
            raise ConfigError(
                f"deploy.volume_size_gb with {name}: it has {instance.local_nvme_gb} GB of its own, and SageMaker adds "
                "no volume to such an instance; leave it out, or choose an instance without local storage"
            )
    return InstanceChoice(
        instance_type=name,
        chosen="configured",
        instance=instance,
        headroom=config.memory_headroom,
        notes=tuple(notes),
        **facts,
    )


def smallest_tier(needed_mb: float) -> int | None:
    """Return the smallest tier that holds so much; None where none does."""
    return next((tier for tier in TIERS if tier >= needed_mb), None)


def _no_tier(said: str, needed: float, region: str) -> str:
    try:
        fits = cheapest_instance(Need(memory_mb=needed), load_prices(region).instances)
        what = f"a real-time {fits.name} ({fits.memory_gib:g} GiB, {fits.usd_per_hour:g} dollars an hour) would hold it"
    except ConfigError as error:
        what = str(error)
    return (
        f"no serverless endpoint holds this package: it needs {said}, and the largest tier is {TIERS[-1]} MB; {what}. "
        "Smaller: package.engine onnxruntime with package.quantisation int8, the lean image, or a smaller training.base"
    )


def cheapest_instance(need: Need, instances: Iterable[Instance], *, budget_per_hour: float | None = None) -> Instance:
    """Return the cheapest instance that holds ``need``; instances with a GPU count only where one is needed.

    At the same price it is the one with the lower price per vCPU, then more local NVMe, then the newer generation,
    then more memory. The budget is a ceiling: a larger one never gives a dearer answer.

    Raises
    ------
    ConfigError
        If none is large enough, or none that is costs as little as the budget. It says what would fit.
    """
    candidates = [each for each in instances if (each.gpus > 0) == need.gpu and not _OTHER_PROCESSOR.match(each.name)]
    if not need.disk_of_its_own:
        candidates = [each for each in candidates if not each.local_nvme_gb]
    memory = need.total_mb
    vcpu = max(need.vcpu, need.workers)
    wanted = f"{memory / 1024:.1f} GiB of memory, {vcpu} vCPU{' and a GPU' if need.gpu else ''}"
    fitting = sorted(
        (each for each in candidates if each.memory_gib * 1024 >= memory and each.vcpu >= vcpu), key=_preference
    )
    if not fitting:
        raise ConfigError(
            f"no instance in the price file has {wanted} ({need.workers} workers); {_largest(need, candidates)}, or "
            "complete the price file with `python -m deployments.prices`"
        )
    best = fitting[0]
    if budget_per_hour is not None and best.usd_per_hour > budget_per_hour:
        raise ConfigError(
            f"no instance with {wanted} costs {budget_per_hour:g} dollars an hour or less; the cheapest that fits is "
            f"{best.name} at {best.usd_per_hour:g}: raise the budget to that, or choose serverless"
        )
    return best


def _largest(need: Need, candidates: list[Instance]) -> str:
    largest = max(candidates, key=lambda each: (each.memory_gib, each.vcpu), default=None)
    if largest is None:
        return "it has none of that kind at all"
    workers = min(int((largest.memory_gib * 1024 - need.shared_mb) // need.memory_mb), largest.vcpu)
    known = f"the largest is {largest.name} ({largest.memory_gib:g} GiB, {largest.vcpu} vCPU)"
    return f"{known}, where {workers} of them fit" if workers else f"{known}; take a smaller model"


def _preference(instance: Instance) -> tuple[float, float, int, int, float, str]:
    return (
        instance.usd_per_hour,
        instance.usd_per_hour / instance.vcpu,
        -instance.local_nvme_gb,
        -instance.generation,
        -instance.memory_gib,
        instance.name,
    )


def usd_per_call(usd_per_second: float, answer_seconds: float) -> float:
    """Return what one answer costs on a serverless endpoint: busy seconds alone are billed."""
    return usd_per_second * answer_seconds


def break_even_calls(usd_per_hour: float, usd_a_call: float) -> float:
    """Return the calls a month at which serverless costs as much as an instance that is always on."""
    return usd_per_hour * HOURS_PER_MONTH / usd_a_call


def busy(calls_per_month: float, answer_seconds: float) -> float:
    """Return how many answers are under way at once, on average over a month (Little's law)."""
    return calls_per_month * answer_seconds / (HOURS_PER_MONTH * 3600)
