"""How long one request may take, and the pauses in it while an endpoint starts.

API Gateway gives up after 29 s and the function is ended after 28. What Lambda says is left decides how long the next
call to the model may take; ``ASKLINE_COLD_WAIT`` decides how long a starting endpoint is waited for at all.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

#: Kept back of what Lambda leaves: to write the answer, and for the gateway to pass it on.
RESERVE_SECONDS: Final = 0.5
#: What a call that never was told its end may take: the function's own limit.
FUNCTION_SECONDS: Final = 28.0
#: How long an endpoint that cannot be reached, or that failed inside SageMaker, is asked again.
BRIEF_SECONDS: Final = 3.0
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 4.0


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, so that tests need not wait for it."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random
    """A number in [0, 1): callers that met the same cold endpoint should not come back together."""


@dataclass(slots=True)
class Patience:
    """What one request still has: until when it must be answered, and until when it may wait for a cold endpoint.

    Parameters
    ----------
    ends
        When the answer must be ready, on ``clock``.
    cold_seconds
        How long after ``started`` a starting endpoint may still be asked again.
    """

    clock: Clock
    started: float
    ends: float
    cold_seconds: float
    pauses: int = field(default=0, init=False)
    """Pauses taken so far."""

    @classmethod
    def for_call(cls, context: Any, *, cold_seconds: float, clock: Clock) -> "Patience":
        """Return the patience of the call whose Lambda context this is."""
        started = clock.now()
        try:
            left = float(context.get_remaining_time_in_millis()) / 1000
        except (AttributeError, TypeError, ValueError):
            left = FUNCTION_SECONDS
        return cls(clock, started, started + left - RESERVE_SECONDS, cold_seconds)

    def left(self) -> float:
        """Return the seconds that the next call to the model may take."""
        return self.ends - self.clock.now()

    def pause(self, *, brief: bool, call_seconds: float) -> bool:
        """Pause before asking again, a little longer each time; False, at once, where it is time to give up.

        Parameters
        ----------
        brief
            Whether the endpoint is not starting but cannot be reached: that mends itself soon or not soon.
        call_seconds
            The least that a further call to the model is given.
        """
        longest = min(self.cold_seconds, BRIEF_SECONDS) if brief else self.cold_seconds
        seconds = min(FIRST_PAUSE_SECONDS * 2.0**self.pauses, LONGEST_PAUSE_SECONDS)
        seconds *= 0.75 + 0.5 * self.clock.chance()
        resumes = self.clock.now() + seconds
        if resumes > self.started + longest or resumes + call_seconds > self.ends:
            return False
        self.pauses += 1
        self.clock.sleep(seconds)
        return True
