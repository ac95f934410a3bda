"""Every signal at every stage, and at random instants: the end is true, and the books are complete."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Sequence

import pytest

from runbook.records.journal import Line
from tests.acceptance.helpers import Background
from tests.faults.parts import (
    HANG,
    MANY,
    SEED,
    Figures,
    Place,
    Project,
    ending,
    go_on,
    kinds,
    life_of,
    places,
    processes_of,
    stopped_at,
    untrue,
    wait_opened,
)

ENDING = {signal.SIGINT: "INT", signal.SIGTERM: "TERM", signal.SIGHUP: "HUP"}
KILLING = {signal.SIGQUIT: "QUIT", signal.SIGUSR1: "USR1"}
SIGNALS = {**ENDING, **KILLING, signal.SIGSTOP: "STOP"}


def test_term_and_usr1_in_the_middle_of_a_step(project: Project) -> None:
    found = {str(place): place for place in places(project)}
    figures = Figures("signals in the middle of a step")
    for number in (signal.SIGTERM, signal.SIGUSR1):
        _at(project, figures, found["after-process.started"], number, False, True)
    figures.close(_summary(figures))


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_every_signal_at_every_stage(project: Project) -> None:
    found = places(project)
    decided = next(place.at for place in found if place.name == "before-run.finished")
    figures = Figures(f"{len(SIGNALS) + 1} signals at {len(found)} places")
    for place in found:
        for number in SIGNALS:
            _at(project, figures, place, number, False, place.at < decided)
        _at(project, figures, place, signal.SIGTERM, True, place.at < decided)
    figures.close(_summary(figures))


def _summary(figures: Figures) -> str:
    told = ", ".join(f"{figures.count[f'ended {code}']} ended with {code}" for code in ("130", "0", "a signal"))
    wrong = ", ".join(f"{figures.count[name]} {name}" for name in ("untrue ends", "incomplete books", "orphans"))
    return f"{wrong} ({told}, {figures.count['lost']} of them lost; {figures.count['after']} measured after a step)"


def _at(project: Project, figures: Figures, place: Place, number: signal.Signals, twice: bool, undecided: bool) -> None:
    where = f"{SIGNALS[number]}{' twice' if twice else ''} at {place}"
    known = set(project.runs())
    background = stopped_at(project, place, "exec", "small.yaml")
    if number != signal.SIGSTOP:
        background.process.send_signal(number)
    if twice:
        _once_more(background, number)
    code = _code(figures, background, where)
    (run_id,) = set(project.runs()) - known
    lines = project.journal(run_id)
    expected = {0}
    if number in KILLING:
        expected = {-number}
    elif number in ENDING and undecided:
        expected = {130}
    elif twice:  # the second one may meet a program whose run is over
        expected = {0, -number}
    _judge(project, figures, where, run_id, code, expected)
    if number in ENDING and undecided:
        _measured(figures, where, lines)


def _once_more(background: Background, number: signal.Signals) -> None:
    background.process.send_signal(signal.SIGCONT)
    time.sleep(0.05)
    background.process.send_signal(number)


def _code(figures: Figures, background: Background, where: str) -> int:
    try:
        return go_on(background)
    except AssertionError as error:
        figures.fault("untrue ends", where, error)
        background.process.kill()
        return background.process.wait()


def _judge(project: Project, figures: Figures, where: str, run_id: str, code: int, expected: set[int]) -> None:
    """Whether the exit code is one of those expected, and the books say the same."""
    said = project.said("err")
    verdict = ending(project.journal(run_id))
    figures.count["ended a signal" if code < 0 else f"ended {code}"] += 1
    told = {130: "cancelled", 0: "passed"}.get(code)
    if code not in expected or (told and verdict != told) or "Traceback" in said:
        figures.fault("untrue ends", where, f"code {code}, verdict {verdict}: {said}")
    if code < 0:
        _lost(project, figures, where, run_id, verdict)
    if alive := processes_of(run_id):
        figures.fault("orphans", where, alive)
    for kind, what in untrue(project, run_id):
        if kind != "row between":
            figures.fault("incomplete books", where, f"{kind}: {what}")


def _lost(project: Project, figures: Figures, where: str, run_id: str, verdict: str | None) -> None:
    """The runner died: status says so, recover closes it."""
    for command in ("status", "recover"):
        ended = project.rb(command)
        if ended.code:
            figures.fault("incomplete books", where, f"{command} ended with {ended.code}: {ended.err}")
    lines = project.journal(run_id)
    now = ending(lines)
    if lines and now != (verdict or "lost"):
        figures.fault("untrue ends", where, f"after recover it is {now}")
    figures.count["lost"] += now == "lost"


def _measured(figures: Figures, where: str, lines: Sequence[Line]) -> None:
    """Where a step had begun, the world is measured once more."""
    if "step.started" not in kinds(lines):
        return
    figures.count["after"] += 1
    if not any(line.event.kind == "snapshot.measured" and line.event.data["which"] == "after" for line in lines):
        figures.fault("incomplete books", where, "nothing was measured after the step")


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_signals_at_random_instants(project: Project) -> None:
    chance = random.Random(SEED)
    rounds = max(MANY // 4, 1)
    figures = Figures(f"signals at {rounds} random instants")
    life = life_of(project)
    for turn in range(rounds):
        number, early = chance.choice(list(SIGNALS)), chance.random() < 0.3
        delay = chance.uniform(0, life.opened if early else life.ended)
        where = f"round {turn + 1}, {SIGNALS[number]} {delay:.3f} s after {'the start' if early else 'the opening'}"
        _random(project, figures, number, delay, early, where)
    begun = (
        f"{figures.count['unopened']} before the run had begun, {figures.count['while loading']} of them while loading"
    )
    figures.close(f"{_summary(figures)}; {begun}")


def _random(project: Project, figures: Figures, number: signal.Signals, delay: float, early: bool, where: str) -> None:
    known = set(project.runs())
    background = project.start("exec", "small.yaml")
    if not early:
        wait_opened(project, background, known)
    time.sleep(delay)
    background.process.send_signal(number)
    if number == signal.SIGSTOP:
        time.sleep(0.3)
        background.process.send_signal(signal.SIGCONT)
    code = background.process.wait(HANG)
    found = [run_id for run_id in set(project.runs()) - known if project.journal(run_id)]
    if not found:
        figures.count["unopened"] += 1
        said = project.said("err")
        importing = "KeyboardInterrupt" in said  # Python's own answer while it still loads the program
        figures.count["while loading"] += importing
        if not importing and (code not in (-number, 130) or "Traceback" in said):
            figures.fault("untrue ends", where, f"code {code} without a run: {said}")
        return
    expected = {-number} if number in KILLING else {130} if number in ENDING else {0}
    if ending(project.journal(found[0])) == "passed":  # it was decided when the signal came
        expected |= {0, -number}
    _judge(project, figures, where, found[0], code, expected)
