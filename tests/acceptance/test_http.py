"""`http` probes and steps against a server on loopback."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from tests.acceptance.helpers import NO_AUDIT, Run, Site, verdicts_of

WEB = "connections:\n  web: {type: http, env: WEB}\n"


@pytest.fixture
def ask(run: Run, site: Site, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("WEB", site.url)
    monkeypatch.setenv("TOKEN", "token-7f3a9c")

    def ask(body: str, **given: Any) -> dict[str, Any]:
        return run(WEB + body, **given)

    return ask


PROBES = {
    "json": ("get: /json", "json.n == 0.10 and status == 200 and result.n == json.n", "passed"),
    "text": ("get: /text", "result == 'hello' and json is none", "passed"),
    "select": ("get: /json, select: json.items | map(attribute='name') | list", "result == ['a', 'b']", "passed"),
    "headers": ("get: /json", "headers['x-kind'] == 'Q' and headers['X-Kind'] == 'Q'", "passed"),
    "refuted": ("get: /json", "json.n > 1", "refuted"),
    "missing key": ("get: /json", "json.nothing == 1", "unknown"),
    "a 500 is no answer": ("get: /broken", "json.n == 1", "unknown"),
    "unless expect names status": ("get: /broken", "status == 500", "passed"),
    "and judges it": ("get: /broken", "status == 200", "refuted"),
    "a 404": ("get: /nowhere", "true", "unknown"),
    "redirect on the host": ("get: /moved", "json.n == 0.10", "passed"),
    "redirect to another host": ("get: /away", "json.n == 0.10", "unknown"),
    "redirect without end": ("get: /round", "json.n == 0.10", "unknown"),
    "too large": ("get: /large", "true", "unknown"),
    "nobody there": ("get: 'http://127.0.0.1:9/x'", "true", "unknown"),
    "no url": ("get: 'nonsense://x'", "true", "unknown"),
}


def test_probes(ask: Run, site: Site) -> None:
    site.put("/json", {"n": 0.10, "items": [{"name": "a"}, {"name": "b"}]}, X_Kind="Q")
    site.put("/text", b"hello")
    site.put("/broken", {"n": 1}, status=500)
    site.put("/moved", b"", status=302, Location="/json")
    site.put("/away", b"", status=302, Location=site.url.replace("127.0.0.1", "localhost") + "/json")
    site.put("/round", b"", status=302, Location="/round")
    site.put("/large", b"x" * (5 << 20))
    lines = [
        f'  c{number}: {{http: {{{request}}}, expect: "{expect}", severity: warn, timeout: 60s}}'
        for number, (request, expect, _) in enumerate(PROBES.values())
    ]
    record = ask("preflight:\n" + "\n".join(lines) + "\n")
    found = dict(zip(PROBES, verdicts_of(record["preflight"]).values(), strict=True))
    assert found == {name: verdict for name, (_, _, verdict) in PROBES.items()}
    assert len([asked for asked in site.asked if asked.path == "/json"]) == 6
    because = [check["because"] for check in record["preflight"].values()]
    assert (
        "redirects to another host, localhost: not followed" in because[list(PROBES).index("redirect to another host")]
    )
    assert "larger than" in because[list(PROBES).index("too large")]


STEPS = {
    "ok": ("post: /ok", "", "passed"),
    "a 500 fails": ("post: /broken", "", "failed"),
    "expected": ("post: /broken", ", expect: 'status in [500, 503]'", "passed"),
    "not as expected": ("post: /ok", ", expect: json.n == 2", "failed"),
    "nobody there": ("post: 'http://127.0.0.1:9/'", "", "failed"),
    "out of time": ("get: /slow", ", timeout: 1s", "failed"),
}


@pytest.mark.parametrize("case", STEPS)
def test_steps(case: str, ask: Run, site: Site) -> None:
    request, more, verdict = STEPS[case]
    site.put("/ok", {"n": 1})
    site.put("/broken", {"n": 1}, status=500)
    record = ask(f"steps:\n  s: {{http: {{{request}}}{more}}}\n")
    assert (record["steps"]["s"]["verdict"], record["run"]["verdict"]) == (verdict, verdict)
    assert len(site.asked) == (0 if "127.0.0.1:9" in request else 1)


def test_what_is_sent(ask: Run, site: Site) -> None:
    site.put("/a%2Fb%20c%3F%26", {"id": 7})
    body = """secrets:
  token: {env: TOKEN}
