"""From a document of the right shape to a Runbook: cross-references, defaults, and everything that shape alone cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

from runbook.language import model
from runbook.language.document import Document, Where
from runbook.language.fields import Fields
from runbook.language.names import PROBE_NAMES, Shape
from runbook.language.problems import Problem, did_you_mean
from runbook.language.reports import template_trouble
from runbook.language.schedules import schedule_of
from runbook.language.schema import param_errors, schema_trouble
from runbook.language.source import Files

DEFAULT_REPORT = "logs/{{ runbook.name }}_{{ run.stamp }}.md"
_PROBES = ("sql", "http", "command", "file")
_ACTIONS = ("command", "shell", "sql", "http")
ENDINGS: tuple[model.Ending, ...] = ("passed", "refuted", "blocked", "failed", "errored", "cancelled", "lost")
UNASKED = ENDINGS[1:]  # the verdicts of which is told where nothing else is asked for


def build(
    document: Document, path: Path, named: Mapping[str, Any], files: Files | None = None
) -> tuple[model.Runbook, list[Problem]]:
    """The Runbook that `document` describes, and all that is wrong with it; with problems it must not be run.

    `named` has every entry whose name is known, also those that were left out of the document. What it reads comes from `files`.
    """
    fields = Fields(document, path.parent, named, files)
    data = document.data
    _check_params(fields)
    _check_step_names(fields)
    start = fields.names("start")
    report = data.get("report") or {}
    runbook = model.Runbook(
        document=document,
        path=path,
        name=data["name"],
        title=fields.template(("title",), data.get("title", data["name"]), {**start, "runbook": {"name": None}}),
        hypothesis=data.get("hypothesis", ""),
        params=data.get("params") or {},
        connections=_connections(fields),
        secrets={name: item["env"] for name, item in (data.get("secrets") or {}).items()},
        lock=fields.template(("lock",), data.get("lock", data["name"]), fields.names("lock")),
        state=tuple(_state(fields, name, item) for name, item in (data.get("state") or {}).items()),
        preflight=_checks(fields, "preflight"),
        expectations=_expectations(fields, (), data, fields.names("predictions")),
        steps=_steps(fields, "steps"),
        postconditions=_checks(fields, "postconditions"),
        on_failure=_steps(fields, "on_failure"),
        finally_=_steps(fields, "finally"),
        report_path=fields.template(("report", "path"), report.get("path", DEFAULT_REPORT), start),
        report_template=_report_template(fields, report),
        audit=_audit(fields),
        remedies={name: _remedy(fields, name, item) for name, item in (data.get("remedies") or {}).items()},
        notify=tuple(_notification(fields, name, item) for name, item in (data.get("notify") or {}).items()),
        timeout=fields.duration((), data, "timeout"),
        sha256=document.sha256,
        files=fields.files,
        kinds=tuple(used.kind for room in fields.others.values() for used in room.values()),
        rerun=data.get("rerun", False),
        schedule=schedule_of(fields),
    )
    return runbook, fields.problems


def _check_params(fields: Fields) -> None:
    params: Mapping[str, Mapping[str, Any]] = fields.data.get("params") or {}
    troubles = {name: schema_trouble(schema) for name, schema in params.items()}
    for name, trouble in troubles.items():
        if trouble is not None:
            at = ("pattern",) if "pattern" in params[name] and "regular expression" in trouble else ()
            fields.wrong(("params", name, *at), trouble, "write it out here" if "not followed" in trouble else "")
    defaults = {name: item["default"] for name, item in params.items() if "default" in item and not troubles[name]}
    for name, message in param_errors(params, defaults).items():
        fields.wrong(("params", name, "default"), message, "the default must fit its own schema")


def _check_step_names(fields: Fields) -> None:
    seen: dict[str, str] = {}
    for stage in ("steps", "on_failure", "finally"):
        for name in fields.data.get(stage) or {}:
            if name in seen:
                fields.wrong(
                    (stage, name),
                    f"a step `{name}` stands in {seen[name]} already",
                    "give it a name of its own",
                    at="key",
                )
            seen[name] = stage


def _connections(fields: Fields) -> dict[str, model.Connection]:
    found = {}
    for name, item in (fields.data.get("connections") or {}).items():
        where: Where = ("connections", name)
        kind, env = item["type"], item.get("env", "")
        for key in ("embedded", "read_env") if kind == "http" else ():
            if key in item:
                fields.wrong((*where, key), f"`{key}` is for postgres connections", at="key")
        if not (env or item.get("default") or "embedded" in item):
            fields.wrong(where, "nothing says where the server is", "env: DATABASE_URL", at="key")
        _check_url(fields, where, item)
        scripts = []
        for index, text in enumerate(item.get("embedded") or []):
            scripts.append(fields.folder / text)
            if not fields.source.has(scripts[-1]):
                fields.wrong(
                    (*where, "embedded", index),
                    f"there is no file {scripts[-1]}",
                    "paths are relative to the runbook's folder",
                )
        embedded = tuple(scripts) if "embedded" in item else None
        found[name] = model.Connection(
            name, kind, env, item.get("default", ""), embedded, item.get("read_env", ""), item.get("protected", False)
        )
    return found


def _check_url(fields: Fields, where: Where, item: Mapping[str, Any]) -> None:
    url = item.get("default", "")
    schemes = {"http": ("http://", "https://"), "postgres": ("postgres://", "postgresql://")}[item["type"]]
    plain = item["type"] == "postgres" and ("=" in url or url == "embedded")
    if url and not url.startswith(schemes) and not plain:
        fields.wrong((*where, "default"), f"not a URL of a {item['type']} server", f"it begins with {schemes[0]}")


def _state(fields: Fields, name: str, item: Mapping[str, Any]) -> model.State:
    where: Where = ("state", name)
    kind = fields.kinds(where, item, (*_PROBES, *fields.others["probes"]), needed=True)
    columns = fields.metrics.get(name)
    for metric in item.get("labels") or {}:
        if columns is not None and metric not in columns:
            fields.wrong(
                (*where, "labels", metric), f"`{metric}` is not measured", did_you_mean(metric, columns), at="key"
            )
    return model.State(
        name,
        where,
        fields.probe(where, {**item, "returns": "row"}, kind, "start"),
        fields.select(where, item, kind, "start"),
        item.get("labels") or {},
        fields.duration(where, item, "timeout") or model.CHECK_TIMEOUT,
    )


def _checks(fields: Fields, section: Literal["preflight", "postconditions"]) -> tuple[model.Check, ...]:
    return tuple(_check(fields, section, name, item) for name, item in (fields.data.get(section) or {}).items())


def _check(
    fields: Fields, section: Literal["preflight", "postconditions"], name: str, item: Mapping[str, Any]
) -> model.Check:
    where: Where = (section, name)
    kind = fields.kinds(where, item, (*_PROBES, *fields.others["probes"]), needed=False)
    if not kind and "expect" not in item:
        fields.wrong(where, "a check needs a probe or an `expect`", "add sql:, http:, command: or file:", at="key")
    if "until" in item and "expect" not in item:
        fields.wrong((*where, "until"), "`until` asks again until `expect` holds, and there is no `expect`", at="key")
    remedy = item.get("remedy", "")
    declared = fields.named("remedies")
    if remedy and remedy not in declared:
        fields.wrong(
            (*where, "remedy"),
            f"there is no remedy `{remedy}`",
            did_you_mean(remedy, declared) or "declare it under remedies:",
        )
    shape = fields.names(section, *(("result",) if kind else ()), *PROBE_NAMES.get(kind, ()))
    return model.Check(
        name=name,
        section=section,
        where=where,
        description=item.get("description", ""),
        probe=fields.probe(where, item, kind, section) if kind else None,
        select=fields.select(where, item, kind, section) if kind else None,
        expect=fields.conditions(where, item, shape),
        message=fields.message(where, item, shape),
        severity=item.get("severity", "error"),
        when=fields.optional(where, item, "when", fields.names(section)),
        until=_until(fields, where, item),
        remedy=remedy,
        heading=item.get("section", ""),
        timeout=fields.duration(where, item, "timeout") or model.CHECK_TIMEOUT,
    )


def _until(fields: Fields, where: Where, item: Mapping[str, Any]) -> model.Until | None:
    if "until" not in item:
        return None
    place, until = (*where, "until"), item["until"]
    return model.Until(fields.duration(place, until, "every") or 1.0, fields.duration(place, until, "timeout") or 1.0)


def _expectations(
    fields: Fields, where: Where, owner: Mapping[str, Any], shape: Shape
) -> tuple[model.Expectation, ...]:
    place = (*where, "expectations")
    return tuple(
        _expectation(fields, (*place, metric), metric, item, shape)
        for metric, item in (owner.get("expectations") or {}).items()
    )


def _expectation(fields: Fields, where: Where, name: str, item: Mapping[str, Any], shape: Shape) -> model.Expectation:
    state, _, metric = name.partition(".")
    _check_metric(fields, where, state, metric)
    bounds: Mapping[str, Any] = item["after"] if isinstance(item.get("after"), dict) else item
    forms = [key for key in ("delta", "after") if key in item] + ["bounds"] * bool({"at_least", "at_most"} & set(item))
    names = "`after`" if "after" in forms[1:] else "at_least, at_most"
    if len(forms) != 1:
        hint = "give one of delta, after, or at_least and at_most"
        fields.wrong(
            where,
            "says nothing to judge" if not forms else f"`{forms[0]}` and {names} exclude each other",
            hint,
            at="key",
        )
    exact = forms[:1] in (["delta"], ["after"]) and bounds is item
    if bounds is not item and not bounds:
        fields.wrong((*where, "after"), "says nothing to judge", "at_least: or at_most:", at="key")
    if "tolerance" in item and not exact:
        fields.wrong((*where, "tolerance"), "bounds take no tolerance", "leave it out, or predict one number", at="key")
    place = where if bounds is item else (*where, "after")
    return model.Expectation(
        state=state,
        metric=metric,
        where=where,
        of="after" if "after" in item else "delta",
        predicted=fields.optional(where, item, forms[0], shape) if exact else None,
        at_least=fields.optional(place, bounds, "at_least", shape),
        at_most=fields.optional(place, bounds, "at_most", shape),
        tolerance=_tolerance(item["tolerance"]) if "tolerance" in item else None,
        severity=item.get("severity", "error"),
        message=fields.message(where, item, {**fields.names("postconditions"), "predicted": None, "actual": None}),
        description=item.get("description", ""),
    )


def _check_metric(fields: Fields, where: Where, state: str, metric: str) -> None:
    if state not in fields.metrics:
        hint = did_you_mean(state, fields.metrics) or "declare it under state:"
        fields.wrong(where, f"no state `{state}` is measured", hint, at="key")
        return
    columns = fields.metrics[state]
    if columns is not None and metric not in columns:
        hint = did_you_mean(metric, columns)
        if hint.startswith("did you mean"):
            hint = f"did you mean `{state}.{hint.split('`')[1]}`?"
        fields.wrong(where, f"state `{state}` does not measure `{metric}`", hint, at="key")


def _tolerance(value: Any) -> model.Tolerance:
    text = str(value).strip()
    return model.Tolerance(Decimal(text.rstrip("% ")), text.endswith("%"))


def _steps(fields: Fields, stage: model.Stage) -> tuple[model.Step, ...]:
    return tuple(_step(fields, stage, name, item) for name, item in (fields.data.get(stage) or {}).items())


def _step(fields: Fields, stage: model.Stage, name: str, item: Mapping[str, Any]) -> model.Step:
    where: Where = (stage, name)
    kind = fields.kinds(where, item, (*_ACTIONS, *fields.others["steps"]), needed=True)
    known = "steps" if stage == "steps" else "aftermath"
    names = PROBE_NAMES.get("command" if kind == "shell" else kind, ())
    shape = fields.names(known, "result", "rowcount", *names)
    retry = item.get("retry") or {"attempts": 1}
    return model.Step(
        name=name,
        stage=stage,
        where=where,
        description=item.get("description", ""),
        action=_action(fields, where, item, kind, known),
        timeout=fields.duration(where, item, "timeout") or model.STEP_TIMEOUT,
        retry=model.Retry(
            retry["attempts"], fields.duration((*where, "retry"), retry, "delay") or 1.0, float(retry.get("backoff", 1))
        ),
        when=fields.optional(where, item, "when", fields.names(known)),
        expect=fields.conditions(where, item, shape),
        message=fields.message(where, item, shape),
        expectations=_expectations(fields, where, item, fields.names(known)),
        stand_in=_stand_in(fields, (*where, "rehearse"), item.get("rehearse"), known),
    )


def _action(fields: Fields, where: Where, item: Mapping[str, Any], kind: str, known: str) -> model.Action:
    if kind == "sql":
        return fields.sql(where, item, fields.names(known, secrets=True), single=False)
    if kind == "http":
        return fields.request((*where, "http"), item["http"], known)
    if kind in fields.others["steps"]:
        return fields.extension((*where, kind), item[kind], fields.others["steps"][kind], known)
    return fields.command(where, item, known)


def _stand_in(fields: Fields, where: Where, item: Any, known: str) -> model.Action | Literal["skip"] | None:
    """What a rehearsal does in a step's place; None where that is the step itself."""
    if item is None:
        return None
    if item == "skip":
        return "skip"
    kinds = (*_ACTIONS, *fields.others["steps"])
    return _action(fields, where, item, fields.kinds(where, item, kinds, needed=True), known)


