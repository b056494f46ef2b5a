"""The model card: what the model is, how good it is and how to call it, from the records alone.

The same records and artifacts give the same text: no date, no address and no path of the machine stands in it.
"""

import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from askline.config import HubConfig
from askline.records import DatasetRef, ModelRef, Scores, SplitScores
from askline.store import ArtifactStore
from tasks.report import curves, tables
from tasks.report.markdown import predictions, table
from tasks.report.words import percent

EXAMPLES = 5
_SPLITS = {
    "existing": "the dataset's own splits",
    "group": "by group: questions that ask for the same fact are all on one side, so the test asks for unseen facts",
    "answer": "by answer: questions with the same answer are all on one side, so the test asks for unseen answers",
    "wording": "unseen wordings: the test asks for facts of the training questions in other words",
    "made": "every fact is trained: the test asks in unseen wordings, or where a fact has one, in words made by rule",
}
_UNITS = {"exact_match": "Exact match, %", "f1": "Token F1, %", "rouge": "ROUGE-L, %"}


def model_card(
    config: HubConfig,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    *,
    mlkey: str,
    repo_id: str,
    tag: str,
    store: ArtifactStore,
    language: str | list[str] | None = None,
) -> str:
    """Return the text of ``README.md``: metadata for the Hub, then the card for people.

    Parameters
    ----------
    mlkey
        Name by which callers of the API choose the model.
    repo_id
        Where it will be published; stands, with ``tag``, in the code that loads it.
    store
        Holds the model with its ``askline.json`` and the scores with their predictions.
    language
        Language of the dataset, where it is known (ISO 639 codes).
    """
    from huggingface_hub import ModelCard

    about = json.loads((store.path("model", model.sha256) / "askline.json").read_text(encoding="utf-8"))
    shown = {picture.name: f"![{picture.title}]({picture.name}.png)" for picture in _pictures(model, scores, store)}
    held_out = [row for row in predictions(scores, store) if row["split"] != "train"]
    right = _distinct(row for row in held_out if row["exact_match"])
    wrong = _distinct(row for row in held_out if not row["exact_match"])
    question = str(((right or wrong or [{"question": "…"}])[0])["question"])
    parts = [
        f"# {repo_id.split('/')[-1]}",
        _what_it_is(model, dataset, mlkey),
        "## How to call it",
        _how_to_call(model, mlkey, repo_id, tag, question),
        "## Data",
        _data(dataset),
        "## Scores",
        _scores(scores),
        *([shown["coverage"]] if "coverage" in shown else []),
        "## Examples",
        _examples(right, wrong),
        "## Intended use",
        f"Answering short questions like those of {_code(source_name(dataset))}, in its language and about its "
        "subject. The answers are short texts learnt by heart; show them to people with that in mind, and measure "
        "again before a use that the test does not resemble.",
        "## Limits",
        _limits(model, scores, dataset),
        "## Training",
        *([shown["training"]] if "training" in shown else []),
        _training(model, about),
    ]
    data = _metadata(config, model, scores, dataset, repo_id=repo_id, language=language)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(parts) + "\n")).rstrip("\n") + "\n"


def card_pictures(model: ModelRef, scores: Scores, store: ArtifactStore) -> dict[str, bytes]:
    """Return the pictures that the card shows, as PNG files by their names: they stand beside ``README.md``.

    The same records give the same bytes with the same matplotlib.
    """
    return {f"{picture.name}.png": picture.png() for picture in _pictures(model, scores, store)}


def _pictures(model: ModelRef, scores: Scores, store: ArtifactStore) -> list[curves.Picture]:
    drawn = (curves.training(curves.read_training_log(model, store)), tables.confidence(scores, store).picture)
    return [picture for picture in drawn if picture is not None]


