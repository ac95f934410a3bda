"""Trying runbooks out: each case on databases of its own, in a process and a folder of its own, judged by what was wanted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from runbook.language.cases import NOT_REACHED, Before, Case, load_cases
from runbook.language.load import load
from runbook.language.model import Connection, Runbook
from runbook.language.problems import InvalidRunbook, Problem, RunbookError
from runbook.language.values import dumps, duration_text, loads
from runbook.operate.servers import EMBEDDED, project_folder
from runbook.records.outcomes import Outcome, outcomes

if TYPE_CHECKING:
    from runbook.operate.cancel import Cancellation

TIMEOUT = 600.0  # seconds
GRACE = 40.0  # seconds for a run that was asked to end: to end its step's processes, to measure, to close its books
TICK = 0.02
ANSWER = "answer.json"  # what came of a run, in its folder
MOST_JOBS = 8  # each run has some connections to the private PostgreSQL, which takes 100
_UNREACHED = ("not asked", "not started", "not measured")
_COPYING = threading.Lock()  # a look at a database, for one copy, keeps it from being the template of another

Verdict = Literal["passed", "refuted", "unknown", "skipped"]


class Trial(NamedTuple):
    """One case of one runbook. `databases` are the URLs to copy, by connection; the other databases are fresh ones."""

    runbook: Runbook
    case: Case
    databases: Mapping[str, str] = {}

    @property
    def name(self) -> str:
        return f"{self.runbook.path.stem}: {self.case.name}"


class Bounds(NamedTuple):
    """How trials are done: their folders are made in `folder`; a run may take `timeout` seconds; `keep` keeps every folder."""

    folder: Path
    timeout: float = TIMEOUT
    keep: bool = False


class Miss(NamedTuple):
    """Something that came out otherwise than was wanted."""

    what: str
    wanted: str
    came: str


class Tried(NamedTuple):
    """What came of a trial: `passed`, `refuted` (it ran, and came out otherwise), `unknown` (it could not be run) or `skipped`.

    `outcome` and `because` are the run's verdict and its reason, `told` what else the run found amiss. `problems` say what is
    wrong with the case. `folder` has the records of the run, where it was kept.
    """

    trial: Trial
    verdict: Verdict
    seconds: float = 0.0
    outcome: str = ""
    because: str = ""
    misses: tuple[Miss, ...] = ()
    told: tuple[Outcome, ...] = ()
    problems: tuple[Problem, ...] = ()
    folder: Path | None = None
    report: str = ""
    journal: str = ""


class _CannotRun(RunbookError):
    """A run that could not be begun, or of which nothing is known."""


def trials_of(runbook: Runbook, databases: Mapping[str, str]) -> list[Trial]:
    """A trial for each case of a runbook. Raises InvalidRunbook."""
    return [Trial(runbook, case, databases) for case in load_cases(runbook)]


def try_all(trials: Sequence[Trial], bounds: Bounds, jobs: int, stopping: Callable[[], bool]) -> Iterator[Tried]:
    """Tries all out, so many at a time, and tells of each when it is done; once `stopping`, the rest are skipped."""
    given_up = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        try:
            waiting = {pool.submit(try_out, one, bounds, lambda: given_up.is_set() or stopping()) for one in trials}
            while waiting:
                done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            given_up.set()


def try_out(trial: Trial, bounds: Bounds, stopping: Callable[[], bool] = lambda: False) -> Tried:
    """Tries one case out. Whatever comes of it is a value; the databases are dropped and the processes ended in any case."""
    if stopping():
        return Tried(trial, "skipped", because="it was not begun")
    folder = _own_folder(bounds.folder, trial)
    began = time.monotonic()
    try:
        tried = _tried(trial, folder, bounds.timeout, stopping)
    except InvalidRunbook as error:
        tried = Tried(
            trial, "unknown", because=f"the case is not valid: {error.problems[0].message}", problems=error.problems
        )
    except RunbookError as error:
        tried = Tried(trial, "unknown", because=str(error))
    seconds = time.monotonic() - began
    if not bounds.keep and (tried.verdict == "passed" or not _worth_keeping(folder)):
        shutil.rmtree(folder, ignore_errors=True)
        return tried._replace(seconds=seconds, report="", journal="")
    return tried._replace(seconds=seconds, folder=folder)


def _worth_keeping(folder: Path) -> bool:
    """Whether there was a run, or the process that was to run it said something."""
    log = folder / "runner.log"
    return (folder / ".runbook").exists() or (log.exists() and log.stat().st_size > 0)


def _own_folder(base: Path, trial: Trial) -> Path:
    name = re.sub(r"[^A-Za-z0-9_-]", "_", trial.runbook.path.stem)
    for number in range(1, 1000):
        folder = base / f"{name}-{trial.case.name}{f'-{number}' if number > 1 else ''}"
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder
    raise _CannotRun(f"{base} has too many folders of {trial.name}")


def _tried(trial: Trial, folder: Path, timeout: float, stopping: Callable[[], bool]) -> Tried:
    _refuse_protected(trial)
    with ExitStack() as stack:
        urls, reading = _databases(trial, stack)
        if trial.case.before is not None:
            _run_before(trial.case.before, urls[trial.case.before.connection])
        order = {
            "runbook": str(trial.runbook.path),
            "params": trial.case.params,
            "urls": urls,
            "reading": reading,
            "folder": str(folder),
        }
        ended = _run(order, _environment(trial), folder, timeout, stopping)
    answer = _answer(folder, ended)
    return judged(trial, answer, timeout if ended == "late" else None, stopped=ended == "stopped")


def _refuse_protected(trial: Trial) -> None:
    """A case consents to what it does to databases of its own, and to nothing else."""
    for name, item in trial.runbook.connections.items():
        if item.protected and item.type != "postgres" and item.env not in trial.case.env:
            raise _CannotRun(f"connection `{name}` is protected: have the case name a stand-in, env: {{{item.env}: …}}")


# --- the databases ----------------------------------------------------------------------------------------------------


def _databases(trial: Trial, stack: ExitStack) -> tuple[dict[str, str], dict[str, str]]:
    """URLs by connection, to write and to read with, of databases that go with `stack`. Raises RunbookError."""
    urls, reading = {}, {}
    for name, connection in trial.runbook.connections.items():
        if connection.type != "postgres":
            continue
        source = trial.databases.get(name, EMBEDDED)
        provide = _fresh if source == EMBEDDED else _copy
        try:
            urls[name], reading[name] = provide(trial.runbook, connection, source, stack)
        except RunbookError as error:
            raise _CannotRun(f"connection `{name}`: {error}") from None
    return urls, reading


def _fresh(runbook: Runbook, connection: Connection, source: str, stack: ExitStack) -> tuple[str, str]:
    from runbook.database.embedded import embedded_database

    base, name = project_folder(runbook.path) / EMBEDDED, f"{runbook.name}_{connection.name}"
    made = stack.enter_context(embedded_database(base, name, connection.embedded or (), fresh=True))
    return made.url, made.read_url


def _copy(runbook: Runbook, connection: Connection, source: str, stack: ExitStack) -> tuple[str, str]:
    from runbook.database.clone import copied
    from runbook.operate.options import new_run_id

    read_url = os.environ.get(connection.read_env, "") if connection.read_env else ""
    with _COPYING:
        made = stack.enter_context(copied(source, new_run_id(datetime.now(UTC)), read_url=read_url))
    return made.url, made.read_url


def _run_before(before: Before, url: str) -> None:
    """Runs the statements one by one, each for itself. Raises InvalidRunbook at the place of the one that fails."""
    from runbook.database.connect import ServerError, connect, translated
    from runbook.language.sqltext import statements

    connection = connect(url, "runbook test")
    try:
        for start, end in statements(before.text):
            try:
                with translated():
                    connection.execute(before.text[start:end].encode())
            except ServerError as error:
                if error.lost:
                    raise
                offset = start + (error.position or 0)
                raise InvalidRunbook([before.document.problem(before.where, str(error), offset=offset)]) from None
    finally:
        connection.close()


# --- the process ------------------------------------------------------------------------------------------------------


def _environment(trial: Trial) -> dict[str, str]:
    """Ours and the case's. Where no server was named, no variable of libpq leads a step to one."""
    kept = {name: value for name, value in os.environ.items() if trial.databases or not name.startswith("PG")}
    return {**kept, **trial.case.env}


