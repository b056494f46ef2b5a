"""What a run that was deployed leaves behind, for the tests of what is told of it."""

from askline.records import ApiRef, EndpointRef, PackageRef, SmokeAnswer, SmokeRef

API = ApiRef(url="http://x.localhost:1/default/", stack_name="s", stack_id="i", auth="none", action="created")
ENDPOINT = EndpointRef(
    name="serv-hf-endpoint-biography",
    arn="arn",
    mlkey="biography",
    model_name="m",
    config_name="c",
    image="i",
    memory_mb=3072,
    max_concurrency=5,
    action="created",
    seconds=1.0,
)
PACKAGE = PackageRef(
    sha256="f" * 64, archive_sha256="a" * 64, size=7_700_000, unpacked_size=1, model_sha256="e" * 64, members=("x",)
)


def smoke(question: str) -> SmokeRef:
    """Return the record of a smoke test that asked one question, of the endpoint and of the API."""
    return SmokeRef(
        asked=1,
        agreed=1,
        answers=(SmokeAnswer(question=question, expected="A", evaluated="A", answered="A", seconds=0.1),),
        cold_start_seconds=1.0,
    )
