"""What our packages answer: one record, read in one place from an endpoint's or a package's reply."""

import json
from typing import Any, NamedTuple

from askline.errors import AsklineError, CloudError


class Answer(NamedTuple):
    """The answer to one question."""

    text: str
    """What the caller gets."""
    confidence: float | None = None
    """How likely it is right, 0 to 1; None from a package with bare answers."""
    withheld: str | None = None
    """What the model would have said, where the package was not sure enough and gave the unanswerable text."""
    model_version: str | None = None
    """Which version the container says that it is; None from a package with bare answers."""
    answer_id: str | None = None
    """Which known answer the model means, also where the package withheld it; None where it declines or writes freely.
    """
    known: dict[str, str] | None = None
    """What comes with a known answer, by column: its id, why it is said, the question that this one was taken for, what
    else may be meant, and the data's own columns. None from a package that writes freely."""

    @property
    def own(self) -> str:
        """The model's own answer, also where the package withheld it."""
        return self.text if self.withheld is None else self.withheld


def read_answers(reply: Any, count: int, *, who: str, error_type: type[AsklineError] = CloudError) -> list[Answer]:
    """Return the answers in what an endpoint or a package replied to ``count`` questions.

    Parameters
    ----------
    reply
        The reply as JSON says it: an object with ``answers`` or, with ``package.answers = "bare"``, a text or a list of
        texts; or the JSON itself, as bytes.
    who
        Who replied, for the message: ``the endpoint x``.

    Raises
    ------
    AsklineError
        Of ``error_type``, if it is not the form in which our packages answer.
    """
    try:
        document = json.loads(reply) if isinstance(reply, bytes) else reply
        if isinstance(document, dict):
            version = str(document["model_version"]) if "model_version" in document else None
            answers = [
                Answer(
                    str(each["answer"]),
                    float(each["confidence"]) if "confidence" in each else None,
                    str(each["withheld"]) if each.get("withheld") is not None else None,
                    version,
                    each.get("withheld_id", each.get("answer_id")),
                    _known(each),
                )
                for each in document["answers"]
            ]
        else:
            texts = [document] if isinstance(document, str) else document
            answers = [Answer(str(each)) for each in texts]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        shown = reply.decode(errors="replace") if isinstance(reply, bytes) else reply
        raise error_type(f"{who} does not serve our package: it answered {shown!r:.300}") from error
    if len(answers) != count:
        raise error_type(f"{who} does not serve our package: it gave {len(answers)} answers to {count} questions")
    return answers


def _known(answer: dict[str, Any]) -> dict[str, str] | None:
    if "answer_id" not in answer:
        return None
    own = {
        "answer_id": answer["answer_id"] or "",
        "finish_reason": answer["finish_reason"],
        "matched_question": answer["matched_question"] or "",
        "alternatives": json.dumps(answer["alternatives"], ensure_ascii=False) if answer["alternatives"] else "",
    }
    return own | {f"answer_{name}": str(value) for name, value in answer["columns"].items()}