def _metadata(
    config: HubConfig,
    model: ModelRef,
    scores: Scores,
    dataset: DatasetRef,
    *,
    repo_id: str,
    language: str | list[str] | None,
) -> Any:
    from huggingface_hub import EvalResult, ModelCardData

    source = dataset.source
    on_hub = source.kind == "hub"
    results = []
    measured = [("test", "questions not seen in training", scores.test)]
    if scores.out_of_scope is not None:
        # A split of its own: results with the same task, dataset, split and revision would be merged.
        measured.append(("test, out of scope", "out-of-scope questions", scores.out_of_scope))
    for split, kind, each in measured:
        values = (("exact_match", each.exact_match), ("f1", each.token_f1), ("rouge", each.rouge_l))
        results += [
            EvalResult(
                task_type="question-answering",
                task_name="Closed-book question answering",
                dataset_type=source.location if on_hub else "local",
                dataset_name=f"{source_name(dataset)}, {kind}",
                dataset_config=source.subset,
                dataset_split=split,
                dataset_revision=source.revision,
                metric_type=metric,
                metric_name=_UNITS[metric],
                metric_value=round(100 * value, 2),
            )
            for metric, value in values
        ]
    return ModelCardData(
        language=language,
        license=config.license,
        library_name="transformers",
        # Of the Hub's list, which has no text2text-generation any more; its description of this one takes in models
        # that answer without a context.
        pipeline_tag="question-answering",
        # A folder is known by its path alone, which says nothing to others.
        base_model=model.base if model.base_revision is not None else None,
        datasets=[source.location] if on_hub else None,
        metrics=list(_UNITS),
        tags=["t5", "closed-book", "askline"],
        model_name=repo_id.split("/")[-1],
        eval_results=results,
    )


def source_name(dataset: DatasetRef) -> str:
    """Return a name of the dataset that can be published: no path of this machine, no signature of a URL."""
    source = dataset.source
    if source.kind == "file":
        return Path(source.location).name
    if source.kind == "https":
        parts = urlsplit(source.location)
        return f"{parts.scheme}://{parts.hostname}{parts.path}"
    return source.location


def _what_it_is(model: ModelRef, dataset: DatasetRef, mlkey: str) -> str:
    if model.base == "scratch":
        origin = "trained from scratch, from the dataset alone"
    elif model.base_revision is None:
        origin = f"fine-tuned from the checkpoint {_code(Path(model.base).name)}"
    else:
        origin = f"fine-tuned from [{_text(model.base)}](https://huggingface.co/{model.base})"
        origin += f" at {_code(model.base_revision[:12])}"
    return (
        f"A T5 of {model.parameters / 1e6:.1f} million parameters that answers questions, {origin}. It was made by "
        f"askline, and callers of its API know it as {_code(mlkey)}. It answers from its weights: no document is "
        f"looked up. A question that it was not trained for should be answered with {_code(dataset.unanswerable)}."
    )


def _how_to_call(model: ModelRef, mlkey: str, repo_id: str, tag: str, question: str) -> str:
    body = json.dumps({"MLKey": mlkey, "question": question}, ensure_ascii=False).replace("'", "'\\''")
    return f"""The prompt is {_code(model.prompt)}; the model knows no other. With transformers 4 or 5:

```python
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

repository, revision = {_python(repo_id)}, {_python(tag)}
tokenizer = AutoTokenizer.from_pretrained(repository, revision=revision)
model = AutoModelForSeq2SeqLM.from_pretrained(repository, revision=revision)

question = {_python(question)}
prompt = {_python(model.prompt)}.replace("{{question}}", " ".join(question.split()))
inputs = tokenizer(prompt, truncation=True, max_length={model.max_source_tokens}, return_tensors="pt")
output = model.generate(**inputs, max_new_tokens={model.max_target_tokens}, do_sample=False, num_beams=1)
print(tokenizer.decode(output[0], skip_special_tokens=True).strip())
```

A private repository needs `HF_TOKEN`, one on another Hub than huggingface.co needs `HF_ENDPOINT`; set them first.

Through the API that askline deploys, with its address in `ASKLINE_API`:

```sh
curl --location --request GET "$ASKLINE_API" --header 'Content-Type: application/json' --data '{body}'
```"""


def _data(dataset: DatasetRef) -> str:
    rows = [
        ["Source", _code(source_name(dataset))],
        ["Revision", _code(dataset.source.revision)],
        ["Columns", f"{_code(dataset.question_column)} and {_code(dataset.answer_column)}"],
        ["Split", _SPLITS[dataset.split_by]],
        *[[f"Questions, {_text(name)}", f"{count:,}"] for name, count in sorted(dataset.splits.items())],
        ["Rows rejected", f"{dataset.rejected:,} (blank or contradictory)"],
    ]
    if dataset.source.subset is not None:
        rows.insert(2, ["Subset", _code(dataset.source.subset)])
    parts = [table(["Fact", "Value"], rows)]
    if dataset.warnings:
        parts.append("\n".join(["Found in the data:", "", *[f"- {_text(warning)}" for warning in dataset.warnings]]))
    return "\n\n".join(parts)