def _report_template(fields: Fields, report: Mapping[str, Any]) -> str | None:
    """The text of the author's own template for the run log, looked at for what can be known now."""
    if "template" not in report:
        return None
    where: Where = ("report", "template")
    document = fields.read(fields.folder / report["template"], where)
    if document is None:
        return None
    trouble = template_trouble(document.text)
    if trouble is not None:
        line, message = trouble
        fields.wrong(where, f"{report['template']}:{line}: {message}")
    return document.text


def _audit(fields: Fields) -> model.AuditRows:
    audit = fields.data.get("audit") or {}
    known = fields.connections("postgres")
    connection = audit.get("connection", known[0] if known else "")
    if connection and connection not in known:
        fields.wrong(
            ("audit", "connection"), f"`{connection}` is not a postgres connection", did_you_mean(connection, known)
        )
    rows = {}
    for key, stage in (("started", "audit.started"), ("finished", "end")):
        if key not in audit:
            continue
        where: Where = ("audit", key)
        if not known:
            fields.wrong(where, "rows of your own need a postgres connection, and none is declared", at="key")
            continue
        shape = fields.names(stage, secrets=True)
        rows[key] = fields.sql(where, {**audit[key], "connection": connection}, shape, single=False)
    enabled = audit.get("enabled", True)
    if not enabled and rows:
        fields.wrong(("audit", "enabled"), "the audit is off, and rows of your own are given", "leave one of them out")
    return model.AuditRows(enabled, connection, rows.get("started"), rows.get("finished"))


def _remedy(fields: Fields, name: str, item: Mapping[str, Any]) -> model.Remedy:
    where: Where = ("remedies", name)
    shape = fields.names("start")
    find = fields.sql(where, item, shape, key="find") if "find" in item else None
    return model.Remedy(
        name, where, item.get("description", ""), find, fields.sql(where, item, shape), item["max_rows"]
    )


def _notification(fields: Fields, name: str, item: Mapping[str, Any]) -> model.Notification:
    where: Where = ("notify", name)
    kind = fields.kinds(where, item, ("http", "command"), needed=True)
    if kind == "http":
        use: model.Request | model.Command = fields.request((*where, "http"), item["http"], "notify")
        if "select" in item["http"]:
            fields.wrong((*where, "http", "select"), "`select` has no meaning here: nothing is read", at="key")
    else:
        use = fields.command(where, item, "notify")
    given = item.get("on", UNASKED)
    on: list[Any] = [given] if isinstance(given, str) else given
    return model.Notification(
        name,
        where,
        ENDINGS if "any" in on else tuple(on),
        use,
        fields.duration(where, item, "timeout") or model.NOTIFY_TIMEOUT,
        fields.optional(where, item, "when", fields.names("notify")),
    )
