"""The card of a repository: ``README.md`` with YAML between two lines of dashes at its top."""

import json
import re
from typing import Any

import yaml

_FRONT_MATTER = re.compile(r"\A\ufeff?\s*---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
_LISTS_OF_TEXT = ("tags", "datasets", "metrics", "language", "base_model", "license")
MAX_CARD = 2 * 1024 * 1024
#: Tasks that the Hub sorts models by, as the npm package @huggingface/tasks 0.21.54 (November 2026) lists them.
# fmt: off
PIPELINE_TAGS = frozenset({
    "any-to-any", "audio-classification", "audio-text-to-text", "audio-to-audio", "automatic-speech-recognition",
    "depth-estimation", "document-question-answering", "feature-extraction", "fill-mask", "graph-ml",
    "image-classification", "image-feature-extraction", "image-segmentation", "image-text-to-image",
    "image-text-to-text", "image-text-to-video", "image-to-3d", "image-to-image", "image-to-text", "image-to-video",
    "keypoint-detection", "mask-generation", "multiple-choice", "object-detection", "other", "question-answering",
    "reinforcement-learning", "robotics", "sentence-similarity", "summarization", "table-question-answering",
    "table-to-text", "tabular-classification", "tabular-regression", "tabular-to-text", "text-classification",
    "text-generation", "text-ranking", "text-retrieval", "text-to-3d", "text-to-audio", "text-to-image",
    "text-to-speech", "text-to-video", "time-series-forecasting", "token-classification", "translation",
    "unconditional-image-generation", "video-classification", "video-text-to-text", "video-to-video",
    "visual-document-retrieval", "visual-question-answering", "voice-activity-detection",
    "zero-shot-classification", "zero-shot-image-classification", "zero-shot-object-detection",
})
# fmt: on


def split_card(text: str) -> tuple[str | None, str]:
    """Return a card's YAML (None where it has none) and the text under it."""
    found = _FRONT_MATTER.match(text)
    return (found.group(1), text[found.end() :]) if found else (None, text)


def card_data(text: str) -> dict[str, Any]:
    """Return a card's metadata as JSON values; empty where there is none or it cannot be read."""
    front, _ = split_card(text)
    try:
        data = yaml.safe_load(front) if front else None
    except yaml.YAMLError:
        return {}
    return json.loads(json.dumps(data, default=str)) if isinstance(data, dict) else {}


def check_card(text: str) -> tuple[list[str], list[str]]:
    """Return the errors and the warnings about a card's metadata."""
    front, _ = split_card(text)
    if front is None or not front.strip():
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        data = yaml.safe_load(front)
    except yaml.YAMLError as error:
        return [f"the metadata is not YAML: {error}"], []
    if not isinstance(data, dict):
        return ["the metadata is not a mapping of names to values"], []
    errors = []
    for name in _LISTS_OF_TEXT:
        value = data.get(name)
        if value is not None and not _is_text_or_texts(value):
            errors.append(f'"{name}" must be a text or a list of texts')
    if "model-index" in data:
        errors.extend(_check_model_index(data["model-index"]))
    warnings = []
    task = data.get("pipeline_tag")
    if task is not None and task not in PIPELINE_TAGS:
        warnings.append(f'the pipeline tag "{task}" is not in the official list: {", ".join(sorted(PIPELINE_TAGS))}')
    return errors, warnings


def _is_text_or_texts(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, str) for item in value))


def _check_model_index(index: object) -> list[str]:
    if not isinstance(index, list) or not all(isinstance(model, dict) for model in index):
        return ['"model-index" must be a list of models']
    errors = []
    for model in index:
        if not isinstance(model.get("name"), str):
            errors.append('"model-index": every model needs a "name"')
        for result in model.get("results") or []:
            task = result.get("task") if isinstance(result, dict) else None
            if not isinstance(task, dict) or not isinstance(task.get("type"), str):
                errors.append('"model-index": every result needs a "task" with a "type"')
                continue
            metrics = result.get("metrics")
            if not isinstance(metrics, list) or not all(
                isinstance(metric, dict) and "type" in metric and "value" in metric for metric in metrics
            ):
                errors.append('"model-index": every result needs "metrics", each with "type" and "value"')
    return errors


def computed_tags(data: dict[str, Any]) -> list[str]:
    """Return a repository's tags: its own, and those that the Hub derives from the card."""
    tags = [*_texts(data.get("tags"))]
    if isinstance(data.get("library_name"), str):
        tags.append(data["library_name"])
    for name, prefix in (
        ("license", "license:"),
        ("datasets", "dataset:"),
        ("base_model", "base_model:"),
        ("language", ""),
    ):
        tags.extend(f"{prefix}{value}" for value in _texts(data.get(name)))
    return list(dict.fromkeys(tags))


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [item for item in values if isinstance(item, str)]
