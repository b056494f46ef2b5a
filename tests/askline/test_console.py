"""The terminal: one line per step, quiet when it is not a terminal."""

import io

import pytest

from askline import console


@pytest.fixture
def stream(monkeypatch):
    monkeypatch.setattr(console, "_current", None)
    stream = io.StringIO()
    console.show_steps(stream)
    yield stream
    monkeypatch.setattr(console, "_current", None)


def test_a_step_is_one_line_with_seconds_and_result(stream):
    with console.step("fine-tune") as line:
        console.current_progress()(0.5, "step 1/2")
        line.done("loss [0.1]")
    assert len(stream.getvalue().splitlines()) == 1
    assert "✓ fine-tune" in stream.getvalue()
    assert "loss [0.1]" in stream.getvalue()
    assert list(console.seconds_by_step()) == ["fine-tune"]


def test_a_failed_step_says_so_and_raises(stream):
    with pytest.raises(ValueError, match="bad"), console.step("package"):
        raise ValueError("bad")
    assert "✗ package" in stream.getvalue()


def test_nobody_listens_outside_a_console(monkeypatch):
    monkeypatch.setattr(console, "_current", None)
    with console.step("evaluate") as line:
        console.current_progress()(1.0, "done")
        line.done("well")
    assert console.seconds_by_step()["evaluate"] < 5
