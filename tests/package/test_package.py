"""The archive: the same bytes from the same model, checked, and proved to answer as the evaluation did."""

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.tiny_package import (  # noqa: F401
    MAX_TARGET,
    QUESTIONS,
    UNANSWERABLE,
    Tiny,
    make_tiny,
    model_ref,
    package,
    tiny,
    write_scores,
)

from askline.config import PackageConfig
from askline.errors import ArtifactError, PackageError
from askline.records import PackageRef
from askline.store import ArtifactStore, sha256_of_file
from inference import inference
from tasks.package import archive, contents
from tasks.package.calibration import Calibration
from tasks.package.package import ARCHIVE
from tasks.package.proof import prove
from tasks.qa.held_out import HeldOut, read_held_out, spread

LEAN = PackageConfig(carry_libraries=False)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """Files that have the right names; nothing loads them."""
    folder = tmp_path / "files"
    names = [*archive.REQUIRED, archive.WEIGHTS[0], "tokenizer.json"]
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode() * (number + 1) * 1000)
    return {name: folder / name for name in names}


def test_the_archive_has_the_layout_of_the_container(tiny: Tiny, package: PackageRef) -> None:  # noqa: F811
    path = tiny.store.verify("package", package.sha256) / ARCHIVE
    assert sha256_of_file(path) == package.archive_sha256
    assert path.stat().st_size == package.size
    with tarfile.open(path) as tar:
        members = tar.getmembers()
        code = tar.extractfile("code/inference.py")
        assert code is not None
        assert code.read() == (Path(__file__).parents[2] / "inference" / "inference.py").read_bytes()
    names = [member.name for member in members]
    assert names == sorted(names) == list(package.members)
    assert {"askline.json", "encoder.onnx", "decoder.onnx", "weights.bin", "tokenizer.json"} <= set(names)
    assert {"code/inference.py", "code/engine_onnx.py"} <= set(names)
    assert not [name for name in names if name.endswith((".safetensors", ".jsonl")) or "torch" in name]
    tag = f"cp{package.python}".replace(".", "")
    assert any(name.startswith(f"code/lib/{tag}/onnxruntime/capi/") for name in names)
    assert sum(member.size for member in members) == package.unpacked_size
    for member in members:
        assert (member.mode, member.mtime, member.uid, member.gid, member.uname, member.gname) == (
            0o644,
            0,
            0,
            0,
            "",
            "",
        )


def test_the_manifest_tells_what_is_served(tiny: Tiny, package: PackageRef, tmp_path: Path) -> None:  # noqa: F811
    archive.unpack(tiny.store.path("package", package.sha256) / ARCHIVE, tmp_path)
    manifest = json.loads((tmp_path / "askline.json").read_text(encoding="utf-8"))
    assert manifest["model_version"] == tiny.model.sha256[:12]
    assert manifest["prompt"] == tiny.model.prompt
    assert manifest["dataset"]["location"] == "questions.csv", "no path of this machine"
    assert manifest["dataset"]["revision"] == "r1"
    assert manifest["scores"]["test"]["exact_match"] == 1
    assert manifest["versions"]["torch"] == "2"
    assert manifest["license"]
    on_disk = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert set(manifest["files"]) == on_disk - {"askline.json"}
    for name, sha256 in manifest["files"].items():
        assert sha256_of_file(tmp_path / name) == sha256


def test_two_machines_pack_the_same_bytes(tiny: Tiny, package: PackageRef, tmp_path: Path) -> None:  # noqa: F811
    """Another folder, another time, other modes, and an evaluation that took longer."""
    for kind in ("model", "scores"):
        shutil.copytree(tiny.store.root / kind, tmp_path / "elsewhere" / kind)
    for path in (tmp_path / "elsewhere").rglob("*"):
        path.chmod(0o755)
        os.utime(path, (1, 1))
    source = tiny.dataset.source.model_copy(update={"location": "/another/place/questions.csv"})
    again = tiny._replace(
        scores=tiny.scores.model_copy(update={"seconds": 99.0}),
        dataset=tiny.dataset.model_copy(update={"source": source}),
    ).build(ArtifactStore(tmp_path / "elsewhere"))
    assert again.model_copy(update={"measured": None}) == package.model_copy(update={"measured": None})


