"""What is measured of endpoints, under CloudWatch's names: kept in memory for as long as policies and alarms look back.

On AWS these are metrics of the namespace ``AWS/SageMaker``. Counts exist only in minutes in which something was
counted, as there; what is sampled exists in every minute.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable

_KEPT_MINUTES = 24 * 60
_MOST_POINTS = 20_000

Point = tuple[float, float]

_STATISTICS: dict[str, Callable[[list[float]], float]] = {
    "Average": lambda values: sum(values) / len(values),
    "Sum": sum,
    "Minimum": min,
    "Maximum": max,
    "SampleCount": len,
}


class Metrics:
    """Points by metric, endpoint and variant (empty for what is measured of a whole endpoint).

    ``now`` is the clock, in seconds.
    """

    def __init__(self, minute_seconds: float, now: Callable[[], float] = time.time) -> None:
        self.minute_seconds = minute_seconds
        self._now = now
        self._points: dict[tuple[str, str, str], deque[Point]] = defaultdict(lambda: deque(maxlen=_MOST_POINTS))

    def record(self, metric: str, endpoint: str, variant: str, value: float) -> None:
        """Add one point, now."""
        now = self._now()
        points = self._points[metric, endpoint, variant]
        points.append((now, value))
        while points and points[0][0] < now - _KEPT_MINUTES * self.minute_seconds:
            points.popleft()

    def minutes(
        self, metric: str, endpoint: str, variant: str, statistic: str, count: int, *, minutes: float = 1.0
    ) -> list[float | None]:
        """Return the statistic over each of the last ``count`` whole periods of ``minutes``, the latest last.

        None stands for a period without points.
        """
        length = minutes * self.minute_seconds
        end = self._now() // length * length
        periods: list[list[float]] = [[] for _ in range(count)]
        for at, value in self._points.get((metric, endpoint, variant), ()):
            place = count - 1 - int((end - at) // length)
            if at < end and 0 <= place < count:
                periods[place].append(value)
        return [float(_STATISTICS[statistic](values)) if values else None for values in periods]

    def forget(self, endpoint: str) -> None:
        """Drop what is known of an endpoint."""
        for key in [key for key in self._points if key[1] == endpoint]:
            del self._points[key]
