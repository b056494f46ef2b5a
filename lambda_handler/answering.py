"""From what was asked to what is answered: the registry, the model, the numbers, the logs."""

import time
from dataclasses import dataclass, field
from typing import Any

from aws_lambda_powertools import Logger

from lambda_handler import asking, metrics, model, question_log
from lambda_handler.problem import Problem
from lambda_handler.registry import Entry, Registry
from lambda_handler.waiting import Clock, Patience


@dataclass(frozen=True, slots=True)
class Answering:
    """What answers questions, whichever way they came.

    Parameters
    ----------
    runtimes
        boto3 clients of ``sagemaker-runtime``, or anything with their ``invoke_endpoint``.
    registry
        The allow-list of MLKeys.
    questions
        Where questions and answers are written down, if anywhere.
    counts
        Where the numbers of a call go.
    cold_seconds
        How long a question waits for an endpoint that is starting.
    """

    runtimes: model.Runtimes
    registry: Registry
    questions: question_log.QuestionLog
    counts: metrics.Metrics
    logger: Logger
    cold_seconds: float
    clock: Clock = field(default_factory=Clock)

    def answer(self, asked: asking.Asked, *, request_id: str, context: Any) -> dict[str, object]:
        """Return the body that answers a question or a list of them, once they are counted and written down.

        Raises
        ------
        Problem
            If there is no such MLKey, or its model does not answer.
        """
        patience = Patience.for_call(context, cold_seconds=self.cold_seconds, clock=self.clock)
        entry = self.registry.find(asked.mlkey)
        started = time.perf_counter()
        try:
            reply = self._ask(entry, asked.questions, patience)
        finally:
            seconds = time.perf_counter() - started
            self.counts.add("ModelSeconds", seconds)
            if patience.pauses:
                self.counts.add("ColdWaits", patience.pauses)
        version = reply.model_version or entry.model_version
        abstained = sum(found.abstained is True for found in reply.answers)
        self.counts.add("Answered", len(reply.answers))
        if abstained:
            self.counts.add("Abstained", abstained)
        # The questions themselves are not logged: they may be personal.
        self.logger.info(
            "answered",
            extra={
                "mlkey": entry.mlkey,
                "model_version": version,
                "questions": len(asked.questions),
                "question_characters": sum(map(len, asked.questions)),
                "abstained": abstained,
                "cold_waits": patience.pauses,
                "seconds": round(seconds, 4),
            },
        )
        self.questions.asked_together(
            question_log.Asked(
                request_id=request_id,
                mlkey=entry.mlkey,
                question=question,
                answer=found.text,
                confidence=found.confidence,
                abstained=found.abstained is True,
                model_version=version,
                seconds=seconds,
                withheld=found.withheld,
                answer_id=None if found.known is None else found.known.answer_id,
                matched_question=None if found.known is None else found.known.matched_question,
            )
            for question, found in zip(asked.questions, reply.answers, strict=True)
        )
        answers = [found.members() for found in reply.answers]
        about = {"MLKey": entry.mlkey, "model_version": version, "request_id": request_id}
        return {"answers": answers, **about} if asked.is_batch else {**answers[0], **about}

    def keep_warm(self, fields: dict[str, object], *, request_id: str, context: Any) -> dict[str, object]:
        """Ask so that the endpoint stays awake, and return what came of it.

        Nobody wants to know the answer, so it is in no question log and no metric; the function's log has one line.
        """
        patience = Patience.for_call(context, cold_seconds=self.cold_seconds, clock=self.clock)
        started = time.perf_counter()
        try:
            asked = asking.from_fields(fields)
            self._ask(self.registry.find(asked.mlkey), asked.questions, patience)
        except Problem as problem:
            self.logger.warning("not kept warm", extra={"problem": problem.kind, "detail": problem.detail})
            return problem.document(request_id)
        seconds = round(time.perf_counter() - started, 4)
        self.logger.info("kept warm", extra={"mlkey": asked.mlkey, "cold_waits": patience.pauses, "seconds": seconds})
        return {"purpose": "keep-warm", "MLKey": asked.mlkey, "request_id": request_id}

    def _ask(self, entry: Entry, questions: tuple[str, ...], patience: Patience) -> model.Reply:
        return model.ask(
            self.runtimes,
            endpoint=entry.endpoint,
            questions=questions,
            patience=patience,
            logger=self.logger,
            target_model=entry.target_model,
        )
