"""The parts of the embedded cloud: how each is started, with which environment, and how it says that it is well."""

import http.client
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from askline.clients import LOCAL_KEY_VARIABLES, LocalKeys
from askline.records import Target
from local_cloud.ports import HOST
from local_cloud.processes import MARK, PART_MARK
from local_cloud.state import REGION

ACCOUNT_ID = "000000000000"

#: Those of a service that runs outside an embedded cloud.
STANDALONE = LocalKeys()

#: The folder that holds ``local_cloud``; ``python -m`` finds our own parts from there.
ROOT = Path(__file__).resolve().parents[1]

#: The services that MiniStack answers for us, by boto3's names.
MINISTACK_SERVICES = (
    "s3",
    "iam",
    "sts",
    "cloudformation",
    "lambda",
    "apigateway",
    "ssm",
    "secretsmanager",
    "logs",
    "cloudwatch",
    "events",
    "sns",
)

#: The services that the embedded SageMaker answers, by boto3's names.
SAGEMAKER_SERVICES = ("sagemaker", "sagemaker-runtime", "application-autoscaling", "service-quotas")

#: All that the parts see of the person's environment. Everything else stays out: AWS keys, Hub tokens, proxies,
#: and any setting of the programs below that would change what they do.
KEPT_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH"),
    *("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
)


@dataclass(frozen=True)
class Part:
    """One program of the embedded cloud."""

    name: str
    title: str
    """What a person reads."""
    usual_port: int
    health: str
    """Path that answers 200 when it is ready for calls."""
    patience: float
    """Seconds that it may take to be healthy, on a slow and busy machine."""
    grace: float
    """Seconds that it gets to stop cleanly."""


PARTS = {
    part.name: part
    for part in (
        # It writes the control plane's state when it stops: killed too early, functions and stacks are lost.
        Part("ministack", "MiniStack", 4566, "/_ministack/health", patience=60, grace=15),
        Part("sagemaker", "SageMaker", 8085, "/_askline/health", patience=60, grace=10),
        Part("hub", "Hub", 8086, "/_askline/health", patience=60, grace=5),
        # Its first start creates the database: 10 to 30 s here.
        Part("prefect", "Prefect server", 4200, "/api/health", patience=180, grace=8),
    )
}


def url(port: int) -> str:
    """Return a part's address."""
    return f"http://{HOST}:{port}"


def hub(ports: Mapping[str, int]) -> str:
    """Return the Hub's address; without one an address that answers nobody, so that no call goes to the real Hub."""
    return url(ports.get("hub", 9))


def target(ports: Mapping[str, int], root: Path) -> Target:
    """Return the addresses of the running parts, as :mod:`askline.clients` and the flow take them."""
    endpoints: dict[str, str] = {}
    if "ministack" in ports:
        endpoints.update(dict.fromkeys(MINISTACK_SERVICES, url(ports["ministack"])))
    if "sagemaker" in ports:
        endpoints.update(dict.fromkeys(SAGEMAKER_SERVICES, url(ports["sagemaker"])))
    addresses = {"hub": hub(ports)}
    if "prefect" in ports:
        addresses |= {"prefect_api": f"{url(ports['prefect'])}/api", "prefect_ui": url(ports["prefect"])}
    return Target(kind="local", region=REGION, endpoints=endpoints, keys_file=str(root / "keys.json"), **addresses)


def command(
    name: str,
    ports: Mapping[str, int],
    state: Path,
    *,
    idle_minutes: float,
    minute_seconds: float = 60.0,
    enforce_iam: bool = False,
) -> Sequence[str]:
    """Return the command line of a part. ``state`` is its own folder, the rest the plan's."""
    port = str(ports[name])
    python = (sys.executable, "-m")
    match name:
        case "ministack":
            # -P: what is put in front of the import path would be in the Lambda functions' way.
            return (sys.executable, "-P", str(ROOT / "local_cloud" / "ministack_server.py"))
        case "prefect":
            return (*python, "local_cloud.prefect_server", "--host", HOST, "--port", port)
        case "sagemaker":
            aws = url(ports["ministack"])
            return (
                *(*python, "local_cloud.sagemaker", "--port", port, "--state", str(state)),
                *("--s3", aws, "--iam", aws, "--idle-seconds", f"{idle_minutes * 60:g}"),
                *("--minute-seconds", f"{minute_seconds:g}"),
                *(("--authorize", f"{aws}/_askline/authorize") if enforce_iam else ()),
            )
        case _:
            return (*python, f"local_cloud.{name}", "--port", port, "--state", str(state))


def working_folder(name: str, state: Path) -> Path:
    """Return where a part runs: its own folder, or for our own ones the folder that holds ``local_cloud``."""
    return state if name == "ministack" else ROOT


