"""Share of predictions that equal the reference after SQuAD's normalisation."""

import datasets
import evaluate

from tasks.qa.same_answer import exact_match


class NormalisedExactMatch(evaluate.Metric):
    """``compute(predictions, references)`` gives ``{"exact_match": share}``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="Rajpurkar et al., SQuAD: 100,000+ Questions for Machine Comprehension of Text, EMNLP 2016",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scores = [exact_match(*pair) for pair in zip(predictions, references, strict=True)]
        return {"exact_match": sum(scores) / len(scores)}
