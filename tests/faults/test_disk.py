"""A disk that is full to the last byte, at every stage: the end is true, the journal holds, and recover closes the books."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Database, Ended
from tests.disks import small_disk
from tests.faults.parts import (
    TABLES,
    Figures,
    Place,
    Project,
    end_processes,
    ending,
    go_on,
    places,
    processes_of,
    stopped_at,
    untrue,
)

EATING = {
    "a file": "head -c 40M /dev/zero > big",
    "its output": "head -c 40M /dev/zero",
    "its output, and it goes on": "head -c 40M /dev/zero | tr '[:cntrl:]' x; sleep 0.5; echo done",
    "a file, again and again": "for i in $(seq 200); do head -c 100K /dev/zero >> big; sleep 0.005; done 2>/dev/null; true",
}


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self) -> None:
        """To the last byte."""
        with (self.folder / "filler").open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def free(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)
        for found in [self.folder / "project" / "big", *self.folder.glob("project/.runbook/runs/*/output.log")]:
            found.unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with small_disk(tmp_path / "disk") as folder:
        (folder / "project").mkdir()
        yield Disk(folder)


@pytest.fixture
def narrow(disk: Disk, database: Database, tmp_path: Path) -> Project:
    """A project on the small disk; what its steps and the test write lies elsewhere."""
    database.run(TABLES)
    return Project(disk.folder / "project", database, tmp_path, pause=0.02)


def test_full_before_and_after_a_step_has_begun(narrow: Project, disk: Disk) -> None:
    found = {str(place): place for place in places(narrow)}
    figures = Figures("a full disk")
    for name in ("before-step.started", "after-process.started"):
        _full(narrow, disk, figures, found[name])
    figures.close(_summary(figures))


@pytest.mark.slow
@pytest.mark.timeout(14400)
def test_full_at_every_stage(narrow: Project, disk: Disk) -> None:
    found = places(narrow)
    figures = Figures(f"a full disk at {len(found)} places")
    for place in found:
        _full(narrow, disk, figures, place)
    figures.close(_summary(figures))


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("what", EATING)
def test_a_step_that_fills_the_disk(what: str, narrow: Project, disk: Disk) -> None:
    figures = Figures(f"a step that fills the disk with {what}")
    text = (narrow.folder / "small.yaml").read_text()
    before, _, after = text.partition("echo $RUNBOOK_RUN_ID work >> $STARTS;")
    narrow.write(
        "eating.yaml", f'{before}echo $RUNBOOK_RUN_ID work >> $STARTS; {EATING[what]}"\n{after.partition(chr(10))[2]}'
    )
    known = set(narrow.runs())
    background = narrow.start("exec", "eating.yaml")
    ended = narrow.ended(background)
    _judge(narrow, disk, figures, what, known, ended, {0, 4, 6})
    figures.close(_summary(figures))


def test_output_that_fits_in_part(narrow: Project, disk: Disk) -> None:
    """What is cut off an output is told of, also where nothing was printed after it."""
    printing = "until test -e $GO; do sleep 0.02; done; dd if=/dev/zero bs=60000 count=1 2>/dev/null"  # in one write
    text = f'runbook: 1\nname: small\nsteps:\n  print:\n    shell: "{printing}"\n'
    narrow.write("print.yaml", text)
    go = narrow.outside / "go"
    background = narrow.start("exec", "print.yaml", env={"GO": str(go)})
    background.reached("process.started")
    disk.fill()
    os.truncate(disk.folder / "filler", (disk.folder / "filler").stat().st_size - 4 * 4096)
    go.touch()
    narrow.ended(background)
    (run_id,) = narrow.runs()
    kept = (narrow.runs()[run_id] / "output.log").stat().st_size
    told = any("does not have the whole output" in str(line.event.data) for line in narrow.journal(run_id))
    assert kept == 60000 or told, f"{kept} of 60000 bytes are kept, and nobody says so"


def _summary(figures: Figures) -> str:
    codes = ", ".join(
        f"{number} ended with {code[6:]}" for code, number in sorted(figures.count.items()) if code[:5] == "ended"
    )
    wrong = ", ".join(
        f"{figures.count[name]} {name}" for name in ("untrue ends", "tracebacks", "broken journals", "orphans")
    )
    return f"{wrong}, {figures.count['open books']} books open after recover ({codes}; {figures.count['lost']} lost)"


def _full(project: Project, disk: Disk, figures: Figures, place: Place) -> None:
    known = set(project.runs())
    background = stopped_at(project, place, "exec", "small.yaml")
    disk.fill()
    try:
        code = go_on(background)
    except AssertionError as error:
        figures.fault("untrue ends", f"at {place}", error)
        background.process.kill()
        code = background.process.wait()
    said = project.said("err")
    _judge(project, disk, figures, f"at {place}", known, Ended(code, "", said), {0, 6})


def _judge(
    project: Project, disk: Disk, figures: Figures, where: str, known: set[str], ended: Ended, expected: set[int]
) -> None:
    figures.count[f"ended {ended.code}"] += 1
    (run_id,) = set(project.runs()) - known
    verdict = ending(project.journal(run_id))
    _no_traceback(figures, where, ended)
    if ended.code not in expected or (ended.code == 0 and not _all_recorded(project, run_id, ended)):
        figures.fault("untrue ends", where, f"code {ended.code}, verdict {verdict}: {ended.err}")
    if verdict == "passed" and ended.code not in (0, 6):
        figures.fault("untrue ends", where, f"code {ended.code}, but the journal says passed: {ended.err}")
    if alive := processes_of(run_id):
        figures.fault("orphans", where, alive)
        end_processes(run_id)
    for command in (["status"], ["recover", "--grace", "1"]):
        _no_traceback(figures, f"{where}, {command[0]}", project.rb(*command))
    disk.free()
    recovered = project.rb("recover")
    if recovered.code != 0:
        figures.fault("open books", where, f"recover ended with {recovered.code}: {recovered.err}")
    figures.count["lost"] += ending(project.journal(run_id)) == "lost"
    for kind, what in untrue(project, run_id):
        if kind != "row between":
            figures.fault("open books", where, f"{kind}: {what} (it ended with {ended.code}: {ended.err})")
    again = project.rb("exec", "small.yaml")
    if again.code != 0:
        figures.fault("open books", where, f"the next run ended with {again.code}: {again.err}")
    for old in project.runs().values():  # so that the disk stays as empty for the next one
        shutil.rmtree(old)


def _all_recorded(project: Project, run_id: str, ended: Ended) -> bool:
    """Whether a run that says passed has it in the journal and in the audit, and says so where its run log is missing."""
    assert project.database is not None
    closed = project.database.rows(f"SELECT verdict FROM runbook.closings WHERE run_id = '{run_id}'") == [("passed",)]
    lines = project.journal(run_id)
    report = any(line.event.kind == "report.written" for line in lines) or "run log" in ended.err
    return closed and ending(lines) == "passed" and report


def _no_traceback(figures: Figures, where: str, ended: Ended) -> None:
    if "Traceback" in ended.err or ended.code < 0:
        figures.fault("tracebacks", where, f"code {ended.code}: {ended.err}")
