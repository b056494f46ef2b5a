"""The HTTP API in front of the endpoints."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from askline.config.section import Section, digits_to_int

#: The times that CloudWatch offers for keeping a log, in days.
LogDays = Annotated[
    Literal[1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731], BeforeValidator(digits_to_int)
]


class ApiLimitsConfig(Section):
    """How much the API takes on before it answers 429."""

    requests_per_second: int = Field(50, ge=1, le=10_000)
    """Requests per second, of all callers together; with auth "key", of each key too."""
    burst: int = Field(100, ge=1, le=5_000)
    """Requests that may come at once."""
    requests_per_day: int | None = Field(None, ge=1, le=10_000_000)
    """Requests that one API key has in a day; needs auth "key"."""
    concurrency: int | None = Field(None, ge=1, le=1_000)
    """Executions of the function at once, reserved from the account's; the default is whatever the account has."""


class ApiLogsConfig(Section):
    """What the API writes down about its requests. Never a question: that is the question log's."""

    retention_days: LogDays = 30
    """How long CloudWatch keeps the logs."""
    access_log: Literal["auto", "on", "off"] = "auto"
    """One line for each request, without its query string and body. "auto" writes it where the account lets API
    Gateway write logs."""
    access_log_role: bool = False
    """Let API Gateway write logs: a role that the whole account and region share, and that outlives the stack."""
    tracing: bool = False
    """X-Ray traces of the gateway and the function."""


class ApiAlarmsConfig(Section):
    """CloudWatch alarms. They are counted over five minutes, latency over fifteen."""

    enabled: bool = True
    """Make the alarms."""
    notify: str | None = Field(None, pattern=r"^(arn:aws[a-z-]*:sns:[a-z0-9-]+:\d{12}:[A-Za-z0-9_-]+|[^@\s]+@[^@\s]+)$")
    """Who hears of an alarm: an SNS topic's ARN, or an e-mail address, which must be confirmed once."""
    server_errors: int = Field(5, ge=1)
    """Answers with a status of 500 and above."""
    throttles: int = Field(20, ge=1)
    """Requests refused because too many came: by the function's concurrency, and with an access log all 429."""
    client_errors: int = Field(200, ge=1)
    """Answers with a status of 400 to 499."""
    p95_seconds: float = Field(10.0, gt=0, le=29)
    """Time that 95 of 100 answers stay below."""


class QuestionLogConfig(Section):
    """What is asked and answered, kept as JSON Lines in S3 for the next training."""

    enabled: bool = False
    """Keep questions and answers. They may be personal: tell those who ask."""
    bucket: str | None = Field(None, min_length=3, max_length=63)
    """A bucket of yours, whose encryption and retention are yours too; the default is one that the stack makes."""
    prefix: str = Field("questions", pattern=r"^[a-zA-Z0-9_-]+(/[a-zA-Z0-9_=-]+)*$", max_length=200)
    """Folder in the bucket."""
    redact: Literal["none", "personal", "text"] = "personal"
    """What is left out: nothing, what looks like personal data (addresses, numbers …), or all text."""
    retention_days: int = Field(90, ge=1, le=3650)
    """Days after which the stack's own bucket deletes an entry."""


class ApiConfig(Section):
    """The HTTP API: Lambda behind API Gateway."""

    enabled: bool = True
    """Deploy the API."""
    stack_name: str = Field("askline-api", pattern=r"^[a-zA-Z][-a-zA-Z0-9]{0,127}$")
    """CloudFormation stack; one API serves every MLKey."""
    stage: str = Field("default", pattern=r"^[a-zA-Z0-9_]{1,128}$")
    """Stage name, the last part of the URL."""
    auth: Literal["auto", "none", "iam", "key", "cognito"] = "auto"
    """Who may call: "iam" (signed requests), "cognito" (a user pool's tokens), "key" (an API key, which limits use and
    proves nothing about the caller) or "none" (anyone). "auto" is "none" on the embedded cloud, else "iam"."""
    user_pool_arn: str | None = Field(None, pattern=r"^arn:aws[a-z-]*:cognito-idp:[a-z0-9-]+:\d{12}:userpool/[\w-]+$")
    """The Cognito user pool for auth "cognito"."""
    allow_weaker: bool = False
    """Let this run make the API that all MLKeys share less strict than it is deployed. Options that are not set leave
    what is deployed."""
    memory_mb: int = Field(256, ge=128, le=3008)
    """Memory of the function, in MB."""
    cold_wait_seconds: int = Field(20, ge=0, le=24)
    """How long a request waits for an endpoint that is starting; after that it is answered 503 with Retry-After."""
    keep_warm_minutes: int | None = Field(None, ge=2, le=60)
    """Ask one question every so many minutes, which keeps one instance of the endpoint warm; off by default."""
    keep_warm_mlkey: str | None = Field(None, pattern=r"^[a-zA-Z0-9](-*[a-zA-Z0-9])*$", max_length=46)
    """The MLKey that is kept warm; the default is the one that is deployed."""
    kms_key: str | None = Field(None, pattern=r"^(create|arn:aws[a-z-]*:kms:[a-z0-9-]+:\d{12}:key/[a-zA-Z0-9-]+)$")
    """Encrypt logs, questions and the environment with a key of your own: its ARN, or "create" for one in the
    stack (1 dollar a month). The default is AWS's own encryption, which costs nothing."""
    limits: ApiLimitsConfig = ApiLimitsConfig()
    """How much the API takes on before it answers 429."""
    logs: ApiLogsConfig = ApiLogsConfig()
    """What the API writes down about its requests."""
    alarms: ApiAlarmsConfig = ApiAlarmsConfig()
    """CloudWatch alarms."""
    question_log: QuestionLogConfig = QuestionLogConfig()
    """What is asked and answered, kept for the next training."""

    @model_validator(mode="after")
    def _auth_has_what_it_needs(self) -> Self:
        if (self.auth == "cognito") != (self.user_pool_arn is not None):
            raise ValueError(
                'api.auth "cognito" and api.user_pool_arn go together: the ARN of the Cognito user pool whose tokens '
                "are taken (arn:aws:cognito-idp:<region>:<account>:userpool/<id>)"
            )
        if self.limits.requests_per_day is not None and self.auth != "key":
            raise ValueError('api.limits.requests_per_day counts the requests of an API key: it needs api.auth "key"')
        return self