def clear_temporary(name: str, state: Path) -> None:
    """Empty what a part left in its own temporary folder when it last ran."""
    if name == "ministack":
        shutil.rmtree(state / "tmp", ignore_errors=True)
        (state / "tmp").mkdir()


def kept_environment() -> dict[str, str]:
    """Return what is passed on of the person's environment."""
    kept = {k: v for k, v in os.environ.items() if k in KEPT_ENVIRONMENT or k.startswith("LC_")}
    # Our own folder stays out of it: a Lambda handler must not find here what it will not find on AWS.
    others = [path for path in kept.pop("PYTHONPATH", "").split(os.pathsep) if path and Path(path).resolve() != ROOT]
    return kept | ({"PYTHONPATH": os.pathsep.join(others)} if others else {})


def environment(
    name: str, ports: Mapping[str, int], root: Path, *, enforce_iam: bool = False, keys: LocalKeys = STANDALONE
) -> dict[str, str]:
    """Return the whole environment of a part. ``root`` is the embedded cloud's folder, ``keys`` are its own."""
    values = kept_environment()
    nowhere = os.devnull
    values |= {
        MARK: str(root),
        PART_MARK: name,
        "PYTHONUNBUFFERED": "1",
        # No proxy is passed on; this is for systems that have one set elsewhere than in the environment.
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_REGION": REGION,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "HF_ENDPOINT": hub(ports),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        "HF_TOKEN_PATH": nowhere,
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_XET": "1",
        "DO_NOT_TRACK": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if "ministack" in ports:
        values["AWS_ENDPOINT_URL"] = url(ports["ministack"])
    if "sagemaker" in ports:
        # MiniStack hands its environment to the Lambda handlers, which find SageMaker by these.
        values["AWS_ENDPOINT_URL_SAGEMAKER"] = url(ports["sagemaker"])
        values["AWS_ENDPOINT_URL_SAGEMAKER_RUNTIME"] = url(ports["sagemaker"])
    if enforce_iam and name == "ministack":
        values["AUTH"] = "true"
    if name == "sagemaker":  # which calls the others as a client of this cloud
        values |= dict(zip(LOCAL_KEY_VARIABLES, keys[:2], strict=True))
    if name == "hub":
        values["ASKLINE_HUB_TOKEN"] = keys.hub_token
    if name == "prefect" and keys.prefect_auth is not None:
        values["PREFECT_SERVER_API_AUTH_STRING"] = values["PREFECT_API_AUTH_STRING"] = keys.prefect_auth
    return values | _own_settings(name, ports, root / name)


def _own_settings(name: str, ports: Mapping[str, int], state: Path) -> dict[str, str]:
    match name:
        case "ministack":
            return {
                "BIND_HOST": HOST,
                "GATEWAY_PORT": str(ports[name]),
                "MINISTACK_ACCOUNT_ID": ACCOUNT_ID,
                "MINISTACK_REGION": REGION,
                "LOG_LEVEL": "INFO",
                "S3_PERSIST": "1",
                "S3_DATA_DIR": str(state / "s3"),
                "PERSIST_STATE": "1",
                "STATE_DIR": str(state / "state"),
                # Unpacked Lambda functions and its pid file.
                "TMPDIR": str(state / "tmp"),
                "LAMBDA_EXECUTOR": "local",
                # It removes containers of its own label at start, whoever's they are: keep it away from Docker.
                "DOCKER_HOST": f"unix://{state}/no-docker.sock",
                # Both would listen on all interfaces, whatever BIND_HOST says.
                "IOT_MTLS_ENABLED": "0",
                "SFTP_ENABLED": "0",
            }
        case "prefect":
            return {
                "PREFECT_HOME": str(state),
                "PREFECT_PROFILES_PATH": str(state / "profiles.toml"),
                "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{state}/prefect.db",
                "PREFECT_SERVER_UI_API_URL": f"{url(ports[name])}/api",
                # Its own pages, by either name; the default lets pages of every origin read it.
                "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url(ports[name])},http://localhost:{ports[name]}",
                # With leases in memory, a place that a killed run held would stay taken after a restart of the server.
                "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
                "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
                "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
                "PREFECT_TELEMETRY_ENABLE_RESOURCE_METRICS": "false",
                "PREFECT_CLI_PROMPT": "false",
                "PREFECT_CLI_COLORS": "false",
            }
        case _:
            return {}


def is_healthy(name: str, port: int, timeout: float = 2) -> bool:
    """Ask a part whether it is well. Goes straight to loopback, past any proxy."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request("GET", PARTS[name].health)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
