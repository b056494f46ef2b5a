"""Build ``model.tar.gz``, and prove in a clean process that it answers as the evaluation did.

The archive has the layout that SageMaker's Hugging Face containers expect: the checkpoint's files and the manifest
``askline.json`` at the root, and ``code/inference.py``. The same model gives the same bytes on every machine.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from askline import __version__
from askline.config import PackageConfig
from askline.errors import ArtifactError, PackageError
from askline.progress import Progress, quiet
from askline.records import DatasetRef, ModelRef, PackageRef, Scores
from askline.store import ArtifactStore, sha256_of_file
from tasks.packaging import archive
from tasks.packaging.held_out import HeldOut, read_held_out, same_answer, spread

ARCHIVE = "model.tar.gz"
MANIFEST = "askline.json"
INFERENCE = Path(__file__).parent.parent / "inference" / "inference.py"

#: How many held-out questions a package must answer as the evaluation did before it becomes an artifact.
PROOF_QUESTIONS = 10
PROOF_SECONDS = 600
#: Files of the model artifact that no container needs.
LEFT_OUT = frozenset({"training_log.jsonl"})

# Runs with -I: no PYTHONPATH, no user site, and the folder of this project not on sys.path.
_PROOF = """
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("inference", sys.argv[1] + "/code/inference.py")
inference = sys.modules["inference"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(inference)
model = inference.model_fn(sys.argv[1])
request = inference.input_fn(sys.stdin.buffer.read(), "application/json")
sys.stdout.write(inference.output_fn(inference.predict_fn(request, model), "application/json"))
"""


def build_package(
    config: PackageConfig,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    *,
    store: ArtifactStore,
    license: str | None = None,
    progress: Progress = quiet,
) -> PackageRef:
    """Pack a model, check the archive, run it, and keep it as a ``package`` artifact.

    Parameters
    ----------
    config
        Says where the archive will go; nothing in it shapes the bytes.
    model, scores, dataset
        What is packed, and what its manifest tells about it.
    store
        Holds the ``model`` and ``scores`` artifacts, and receives the ``package``.
    license
        License of the model, for the manifest; the default is what the model's own ``askline.json`` says.

    Raises
    ------
    PackageError
        If the scores are not this model's, a file is missing, or the unpacked archive answers differently.
    ArtifactError
        If the model or its scores are missing or damaged, or the disk is full.
    """
    del config
    if scores.model_sha256 != model.sha256:
        raise PackageError(
            f"the scores {scores.sha256[:12]} belong to the model {scores.model_sha256[:12]}, "
            f"not to {model.sha256[:12]}; evaluate this model first"
        )
    progress(0.0, "checking the model")
    source = store.verify("model", model.sha256)
    questions = spread(read_held_out(scores, store), PROOF_QUESTIONS, seed=0)
    files = {
        path.relative_to(source).as_posix(): path
        for path in source.rglob("*")
        if path.is_file() and path.name not in LEFT_OUT and path.name != MANIFEST
    }
    files["code/inference.py"] = INFERENCE
    with store.new("package") as draft, tempfile.TemporaryDirectory(prefix="askline-package-") as scratch:
        manifest = Path(scratch) / MANIFEST
        content = _manifest(source, files, model, scores, dataset, license)
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False)
        manifest.write_text(text + "\n", encoding="utf-8")
        packed = draft.folder / ARCHIVE
        try:
            archive.pack({**files, MANIFEST: manifest}, packed, lambda share: progress(0.1 + 0.4 * share, "packing"))
        except OSError as error:
            advice = f"free some space in {store.root}"
            raise ArtifactError(f"cannot write {ARCHIVE}: {error.strerror}; {advice}") from error
        members, unpacked_size = archive.lint(packed)
        progress(0.6, f"asking the unpacked archive {len(questions)} held-out questions")
        prove(packed, questions)
        size, archive_sha256 = packed.stat().st_size, sha256_of_file(packed)
        sha256 = draft.commit()
    progress(1.0, f"{size / 1e6:.1f} MB, sha256 {archive_sha256[:12]}")
    return PackageRef(
        sha256=sha256,
        archive_sha256=archive_sha256,
        size=size,
        unpacked_size=unpacked_size,
        model_sha256=model.sha256,
        members=members,
    )


def prove(packed: Path, questions: Sequence[HeldOut]) -> None:
    """Unpack an archive into an empty folder and ask it, in a clean process, through the container's contract.

    Raises
    ------
    PackageError
        If the process fails, or an answer differs from the evaluation's.
    """
    with tempfile.TemporaryDirectory(prefix="askline-proof-") as scratch:
        folder = Path(scratch, "model")
        archive.unpack(packed, folder)
        answers = _ask(folder, Path(scratch), [row.question for row in questions])
    pairs = zip(questions, answers, strict=True)
    different = [(row, answer) for row, answer in pairs if not same_answer(row.prediction, answer)]
    if different:
        row, answer = different[0]
        raise PackageError(
            f"the unpacked archive answers {len(different)} of {len(questions)} held-out questions otherwise than the "
            f"evaluation did. The first: {row.question!r} gave {row.prediction!r} there and {answer!r} here. "
            "Evaluate again; if that changes nothing, the saved checkpoint is not the model that was evaluated"
        )


def _ask(folder: Path, home: Path, questions: list[str]) -> list[str]:
    ours = ("ASKLINE_", "PREFECT_", "PYTHON")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= {"HF_HOME": str(home / "cache"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _PROOF, str(folder)],
            input=json.dumps({"inputs": questions}).encode(),
            capture_output=True,
            cwd=home,
            env=environment,
            timeout=PROOF_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PackageError(
            f"the unpacked archive gave no answer in {PROOF_SECONDS} s; the model is too large for this machine"
        ) from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise PackageError("the unpacked archive fails in a clean process: " + "\n".join(said[-8:]))
    return [item["answer"] for item in json.loads(done.stdout)["answers"]]


def _manifest(
    source: Path, files: dict[str, Path], model: ModelRef, scores: Scores, dataset: DatasetRef, license_name: str | None
) -> dict[str, Any]:
    """Return what ``askline.json`` says: facts of the model alone, no time, no duration and no path of this machine."""
    try:
        own: dict[str, Any] = json.loads((source / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PackageError(
            f"the model {model.sha256[:12]} has no readable {MANIFEST} ({error}); train it again"
        ) from error
    location = Path(dataset.source.location).name if dataset.source.kind == "file" else dataset.source.location
    about_dataset = {
        "sha256": dataset.sha256,
        "kind": dataset.source.kind,
        "location": location,
        "revision": dataset.source.revision,
        "subset": dataset.source.subset,
        "splits": dataset.splits,
    }
    about_scores = {
        "test": scores.test.model_dump(),
        "out_of_scope": scores.out_of_scope.model_dump() if scores.out_of_scope else None,
        "false_abstention": scores.false_abstention,
    }
    return {
        **own,
        "engine": "transformers",
        "model_version": model.sha256[:12],
        "prompt": model.prompt,
        "max_source_tokens": model.max_source_tokens,
        "max_target_tokens": model.max_target_tokens,
        "unanswerable": dataset.unanswerable,
        "license": license_name or own.get("license", "apache-2.0"),
        "parameters": model.parameters,
        "dataset": about_dataset,
        "scores": about_scores,
        "versions": {**own.get("versions", {}), "askline": __version__},
        "files": {name: sha256_of_file(path) for name, path in sorted(files.items())},
    }
