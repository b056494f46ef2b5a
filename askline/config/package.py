"""The archive that SageMaker serves."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from askline.config.section import Fraction, Section


class PackageConfig(Section):
    """The archive that SageMaker serves."""

    # Where it is uploaded to.
    shapes_nothing: ClassVar[frozenset[str]] = frozenset({"bucket", "prefix"})

    engine: Literal["auto", "onnxruntime", "transformers"] = "auto"
    """What answers in the container: ONNX Runtime, carried in the archive, or the plain checkpoint through the
    container's own transformers. "auto" is ONNX Runtime for every T5."""
    quantisation: Literal["auto", "int8", "fp32"] = "auto"
    """How ONNX Runtime keeps the weights. "auto" and "int8" take bytes where these pass the gates, else fp32."""
    min_same_answers: Fraction = 0.97
    """Gate: share of held-out questions that the packed engine must answer exactly as the evaluation did."""
    max_score_loss: Fraction = 0.01
    """Gate: how much exact match and token F1 may lose by packing."""
    python: str | None = Field(None, pattern=r"^3\.\d{1,2}$")
    """The container's Python, whose libraries travel in the archive; the default is that of the image: 3.12 on AWS,
    this machine's on the embedded cloud."""
    second_opinion: str = "auto"
    """Who judges beside the model: "own", its own encoder; a sentence encoder by its Hub id or folder; "none"; or
    "auto", the one that is right more often on the held-out questions, of the default encoder and the model's own."""
    carry_libraries: bool = True
    """Put the engine's libraries into the archive; an image that holds them needs none."""
    answers: Literal["full", "bare"] = "full"
    """"bare" answers with the text alone, as the first version's endpoints did, so that its Lambda works with it."""

    bucket: str | None = Field(None, min_length=3, max_length=63)
    """S3 bucket; default askline-<account>-<region>, created when missing."""
    prefix: str = "deploy"
    """Folder in the bucket."""
    min_confidence: float | None = Field(None, gt=0, lt=1)
    """Abstain when unsure: an answer that is right with a lower (calibrated) probability than this is replaced by the
    unanswerable text; the default is never."""
    target_precision: float | None = Field(None, gt=0, lt=1)
    """Abstain when unsure, instead of min_confidence: as often as it takes for this share of the remaining answers to
    be right, measured on the held-out questions."""

    @model_validator(mode="after")
    def _one_way_to_abstain(self) -> Self:
        if self.min_confidence is not None and self.target_precision is not None:
            raise ValueError("give either min_confidence or target_precision, not both")
        return self
