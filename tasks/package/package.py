"""Build ``model.tar.gz``, and prove in a clean process that it answers as the evaluation did.

The archive has the layout that SageMaker's Hugging Face containers expect: the engine's files and the manifest
``askline.json`` at the root, ``code/inference.py``, and the engine's libraries under ``code/lib``. The same model gives
the same bytes on every machine. An engine whose answers fail the gates gives way to the next: bytes to fp32.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from askline.config import PackageConfig
from askline.errors import ArtifactError, PackageError
from askline.progress import part
from askline.records import Agreement, DatasetRef, ModelRef, PackageRef, Scores
from askline.store import sha256_of_file
from tasks.package import archive, contents
from tasks.package.calibration import Calibration, fit, judged
from tasks.package.contents import MANIFEST, Variant
from tasks.package.libraries import own_python
from tasks.package.proof import Proof, prove
from tasks.qa.held_out import HeldOut, read_held_out, spread
from tasks.workplace import Workplace

#: What the archive depends on, beside the options and what is packed. ``inference`` travels in it.
ROOMS = ("package", "ask", "graphs", "qa", "inference")
LIBRARIES = ("isal", "numpy", "onnx", "onnxruntime", "scikit-learn", "tokenizers", "torch", "transformers")

ARCHIVE = "model.tar.gz"
#: Of more held-out questions, so many are asked, from all over the evaluation.
PROOF_QUESTIONS = 400


class _Packed(NamedTuple):
    """One archive on the disk, and what it answered."""

    path: Path
    members: tuple[str, ...]
    unpacked_size: int
    proof: Proof
    agreement: Agreement


def build_package(
    config: PackageConfig,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    *,
    place: Workplace,
    python: str | None = None,
    license: str | None = None,
) -> PackageRef:
    """Pack a model, check the archive, run it, and keep it as a ``package`` artifact.

    Parameters
    ----------
    model, scores, dataset
        What is packed, and what its manifest tells about it.
    place
        Its store holds the ``model`` and ``scores`` artifacts, and receives the ``package``.
    python
        The container's Python, where the configuration does not say; the default is this one.
    license
        License of the model, for the manifest; the default is what the model's own ``askline.json`` says.

    Raises
    ------
    PackageError
        If the scores are not this model's, a file is missing, or no engine passes the gates.
    ArtifactError
        If the model or its scores are missing or damaged, or the disk is full.
    """
    if scores.model_sha256 != model.sha256:
        raise PackageError(
            f"the scores {scores.sha256[:12]} belong to the model {scores.model_sha256[:12]}, "
            f"not to {model.sha256[:12]}; evaluate this model first"
        )
    store, progress = place.store, place.progress
    progress(0.0, "checking the model")
    source = store.verify("model", model.sha256)
    held_out = read_held_out(scores, store)
    calibration = fit(held_out, min_confidence=config.min_confidence, target_precision=config.target_precision)
    candidates, notes = contents.variants(config, _model_type(source))
    notes += (calibration.warning,) if calibration.warning else ()
    python = config.python or python or own_python()
    judgement = judged(scores.judgement, held_out, config.min_confidence, config.target_precision)
    questions = _asked(spread(held_out, PROOF_QUESTIONS, seed=0), judgement, dataset.unanswerable)
    passed_over: tuple[str, ...] = ()
    for number, variant in enumerate(candidates):
        with store.new("package") as draft:
            packed = _pack(
                variant,
                config,
                source,
                model,
                scores,
                dataset,
                calibration,
                judgement,
                questions,
                destination=draft.folder / ARCHIVE,
                place=place,
                python=python,
                license_name=license,
            )
            failed = _failed_gates(config, packed.agreement)
            if failed:
                passed_over += (f"{variant} was not taken: {failed}. {packed.proof.shown()}",)
                if number + 1 < len(candidates):
                    continue
                raise PackageError(
                    f"the unpacked archive answers otherwise than the evaluation did: {'; '.join(passed_over)}. "
                    "Evaluate again; if that changes nothing, the saved checkpoint is not the model that was evaluated"
                )
            size, archive_sha256 = packed.path.stat().st_size, sha256_of_file(packed.path)
            sha256 = draft.commit()
        progress(1.0, f"{variant}, {size / 1e6:.1f} MB, sha256 {archive_sha256[:12]}")
        return PackageRef(
            sha256=sha256,
            archive_sha256=archive_sha256,
            size=size,
            unpacked_size=packed.unpacked_size,
            model_sha256=model.sha256,
            members=packed.members,
            engine=variant.engine,
            quantisation=variant.quantisation,
            python=python if variant.engine == "onnxruntime" and config.carry_libraries else None,
            passed_over=passed_over,
            notes=notes,
            agreement=packed.agreement,
            measured=packed.proof.measured,
            differing=packed.proof.differing,
        )
    raise AssertionError("there is always a candidate")


def _pack(
    variant: Variant,
    config: PackageConfig,
    source: Path,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    calibration: Calibration,
    judgement: dict[str, Any] | None,
    questions: Sequence[HeldOut],
    *,
    destination: Path,
    place: Workplace,
    python: str,
    license_name: str | None,
) -> _Packed:
    store, progress = place.store, place.progress
    with store.new("package") as made:  # never committed: a draft's folder is removed even after a kill
        try:
            files = contents.gather(
                variant,
                source,
                model,
                made.folder,
                config=config,
                python=python,
                cache=store.root / "wheels",
                known=store.path("scores", scores.sha256) if scores.answers == "known" else None,
                opinion=_opinion(scores, place),
                progress=part(progress, 0.05, 0.2),
            )
            written = made.folder / MANIFEST
            text = contents.manifest(
                source,
                files,
                variant,
                model,
                scores,
                dataset,
                calibration,
                judgement=judgement,
                bare_answers=config.answers == "bare",
                license_name=license_name,
            )
            written.write_text(text, encoding="utf-8")
            files[MANIFEST] = written
            archive.pack(files, destination, lambda share: progress(0.2 + 0.2 * share, "packing"))
        except OSError as error:
            advice = f"free some space in {store.root}"
            raise ArtifactError(f"cannot write {ARCHIVE}: {error.strerror or error}; {advice}") from error
    required = variant.required + (contents.KNOWN if scores.answers == "known" else ())
    required += contents.OPINION if scores.second_opinion else ()
    members, unpacked_size = archive.lint(destination, required=required, weights=variant.weights)
    progress(0.45, f"asking the unpacked archive {len(questions)} held-out questions")
    with store.new("package") as unpacked:
        proof = prove(destination, questions, part(progress, 0.45, 0.95), scratch=unpacked.folder)
    return _Packed(destination, members, unpacked_size, proof, proof.agreement(_tokens_of(source)))


def _asked(rows: Sequence[HeldOut], judgement: dict[str, Any] | None, unanswerable: str) -> list[HeldOut]:
    """Return the questions of the proof; what the judgement's threshold declines is expected to be declined."""
    if judgement is None:
        return list(rows)
    return [
        row._replace(prediction=unanswerable, answer_id=None)
        if (row.confidence or 0.0) < judgement["threshold"]
        else row
        for row in rows
    ]


