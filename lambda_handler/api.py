"""The API's routes, as a function of its two collaborators: the registry and the SageMaker runtime.

========================================  =============================================================
``GET /?MLKey=…&question=…``              one answer
``GET /`` with a JSON body                the same; this is how the first version was called
``POST /`` with a JSON body               the same
``GET /models``                           the MLKeys on offer
``GET /health``                           whether the function runs and can read the registry
event ``{"MLKey": …, "question": …}``     the same body as the routes, for a direct invoke
========================================  =============================================================
"""

import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from aws_lambda_powertools import Logger
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

from lambda_handler import asking, model
from lambda_handler.problem import Problem
from lambda_handler.registry import Registry

Handler = Callable[[Any, Any], dict[str, Any]]

JSON: Final = "application/json; charset=utf-8"
PROBLEM_JSON: Final = "application/problem+json; charset=utf-8"
ALLOWED: Final = {"/": "GET, POST", "/models": "GET", "/health": "GET"}
_HEADERS: Final = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


def create_handler(*, runtime: Any, registry: Registry, logger: Logger) -> Handler:
    """Return the Lambda handler.

    Parameters
    ----------
    runtime
        boto3 client of ``sagemaker-runtime``, or anything with its ``invoke_endpoint``.
    registry
        The allow-list of MLKeys.
    """
    app = APIGatewayRestResolver(debug=False)

    def answer(question: asking.Question, request_id: str) -> dict[str, object]:
        started = time.perf_counter()
        entry = registry.find(question.mlkey)
        reply = model.ask(runtime, endpoint=entry.endpoint, question=question.text, logger=logger)
        version = reply.model_version or entry.model_version
        # The question itself is not logged: it may be personal.
        logger.info(
            "answered",
            extra={
                "mlkey": entry.mlkey,
                "model_version": version,
                "question_characters": len(question.text),
                "seconds": round(time.perf_counter() - started, 4),
            },
        )
        body: dict[str, object] = {
            "answer": reply.text,
            "MLKey": entry.mlkey,
            "model_version": version,
            "request_id": request_id,
        }
        if reply.confidence is not None:
            body["confidence"] = reply.confidence
        return body

    @app.get("/")
    def ask_by_query_or_body() -> Response[Any]:
        event = app.current_event
        query = event["multiValueQueryStringParameters"]
        if "MLKey" in query or "question" in query or not event["body"]:
            return _json(200, answer(asking.from_query(query), event["requestContext"]["requestId"]))
        return ask_by_body()

    @app.post("/")
    def ask_by_body() -> Response[Any]:
        event = app.current_event
        question = asking.from_body(
            event["body"], is_base64=event["isBase64Encoded"], content_type=event["headers"].get("content-type")
        )
        return _json(200, answer(question, event["requestContext"]["requestId"]))

    @app.get("/models")
    def models() -> Response[Any]:
        offered = [
            {
                "MLKey": entry.mlkey,
                "model_version": entry.model_version,
                "dataset": entry.dataset,
                "exact_match": entry.exact_match,
                "promoted_at": entry.promoted_at,
            }
            for entry in registry.all()
        ]
        return _json(200, {"models": offered, "request_id": app.current_event["requestContext"]["requestId"]})

    @app.get("/health")
    def health() -> Response[Any]:
        request_id = app.current_event["requestContext"]["requestId"]
        return _json(200, {"status": "ok", "models": len(registry.all()), "request_id": request_id})

    def refuse(problem: Problem) -> Response[Any]:
        document = problem.document(app.current_event["requestContext"]["requestId"])
        return _json(problem.status, document, PROBLEM_JSON, problem.headers)

    def no_such_route(_: NotFoundError) -> Response[Any]:
        path = "/" + app.current_event["path"].strip("/")
        if path not in ALLOWED:
            return refuse(Problem("unknown-path", f"The paths are {', '.join(ALLOWED)}."))
        allow = {"Allow": ALLOWED[path]}
        return refuse(Problem("method-not-allowed", f"This path takes {ALLOWED[path]}.", allow))

    app.exception_handler(Problem)(refuse)
    app.not_found(no_such_route)

    @logger.inject_lambda_context(clear_state=True)
    def handler(event: Any, context: Any) -> dict[str, Any]:
        request = _gateway_request(event, fallback_request_id=str(context.aws_request_id))
        request_id = request["requestContext"]["requestId"] if request else str(context.aws_request_id)
        logger.set_correlation_id(request_id)
        try:
            if request is not None:
                return app.resolve(request, context)
            return answer(asking.from_fields(event if isinstance(event, dict) else {}), request_id)
        except Problem as problem:
            return problem.document(request_id)
        except Exception:
            # The last line: whatever happens, no stack trace reaches a caller.
            logger.exception("unexpected")
            internal = Problem("internal", "The log says why; name the request_id when you ask about it.")
            document = internal.document(request_id)
            if request is None:
                return document
            return {
                "statusCode": internal.status,
                "headers": {"Content-Type": PROBLEM_JSON, **_HEADERS},
                "body": json.dumps(document, ensure_ascii=False),
                "isBase64Encoded": False,
            }

    return cast(Handler, handler)


def _json(
    status: int, body: Mapping[str, object], content_type: str = JSON, headers: Mapping[str, str] | None = None
) -> Response[Any]:
    return Response(
        status_code=status,
        content_type=content_type,
        body=json.dumps(body, ensure_ascii=False, allow_nan=False),
        headers={**_HEADERS, **(headers or {})},
    )


def _gateway_request(event: Any, *, fallback_request_id: str) -> dict[str, Any] | None:
    """Return what the routes read of a REST API's proxy event, each part of the type it should have.

    Gateways send ``null`` for what is absent and differ in the case of header names; an event typed by hand may
    hold anything. None if the event is not from a gateway at all.
    """
    if not isinstance(event, dict):
        return None
    method, path = event.get("httpMethod"), event.get("path")
    if not isinstance(method, str) or not isinstance(path, str):
        return None
    context = _mapping(event.get("requestContext"))
    request_id = context.get("requestId")
    body = event.get("body")
    query = {name: [value] for name, value in _mapping(event.get("queryStringParameters")).items()}
    query.update(_mapping(event.get("multiValueQueryStringParameters")))
    return {
        "version": "1.0",
        "resource": path,
        "path": path or "/",
        "httpMethod": method.upper(),
        "headers": {
            name.lower(): value for name, value in _mapping(event.get("headers")).items() if isinstance(value, str)
        },
        "multiValueHeaders": {},
        "queryStringParameters": {},
        "multiValueQueryStringParameters": {
            name: [value for value in values if isinstance(value, str)]
            for name, values in query.items()
            if isinstance(values, list)
        },
        "requestContext": {"requestId": request_id if _is_plain(request_id) else fallback_request_id},
        "body": body if isinstance(body, str) else None,
        "isBase64Encoded": event.get("isBase64Encoded") is True,
    }


def _is_plain(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 128 and value.isascii() and value.isprintable()


def _mapping(value: Any) -> dict[str, Any]:
    return {key: item for key, item in value.items() if isinstance(key, str)} if isinstance(value, dict) else {}
