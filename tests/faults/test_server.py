"""A server that is restarted, killed or paused, at every stage and at random instants: the end is true, and nothing hangs."""

from __future__ import annotations

import random
import subprocess
import time
from contextlib import suppress

import psutil
import pytest

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
    life_of,
    places,
    processes_of,
    resume,
    stopped_at,
    untrue,
    wait_opened,
)
from tests.faults.server import Server

MODES = ("fast", "immediate", "killed", "paused")
PAUSE = 3.0  # seconds
AWAY = 240.0  # seconds after which a run whose server stays away has given up: every stage waits for it in vain
SHELL = """\
steps:
  work:
    shell: "echo $RUNBOOK_RUN_ID work >> $STARTS; sleep $PAUSE"
  last: {shell: "echo $RUNBOOK_RUN_ID last >> $STARTS"}
"""


@pytest.fixture
def free(project: Project) -> Project:
    """A project whose runbook has no step that needs the server."""
    text = (project.folder / "small.yaml").read_text()
    before, _, rest = text.partition("steps:\n")
    _, _, after = rest.partition("postconditions:\n")
    text = f"{before}{SHELL}postconditions:\n{after}"
    project.write("small.yaml", text.replace("{delta: 1}", "{delta: 0}").replace("result > 0", "result >= 0"))
    return project


def test_restarted_in_the_middle_of_a_step(free: Project, own_server: Server) -> None:
    found = {str(place): place for place in places(free)}
    figures = Figures("the server restarted")
    _at(free, own_server, figures, found["after-process.started"], "immediate", True)
    figures.close(_summary(figures))


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("mode", MODES)
def test_at_every_stage(mode: str, project: Project, own_server: Server) -> None:
    found = places(project)
    figures = Figures(f"the server {_done(mode)} at {len(found)} places")
    for place in found:
        _at(project, own_server, figures, place, mode, mode == "paused")
    figures.close(_summary(figures))


