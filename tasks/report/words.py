"""A record in a few words, for the line of its step in the terminal."""

import math
from functools import singledispatch

from askline.records import (
    ApiRef,
    BaseRef,
    DatasetRef,
    DeployPlan,
    EndpointRef,
    Gate,
    HubRef,
    ModelRef,
    PackageRef,
    Preflight,
    Promotion,
    Record,
    Scores,
    SecondOpinionRef,
    SmokeRef,
    SourceRef,
    UploadRef,
)


@singledispatch
def words(record: Record) -> str:
    """Return what a person wants to know first about ``record``."""
    return type(record).__name__


def size(count: int) -> str:
    """Return a number of bytes for people, in decimal units as disks and S3 count them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def percent(share: float) -> str:
    """Return a share between 0 and 1 as a percentage."""
    return f"{100 * share:.1f} %"


def dollars(amount: float) -> str:
    """Return US dollars: in cents from one dollar on, below that with two digits that mean something."""
    digits = 2 if amount >= 1 or amount <= 0 else 1 - math.floor(math.log10(amount))
    return f"{amount:,.{digits}f} $"


@words.register
def _(record: SourceRef) -> str:
    return f"{record.location} at {record.revision[:12]}"


@words.register
def _(record: BaseRef) -> str:
    return (
        record.name
        + (f" at {record.revision[:12]}" if record.revision else "")
        + (f": {record.why}" if record.why else "")
    )


@words.register
def _(record: DatasetRef) -> str:
    splits = ", ".join(f"{count:,} {name}" for name, count in record.splits.items())
    rejected = f", {record.rejected:,} rejected" if record.rejected else ""
    look = "".join(f"\n{'':32}{line}" for line in record.look.splitlines())
    return f"{splits} (split: {record.split_by}){rejected}{look}"


@words.register
def _(record: ModelRef) -> str:
    return (
        f"{record.base}, {record.parameters / 1e6:.1f} M parameters, {record.steps:,} steps, "
        f"loss {record.train_loss:.3f}, {record.precision}"
        + (f", {record.cut_questions:,} questions cut" if record.cut_questions else "")
        + (f", {record.cut_answers:,} answers trained without their end" if record.cut_answers else "")
    )


@words.register
def _(record: SecondOpinionRef) -> str:
    return record.notes[0] if record.notes else "the model judges alone"


@words.register
def _(record: Scores) -> str:
    out = f", out of scope {percent(record.out_of_scope.exact_match)}" if record.out_of_scope else ""
    return f"exact match {percent(record.test.exact_match)} on {record.test.questions:,} unseen questions{out}"


@words.register
def _(record: Gate) -> str:
    if not record.passed:
        return "not good enough: " + "; ".join(record.reasons)
    found = record.comparison
    if found is None:
        return "good enough to publish"
    same = {"same model": "the model that is deployed", "better": "better than the champion"}
    beside = same.get(found.verdict, f"{found.verdict} against the champion")
    return f"good enough to publish, {beside} ({found.champion.model_version})"


@words.register
def _(record: HubRef) -> str:
    if record.url is None:
        return f"skipped: {record.skipped}"
    return f"{record.repo_id} {record.tag}" + (" (was there)" if record.skipped else "")


@words.register
def _(record: PackageRef) -> str:
    proved = f", {percent(record.agreement.same_answers)} of its answers the evaluation's" if record.agreement else ""
    slower = " (a faster one failed its gates, see the report)" if record.passed_over else ""
    return (
        f"model.tar.gz {size(record.size)}, {record.engine} {record.quantisation}{proved}{slower}, "
        f"sha256 {record.archive_sha256[:12]}"
    )


@words.register
def _(record: DeployPlan) -> str:
    price, serving, api = record.costs.usd_per_1000_calls, record.serving, record.costs.api
    said = "" if price is None else f", {dollars(price)} for 1,000 calls of the endpoint on AWS"
    if api is not None:
        said = f", {dollars(api.usd_per_1000)} for 1,000 questions through the API on AWS"
    size = f"{serving.memory_mb} MB" if serving.memory_mb else f"{serving.instance_count} × {serving.instance_type}"
    return f"{serving.target}, {size} ({record.size.chosen}){said}"


@words.register
def _(record: Preflight) -> str:
    unseen = sum(check.passed is None for check in record.checks)
    failed = f", {len(record.failed)} failed" if record.failed else ""
    return f"{len(record.checks)} checks{failed}" + (f", {unseen} could not be looked at" if unseen else "")


@words.register
def _(record: UploadRef) -> str:
    return record.uri + (" (was there)" if record.reused else "")


@words.register
def _(record: EndpointRef) -> str:
    return f"{record.name} {record.action}, {record.runs_on}"


@words.register
def _(record: ApiRef) -> str:
    return "; ".join([f"{record.url} {record.action}", *record.changes])


@words.register
def _(record: SmokeRef) -> str:
    return f"{record.agreed} of {record.asked} answers equal the evaluation's"


@words.register
def _(record: Promotion) -> str:
    before = f", {record.replaced} before" if record.replaced not in (None, record.model_version) else ""
    api = ", and the API answers" if record.api_checked else ""
    swept = f"; {len(record.swept)} leftovers deleted" if record.swept else ""
    return f"{record.mlkey} is answered by {record.model_version} (promotion {record.version}{before}){api}{swept}"