def test_the_gzip_header_holds_no_name_and_no_time(files: dict[str, Path], tmp_path: Path) -> None:
    archive.pack(files, tmp_path / "a.tar.gz")
    header = (tmp_path / "a.tar.gz").read_bytes()[:10]
    assert header[3] == 0, "no flags: neither name nor comment"
    assert header[4:8] == b"\0\0\0\0", "no time"


def test_a_package_of_another_model_is_not_made(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    """The predictions of one model beside the weights of another: what a mix-up of checkpoints looks like."""
    store = ArtifactStore(tmp_path)
    other = make_tiny(store, steps=1, seed=5)
    evaluated = {row.question: row.prediction for row in read_held_out(tiny.scores, tiny.store)}
    mixed = other._replace(scores=write_scores(store, other.model.sha256, evaluated))
    with pytest.raises(PackageError) as caught:
        mixed.build(config=LEAN)
    message = str(caught.value)
    assert any(repr(question) in message for question in QUESTIONS)
    assert "in the evaluation" in message or "evaluation did" in message
    assert not list((tmp_path / "package").iterdir()), "nothing is kept"


def test_scores_of_another_model_are_refused_before_any_work(tiny: Tiny) -> None:  # noqa: F811
    with pytest.raises(PackageError, match="evaluate this model"):
        tiny._replace(model=model_ref("0" * 64)).build()


def test_a_damaged_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    for kind in ("model", "scores"):
        shutil.copytree(tiny.store.root / kind, tmp_path / kind)
    weights = tmp_path / "model" / tiny.model.sha256 / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match="damaged"):
        tiny.build(ArtifactStore(tmp_path))


def test_an_archive_that_cannot_be_loaded_shows_why(tmp_path: Path, files: dict[str, Path]) -> None:
    files["code/inference.py"].write_text("import no_such_library_at_all\n")
    archive.pack(files, tmp_path / ARCHIVE)
    with pytest.raises(PackageError, match="no_such_library_at_all"):
        prove(tmp_path / ARCHIVE, [HeldOut("Who?", "A", "A", True)])


def served(tiny: Tiny, package: PackageRef, folder: Path) -> inference.Answerer:  # noqa: F811
    archive.unpack(tiny.store.path("package", package.sha256) / ARCHIVE, folder)
    return inference.model_fn(str(folder))


def test_the_proof_measures_what_deployment_sizes_from(package: PackageRef) -> None:  # noqa: F811
    assert (package.engine, package.quantisation, package.passed_over) == ("onnxruntime", "int8", ())
    assert package.agreement is not None
    assert package.agreement.questions == len(QUESTIONS)
    assert package.agreement.same_answers == package.agreement.same_tokens == 1
    assert package.measured is not None
    assert package.measured.load_seconds > 0
    assert 30 < package.measured.load_peak_mb <= package.measured.peak_mb < 400, "no torch in the process"
    assert 0 < package.measured.answer_seconds <= package.measured.answer_seconds_p95
    assert package.measured.batch_questions == 8


def ruin_in_bytes(tiny: Tiny, store: ArtifactStore) -> Tiny:  # noqa: F811
    """The same function in fp32, and nonsense in bytes: one weight of each output dwarfs the others.

    The residual stream gets one more pair of inputs that always cancel each other out exactly, with huge weights.
    """
    import torch
    from safetensors.torch import load_file, save_file

    source = tiny.store.path("model", tiny.model.sha256)
    with store.new("model") as draft:
        for path in source.iterdir():
            shutil.copyfile(path, draft.folder / path.name)
        state = load_file(source / "model.safetensors")
        for name, weight in state.items():
            # The gate of such a neuron is gelu(0) = 0, so its output weight is never seen, but shares its scale.
            if name.endswith("DenseReluDense.wo.weight"):
                weight[:, 0] = 1000.0
                state[name.replace("wo", "wi_0")][0] = 0.0
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, draft.folder / "model.safetensors")
        assert torch.isfinite(state["lm_head.weight"]).all()
        sha256 = draft.commit()
    return tiny._replace(store=store, model=model_ref(sha256))