params:
  t: {type: string, default: "a/b c?&"}
  n: {type: integer, default: 5}
steps:
  json:
    http:
      put: /{{ params.t }}?q={{ params.t }}
      json: {n: "{{ params.n }}", t: "x{{ params.t }}", deep: [{none: "{{ none }}"}], fixed: 1.50}
      headers: {X-Kind: "{{ params.n }}"}
      auth: {bearer: secrets.token}
    expect: status == 200
  text: {http: {post: /x, body: "t={{ params.t }}", auth: {username: params.n, password: secrets.token}}, expect: status == 404}
postconditions:
  known: {expect: [steps.json.json.id == 7, steps.json.status == 200, "steps.text.text == 'nothing here'"]}
"""
    record = ask(body)
    assert record["run"]["verdict"] == "passed", record["run"]
    first, second = site.asked
    assert (first.method, first.path) == ("PUT", "/a%2Fb%20c%3F%26?q=a%2Fb%20c%3F%26")
    assert json.loads(first.body) == {"n": 5, "t": "xa/b c?&", "deep": [{"none": None}], "fixed": 1.5}
    assert (first.headers["Authorization"], first.headers["X-Kind"]) == ("Bearer token-7f3a9c", "5")
    assert (second.method, second.body) == ("POST", "t=a/b c?&")
    assert base64.b64decode(second.headers["Authorization"].removeprefix("Basic ")) == b"5:token-7f3a9c"


def test_credentials_do_not_go_to_another_host(ask: Run, site: Site) -> None:
    site.put("/away", b"", status=302, Location=site.url.replace("127.0.0.1", "localhost") + "/json")
    step = "steps:\n  s: {http: {post: /away, auth: {bearer: secrets.token}}}\n"
    record = ask("secrets:\n  token: {env: TOKEN}\n" + step)
    assert record["run"]["verdict"] == "failed"
    assert [asked.path for asked in site.asked] == ["/away"]


@pytest.mark.parametrize("text", ["a\r\nX-Forged: 1", "a\nb"])
def test_a_header_cannot_be_forged(text: str, ask: Run, site: Site) -> None:
    body = "params:\n  t: {type: string}\nsteps:\n  s: {http: {get: /x, headers: {X-A: '{{ params.t }}'}}}\n"
    record = ask(body, params={"t": text})
    assert record["run"]["verdict"] == "failed" and site.asked == []
    assert "control character" in record["steps"]["s"]["because"]


@pytest.mark.parametrize("text", ["../admin", "//evil.example/x", "@evil.example/", "x#y", "x?y=1"])
def test_a_value_in_a_url_stays_in_its_place(text: str, ask: Run, site: Site) -> None:
    body = (
        "params:\n  t: {type: string}\nsteps:\n  s: {http: {get: '/only/{{ params.t }}/end'}, expect: status == 404}\n"
    )
    record = ask(body, params={"t": text})
    assert record["run"]["verdict"] == "passed", record["run"]
    [asked] = site.asked
    assert asked.path.startswith("/only/") and asked.path.endswith("/end")
    assert asked.path.count("/") == 3 and "?" not in asked.path and "#" not in asked.path


def test_unsafe_requests_are_not_repeated_unless_declared(ask: Run, site: Site) -> None:
    site.put("/x", {}, status=503)
    ask("steps:\n  s: {http: {post: /x}}\n")
    assert len(site.asked) == 1
    ask("steps:\n  s: {http: {post: /x}, retry: {attempts: 3, delay: 10ms}}\n")
    assert len(site.asked) == 4


def test_without_audit_and_database_it_says_so(ask: Run) -> None:
    record = ask(NO_AUDIT + "steps:\n  s: {command: ['true']}\n")
    assert record["run"]["audit"] == "disabled"
