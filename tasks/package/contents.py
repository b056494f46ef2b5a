"""What goes into ``model.tar.gz``: the engine's files, the code that answers, its libraries, and the manifest."""

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from askline import __version__
from askline.config import PackageConfig
from askline.errors import PackageError
from askline.progress import Progress, part, quiet
from askline.records import DatasetRef, ModelRef, Scores
from askline.store import sha256_of_file
from tasks.package.calibration import Calibration
from tasks.package.libraries import Requirement, collect, own_platform, own_python
from tasks.package.onnx_graph import DECODER, ENCODER, WEIGHTS, write_graphs
from tasks.qa.answers import FILE as ANSWERS
from tasks.qa.answers import TRIE, Trie, read_answers

MANIFEST = "askline.json"
INFERENCE = Path(__file__).parents[2] / "inference"
#: The engine's libraries; numpy, which they need too, is in every container that runs models.
LIBRARIES = ("onnxruntime", "tokenizers")
#: The containers on AWS run on x86.
PLATFORM = "linux_x86_64"

#: Where training keeps the adapter of a model whose weights it is merged into.
_ADAPTER = "adapter"
#: Files of the model artifact that no container needs.
_LEFT_OUT = frozenset({MANIFEST, "training_log.jsonl"})
_CHECKPOINT = frozenset({"model.safetensors", "config.json", "spiece.model", "tokenizer_config.json"})
_REQUIRED = (MANIFEST, "code/inference.py", "tokenizer.json", "generation_config.json")
#: What a package needs besides where it says known answers only: their texts, the trie of their tokens, and the code.
_KNOWN_CODE = ("trie.py", "known_answers.py")
KNOWN = (ANSWERS, TRIE, *(f"code/{name}" for name in _KNOWN_CODE))
#: The same of a second opinion.
_OPINION_CODE = ("second_opinion.py", "judgement.py")
OPINION_FILES = (
    "second_opinion.onnx",
    "second_opinion.bin",
    "second_opinion_tokenizer.json",
    "second_opinion.safetensors",
)
OPINION = (*OPINION_FILES, *(f"code/{name}" for name in _OPINION_CODE))


class Variant(NamedTuple):
    """One way to pack a model."""

    engine: str
    quantisation: str

    @property
    def required(self) -> tuple[str, ...]:
        """What must stand in the archive."""
        if self.engine == "transformers":
            return (*_REQUIRED, "code/engine_transformers.py", "config.json", "tokenizer_config.json")
        return (*_REQUIRED, "code/engine_onnx.py", ENCODER, DECODER, WEIGHTS)

    @property
    def weights(self) -> tuple[str, ...]:
        """What the weights may be called."""
        return ("model.safetensors",) if self.engine == "transformers" else (WEIGHTS,)

    def __str__(self) -> str:
        """Return what a person reads."""
        return f"{self.engine} {self.quantisation}"


PLAIN = Variant("transformers", "fp32")


def variants(config: PackageConfig, model_type: str) -> tuple[tuple[Variant, ...], tuple[str, ...]]:
    """Return the ways to pack this kind of model, the wished one first, and what to say about them.

    Raises
    ------
    PackageError
        If ONNX Runtime is asked for and the model is no T5.
    """
    if config.engine == "transformers":
        return (PLAIN,), ()
    if model_type not in ("t5", "mt5"):
        reason = f"a model of type {model_type!r} has no ONNX graphs here, only t5 and mt5 have"
        if config.engine == "onnxruntime":
            raise PackageError(f"{reason}; choose --package.engine transformers")
        return (PLAIN,), (f"{reason}: it is served by the container's transformers",)
    whole = Variant("onnxruntime", "fp32")
    return ((whole,) if config.quantisation == "fp32" else (Variant("onnxruntime", "int8"), whole)), ()