def _opinion(scores: Scores, place: Workplace) -> Path | None:
    """Return the folder of the second opinion, whose files travel as they are; None where the model judges alone."""
    second = scores.second_opinion
    return None if second is None or second.sha256 is None else place.store.verify("secondopinion", second.sha256)


def _failed_gates(config: PackageConfig, found: Agreement) -> str:
    """Return what of the gates is not met, or nothing."""
    failed = []
    if found.same_answers < config.min_same_answers:
        failed.append(
            f"{found.same_answers:.1%} of {found.questions} held-out questions are answered as in the evaluation, and "
            f"package.min_same_answers asks for {config.min_same_answers:.1%}"
        )
    for name, own, evaluated in (
        ("exact match", found.exact_match, found.exact_match_evaluated),
        ("token F1", found.token_f1, found.token_f1_evaluated),
    ):
        if own < evaluated - config.max_score_loss:
            failed.append(
                f"{name} falls from {evaluated:.1%} to {own:.1%}, and package.max_score_loss allows "
                f"{config.max_score_loss:.1%}"
            )
    return "; ".join(failed)


def _model_type(source: Path) -> str:
    try:
        return str(json.loads((source / "config.json").read_text(encoding="utf-8")).get("model_type"))
    except (OSError, ValueError) as error:
        raise PackageError(f"{source} has no readable config.json ({error}); train the model again") from error


def _tokens_of(source: Path) -> Callable[[str], list[int]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))

    def tokens(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    return tokens
