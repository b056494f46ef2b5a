"""What the deployed model is asked before it is promoted."""

from pydantic import Field

from askline.config.section import Section


class SmokeConfig(Section):
    """The questions asked of the deployed endpoint and the API."""

    questions: int = Field(8, ge=1, le=1000)
    """How many held-out questions to ask."""
    min_agreement: float = Field(1.0, ge=0, le=1)
    """Share of answers that must equal the evaluation's."""
