"""How the model is measured, and what it must reach."""

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from askline.config.section import Fraction, Section


class EvaluationConfig(Section):
    """How the model is measured, and what it must reach to be published and deployed."""

    # Another floor asks for another decision, not for another measurement, and more workers measure the same.
    shapes_nothing: ClassVar[frozenset[str]] = frozenset(
        {
            *("min_exact_match", "min_token_f1", "min_out_of_scope", "beat_base"),
            *("champion", "promote", "min_improvement", "outweigh", "alpha", "champion_questions"),
            *("approval", "approval_hours", "workers", "scheduler"),
            *("min_questions", "beat_baselines"),
        }
    )

    batch_size: int = Field(128, ge=1, le=4096)
    """Questions generated together."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """Arithmetic of the answers: "bf16" answers in it first, and in fp32 where that was not sure; "auto" does so for a
    model of 20 million parameters or more where the GPU or the processor multiplies in bf16. The answers are those of
    fp32, the confidences differ in the third digit."""
    metric: Literal["auto", "strict", "squad"] = "auto"
    """What counts as right for gate, champion and calibration: "strict", letter by letter, white space aside, or
    "squad", SQuAD's exact match, which sees no signs. "auto" is strict where the model says known answers."""
    max_false_abstention: Fraction = 0.02
    """Of the questions that an answer is known to, the share that may be declined to decline more of the others; the
    threshold below which nothing is said is chosen by it, where there is a second opinion."""
    min_questions: int = Field(30, ge=1, le=100_000)
    """With fewer held-out questions of a kind nothing is called proven; the gate then says what would help."""
    beat_baselines: bool = False
    """Gate: stop a model that clearly loses to the nearest question or to the encoder alone; else it is only said."""
    min_exact_match: float = Field(0.5, ge=0, le=1)
    """Gate: exact match on the held-out questions must be at least this."""
    min_token_f1: float = Field(0.0, ge=0, le=1)
    """Gate: token F1 on the held-out questions must be at least this."""
    min_out_of_scope: float = Field(0.0, ge=0, le=1)
    """Gate: share of out-of-scope questions answered with the unanswerable text, where the dataset has some."""
    beat_base: bool = True
    """Gate: exact match must not be below the untuned base's."""
    champion: Literal["auto", "required", "off"] = "auto"
    """Gate: compare the model with the deployed one on the same held-out questions. "auto" does so where the MLKey has
    one; "required" stops where it has none; "off" deploys whatever passes the other gates."""
    promote: Literal["better", "not-worse", "always"] = "better"
    """What the comparison must say: "better" asks for proof, "not-worse" lets a difference within the noise pass,
    "always" only reports."""
    min_improvement: float = Field(0.0, ge=0, lt=1)
    """"better" means: by more than this share of the held-out questions."""
    outweigh: float = Field(0.2, ge=0, le=1)
    """A loss on the in-scope or the out-of-scope questions alone counts as worse, unless the gain on the others is
    larger by this share, at the cautious ends of both intervals. 1 lets nothing make up for it."""
    alpha: float = Field(0.05, gt=0, lt=0.5)
    """How likely a model that is no better may be promoted by chance."""
    champion_questions: int = Field(1000, ge=10, le=100_000)
    """Most held-out questions that the deployed endpoint is asked."""
    approval: bool = False
    """Wait for a person's yes in the Prefect UI before anything is published."""
    approval_hours: float = Field(24, gt=0, le=24 * 30)
    """How long to wait for it; after that the model is not promoted."""
    workers: int = Field(1, ge=1, le=64)
    """Processes of this machine that answer the questions side by side, as Dask workers; 1 is this process alone. The
    answers are the same."""
    scheduler: str | None = Field(None, pattern=r"^(tcp|tls)://[^\s/]+:\d{1,5}$")
    """Address of a running Dask scheduler, tcp://host:8786, whose workers answer the questions instead."""

    @model_validator(mode="after")
    def _one_kind_of_workers(self) -> Self:
        if self.workers > 1 and self.scheduler is not None:
            raise ValueError(
                "give either evaluation.workers, processes of this machine, or evaluation.scheduler, whose workers "
                "are there already"
            )
        return self
