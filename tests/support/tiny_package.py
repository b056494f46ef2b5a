"""A T5 of some eighty thousand weights that really learned a dozen answers, as artifacts: for several test modules."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from askline.config import PackageConfig
from askline.records import DatasetRef, ModelRef, PackageRef, Scores, SourceRef, SplitScores
from askline.store import ArtifactStore
from support.tiny_datasets import NOWHERE
from tasks.package.package import build_package
from tasks.qa.prompt import format_prompt
from tasks.workplace import Workplace

PROMPT = "question: {question} answer:"
UNANSWERABLE = "I don't know"
QUESTIONS = {
    "Where was she born?": "Warsaw",
    "In which year was she born?": "1867",
    "What did she study first?": "physics",
    "Which city did she move to?": "Paris",
    "Who was her husband?": "Pierre",
    "Which element is named after Poland?": "polonium",
    "Which element glows in the dark?": "radium",
    "How many Nobel Prizes did she win?": "two",
    "What was her first daughter called?": "Irène",
    "Where did she teach?": "the Sorbonne",
    "What is the capital of Peru?": UNANSWERABLE,
    "How do I boil an egg?": UNANSWERABLE,
}
MAX_SOURCE, MAX_TARGET = 64, 16


class Tiny(NamedTuple):
    """The artifacts of a pipeline run up to the evaluation."""

    store: ArtifactStore
    dataset: DatasetRef
    model: ModelRef
    scores: Scores

    def build(self, store: ArtifactStore | None = None, config: PackageConfig | None = None) -> PackageRef:
        return build_package(
            config or PackageConfig(),
            self.model,
            self.scores,
            self.dataset,
            place=Workplace(NOWHERE, store=store or self.store),
        )


_made: list[Tiny] = []


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One trained model for the whole session; tests do not change its artifacts."""
    if not _made:
        _made.append(make_tiny(ArtifactStore(tmp_path_factory.mktemp("tiny"))))
    return _made[0]


_packages: list[PackageRef] = []


@pytest.fixture(scope="session")
def package(tiny: Tiny) -> PackageRef:
    """The trained model's package, in its store."""
    if not _packages:
        _packages.append(tiny.build())
    return _packages[0]


def make_tiny(store: ArtifactStore, *, steps: int = 140, seed: int = 1) -> Tiny:
    from tasks.fine_tune.export import export
    from tasks.qa.rows import Row
    from tasks.t5.scratch import initial_model, train_tokenizer

    rows = [Row(question, answer, None, answer != UNANSWERABLE) for question, answer in QUESTIONS.items()]
    with store.new("model") as draft:
        tokenizer = train_tokenizer(rows, PROMPT, draft.folder)
        network = initial_model(_shape(len(tokenizer)), tokenizer, seed)
        _teach(network, tokenizer, steps)
        export(network, tokenizer, draft.folder, pieces=None, max_target_tokens=MAX_TARGET)
        about = {"prompt": PROMPT, "max_source_tokens": MAX_SOURCE, "max_target_tokens": MAX_TARGET}
        (draft.folder / "askline.json").write_text(json.dumps({**about, "versions": {"torch": "2"}}))
        (draft.folder / "training_log.jsonl").write_text("{}\n")
        model_sha256 = draft.commit()
    model = model_ref(model_sha256)
    predictions = predict(store.path("model", model_sha256), list(QUESTIONS))
    scores = write_scores(store, model_sha256, dict(zip(QUESTIONS, predictions, strict=True)))
    source = SourceRef(kind="file", location="/somewhere/else/questions.csv", revision="r1")
    dataset = DatasetRef(
        sha256="d" * 64,
        source=source,
        splits={"train": 12, "test": 12},
        rejected=0,
        question_column="question",
        answer_column="answer",
        split_by="wording",
        unanswerable=UNANSWERABLE,
    )
    return Tiny(store, dataset, model, scores)


