"""The quality gate between the evaluation and everything that others will see."""

import math

from askline.config import EvaluationConfig
from askline.records import Approval, Comparison, DatasetRef, Gate, Scores

UNTUNED = "untuned base"
#: What a model must not lose to: what answers without it.
RIVALS = ("nearest question", "encoder alone", "encoder's nearest question")


def check_gate(config: EvaluationConfig, scores: Scores, dataset: DatasetRef) -> Gate:
    """Compare the scores with their floors.

    Each reason names the figure, the floor and the option that sets it.
    """
    test = scores.test
    reasons = []
    right = test.right(scores.metric)
    if right < config.min_exact_match:
        reasons.append(
            f"exact match on the {test.questions} held-out questions is {right:.1%}, below the floor of "
            f"{config.min_exact_match:.1%} (--evaluation.min-exact-match)"
        )
    if test.token_f1 < config.min_token_f1:
        reasons.append(
            f"token F1 on the {test.questions} held-out questions is {test.token_f1:.1%}, below the floor of "
            f"{config.min_token_f1:.1%} (--evaluation.min-token-f1)"
        )
    if reasons and dataset.split_by in ("answer", "group"):
        reasons[-1] += (
            f". The dataset was split by {dataset.split_by}, so the model has never seen the answers to these "
            "questions and can only guess; without --dataset.split-by every fact is trained, and asked for in new words"
        )
    outside = scores.out_of_scope
    if outside is not None and outside.exact_match < config.min_out_of_scope:
        reasons.append(
            f"{outside.exact_match:.1%} of the {outside.questions} out-of-scope questions were answered with "
            f'"{dataset.unanswerable}", below the floor of {config.min_out_of_scope:.1%} '
            "(--evaluation.min-out-of-scope)"
        )
    base = scores.baselines.get(UNTUNED)
    if config.beat_base and base is not None and right < base.right(scores.metric):
        reasons.append(
            f"exact match on the held-out questions is {right:.1%}, below the untuned base's "
            f"{base.right(scores.metric):.1%}: fine-tuning made it worse "
            "(--evaluation.beat-base false turns this check off)"
        )
    lost = _lost_to(scores)
    if config.beat_baselines:
        reasons += [f"{each} (--evaluation.beat-baselines false only says so)" for each in lost]
        lost = []
    return Gate(passed=not reasons, reasons=tuple(reasons), notes=(*lost, *_unproven(config, scores)))


def _lost_to(scores: Scores) -> list[str]:
    """Return which of the rivals that need no training answer clearly more of the held-out questions.

    Clearly: by more than two standard errors of the difference, taken as that of independent shares; the answers are
    to the same questions, whose true error is smaller.
    """
    own, count = scores.test.right(scores.metric), scores.test.questions
    said = []
    for name in RIVALS:
        rival = scores.baselines.get(name)
        share = rival.right(scores.metric) if rival is not None else 0.0
        if share - own > 2 * math.sqrt((own * (1 - own) + share * (1 - share)) / count):
            said.append(
                f"the model answers {own:.1%} of the {count} held-out questions rightly, and {name} {share:.1%}, "
                "clearly more: more wordings of each question, or a larger base, would help"
            )
    return said


def _unproven(config: EvaluationConfig, scores: Scores) -> list[str]:
    """Return of which kinds of questions there are too few to call anything proven, and what would help."""
    return [
        f"{each.questions} questions {kind} prove nothing ({each.low:.0%} to {each.high:.0%} right); "
        f"{config.min_questions} would (--evaluation.min-questions): add questions of that kind to the test split"
        for kind, each in scores.kinds.items()
        if each.questions < config.min_questions
    ]


def weigh(config: EvaluationConfig, gate: Gate, comparison: Comparison | None, *, mlkey: str) -> Gate:
    """Add to a gate what the comparison with the deployed model says.

    Parameters
    ----------
    comparison
        None where no model is deployed for ``mlkey``, or none was compared with.
    """
    if comparison is None:
        if config.champion != "required":
            return gate
        reason = f"no deployed model answers for {mlkey}, and --evaluation.champion required asks for one"
        return gate.model_copy(update={"passed": False, "reasons": (*gate.reasons, reason)})
    gate = gate.model_copy(update={"comparison": comparison})
    if comparison.verdict in ("same model", "better") or config.promote == "always":
        return gate
    if comparison.verdict == "unproven" and config.promote == "not-worse" and comparison.overall is not None:
        return gate
    return gate.model_copy(
        update={"passed": False, "reasons": (*gate.reasons, comparison.reason + _way_out(comparison))}
    )


def _way_out(comparison: Comparison) -> str:
    if comparison.overall is None:
        return " (--evaluation.champion off deploys without a comparison)"
    if comparison.verdict == "worse":
        return " (--evaluation.promote always deploys it all the same)"
    if comparison.verdict == "unproven":
        return " (--evaluation.promote not-worse lets a difference within the noise pass)"
    return ""


def answered(gate: Gate, approval: Approval) -> Gate:
    """Add to a gate what a person said."""
    gate = gate.model_copy(update={"approval": approval})
    if approval.approved:
        return gate
    reason = "not approved" + (f": {approval.note}" if approval.note else "")
    return gate.model_copy(update={"passed": False, "reasons": (*gate.reasons, reason)})
