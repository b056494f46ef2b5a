"""What every record is: frozen, with an identity; and where the calls of a run go."""

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Record(BaseModel):
    """Base of all records."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    incidental: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how the thing came about and not what it is, such as the seconds it took."""

    def identity(self) -> dict[str, Any]:
        """Return the fields that make this thing what it is: what a later step's result may depend on.

        Two runs on two machines that come to the same have the same identity.
        """
        return {
            name: value.identity() if isinstance(value, Record) else self.model_dump(mode="json", include={name})[name]
            for name, value in self
            if name not in self.incidental
        }


class Target(Record):
    """Where the calls go: AWS and the Hub, or the embedded cloud. Holds addresses only, never credentials."""

    kind: Literal["local", "aws"]
    region: str
    endpoints: dict[str, str] = Field(default_factory=dict)
    """boto3 service name (``s3``, ``sagemaker-runtime`` …) to URL; empty on AWS."""
    hub: str = "https://huggingface.co"
    """Where models are published, and datasets and bases looked up first."""
    prefect_api: str | None = None
    prefect_ui: str | None = None
    keys_file: str | None = None
    """The file with the keys of the embedded cloud, which its own user alone can read."""
