"""The step second-opinion: an encoder beside the model, and a linear layer over the known answers.

``fit_second_opinion`` writes a ``second-opinion`` artifact, whose files go into the package as they are: the encoder's
graph and weights, its tokenizer, and the layer. Where there is a choice, the one is taken that is better on the
held-out questions, and it is said by how much.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from askline.errors import ConfigError, HubError, PackageError
from askline.progress import part
from askline.records import DatasetRef, ModelRef, SecondOpinionRef
from inference.second_opinion import TOKENIZER, Encoder, SecondOpinion
from tasks.fine_tune.augment import looks_english
from tasks.qa.answers import KnownAnswer, known_answers
from tasks.qa.rows import Row, read_rows
from tasks.second_opinion.bert_graph import GRAPH, WEIGHTS, write_bert
from tasks.second_opinion.encoder import DEFAULT, FILES, MAX_TOKENS, MULTILINGUAL, EncoderFiles, find_encoder
from tasks.second_opinion.everyday import everyday
from tasks.second_opinion.layer import fit_layer, write_layer
from tasks.workplace import Workplace

#: What the artifact depends on, beside the options, the model and the dataset.
ROOMS = ("second_opinion", "fine_tune.augment", "package.onnx_graph", "graphs", "qa", "inference")
LIBRARIES = ("onnx", "onnxruntime", "scikit-learn", "tokenizers")

KIND = "secondopinion"
OWN = "own"
#: Held-out questions that a choice is made by; more say no more.
COMPARED = 1000
#: What a step of cosine weighs beside the layer's logarithms where the encoder judges alone.
ALONE = 6.0

_log = logging.getLogger("askline.second_opinion")


class _Candidate(NamedTuple):
    """One encoder that may give the opinion."""

    name: str
    revision: str | None
    prefix: str
    max_tokens: int


def fit_second_opinion(choice: str, model: ModelRef, dataset: DatasetRef, *, place: Workplace) -> SecondOpinionRef:
    """Fit the layer for the encoder that is chosen, and keep both as an artifact.

    Parameters
    ----------
    choice
        "auto", "own" (the model's own encoder), "none", a folder, or a Hub id.

    Raises
    ------
    ConfigError
        If ``choice`` is none of these.
    HubError, PackageError
        If the encoder that is asked for by its name cannot be had, or has no graph here.
    ArtifactError
        If model or dataset is missing or damaged.
    """
    if choice == "none":
        return no_second_opinion(model)
    data = place.store.verify("dataset", dataset.sha256)
    train = read_rows(data, "train")
    answers = known_answers(row for split in dataset.splits for row in read_rows(data, split))
    held_out = [row for row in read_rows(data, "test") if row.in_scope][:COMPARED] if "test" in dataset.splits else []
    names, notes = _names(choice, train), []
    measured: dict[str, float] = {}
    kept: list[tuple[float, int, SecondOpinionRef]] = []
    for number, name in enumerate(names):
        share = part(place.progress, number / len(names), (number + 1) / len(names))
        share(0.0, name)
        try:
            with place.store.new(KIND) as draft:
                candidate = _write_encoder(name, model, draft.folder, place)
                right = _fit_and_ask(candidate, train, answers, held_out, draft.folder)
                sha256 = draft.commit()
        except (HubError, PackageError, ConfigError) as error:
            if choice != "auto":
                raise
            notes.append(f"{name} could not be had: {error}")
            _log.warning("%s", notes[-1])
            continue
        measured[name] = right
        size = sum(path.stat().st_size for path in place.store.path(KIND, sha256).iterdir())
        found = SecondOpinionRef(
            sha256=sha256, source=name, revision=candidate.revision, size=size, model_sha256=model.sha256
        )
        kept.append((right, -number, found))
    if not kept:
        return no_second_opinion(model).model_copy(update={"notes": tuple(notes)})
    best = max(kept, key=lambda each: each[:2])[2]
    said = ", ".join(f"{name} {right:.1%}" for name, right in measured.items())
    notes.insert(0, f"{best.source} gives the second opinion; right on {len(held_out)} held-out questions: {said}")
    place.progress(1.0, notes[0])
    return best.model_copy(update={"held_out_right": measured, "notes": tuple(notes)})


def no_second_opinion(model: ModelRef) -> SecondOpinionRef:
    """Return what says that the model judges alone."""
    return SecondOpinionRef(sha256=None, source="none", revision=None, size=0, model_sha256=model.sha256)


def _names(choice: str, train: Sequence[Row]) -> list[str]:
    """Return the encoders to try, the preferred first where they are equally good."""
    if choice != "auto":
        return [choice]
    english = looks_english([row.question for row in train])
    return [DEFAULT, OWN] if english else [MULTILINGUAL, DEFAULT, OWN]


def _write_encoder(name: str, model: ModelRef, folder: Path, place: Workplace) -> _Candidate:
    """Write the encoder's graph, its weights and its tokenizer."""
    if name == OWN:
        from tasks.package.onnx_graph import write_pooled

        checkpoint = place.store.verify("model", model.sha256)
        write_pooled(checkpoint, folder / GRAPH, folder / WEIGHTS, max_tokens=model.max_source_tokens)
        (folder / TOKENIZER).write_bytes((checkpoint / "tokenizer.json").read_bytes())
        return _Candidate(OWN, None, model.prompt.partition("{question}")[0], model.max_source_tokens)
    found: EncoderFiles = find_encoder(name, target=place.target, cache=place.work)
    write_bert(found.folder, folder)
    (folder / TOKENIZER).write_bytes((found.folder / FILES[2]).read_bytes())
    return _Candidate(found.name, found.revision, found.prefix, MAX_TOKENS)


def _fit_and_ask(
    candidate: _Candidate, train: Sequence[Row], answers: Sequence[KnownAnswer], held_out: Sequence[Row], folder: Path
) -> float:
    """Fit and write the layer, and return the share of the held-out questions that it alone answers rightly."""
    try:
        encoder = Encoder(folder, candidate.max_tokens)
    except Exception as error:  # ONNX Runtime and tokenizers raise types of their own
        raise PackageError(f"the encoder {candidate.name} cannot be opened: {error}") from error

    def embed(texts: Sequence[str]) -> Any:
        return encoder.embed([candidate.prefix + " ".join(text.split()) for text in texts])

    none = everyday(row.question for row in train if row.in_scope).fitting
    layer = fit_layer(train, [each.id for each in answers], [each.text for each in answers], none, embed)
    write_layer(layer, folder, prefix=candidate.prefix, max_tokens=candidate.max_tokens)
    if not held_out:
        return 0.0
    opinions = SecondOpinion(folder, [each.id for each in answers]).opinion([row.question for row in held_out])
    texts = [each.text for each in answers]
    said = (texts[int(np.argmax(each.log_probabilities + ALONE * each.cosines))] for each in opinions)
    return sum(text == row.answer.strip() for text, row in zip(said, held_out, strict=True)) / len(held_out)


def open_second_opinion(
    second: SecondOpinionRef, answer_ids: Sequence[str], place: Workplace, *, threads: int = 1
) -> SecondOpinion:
    """Open the artifact as the container opens the package's files.

    Raises
    ------
    ArtifactError
        If it is missing or damaged.
    """
    assert second.sha256 is not None, "a model that judges alone has no second opinion"
    return SecondOpinion(place.store.verify(KIND, second.sha256), answer_ids, threads=threads)
