"""Mean ROUGE-L F-measure of predictions against references, on the normalised words of any script."""

import datasets
import evaluate
from rouge_score import rouge_scorer, tokenizers

from tasks.qa.same_answer import tokens


class Words(tokenizers.Tokenizer):
    """rouge_score's own tokenizer keeps a to z and digits only, so that other scripts would score nothing."""

    def tokenize(self, text: str) -> list[str]:
        """Split into normalised words."""
        return tokens(text)


class RougeL(evaluate.Metric):
    """``compute(predictions, references)`` gives ``{"rouge_l": mean}``."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Words())
        pairs = zip(references, predictions, strict=True)
        scores = [scorer.score(reference, prediction)["rougeL"].fmeasure for reference, prediction in pairs]
        return {"rouge_l": sum(scores) / len(scores)}