Ended = Literal["by itself", "late", "stopped"]
_CODE = "import sys; sys.path.append(sys.argv[1]); from runbook.trial import run_ordered; run_ordered()"


def _run(
    order: Mapping[str, Any], env: Mapping[str, str], folder: Path, timeout: float, stopping: Callable[[], bool]
) -> Ended:
    """Has another process run the case, and waits for it; it ends itself if this one is no more."""
    command = [sys.executable, "-P", "-c", _CODE, str(Path(__file__).resolve().parent.parent)]
    with (folder / "runner.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=env, start_new_session=True
        )
    assert process.stdin is not None
    try:
        with suppress(BrokenPipeError):
            process.stdin.write(dumps(order).encode() + b"\n")
            process.stdin.flush()
        return _awaited(process, timeout, stopping)
    finally:
        _end(process)
        with suppress(BrokenPipeError):
            process.stdin.close()
        if not (folder / ANSWER).exists():
            _recover(folder, order["urls"])


def _awaited(process: subprocess.Popen[bytes], timeout: float, stopping: Callable[[], bool]) -> Ended:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if stopping():
            return "stopped"
        with suppress(subprocess.TimeoutExpired):
            process.wait(TICK)
            return "by itself"
    return "late"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks a run that goes on to end, which has it end its step and close its books; one that does not is killed."""
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _recover(folder: Path, urls: Mapping[str, str]) -> None:
    """Closes a run whose process is gone without an answer, and ends what is left of its step."""
    from runbook.operate.reaching import Way
    from runbook.operate.recovery import recover
    from runbook.operate.runs import open_runs

    for run in open_runs(folder / ".runbook"):
        with suppress(RunbookError):
            recover(run, Way(given=urls), lambda record: 0.0)


def run_ordered() -> None:
    """The other process: runs what standard input asks for, and leaves what came of it as a file."""
    from runbook.operate.cancel import Cancellation, listen

    cancellation = Cancellation()
    listen(cancellation)
    order = loads(sys.stdin.buffer.readline())
    os.chdir(order["folder"])
    try:
        answer: dict[str, Any] = {"record": _record(order, cancellation)}
    except InvalidRunbook as error:
        answer = {"problems": [problem._asdict() for problem in error.problems]}
    except RunbookError as error:
        answer = {"because": str(error)}
    aside = Path(f"{ANSWER}.new")
    aside.write_text(dumps(answer), encoding="utf-8")
    aside.rename(ANSWER)


def _record(order: Mapping[str, Any], cancellation: Cancellation) -> Any:
    from runbook.operate.options import Options
    from runbook.operate.seen import Seen
    from runbook.session import execute

    seen = Seen()
    runbook = load(order["runbook"], seen)
    threading.Thread(target=_end_with_parent, args=[cancellation.request], daemon=True).start()
    connections = dict(runbook.connections)
    for name, url in order["reading"].items():
        variable = connections[name].read_env or f"RUNBOOK_READ_{name}"
        connections[name] = connections[name]._replace(read_env=variable)
        os.environ[variable] = url
    return execute(
        runbook._replace(connections=connections, notify=()),
        params=order["params"],
        options=Options(database=order["urls"], project=Path.cwd() / ".runbook", seen=seen, wait=True),
        consent=lambda question: True,
        cancellation=cancellation,
    )


def _end_with_parent(request: Callable[[str], None]) -> None:
    if not os.read(sys.stdin.fileno(), 1):
        request("who tried this out is gone")


def _answer(folder: Path, ended: Ended) -> dict[str, Any]:
    """What the process left behind. Raises RunbookError where it could not run the case."""
    try:
        answer: dict[str, Any] = loads((folder / ANSWER).read_bytes())
    except (OSError, json.JSONDecodeError):
        said = (folder / "runner.log").read_text(encoding="utf-8", errors="backslashreplace").strip()
        if ended != "by itself":
            return {}
        raise _CannotRun(f"the run broke off: {said.splitlines()[-1] if said else 'it was killed'}") from None
    if "problems" in answer:
        raise InvalidRunbook(Problem(**problem) for problem in answer["problems"])
    if "because" in answer and ended == "by itself":
        raise _CannotRun(answer["because"])
    return answer


# --- judging ----------------------------------------------------------------------------------------------------------


def judged(trial: Trial, answer: Mapping[str, Any], late: float | None, stopped: bool) -> Tried:
    """What came of a case, from the record of its run; `late` are the seconds within which it did not end."""
    record: Any = answer.get("record")
    run = record["run"] if record else {"verdict": "", "because": answer.get("because", "")}
    found = outcomes(record) if record else []
    misses = list(_misses(trial.case, run, {item.shown: item for item in found}))
    if late is not None:
        misses = [Miss("time", f"at most {duration_text(late)}", "more")]
    verdict: Verdict = "skipped" if stopped else "refuted" if misses else "passed"
    return Tried(
        trial,
        verdict,
        outcome=run["verdict"] or "",
        because=run.get("because", ""),
        misses=() if stopped else tuple(misses),
        told=tuple(item for item in found if item.section and item.kind in ("failure", "error", "warning")),
        report=(record and record["report"]) or "",
        journal=(record and record["journal"]) or "",
    )


def _misses(case: Case, run: Mapping[str, Any], found: Mapping[str, Outcome]) -> Iterator[Miss]:
    if run["verdict"] != case.verdict:
        yield Miss("verdict", case.verdict, run["verdict"])
    if case.because not in run.get("because", ""):
        yield Miss("because", case.because, run["because"] or "no reason")
    for name, wanted in case.checks.items():
        came = found[name].verdict if name in found else NOT_REACHED
        came = NOT_REACHED if came in _UNREACHED else came
        if came != wanted:
            yield Miss(name, wanted, came)
