"""The API's routes, and what becomes of an error.

========================================  =============================================================
``GET /?MLKey=…&question=…``              one answer
``GET /`` with a JSON body                the same; this is how the first version was called
``POST /`` with a JSON body               the same, or an answer for each of up to 16 ``questions``
``GET /`` from a browser                  a page to try it
``POST /feedback``                        what somebody thinks of an answer, where the question log is kept
``GET /models``                           the MLKeys on offer
``GET /health``                           whether the function runs and can read the registry
``GET /openapi.json``                     all of this for machines
event ``{"MLKey": …, "question": …}``     the same body as the routes, for a direct invoke
the same with ``"purpose": "keep-warm"``  the endpoint is asked, and nothing is counted or kept
========================================  =============================================================
"""

import json
from collections.abc import Callable
from typing import Any, Final, cast

from aws_lambda_powertools.event_handler import APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

from lambda_handler import asking, gateway, metrics
from lambda_handler.answering import Answering
from lambda_handler.feedback import feedback_from_body
from lambda_handler.problem import Problem

Handler = Callable[[Any, Any], dict[str, Any]]

ALLOWED: Final = {
    "/": "GET, HEAD, POST",
    "/models": "GET, HEAD",
    "/health": "GET, HEAD",
    "/openapi.json": "GET, HEAD",
    "/feedback": "POST",
}
#: The ``purpose`` of the event that the stack's schedule sends to keep an endpoint from going to sleep.
KEEP_WARM: Final = "keep-warm"
#: Seconds for which the OpenAPI document may be kept.
DOCUMENT_MAX_AGE: Final = 300


def create_handler(answering: Answering, *, auth: str | None = None) -> Handler:
    """Return the Lambda handler: the routes in front of what answers.

    ``auth`` is how callers prove who they are, as :mod:`lambda_handler.openapi` names it; it is described, not checked.
    """
    app = APIGatewayRestResolver(debug=False)
    registry, questions, counts, logger = answering.registry, answering.questions, answering.counts, answering.logger

    def request_id() -> str:
        return str(app.current_event["requestContext"]["requestId"])

    def answered(asked: asking.Asked) -> Response[Any]:
        body = answering.answer(asked, request_id=request_id(), context=app.lambda_context)
        return gateway.json_response(200, body)

    @app.get("/")
    def ask_by_query_or_body() -> Response[Any]:
        event = app.current_event
        query = event["multiValueQueryStringParameters"]
        asks_by_query = "MLKey" in query or "question" in query
        if event["body"] and not asks_by_query:
            return ask_by_body()
        if not asks_by_query and gateway.prefers_html(event["headers"].get("accept")):
            from lambda_handler import page

            return Response(status_code=200, content_type=gateway.HTML, body=page.html(), headers=dict(page.HEADERS))
        return answered(asking.from_query(query))

    @app.post("/")
    def ask_by_body() -> Response[Any]:
        return answered(asking.from_body(**_body(app.current_event)))

    @app.post("/feedback")
    def feedback() -> Response[Any]:
        if not questions.enabled:
            raise Problem("unknown-path", "This API does not collect feedback.")
        questions.feedback(feedback_from_body(**_body(app.current_event)))
        return gateway.json_response(202, {"request_id": request_id()})

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
        return gateway.json_response(200, {"models": offered, "request_id": request_id()})

    @app.get("/health")
    def health() -> Response[Any]:
        body = {"status": "ok", "models": len(registry.all()), "feedback": questions.enabled}
        return gateway.json_response(200, {**body, "request_id": request_id()})

    @app.get("/openapi.json")
    def openapi_document() -> Response[Any]:
        from lambda_handler import openapi

        kept = {**gateway.HEADERS, "Cache-Control": f"max-age={DOCUMENT_MAX_AGE}", "Vary": "Host"}
        body = openapi.document(openapi.address(app.current_event), auth, feedback=questions.enabled)
        return Response(status_code=200, content_type=gateway.JSON, body=body, headers=kept)

    def refuse(problem: Problem) -> Response[Any]:
        counts.add(metrics.of_problem(problem.kind))
        document = problem.document(request_id())
        return gateway.json_response(problem.status, document, gateway.PROBLEM_JSON, problem.headers)

    def no_such_route(_: NotFoundError) -> Response[Any]:
        path = "/" + app.current_event["path"].removeprefix("/").rstrip("/")
        if path not in ALLOWED:
            return refuse(Problem("unknown-path", f"The paths are {', '.join(ALLOWED)}."))
        allow = {"Allow": ALLOWED[path]}
        return refuse(Problem("method-not-allowed", f"This path takes {ALLOWED[path]}.", allow))

    app.exception_handler(Problem)(refuse)
    app.not_found(no_such_route)

    def resolve(request: dict[str, Any], context: Any) -> dict[str, Any]:
        # A HEAD is a GET whose body the caller does not want.
        if request["httpMethod"] != "HEAD":
            return app.resolve(request, context)
        return {**app.resolve({**request, "httpMethod": "GET"}, context), "body": "", "isBase64Encoded": False}

    @logger.inject_lambda_context(clear_state=True)
    def handler(event: Any, context: Any) -> dict[str, Any]:
        own_id = str(context.aws_request_id)
        request = gateway.request_in(event, fallback_request_id=own_id)
        correlation_id = request["requestContext"]["requestId"] if request else own_id
        logger.set_correlation_id(correlation_id)
        try:
            if request is not None:
                return resolve(request, context)
            fields = event if isinstance(event, dict) else {}
            if fields.get("purpose") == KEEP_WARM:
                return answering.keep_warm(fields, request_id=correlation_id, context=context)
            return answering.answer(asking.from_fields(fields), request_id=correlation_id, context=context)
        except Problem as problem:
            counts.add(metrics.of_problem(problem.kind))
            return problem.document(correlation_id)
        except Exception:
            # The last line: whatever happens, no stack trace reaches a caller.
            logger.exception("unexpected")
            counts.add("Internal")
            internal = Problem("internal", "The log says why; name the request_id when you ask about it.")
            document = internal.document(correlation_id)
            if request is None:
                return document
            return {
                "statusCode": internal.status,
                "headers": {"Content-Type": gateway.PROBLEM_JSON, **gateway.HEADERS},
                "body": json.dumps(document, ensure_ascii=False),
                "isBase64Encoded": False,
            }
        finally:
            counts.flush()

    return cast(Handler, handler)


def _body(event: Any) -> dict[str, Any]:
    """Return the body of a request as the readers of bodies take it."""
    return {
        "body": event["body"],
        "is_base64": event["isBase64Encoded"],
        "content_type": event["headers"].get("content-type"),
    }