@pytest.mark.slow
@pytest.mark.timeout(14400)
@pytest.mark.parametrize("mode", MODES[:3])
def test_a_run_whose_steps_do_not_need_it_passes(mode: str, free: Project, own_server: Server) -> None:
    found = places(free)
    first = next(place.at for place in found if place.name == "before-step.started")
    last = next(place.at for place in found if str(place) == "after-step.judged#2")
    among = [place for place in found if first <= place.at <= last]
    figures = Figures(f"the server {_done(mode)} at {len(among)} places during and between steps that do not need it")
    for place in among:
        _at(free, own_server, figures, place, mode, True)
    figures.close(_summary(figures))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_it_stays_away(project: Project, own_server: Server) -> None:
    """The run gives up in time, `errored`; what could not be closed is closed when the server is back."""
    found = {str(place): place for place in places(project)}
    names = ("after-snapshot.measured", "after-process.started", "after-step.judged", "before-run.finished")
    figures = Figures(f"the server killed for good at {len(names)} places")
    for name in names:
        _gone(project, own_server, figures, found[name])
    figures.close(_summary(figures))


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_at_random_instants(project: Project, own_server: Server) -> None:
    chance = random.Random(SEED)
    rounds = max(MANY // 4, 1)
    figures = Figures(f"the server restarted at {rounds} random instants")
    life = life_of(project)
    for turn in range(rounds):
        mode, delay, down = chance.choice(MODES[:3]), chance.uniform(0, life.ended), chance.choice([0, 0, 0.5, 2])
        _random(
            project,
            own_server,
            figures,
            mode,
            delay,
            down,
            f"round {turn + 1}, {mode} {delay:.3f} s after the opening, {down:g} s away",
        )
    figures.close(_summary(figures))


def _done(mode: str) -> str:
    return {"killed": "killed and started again", "paused": f"paused for {PAUSE:g} s"}.get(mode, f"restarted ({mode})")


def _summary(figures: Figures) -> str:
    codes = ", ".join(
        f"{number} ended with {code[6:]}" for code, number in sorted(figures.count.items()) if code[:5] == "ended"
    )
    wrong = ", ".join(f"{figures.count[name]} {name}" for name in ("hangs", "untrue ends", "open books", "orphans"))
    noted = "; ".join(figures.noted) or "none"
    return f"{wrong} ({codes}; {figures.count['later']} closed later, by recover); not passed: {noted}"


def _down(server: Server, mode: str) -> None:
    if mode == "killed":
        server.kill()
    else:
        server.stop(mode)


def _at(project: Project, server: Server, figures: Figures, place: Place, mode: str, must_pass: bool) -> None:
    where = f"{mode} at {place}"
    known = set(project.runs())
    background = stopped_at(project, place, "exec", "small.yaml")
    began = time.monotonic()
    if mode == "paused":
        everyone = server.pause()
        resume(background)
        time.sleep(PAUSE)
        for process in everyone:
            with suppress(psutil.Error):
                process.resume()
    else:
        _down(server, mode)
        server.start()
    code = _code(project, figures, background, where)
    figures.took("to its end", time.monotonic() - began)
    _judge(project, figures, where, known, code, {0} if must_pass else {0, 4, 6})


def _code(project: Project, figures: Figures, background: Background, where: str) -> int:
    try:
        return go_on(background, AWAY)
    except AssertionError as error:
        figures.fault("hangs", where, error)
        background.process.kill()
        return background.process.wait()


def _gone(project: Project, server: Server, figures: Figures, place: Place) -> None:
    where = f"gone at {place}"
    known = set(project.runs())
    background = stopped_at(project, place, "exec", "small.yaml")
    server.kill()
    began = time.monotonic()
    code = _code(project, figures, background, where)
    took = time.monotonic() - began
    figures.took("to its end", took)
    figures.noted.append(f"{took:.0f} s")
    away = project.rb("status")
    if away.code != 0 or "Traceback" in away.err:
        figures.fault("untrue ends", where, f"status ended with {away.code}: {away.err}")
    server.start()
    _judge(project, figures, where, known, code, {6})


def _random(
    project: Project, server: Server, figures: Figures, mode: str, delay: float, down: float, where: str
) -> None:
    known = set(project.runs())
    background = project.start("exec", "small.yaml")
    wait_opened(project, background, known)
    time.sleep(delay)
    _down(server, mode)
    time.sleep(down)
    server.start()
    try:
        code = background.process.wait(HANG)
    except subprocess.TimeoutExpired as error:
        figures.fault("hangs", where, error)
        background.process.kill()
        code = background.process.wait()
    _judge(project, figures, where, known, code, {0, 4, 6})


def _judge(project: Project, figures: Figures, where: str, known: set[str], code: int, expected: set[int]) -> None:
    """Passed only where all is confirmed; else the journal's verdict is the code's, and recover completes the books."""
    figures.count[f"ended {code}"] += 1
    if code:
        figures.noted.append(f"{where} ({code})")
    said = project.said("err")
    found = set(project.runs()) - known
    verdicts = {run_id: ending(project.journal(run_id)) for run_id in found}
    told: dict[int, set[str | None]] = {0: {"passed"}, 4: {"failed"}, 6: {"errored", "passed", None}}
    if code not in expected or "Traceback" in said or not set(verdicts.values()) <= told.get(code, set()):
        figures.fault("untrue ends", where, f"code {code}, verdicts {list(verdicts.values())}: {said}")
    if code == 0 and any(untrue(project, run_id) for run_id in found):
        figures.fault("untrue ends", where, f"it says passed, but {[untrue(project, run_id) for run_id in found]}")
    if project.open() & set(found):
        figures.count["later"] += 1
    recovered = project.rb("recover")
    if recovered.code != 0:
        figures.fault("open books", where, f"recover ended with {recovered.code}: {recovered.err}")
    for run_id in found:
        if alive := processes_of(run_id):
            figures.fault("orphans", where, alive)
        for kind, what in untrue(project, run_id):
            if kind != "row between":
                figures.fault("open books", where, f"{kind}: {what}; it said {said}")
