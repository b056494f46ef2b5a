"""A base is the model that it says, and the one that is chosen where nobody names one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from askline.config import DatasetConfig, PipelineConfig, TrainingConfig
from askline.errors import TrainingError
from askline.records import Target
from tasks.fine_tune.lengths import fit_lengths
from tasks.qa.prompt import format_prompt
from tasks.qa.rows import Row
from tasks.t5.base import Base, choose_base, load_base, resolve_base
from tasks.t5.scratch import initial_model, small_t5, tokenizer_from_pieces, train_tokenizer
from tasks.t5.whole import check_reads, check_tokenizer_fits
from tasks.workplace import Workplace

ROWS = [Row(f"What is the use of part {n} of the machine?", f"It holds part {n + 1}.", None, True) for n in range(30)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A T5 with two matrices, as Flan-T5 has them."""
    folder = tmp_path_factory.mktemp("whole")
    tokenizer = train_tokenizer(ROWS, "q: {question}", folder)
    model = initial_model(small_t5(len(tokenizer)), tokenizer, seed=1)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items() if "embed_tokens" not in name}
    weights["lm_head.weight"] = torch.randn_like(weights["lm_head.weight"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = model.config.to_dict() | {"tie_word_embeddings": False}
    config.pop("scale_decoder_outputs", None)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    return folder


def changed(whole: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    """Copy a base, with other weights."""
    shutil.copytree(whole, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load(folder: Path) -> tuple[Any, Any]:
    return load_base(Base(folder, "little", None, ""))


def test_a_whole_base_is_loaded_as_it_stands(whole: Path) -> None:
    model, tokenizer = load(whole)
    assert torch.equal(model.lm_head.weight, load_file(whole / "model.safetensors")["lm_head.weight"])
    assert len(tokenizer) == model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("lm_head.weight"), "lacks 1 weights, such as lm_head.weight"),
        (lambda weights: weights.pop("shared.weight"), "lacks|was not loaded as it stands"),
        (
            lambda weights: weights.update({"decoder.block.9.layer.0.SelfAttention.q.weight": torch.zeros(4, 4)}),
            "holds decoder.block.9.layer.0.SelfAttention.q.weight, which its config.json has no place for",
        ),
        (lambda weights: weights.pop("encoder.final_layer_norm.weight"), "lacks 1 weights, such as encoder.final"),
    ],
    ids=["no head", "only the head", "more layers", "a layer less"],
)
def test_a_base_that_is_not_whole_is_refused(
    whole: Path, tmp_path: Path, change: Callable[[dict[str, torch.Tensor]], Any], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        load(changed(whole, tmp_path / "base", change))


def test_a_base_without_its_tokenizer_or_with_another_ones_is_refused(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(whole, folder)
    for name in ("tokenizer.json", "spiece.model"):
        (folder / name).unlink()
    with pytest.raises(TrainingError, match="comes without its tokenizer"):
        load(folder)
    with pytest.raises(TrainingError, match="a tokenizer of 104 tokens but 32,128 embeddings; the two do not belong"):
        check_tokenizer_fits(range(104), 32_128, "little")
    check_tokenizer_fits(range(32_100), 32_128, "flan-t5-small")
    check_tokenizer_fits(range(250_100), 250_112, "mt5-small")


def test_mt5_is_trained_as_the_t5_that_it_is_without_sentinels(whole: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_from_pieces(whole / "spiece.model", 0)
    folder = changed(
        whole,
        tmp_path / "mt5",
        lambda weights: weights.update(
            {name: weights[name][: len(tokenizer)].clone() for name in ("shared.weight", "lm_head.weight")}
        ),
    )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "mt5", "vocab_size": len(tokenizer), "architectures": ["MT5ForConditionalGeneration"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    model, loaded = load(folder)
    assert len(loaded) == len(tokenizer) == model.get_input_embeddings().num_embeddings
    tokenizer.save_pretrained(folder)
    _, saved = load(folder)
    assert saved("It holds part 3.")["input_ids"] == loaded("It holds part 3.")["input_ids"]


def test_a_base_that_cannot_read_the_questions_is_refused_with_what_to_do(whole: Path) -> None:
    _, tokenizer = load(whole)
    read = [row.question for row in ROWS[:8]]
    check_reads(tokenizer, [*read, "開館時間は何時ですか？"], 0.3, "little")
    with pytest.raises(TrainingError, match=r"cannot read 4 of 12 training questions.*google/mt5-small or scratch"):
        check_reads(tokenizer, [*read, *["開館時間は何時ですか？"] * 4], 0.3, "little")


# --- the base that is chosen


def test_the_sample_is_trained_from_scratch_and_other_data_from_what_can_be_had() -> None:
    assert PipelineConfig().training.base == "scratch"
    assert PipelineConfig(dataset=DatasetConfig(source="my.csv")).training.base == "auto"
    named = PipelineConfig(training=TrainingConfig(base="google/flan-t5-base"))
    assert named.training.base == "google/flan-t5-base"


def test_a_base_that_nobody_decided_is_the_one_that_needs_no_download() -> None:
    nowhere = Workplace(Target(kind="aws", region="us-east-1", hub="http://127.0.0.1:9"))
    assert resolve_base("auto", None, place=nowhere) == resolve_base("scratch", None, place=nowhere)


def test_where_no_hub_answers_the_small_t5_is_taken_with_a_plain_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    target = Target(kind="aws", region="us-east-1", hub="http://127.0.0.1:9")
    chosen = choose_base(12, place=Workplace(target))
    assert (chosen.name, chosen.revision, chosen.fingerprint) == ("scratch", None, "scratch")
    assert "google/flan-t5-" in str(chosen.why)
    assert "--training.base FOLDER" in str(chosen.why)


def test_a_hub_that_is_silent_is_not_waited_for(tmp_path: Path) -> None:
    import socket

    with socket.socket() as silent:  # takes the call and never answers
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        target = Target(kind="aws", region="us-east-1", hub=f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert choose_base(12, place=Workplace(target), seconds=0.2).name == "scratch"


# --- lengths


class Words:
    """A tokenizer of words."""

    def __call__(self, texts: list[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[*(hash(word) for word in text.split()), 1] for text in texts]}


def rows(*lengths: int) -> list[Row]:
    return [Row("one " * length, f"{length} " + "two " * (length - 1), None, True) for length in lengths]


def test_lengths_are_what_the_data_needs() -> None:
    usual = fit_lengths(TrainingConfig(prompt="{question}"), rows(5, 60), Words())
    assert (usual.max_source_tokens, usual.max_target_tokens, usual.reasons) == (128, 64, ())
    long = fit_lengths(TrainingConfig(prompt="{question}"), rows(5, 200), Words())
    assert (long.max_source_tokens, long.max_target_tokens) == (201, 201)
    assert (long.cut_questions, long.cut_answers) == (0, 0)
    assert "answers up to 201 tokens, since the longest has 201" in long.reasons[1]
    assert format_prompt("{question}", "x") == "x"


def test_a_cut_is_counted_and_said() -> None:
    cut = fit_lengths(TrainingConfig(prompt="{question}"), rows(5, 600, 700), Words())
    assert (cut.max_source_tokens, cut.max_target_tokens) == (512, 512)
    assert (cut.cut_questions, cut.cut_answers) == (2, 2)
    assert "2 of 3 answers are trained without their end" in cut.reasons[-1]
    named = fit_lengths(TrainingConfig(max_source_tokens=8, max_target_tokens=4), rows(5, 20), Words())
    assert (named.max_source_tokens, named.max_target_tokens) == (8, 4)
    assert (named.cut_questions, named.cut_answers) == (1, 2)


def test_answers_that_part_late_are_trained_up_to_there() -> None:
    same = "word " * 600
    late = [Row("a", f"{same} left", None, True), Row("b", f"{same} right", None, True)]
    assert fit_lengths(TrainingConfig(), late, Words()).max_target_tokens == 601
