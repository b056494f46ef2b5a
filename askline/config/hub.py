"""Where the model is published."""

from typing import Literal

from pydantic import Field, field_validator

from askline.config.section import Section


class HubConfig(Section):
    """Where the model is published."""

    push: Literal["auto", "always", "never"] = "auto"
    """"auto" pushes when there is a token (the embedded Hub needs none); "always" fails without one."""
    repo_id: str | None = None
    """Repository, owner/name; default <your account>/askline-<MLKey>."""
    private: bool = True
    """Create the repository private."""
    license: str = "apache-2.0"
    """License in the model card."""
    token_block: str | None = Field(None, json_schema_extra={"pattern": "^(?!hf_)"})
    """Name of a Prefect Secret block that holds the Hub's token; the default is HF_TOKEN, or what `hf auth login` kept.
    Never the token itself."""

    @field_validator("token_block")
    @classmethod
    def _no_token_as_a_name(cls, value: str | None) -> str | None:
        if value is not None and value.startswith("hf_"):
            raise ValueError(
                "this looks like a token itself, which the server would keep for everybody to read: revoke it, put a "
                "new one into a Prefect Secret block, and give the block's name"
            )
        return value
