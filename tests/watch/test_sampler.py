"""How samples are thinned, and that a sampler leaves nothing behind; the rest is shown by real runs."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from runbook import load
from runbook.engine.record import empty_record
from runbook.language.values import dumps
from runbook.watch import sampler
from runbook.watch.sampler import LARGEST, Point, Sampler, fitting

BOOK = "runbook: 1\nname: x\nstate: {s: {file: s.json, select: \"{'n': result.size}\"}}\n"


def test_samples_have_room_in_an_event() -> None:
    values = {f"state.metric_{number}": 10**12 for number in range(100)}
    points: list[Point] = [(float(at), values) for at in range(300)]
    found = fitting(points)
    assert len(dumps(found)) <= LARGEST and len(found) >= 10 and found[0] == [0.0, values]
    gaps = {after[0] - before[0] for before, after in pairwise(found)}
    assert len(gaps) == 1, "evenly thinned"
    assert fitting([(0.0, {f"s.m{number}": 1 for number in range(10_000)})]) == []


def record_at(tmp_path: Path) -> Any:
    record: Any = empty_record()
    record["run"] |= {"id": "1", "title": "", "stamp": "", "started_at": "2025-12-10T00:00:00+00:00", "operator": "me"}
    record["circumstances"] = {"connections": {}}
    record["journal"] = str(tmp_path / ".runbook" / "runs" / "1" / "journal.jsonl")
    return record


def test_there_are_never_too_many_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.yaml").write_text(BOOK)
    (tmp_path / "s.json").write_text("text")
    for name, value in (("FIRST", 0.002), ("GROWTH", 1.0), ("MOST", 20), ("LONGEST", 0.002)):
        monkeypatch.setattr(sampler, name, value)
    sampling = Sampler(load(tmp_path / "x.yaml"), record_at(tmp_path), {}, time.monotonic())
    highest, deadline = 0, time.monotonic() + 30
    while sampling._longest < 0.01 and time.monotonic() < deadline:
        highest = max(highest, len(sampling._points))
        time.sleep(0.001)
    found = sampling.stop()
    assert sampling._longest >= 0.002 * 2**3, "thinned three times"
    assert 10 <= len(found) <= 21 and highest <= 21
    assert all(values == {"s.n": 4} for _, values in found)
    assert found[0][0] < found[-1][0] / 4, "the first ones are among those that are kept"


def test_a_step_that_is_over_at_once_leaves_no_thread(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(BOOK)
    sampling = Sampler(load(tmp_path / "x.yaml"), record_at(tmp_path), {}, time.monotonic())
    during = psutil.Process().num_threads()
    assert sampling.stop() == []
    deadline = time.monotonic() + 30
    while psutil.Process().num_threads() >= during and time.monotonic() < deadline:
        time.sleep(0.01)
    assert psutil.Process().num_threads() < during
