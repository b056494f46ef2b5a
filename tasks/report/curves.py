"""Pictures of a training and of an evaluation: the same figures give the same bytes, on every run.

Each function returns a :class:`Picture` or, where there is nothing to draw, None. A picture is drawn when it is asked
for, as a file for others (``svg``, ``png``) or as part of a page, whose colours it then takes (``inline``).
"""

import html
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean as mean
from typing import Any, NamedTuple

from askline.records import ModelRef
from askline.store import ArtifactStore

#: Colours that are told apart by people who see few; each has a name in the page's style sheet.
COLOURS = {"first": "#0b6e99", "second": "#b3541e", "third": "#4b7f3a"}
#: What is drawn in this colour takes the colour of the page's text.
INK = "#111111"
_WIDTH = 8.0
_HEIGHT = 2.6
#: Points of a curve: more cannot be seen, and would make a page heavy.
_MOST_POINTS = 600
_RATES = {"tokens_per_second": "tokens a second", "samples_per_second": "questions a second"}

Draw = Callable[[Any], None]


class Picture(NamedTuple):
    """Panels below each other."""

    name: str
    """File name without its ending."""
    title: str
    """What it shows, for those who cannot see it too."""
    panels: tuple[Draw, ...]

    def svg(self) -> str:
        """Return a file of its own, on white."""
        return self._rendered("svg", {"facecolor": "white"}).decode()

    def png(self) -> bytes:
        """Return the picture for where SVG is not shown, on white, twice as fine as a screen."""
        return self._rendered("png", {"facecolor": "white", "dpi": 144})

    def inline(self) -> str:
        """Return an ``<svg>`` element that takes its colours from the page, without fixed size."""
        svg = self._rendered("svg", {"transparent": True}).decode()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        for name, colour in COLOURS.items():
            svg = svg.replace(colour, f"var(--{name})")
        opening, rest = svg.split(">", 1)
        opening = re.sub(r' (width|height|xmlns\S*|version)="[^"]*"', "", opening)
        # Two pictures in one page must not share the names of their parts.
        rest = re.sub(r"<metadata>.*?</metadata>", "", rest, flags=re.DOTALL)
        rest = re.sub(r'id="([^"]+)"', rf'id="{self.name}-\1"', rest)
        rest = re.sub(r'(href="#|url\(#)', rf"\1{self.name}-", rest)
        return f'{opening} role="img" aria-label="{html.escape(self.title)}">{rest}'.strip()

    def _rendered(self, kind: str, options: dict[str, Any]) -> bytes:
        import matplotlib
        from matplotlib.figure import Figure

        style: Any = {
            "svg.hashsalt": self.name,  # else the names of an SVG's parts are drawn by chance
            "svg.fonttype": "none",
            "font.family": "sans-serif",
            "font.size": 9,
            "text.color": INK,
            "axes.edgecolor": INK,
            "axes.labelcolor": INK,
            "xtick.color": INK,
            "ytick.color": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
        }
        with matplotlib.rc_context(style):
            # A figure of its own, not pyplot's: nothing is shared with other threads, and no screen is looked for.
            figure = Figure(figsize=(_WIDTH, _HEIGHT * len(self.panels)), layout="constrained")
            axes = figure.subplots(len(self.panels), squeeze=False)[:, 0]
            for axis, draw in zip(axes, self.panels, strict=True):
                axis.grid(visible=True, color=INK, alpha=0.12, linewidth=0.6)
                draw(axis)
            stream = io.BytesIO()
            metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
            figure.savefig(stream, format=kind, metadata=metadata, **options)
        return stream.getvalue()


def read_training_log(model: ModelRef, store: ArtifactStore) -> list[dict[str, Any]]:
    """Return the entries of ``training_log.jsonl``, in order, and what early stopping measured as ``eval_…`` entries.

    Raises
    ------
    ArtifactError
        If the model artifact is missing or damaged.
    """
    folder = store.verify("model", model.sha256)
    log = _lines(folder / "training_log.jsonl")
    measured = folder / "validation_log.jsonl"
    for entry in _lines(measured) if measured.is_file() else ():
        log.append({name if name == "step" else f"eval_{name}": value for name, value in entry.items()})
    return log


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def training(log: Sequence[Mapping[str, Any]]) -> Picture | None:
    """Return loss, metrics measured on the way, and speed over the steps, as far as the log holds them."""
    panels = []
    loss = _series(log, "loss")
    if len(loss) > 1:
        panels.append(_loss_panel(loss, _series(log, "eval_loss"), _series(log, "learning_rate")))
    measured = {
        name: _series(log, name)
        for name in sorted({key for entry in log for key in entry if key.startswith("eval_")})
        if any(word in name for word in ("exact_match", "token_f1", "rouge"))
    }
    if measured:
        panels.append(_metric_panel(measured))
    rate = next((name for name in _RATES if len(_series(log, name)) > 1), None)
    if rate is not None:
        panels.append(_rate_panel(_series(log, rate), _RATES[rate]))
    return (
        Picture("training", "Training: " + ", ".join(_titles(loss, measured, rate)), tuple(panels)) if panels else None
    )


