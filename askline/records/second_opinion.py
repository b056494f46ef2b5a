"""The encoder that judges beside the model."""

from pydantic import Field

from askline.records.record import Record


class SecondOpinionRef(Record):
    """The ``second-opinion`` artifact: ``second_opinion.onnx``, ``.bin``, ``_tokenizer.json`` and
    ``.safetensors``.
    """

    sha256: str | None
    """Address of the artifact; None where the model judges alone."""
    source: str
    """"none"; "own", the model's own encoder, or the encoder's Hub id or folder name."""
    revision: str | None
    """Commit on the Hub, where it is from there."""
    size: int
    """Bytes that it adds to the unpacked package."""
    model_sha256: str
    held_out_right: dict[str, float] = Field(default_factory=dict)
    """Share of the in-scope held-out questions that each encoder that was tried answers rightly by itself."""
    notes: tuple[str, ...] = ()
    """What a person should know of how it was chosen."""
