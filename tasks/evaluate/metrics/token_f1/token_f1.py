"""Mean token F1 of predictions against references after SQuAD's normalisation."""

import datasets
import evaluate

from tasks.qa.same_answer import token_f1


class TokenF1(evaluate.Metric):
    """``compute(predictions, references)`` gives ``{"token_f1": mean}``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP 2016",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scores = [token_f1(*pair) for pair in zip(predictions, references, strict=True)]
        return {"token_f1": sum(scores) / len(scores)}