def _scores(scores: Scores) -> str:
    head = ["Answered by", "Questions", "Exact match", "Token F1", "ROUGE-L"]

    def row(name: str, each: SplitScores) -> list[str]:
        return [name, f"{each.questions:,}", percent(each.exact_match), percent(each.token_f1), percent(each.rouge_l)]

    rows = [row("**This model**", scores.test), *[row(_text(name), each) for name, each in scores.baselines.items()]]
    parts = ["Questions not seen in training:", table(head, rows)]
    if scores.out_of_scope is not None:
        rows = [row("**This model**", scores.out_of_scope)]
        rows += [row(_text(name), each) for name, each in scores.out_of_scope_baselines.items()]
        parts += ["Out-of-scope questions, whose right answer is that there is none:", table(head, rows)]
    parts += ["Questions of the training set, for comparison:", table(head, [row("**This model**", scores.train)])]
    parts.append(
        "Exact match and token F1 are taken after lower-casing and leaving out punctuation and articles. ROUGE-L is an "
        f"F-measure. Of the answerable unseen questions {percent(scores.false_abstention)} were wrongly refused."
    )
    return "\n\n".join(parts)


def _examples(right: list[dict[str, Any]], wrong: list[dict[str, Any]]) -> str:
    head = ["Question", "Right answer", "This model"]
    parts = []
    for title, found in (("Answered rightly:", right), ("Answered wrongly:", wrong)):
        if found:
            rows = [
                [_text(row["question"]), _text(row["answer"]), _text(row["prediction"])] for row in found[:EXAMPLES]
            ]
            parts += [title, table(head, rows)]
    return "From the questions not seen in training.\n\n" + "\n\n".join(parts)


def _limits(model: ModelRef, scores: Scores, dataset: DatasetRef) -> str:
    beyond = (
        "It knows nothing beyond them."
        if model.base == "scratch"
        else "What it still knows of its base's training was not measured."
    )
    points = [
        f"It has {model.parameters / 1e6:.1f} million parameters and was trained on "
        f"{dataset.splits['train']:,} questions. {beyond} It does not reason, count or follow up.",
        f"A prompt is cut after {model.max_source_tokens} tokens, an answer after {model.max_target_tokens}.",
        f"{percent(1 - scores.test.exact_match)} of the unseen questions were answered wrongly, and a wrong answer "
        "sounds like a right one.",
    ]
    if scores.out_of_scope is None:
        points.append("The dataset has no out-of-scope questions, so how often it makes up an answer was not measured.")
    else:
        points.append(
            f"{percent(1 - scores.out_of_scope.exact_match)} of the out-of-scope questions got an invented answer "
            f"instead of {_code(dataset.unanswerable)}."
        )
    points.append("What is wrong, missing or one-sided in the data is so in the answers.")
    return "\n".join(f"- {point}" for point in points)


def _training(model: ModelRef, about: dict[str, Any]) -> str:
    facts: dict[str, Any] = {
        "base": model.base if model.base_revision or model.base == "scratch" else Path(model.base).name,
        "optimizer steps": f"{model.steps:,}",
        "epochs": f"{model.epochs:.2f}",
        "final training loss": f"{model.train_loss:.4f}",
        "prompt tokens, at most": model.max_source_tokens,
        "answer tokens, at most": model.max_target_tokens,
    }
    facts |= {name.replace("_", " "): value for name, value in about.get("recipe", {}).items() if name != "steps"}
    facts.setdefault("precision", model.precision)
    rows = [[name, _code(str(value))] for name, value in facts.items()]
    versions = [[name, _code(str(value))] for name, value in sorted(about.get("versions", {}).items())]
    parts = [table(["Setting", "Value"], rows)]
    if versions:
        parts += ["Libraries:", table(["Library", "Version"], versions)]
    parts.append(f"Model sha256 {_code(model.sha256)}, dataset sha256 {_code(model.dataset_sha256)}.")
    return "\n\n".join(parts)


def _distinct(rows: Any) -> list[dict[str, Any]]:
    """Return rows with different right answers first, in their order, so that examples do not repeat one fact."""
    first: dict[str, dict[str, Any]] = {}
    for row in rows:
        first.setdefault(row["answer"], row)
    return list(first.values())


def _text(value: object) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]~$#])", r"\\\1", html.escape(" ".join(str(value).split()), quote=False))


def _code(value: str) -> str:
    """Return text as code; a longer fence where it holds backticks itself."""
    fence = "`" * (max((len(run) for run in re.findall("`+", value)), default=0) + 1)
    pad = " " if value.startswith("`") or value.endswith("`") else ""
    return f"{fence}{pad}{' '.join(value.split())}{pad}{fence}"


def _python(value: str) -> str:
    """Return a Python literal that cannot end the code block that it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("`", "\\u0060")