def test_bytes_that_answer_badly_give_way_to_fp32(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    from support.tiny_package import predict

    bad = ruin_in_bytes(tiny, ArtifactStore(tmp_path / "store"))
    answers = predict(bad.store.path("model", bad.model.sha256), list(QUESTIONS))
    predictions = dict(zip(QUESTIONS, answers, strict=True))
    assert sum(predictions[question] == answer for question, answer in QUESTIONS.items()) >= 9, "fp32 is as good"
    bad = bad._replace(scores=write_scores(bad.store, bad.model.sha256, predictions))
    package = bad.build(config=LEAN)  # noqa: F811
    assert (package.engine, package.quantisation) == ("onnxruntime", "fp32")
    assert package.agreement is not None
    assert package.agreement.same_answers == 1
    (reason,) = package.passed_over
    assert reason.startswith("onnxruntime int8 was not taken: ")
    assert "package.min_same_answers asks for 97.0%" in reason
    assert "in the evaluation and" in reason, "an example is shown"
    answers = served(bad, package, tmp_path / "served").engine.generate(
        [bad.model.prompt.replace("{question}", question) for question in QUESTIONS], max_new_tokens=MAX_TARGET
    )
    assert [text for text, _, _ in answers] == list(predictions.values())


def test_a_tolerance_of_nothing_is_met_by_every_exact_engine(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    for config in (
        LEAN,
        PackageConfig(engine="transformers"),
        PackageConfig(quantisation="fp32", carry_libraries=False),
    ):
        exact = config.model_copy(update={"min_same_answers": 0.999, "max_score_loss": 0.0})
        package = tiny.build(config=exact)  # noqa: F811
        assert package.agreement is not None
        assert package.agreement.same_answers == 1
        if config.engine == "transformers":
            assert package.engine == "transformers"
            assert "model.safetensors" in package.members


def test_the_adapter_of_a_model_stays_out_of_the_archive(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    source = tmp_path / "model"
    (source / "adapter").mkdir(parents=True)
    for name in (
        "config.json",
        "model.safetensors",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    ):
        (source / name).write_text("{}")
    files = contents.gather(
        contents.PLAIN, source, tiny.model, tmp_path, config=LEAN, python="3.12", cache=tmp_path / "cache"
    )
    assert set(files) == {"config.json", "model.safetensors", "code/inference.py", "code/engine_transformers.py"}


def test_a_model_without_graphs_is_served_by_transformers() -> None:
    ways, notes = contents.variants(PackageConfig(), "bart")
    assert ways == (contents.PLAIN,)
    assert "bart" in notes[0]
    with pytest.raises(PackageError, match=r"--package\.engine transformers"):
        contents.variants(PackageConfig(engine="onnxruntime"), "bart")


def test_bare_answers_are_those_of_the_first_version(tiny: Tiny, tmp_path: Path) -> None:  # noqa: F811
    model = served(tiny, tiny.build(config=PackageConfig(answers="bare", carry_libraries=False)), tmp_path / "bare")

    def first_version(question: str) -> Any:
        body = json.dumps({"inputs": "" + question + " answer:"})
        return json.loads(inference.output_fn(inference.predict_fn(inference.input_fn(body), model)))

    for question, answer in QUESTIONS.items():
        assert first_version(question) == answer
    several = inference.predict_fn(inference.input_fn(json.dumps({"inputs": list(QUESTIONS)})), model)
    assert json.loads(inference.output_fn(several)) == list(QUESTIONS.values())


def test_the_archives_confidence_is_the_calibrated_one() -> None:
    fitted = Calibration(
        method="platt", a=1.3, b=-0.7, questions=260, ece_before=0.1, ece_after=0.05, brier_before=0.2, brier_after=0.1
    )
    for probability in (0.0, 1e-6, 0.1, 0.5, 0.731, 0.99999, 1.0):
        assert inference.calibrated(probability, fitted.model_dump()) == fitted.apply(probability)


def test_below_the_threshold_the_package_abstains_and_says_what_it_withholds() -> None:
    class Unsure:
        def generate(self, prompts: list[str], **options: Any) -> list[tuple[str, float, int]]:
            return [("Paris", 0.4, 2), ("Warsaw", 0.9, 2)]

    model = inference.Answerer(
        Unsure(), "{question}", 8, "v", {"a": 1.0, "b": 0.0, "clip": 1e-4, "threshold": 0.5}, UNANSWERABLE
    )
    given = inference.predict_fn(inference.input_fn('{"inputs": ["a", "b"]}'), model)["answers"]
    assert given[0] == {
        "answer": UNANSWERABLE,
        "confidence": 0.4,
        "token_probability": 0.4,
        "tokens": 2,
        "abstained": True,
        "withheld": "Paris",
        "finish_reason": "declined",
    }
    assert given[1]["answer"] == "Warsaw"
    assert "abstained" not in given[1]


def test_a_package_for_another_python_says_so(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    archive.unpack(tiny.store.path("package", tiny.build(config=LEAN).sha256) / ARCHIVE, tmp_path)
    (tmp_path / "code" / "lib" / "cp27").mkdir(parents=True)
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    monkeypatch.delitem(__import__("sys").modules, "inference.engine_onnx", raising=False)
    with pytest.raises(RuntimeError, match=r"carries them for \['cp27'\], and this is Python 3"):
        inference.model_fn(str(tmp_path))


def test_the_proof_asks_over_the_whole_evaluation() -> None:
    rows = [HeldOut(str(number), "", "", True) for number in range(100)]
    chosen = spread(rows, 10, seed=0)
    assert chosen == spread(rows, 10, seed=0)
    assert [int(row.question) // 10 for row in chosen] == list(range(10))
    assert spread(rows, 10, seed=1) != chosen
    assert spread(rows[:3], 10, seed=0) == rows[:3]
    assert spread([], 10, seed=0) == []


def repack(path: Path, change: Callable[[tarfile.TarFile, list[tarfile.TarInfo]], None]) -> None:
    """Write an archive that ``change`` fills, from all the members of the one at ``path``."""
    with tarfile.open(path) as source:
        members = source.getmembers()
        content = {member.name: source.extractfile(member).read() for member in members}  # type: ignore[union-attr]
    with tarfile.open(path, "w:gz") as tar:
        change(tar, members)
        for member in members:
            tar.addfile(member, io.BytesIO(content[member.pax_headers.get("was", member.name)]))


def add_link(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    link = tarfile.TarInfo("spiece.model")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(link)


def lead_out(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    tar.addfile(tarfile.TarInfo("../outside"))


def be_absolute(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    tar.addfile(tarfile.TarInfo("/etc/askline"))


def repeat(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    tar.addfile(tarfile.TarInfo("config.json"))


def put_into_a_folder(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    for member in members:
        member.pax_headers = {"was": member.name}
        member.name = "model/" + member.name


def lose_the_code(tar: tarfile.TarFile, members: list[tarfile.TarInfo]) -> None:
    members[:] = [member for member in members if member.name != "code/inference.py"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (add_link, "spiece.model is a link"),
        (lead_out, "../outside leads out"),
        (be_absolute, "/etc/askline leads out"),
        (repeat, "config.json is there twice"),
        (put_into_a_folder, "config.json lies in a folder (model/config.json), not at the root"),
        (lose_the_code, "code/inference.py is missing"),
    ],
)
def test_what_cannot_be_served_is_found(
    files: dict[str, Path],
    tmp_path: Path,
    change: Callable[[tarfile.TarFile, list[tarfile.TarInfo]], None],
    expected: str,
) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    assert set(archive.lint(path)[0]) == set(files)
    repack(path, change)
    with pytest.raises(PackageError) as caught:
        archive.lint(path)
    assert expected in str(caught.value)


def test_more_than_the_endpoints_disk_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    size = archive.lint(path)[1]
    assert size == sum(file.stat().st_size for file in files.values())
    with pytest.raises(PackageError, match=f"takes {size:,} bytes unpacked"):
        archive.lint(path, max_unpacked=size)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_cut_archive_is_no_archive(files: dict[str, Path], tmp_path: Path, keep: float) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(PackageError, match="not a whole"):
        archive.lint(path)


def test_a_flipped_bit_is_found(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / ARCHIVE
    archive.pack(files, path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(PackageError, match="not a whole"):
        archive.lint(path)


def test_packing_reports_how_far_it_is(files: dict[str, Path], tmp_path: Path) -> None:
    shares: list[float] = []
    archive.pack(files, tmp_path / ARCHIVE, shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
