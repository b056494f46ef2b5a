"""Data capture: what goes in and comes out of an endpoint, as JSON Lines in S3, in SageMaker's layout.

Lines are gathered in the state folder, so that ``kill -9`` loses none, and uploaded as one object from time to time.
"""

import asyncio
import base64
import contextlib
import json
import logging
import random
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from local_cloud.sagemaker.archive import parse_s3_url
from local_cloud.sagemaker.serving.deployment import Deployment
from local_cloud.sagemaker.serving.invocation import CUSTOM_ATTRIBUTES, Answer, Call
from local_cloud.sagemaker.settings import Settings
from local_cloud.sagemaker.state import Record

log = logging.getLogger("local_cloud.sagemaker")

_UPLOAD_SECONDS = 1.0


class Capture:
    """Gathers and uploads what endpoints with a DataCaptureConfig were asked and answered."""

    def __init__(self, settings: Settings, s3: Any) -> None:
        self._folder = settings.state_dir / "capture"
        self._folder.mkdir(exist_ok=True)
        self._s3 = s3

    def offer(
        self, endpoint: str, deployment: Deployment, call: Call, answer: Answer, inference_id: str | None
    ) -> None:
        """Note one answered call, if the endpoint captures and the call is in its sample."""
        config: Record | None = deployment.facts.get("DataCaptureConfig")
        if not config or not config.get("EnableCapture", True):
            return
        if random.random() * 100 >= config["InitialSamplingPercentage"]:  # noqa: S311 - a sample, no secret
            return
        now = datetime.now(UTC)
        modes = {option["CaptureMode"] for option in config["CaptureOptions"]}
        data: Record = {}
        if modes & {"Input", "InputAndOutput"}:
            data["endpointInput"] = _data("INPUT", call.body, call.headers.get("content-type", ""), config)
        if modes & {"Output", "InputAndOutput"}:
            data["endpointOutput"] = _data("OUTPUT", answer.body, answer.headers.get("content-type", ""), config)
        event: Record = {"eventId": str(uuid.uuid4()), "inferenceTime": now.isoformat(timespec="seconds")[:19] + "Z"}
        if inference_id:
            event["inferenceId"] = inference_id
        if CUSTOM_ATTRIBUTES in call.headers:
            event["customAttributes"] = [call.headers[CUSTOM_ATTRIBUTES]]
        line = {"captureData": data, "eventMetadata": event, "eventVersion": "0"}
        place = f"{config['DestinationS3Uri'].rstrip('/')}/{endpoint}/{deployment.variant}/{now:%Y/%m/%d/%H}"
        with (self._folder / "gathered.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"place": place, "line": line}) + "\n")

    async def run(self) -> None:
        """Upload what was gathered, for ever."""
        while True:
            await asyncio.sleep(_UPLOAD_SECONDS)
            await self.flush()

    async def flush(self) -> None:
        """Upload what was gathered so far; what cannot be uploaded is kept for the next time."""
        gathered = self._folder / "gathered.jsonl"
        with contextlib.suppress(FileNotFoundError):
            gathered.rename(self._folder / f"{uuid.uuid4().hex}.part")
        for part in self._folder.glob("*.part"):
            try:
                await asyncio.to_thread(self._upload, part)
            except Exception as error:  # noqa: BLE001 - S3 may be down; captured data must not be lost
                log.warning("captured data is kept in %s for now: %s", part, error)

    def _upload(self, part: Path) -> None:
        places: dict[str, list[str]] = {}
        for text in part.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):  # a line cut off by a power cut
                entry = json.loads(text)
                places.setdefault(entry["place"], []).append(json.dumps(entry["line"], ensure_ascii=False))
        for place, lines in places.items():
            bucket, folder = parse_s3_url(place)
            # A name that follows from the part: uploaded twice, it is still there once.
            gathered = datetime.fromtimestamp(part.stat().st_mtime, UTC)
            key = f"{folder}/{gathered:%M-%S}-{gathered.microsecond // 1000:03}-{part.stem}.jsonl"
            self._s3.put_object(Bucket=bucket, Key=key, Body="\n".join(lines).encode() + b"\n")
        part.unlink()


def _data(mode: str, body: bytes, content_type: str, config: Record) -> Record:
    plain = content_type.partition(";")[0].strip().lower()
    listed: Record = config.get("CaptureContentTypeHeader", {})
    encoding = "BASE64"
    for kind, member in (("CSV", "CsvContentTypes"), ("JSON", "JsonContentTypes")):
        if plain in [each.lower() for each in listed.get(member, [])]:
            encoding = kind
    data = base64.b64encode(body).decode() if encoding == "BASE64" else body.decode("utf-8", "replace")
    return {"observedContentType": content_type, "mode": mode, "data": data, "encoding": encoding}