def coverage(probabilities: Sequence[float], right: Sequence[bool]) -> Picture | None:
    """Return how many of the answers are right when only the surest are given.

    Parameters
    ----------
    probabilities
        Of each held-out answer that it is right, 0 to 1.
    right
        Whether it is.
    """
    if len(right) < 2:
        return None
    ranked = [good for _, good in sorted(zip(probabilities, right, strict=True), key=lambda pair: -pair[0])]
    shares, precision, good = [], [], 0
    for number, each in enumerate(ranked, start=1):
        good += each
        shares.append(100 * number / len(ranked))
        precision.append(100 * good / number)

    def draw(axis: Any) -> None:
        axis.plot(*_thin(shares, precision), color=COLOURS["first"], linewidth=1.6)
        axis.set(xlabel="answered, % of the held-out questions (the surest first)", ylabel="of these right, %")
        axis.set_xlim(0, 100)
        axis.set_ylim(min(90.0, min(precision[len(precision) // 20 :]) - 2), 100.5)

    return Picture("coverage", "Answers given and right, when the model abstains below a confidence", (draw,))


def _titles(loss: Sequence[Any], measured: Mapping[str, Any], rate: str | None) -> list[str]:
    said = ["loss"] if len(loss) > 1 else []
    return said + [_words(name) for name in measured] + ([_RATES[rate]] if rate else [])


def _words(name: str) -> str:
    return name.removeprefix("eval_").replace("_", " ")


def _series(log: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    return [
        (float(entry["step"]), float(entry[name]))
        for entry in log
        if isinstance(entry.get(name), int | float) and "step" in entry
    ]


def _loss_panel(
    loss: list[tuple[float, float]], held_out: list[tuple[float, float]], rates: list[tuple[float, float]]
) -> Draw:
    def draw(axis: Any) -> None:
        steps, values = zip(*loss, strict=True)
        axis.plot(*_thin(steps, values), color=COLOURS["first"], linewidth=0.8, alpha=0.35)
        axis.plot(*_thin(steps, _smooth(values)), color=COLOURS["first"], linewidth=1.6, label="loss")
        if held_out:
            axis.plot(*zip(*held_out, strict=True), color=COLOURS["second"], marker="o", markersize=3, label="held out")
        axis.set(xlabel="step", ylabel="loss")
        axis.set_ylim(bottom=0)
        if len(rates) > 1:
            beside = axis.twinx()
            steps, values = zip(*rates, strict=True)
            beside.plot(*_thin(steps, values), color=COLOURS["third"], linewidth=1, linestyle="--")
            axis.plot([], [], color=COLOURS["third"], linewidth=1, linestyle="--", label="learning rate (right)")
            beside.ticklabel_format(axis="y", style="sci", scilimits=(0, 0))
            beside.set_ylim(bottom=0)
        axis.legend(loc="upper right")

    return draw


def _metric_panel(measured: Mapping[str, list[tuple[float, float]]]) -> Draw:
    def draw(axis: Any) -> None:
        for colour, (name, points) in zip([*COLOURS.values()] * len(measured), measured.items(), strict=False):
            steps, values = zip(*points, strict=True)
            shares = [100 * value for value in values]
            axis.plot(steps, shares, color=colour, marker="o", markersize=3, linewidth=1.4, label=_words(name))
        axis.set(xlabel="step", ylabel="% on held-out questions")
        axis.set_ylim(0, 102)
        axis.legend(loc="lower right")

    return draw


def _rate_panel(points: list[tuple[float, float]], unit: str) -> Draw:
    def draw(axis: Any) -> None:
        steps, values = zip(*points, strict=True)
        axis.plot(*_thin(steps, values), color=COLOURS["second"], linewidth=1)
        axis.set(xlabel="step", ylabel=unit)
        axis.set_ylim(bottom=0)

    return draw


def _smooth(values: Sequence[float]) -> list[float]:
    """Return the mean over a window of about a thirtieth of the curve, centred, so that it neither leads nor lags."""
    reach = len(values) // 60
    return [mean(values[max(0, place - reach) : place + reach + 1]) for place in range(len(values))]


def _thin(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return at most so many points as can be seen, the first and the last among them."""
    count = min(len(steps), _MOST_POINTS)
    chosen = sorted({round(place * (len(steps) - 1) / max(1, count - 1)) for place in range(count)})
    return [steps[index] for index in chosen], [values[index] for index in chosen]