def gather(
    variant: Variant,
    source: Path,
    model: ModelRef,
    scratch: Path,
    *,
    config: PackageConfig,
    python: str,
    cache: Path,
    known: Path | None = None,
    opinion: Path | None = None,
    progress: Progress = quiet,
) -> dict[str, Path]:
    """Return name in the archive to path, of all but the manifest; what must be made is made under ``scratch``.

    Parameters
    ----------
    known
        The evaluation's folder with the known answers and their trie; None for a package that writes freely.
    opinion
        The artifact of the second opinion; None for a model that judges alone.

    Raises
    ------
    PackageError
        If the checkpoint cannot be put into graphs, or the libraries cannot be had.
    ArtifactError
        If the disk is full.
    """
    files = {
        path.relative_to(source).as_posix(): path
        for path in source.rglob("*")
        if path.is_file() and path.name not in _LEFT_OUT and path.parent.name != _ADAPTER
    }
    files["code/inference.py"] = INFERENCE / "inference.py"
    if known is not None:
        files |= {name: known / name for name in (ANSWERS, TRIE)}
        files |= {f"code/{name}": INFERENCE / name for name in _KNOWN_CODE}
    if opinion is not None:
        files |= {name: opinion / name for name in OPINION_FILES}
        files |= {f"code/{name}": INFERENCE / name for name in _OPINION_CODE}
    libraries = partial(
        collect,
        [Requirement(name, version(name)) for name in LIBRARIES],
        python=python,
        platform=own_platform() if python == own_python() else PLATFORM,
        destination=scratch / "libraries",
        cache=cache,
        progress=part(progress, 0.5, 1.0),
    )
    if variant == PLAIN:
        files["code/engine_transformers.py"] = INFERENCE / "engine_transformers.py"
        if opinion is not None and config.carry_libraries:
            files |= libraries().members()
        return files
    for name in _CHECKPOINT:
        files.pop(name, None)
    files["code/engine_onnx.py"] = INFERENCE / "engine_onnx.py"
    graphs = scratch / variant.quantisation
    graphs.mkdir()
    progress(0.0, f"writing the graphs in {variant.quantisation}")
    write_graphs(
        source,
        graphs,
        int8=variant.quantisation == "int8",
        max_source_tokens=model.max_source_tokens,
        max_target_tokens=model.max_target_tokens,
    )
    files |= {path.name: path for path in graphs.iterdir()}
    if config.carry_libraries:
        files |= libraries().members()
    return files


def manifest(
    source: Path,
    files: dict[str, Path],
    variant: Variant,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    calibration: Calibration,
    *,
    judgement: dict[str, Any] | None = None,
    bare_answers: bool,
    license_name: str | None,
) -> str:
    """Return ``askline.json``: facts of the model alone, no time, no duration and no path of this machine.

    Raises
    ------
    PackageError
        If the model's own ``askline.json`` cannot be read.
    """
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
    libraries = {name: version(name) for name in LIBRARIES} if variant.engine == "onnxruntime" else {}
    known = {"known_answers": known_answers(files[ANSWERS], files[TRIE])} if ANSWERS in files else {}
    content = {
        **own,
        "engine": variant.engine,
        "quantisation": variant.quantisation,
        "answers": "bare" if bare_answers else "full",
        "model_version": model.sha256[:12],
        "prompt": model.prompt,
        "max_source_tokens": model.max_source_tokens,
        "max_target_tokens": model.max_target_tokens,
        "unanswerable": dataset.unanswerable,
        "calibration": calibration.model_dump(),
        "license": license_name or own.get("license", "apache-2.0"),
        "parameters": model.parameters,
        "dataset": about_dataset,
        "scores": about_scores,
        **known,
        **({"judgement": judgement} if judgement is not None else {}),
        "versions": {**own.get("versions", {}), "askline": __version__, **libraries},
        "files": {name: sha256_of_file(path) for name, path in sorted(files.items())},
    }
    return json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def known_answers(answers: Path, trie: Path) -> dict[str, Any]:
    """Return what the manifest says of the known answers.

    Raises
    ------
    PackageError
        If the two files do not belong together.
    """
    count, paths = len(read_answers(answers)), Trie.load(trie)
    if count != paths.answers:
        raise PackageError(f"{answers} has {count} answers, and {trie} {paths.answers}; evaluate again")
    return {"count": count, "declines": paths.declines, "depth": paths.depth}