def with_known_answers(tiny: Tiny) -> Tiny:
    """Return the same model, evaluated as one that chooses among its known answers."""
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    from tasks.qa.answers import answer_id, known_of
    from tasks.qa.rows import Row
    from tasks.t5.decoding import answer_known

    rows = [Row(question, answer, None, answer != UNANSWERABLE) for question, answer in QUESTIONS.items()]
    folder = tiny.store.path("model", tiny.model.sha256)
    known = known_of(rows, rows, folder / "tokenizer.json", max_target_tokens=MAX_TARGET, declining=UNANSWERABLE)
    found = answer_known(
        T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32),
        T5Tokenizer.from_pretrained(folder),
        list(QUESTIONS),
        known.trie,
        prompt=PROMPT,
        max_source_tokens=MAX_SOURCE,
        batch_size=5,
    )
    lines = []
    for row, each in zip(rows, found, strict=True):
        best = int(each.indices[0])
        line = {"split": "test" if row.in_scope else "out_of_scope", "question": row.question, "answer": row.answer}
        line |= {"prediction": known.text(best), "in_scope": row.in_scope, "confidence": each.token_probability}
        lines.append(
            line | {"answer_id": known.id(best), "expected_id": answer_id(row.answer) if row.in_scope else None}
        )
    with tiny.store.new("scores") as draft:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (draft.folder / "predictions.jsonl").write_text(text, encoding="utf-8")
        known.write(draft.folder)
        sha256 = draft.commit()
    return tiny._replace(scores=tiny.scores.model_copy(update={"sha256": sha256, "answers": "known"}))


def model_ref(sha256: str) -> ModelRef:
    return ModelRef(
        sha256=sha256,
        base="scratch",
        base_revision=None,
        dataset_sha256="d" * 64,
        prompt=PROMPT,
        parameters=1,
        steps=1,
        epochs=1,
        train_loss=0.1,
        precision="fp32",
        seconds=1,
        max_source_tokens=MAX_SOURCE,
        max_target_tokens=MAX_TARGET,
    )


def write_scores(store: ArtifactStore, model_sha256: str, predictions: dict[str, str]) -> Scores:
    """Write what the evaluation would: the predictions as held-out answers, and one of a training question."""
    lines = [{"split": "train", "question": "What is trained?", "answer": "x", "prediction": "y", "in_scope": True}]
    for question, prediction in predictions.items():
        answer = QUESTIONS.get(question, "")
        in_scope = answer != UNANSWERABLE
        split = "test" if in_scope else "out_of_scope"
        line = {"split": split, "question": question, "answer": answer, "prediction": prediction, "in_scope": in_scope}
        lines.append(line | {"confidence": 0.9})
    with store.new("scores") as draft:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (draft.folder / "predictions.jsonl").write_text(text, encoding="utf-8")
        sha256 = draft.commit()
    split_scores = SplitScores(questions=10, exact_match=1, token_f1=1, rouge_l=1)
    return Scores(
        sha256=sha256,
        model_sha256=model_sha256,
        train=split_scores,
        test=split_scores,
        out_of_scope=split_scores,
        false_abstention=0,
        baselines={},
        seconds=1.5,
    )


def predict(folder: Path, questions: list[str]) -> list[str]:
    """Ask a checkpoint with the evaluation's own code."""
    import torch
    from transformers import T5ForConditionalGeneration, T5Tokenizer

    from tasks.t5.decoding import answer_questions

    return answer_questions(
        T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32),
        T5Tokenizer.from_pretrained(folder),
        questions,
        prompt=PROMPT,
        max_source_tokens=MAX_SOURCE,
        max_target_tokens=MAX_TARGET,
        batch_size=5,
    )


def _shape(vocabulary: int) -> Any:
    from transformers import T5Config

    return T5Config(
        vocab_size=vocabulary,
        d_model=48,
        d_kv=16,
        d_ff=96,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=3,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
        tie_word_embeddings=False,
    )


def _teach(network: Any, tokenizer: Any, steps: int) -> None:
    import torch

    prompts = tokenizer([format_prompt(PROMPT, question) for question in QUESTIONS], padding=True, return_tensors="pt")
    labels = tokenizer(list(QUESTIONS.values()), padding=True, return_tensors="pt")["input_ids"]
    labels = labels.masked_fill(labels == tokenizer.pad_token_id, -100)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    network.train()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a model is many times slower on threads that wait for each other
    for _ in range(steps):
        loss = network(**prompts, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
