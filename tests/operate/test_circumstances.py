"""What surrounds a run, found out from real git repositories, a real HTTP server and this very host."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from runbook import load
from runbook.operate import circumstances, models
from runbook.operate.circumstances import locale, packages, time_zone
from runbook.operate.differences import NoPatch, keep_patch
from runbook.operate.git import git_state
from runbook.operate.models import LATE, Asking, ollamas
from runbook.records.masks import Masks
from runbook.system.tools import Tools

KNOWN = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b"}


def git(folder: Path, *arguments: str) -> str:
    settings = ["-c", "protocol.file.allow=always", "-c", "core.quotePath=true"]
    env = {**os.environ, **KNOWN, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    command = ["git", "-C", str(folder), *settings, *arguments]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True).stdout.strip()


def committed(folder: Path, **files: bytes) -> Path:
    """A repository with these files in its one commit."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "--allow-empty", "-m", "first")
    return folder


def sha256(content: bytes) -> str:
    return f"sha256 {hashlib.sha256(content).hexdigest()}"


# --- git ----------------------------------------------------------------------------------------------------------


def test_a_clean_tree_has_its_commit_alone(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", a=b"1")
    (tree / "not tracked").write_text("x")
    assert git_state(tree)() == {"git": f"{git(tree, 'rev-parse', 'HEAD')} (clean)"}


def test_without_a_repository_nothing_is_told(tmp_path: Path) -> None:
    assert git_state(tmp_path)() == {}


def test_what_differs_is_told_staged_or_not(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", same=b"0", changed=b"1", staged=b"2", gone=b"3", removed=b"4", both=b"5")
    (tree / "changed").write_bytes(b"one")
    (tree / "staged").write_bytes(b"two")
    (tree / "both").write_bytes(b"five")
    (tree / "added").write_bytes(b"new")
    git(tree, "add", "staged", "both", "added")
    (tree / "both").write_bytes(b"and again")
    (tree / "gone").unlink()
    git(tree, "rm", "-q", "--cached", "removed")
    found = git_state(tree)()
    assert found["git"].endswith("(dirty: 6 files differ)")
    assert found["dirty"] == {
        "added": sha256(b"new"),
        "both": sha256(b"and again"),
        "changed": sha256(b"one"),
        "gone": "deleted",
        "removed": "deleted",
        "staged": sha256(b"two"),
    }


def test_paths_are_those_in_the_tree_from_whatever_folder_in_it(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", a=b"1")
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "a").write_bytes(b"2")
    assert git_state(tree / "deep" / "er")()["dirty"] == {"a": sha256(b"2")}


ODD = ["two words", "new\nline", "tab\tquote\"'", "ümlaut", " 2 leading", "R100 x -> y", "-dash", "back\\slash"]


@pytest.mark.parametrize("name", ODD)
def test_odd_names_are_right(name: str, tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", **{name: b"1"})
    (tree / name).write_bytes(b"2")
    assert git_state(tree)()["dirty"] == {name: sha256(b"2")}


def test_a_name_that_is_no_text_is_shown(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    place = os.fsencode(tree) + b"/\xff"
    with open(place, "wb") as file:
        file.write(b"1")
    committed(tree)
    with open(place, "wb") as file:
        file.write(b"2")
    assert git_state(tree)()["dirty"] == {"\\xff": sha256(b"2")}


def test_a_renamed_file_has_its_new_name(tmp_path: Path) -> None:
    old = "1 .M N... 1 2 3 4 5 old"  # which looks like an entry of its own
    tree = committed(tmp_path / "tree", **{old: b"a long line that is the same before and after\n" * 20}, z=b"1")
    git(tree, "mv", old, "new name")
    (tree / "z").write_bytes(b"2")
    found = git_state(tree)()
    assert set(found["dirty"]) == {"new name", "z"} and found["dirty"]["new name"].startswith("sha256 ")


def test_links_are_read_as_links_and_pipes_not_at_all(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", pipe=b"1", link=b"1")
    for name in ("pipe", "link"):
        (tree / name).unlink()
    os.mkfifo(tree / "pipe")
    (tree / "link").symlink_to("/nowhere")
    found = git_state(tree)()["dirty"]
    assert found["link"] == sha256(b"/nowhere") and found["pipe"] in ("not a file", "deleted")


def test_a_submodule_is_told_by_its_commit(tmp_path: Path) -> None:
    other = committed(tmp_path / "other", a=b"1")
    tree = committed(tmp_path / "tree", b=b"1")
    git(tree, "submodule", "--quiet", "add", str(other), "sub")
    git(tree, "commit", "-qm", "with it")
    git(tree / "sub", "commit", "-q", "--allow-empty", "-m", "second")
    head = git(tree / "sub", "rev-parse", "HEAD")
    assert git_state(tree)()["dirty"] == {"sub": f"commit {head}"}
    (tree / "sub" / "a").write_bytes(b"2")
    assert git_state(tree)()["dirty"] == {"sub": f"commit {head} (dirty)"}


def test_large_files_are_not_read_and_many_not_named(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", large=b"1", **{f"n{number:03}": b"1" for number in range(210)})
    for number in range(210):
        (tree / f"n{number:03}").write_bytes(b"2")
    with open(tree / "large", "r+b") as file:
        file.truncate(64 * 1024 * 1024 + 1)
    found = git_state(tree)()
    assert found["git"].endswith("(dirty: 211 files differ)") and len(found["dirty"]) == 200
    assert found["dirty"]["large"] == f"too large: {64 * 1024 * 1024 + 1} bytes"


def test_another_repository_in_the_environment_is_not_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = committed(tmp_path / "other", a=b"1")
    tree = committed(tmp_path / "tree", b=b"1")
    (other / "a").write_bytes(b"2")
    head = git(tree, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert git_state(tree)() == {"git": f"{head} (clean)"}


# --- the patch ----------------------------------------------------------------------------------------------------


def test_a_patch_restores_what_differed(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", text=b"one\n", binary=bytes(range(256)))
    copy = tmp_path / "copy"
    subprocess.run(["git", "clone", "-q", str(tree), str(copy)], check=True)
    (tree / "text").write_bytes(b"two\n")
    (tree / "binary").write_bytes(bytes(range(255, -1, -1)))
    path = tmp_path / "patch.diff"
    kept = keep_patch(tree, path, Masks())
    assert kept == {"file": "patch.diff", "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    assert path.stat().st_mode & 0o777 == 0o600
    git(copy, "apply", str(path))
    assert (copy / "text").read_bytes() == b"two\n" and (copy / "binary").read_bytes() == bytes(range(255, -1, -1))


def test_no_secret_is_in_a_patch(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", a=b"")
    text = b"key = s3cret-of-mine\nurl = postgresql://me:hunter22@host/db\npostgresql stays\nfirst\nsecond line\n"
    (tree / "a").write_bytes(text)
    keep_patch(tree, tmp_path / "p", Masks(["s3cret-of-mine"]))
    written = (tmp_path / "p").read_bytes()
    assert b"s3cret" not in written and b"hunter22" not in written
    assert b"+key = ***\n+url = postgresql://me:***@host/db\n+postgresql stays\n" in written


def test_where_nothing_differs_there_is_no_patch(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", a=b"1")
    assert keep_patch(tree, tmp_path / "p", Masks()) == {}
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_a_patch_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    tree = committed(tmp_path / "tree", a=b"")
    (tree / "a").write_bytes(b"x" * 1023 * 1024 * 64 + b"\n" + b"line of some length\n" * 80_000)
    with pytest.raises(NoPatch, match="larger than"):
        keep_patch(tree, tmp_path / "p", Masks())
    assert [path.name for path in tmp_path.iterdir()] == ["tree"]


def test_why_there_is_no_patch(tmp_path: Path) -> None:
    with pytest.raises(NoPatch, match="no git repository"):
        keep_patch(tmp_path, tmp_path / "p", Masks())
    git(tmp_path, "init", "-q")
    with pytest.raises(NoPatch, match="is there a commit"):
        keep_patch(tmp_path, tmp_path / "p", Masks())


# --- versions, locale, time zone ----------------------------------------------------------------------------------


def test_versions_are_those_that_the_packages_tell_themselves() -> None:
    told = packages()
    assert {"click", "httpx", "jinja2", "jsonschema", "psutil", "psycopg", "rich", "yaml"} <= set(told)
    for name, version in told.items():
        assert version == importlib.metadata.version({"yaml": "PyYAML"}.get(name, name)), name


def test_the_first_folder_of_the_path_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name in (
        ("a", "PyYAML-9.9.dist-info"),
        ("b", "Py_YAML-1.dist-info"),
        ("b", "rich-0.1-py3.11.egg-info"),
    ):
        (tmp_path / folder / name).mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path / "b"), str(tmp_path / "a"), "/nowhere"])
    packages.cache_clear()
    try:
        assert packages() == {"yaml": "9.9"}, "the first folder is the one that is worked in"
        monkeypatch.setattr(sys, "path", ["", str(tmp_path / "b"), str(tmp_path / "a")])
        packages.cache_clear()
        assert packages() == {"yaml": "9.9", "rich": "0.1"}
    finally:
        packages.cache_clear()


def test_the_locale_is_that_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("LC_") or name == "LANG"]:
        monkeypatch.delenv(name)
    assert locale() == "C"
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    assert locale() == "de_DE.UTF-8"
    monkeypatch.setenv("LC_NUMERIC", "C")
    assert locale() == "de_DE.UTF-8 (LC_NUMERIC C)"
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    assert locale() == "C.UTF-8"


def test_the_time_zone_is_that_of_the_environment_or_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    for given, told in (("Europe/Berlin", "Europe/Berlin"), (":America/Lima", "America/Lima"), ("EST5EDT", "EST5EDT")):
        monkeypatch.setenv("TZ", given)
        assert time_zone() == told
    monkeypatch.setenv("TZ", "/usr/share/zoneinfo/Asia/Tokyo")
    assert time_zone() == "Asia/Tokyo"
    monkeypatch.delenv("TZ")
    if os.path.islink("/etc/localtime"):
        assert os.readlink("/etc/localtime").endswith(circumstances.time_zone())


# --- models -------------------------------------------------------------------------------------------------------


class Server:
    """An HTTP server on loopback that answers everything alike, or not at all; what it was asked is kept."""

    def __init__(self) -> None:
        self.status, self.headers, self.body, self.wait = 200, dict[str, str](), b"{}", 0.0
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.command, self.path, dict(self.headers.items())))
                time.sleep(outer.wait)
                self.send_response(outer.status)
                for name, value in {"Content-Length": str(len(outer.body)), **outer.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                with suppress(OSError):
                    self.wfile.write(outer.body)

            def log_message(self, format: str, *args: object) -> None:
                """Keep the terminal clean."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.server.shutdown()
    server.server.server_close()


def tools() -> Tools:
    def never(*_: Any) -> Any:
        raise AssertionError("this is for the main thread alone")

    return Tools(Path(), {}, {}, never, never, never, lambda: "cancelled", Masks(["tell-nobody"]).incoming, never)


def asked(url: str) -> Any:
    """What is found out of the models at `url`, waited for as long as it takes."""
    asking = Asking({"o": url}, tools())
    for thread in asking._threads:
        thread.join(10)
    return asking.answers(patient=False)["o"]


def test_models_and_their_digests(server: Server) -> None:
    server.body = b'{"models": [{"name": "b:1b", "digest": "22"}, {"name": "a:8b", "digest": "11", "size": 7}]}'
    assert asked(server.url) == {"a:8b": "11", "b:1b": "22"}
    method, path, headers = server.asked[0]
    assert (method, path) == ("GET", "/api/tags") and "Authorization" not in headers


def test_a_great_many_models_are_cut(server: Server) -> None:
    listed = ", ".join(f'{{"name": "m{number:04}{"x" * 300}", "digest": "1"}}' for number in range(999))
    server.body = f'{{"models": [{listed}]}}'.encode()
    found = asked(server.url)
    assert len(found) == 200 and all(len(name) == 200 for name in found)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"models": 3}', b'{"models": ["a"]}', b"[" * 100_000])
def test_another_answer_is_no_list_of_models(body: bytes, server: Server) -> None:
    server.body = body
    assert asked(server.url) == "no answer: this is no list of models"


def test_why_there_is_no_answer(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    server.status = 503
    assert asked(server.url) == "no answer: status 503"
    server.status, server.headers = 302, {"Location": "http://localhost:9/tell-nobody"}
    assert "redirects to another host, localhost: not followed" in asked(server.url)
    server.status, server.headers, server.body = 200, {}, b"x" * (5 << 20)
    assert "larger than" in asked(server.url)
    server.wait = 5
    monkeypatch.setattr(models, "WITHIN", 0.1)
    assert "no answer within 0.1 s" in asked(server.url)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        assert asked(f"http://127.0.0.1:{unused.getsockname()[1]}") == "no answer: Connection refused"
    assert str(asked("http://nowhere.invalid")).startswith("no answer: ")
    assert str(asked("http://[::1")).startswith("no answer: ")


def test_what_a_server_says_is_masked(server: Server) -> None:
    server.body = b'{"models": [{"name": "tell-nobody", "digest": "1"}]}'
    assert asked(server.url) == {"***": "1"}


def test_a_slow_one_is_waited_for_a_moment_only(server: Server) -> None:
    server.wait, server.body = 1.5, b'{"models": []}'
    began = time.monotonic()
    asking = Asking({"one": server.url, "two": server.url}, tools())
    assert asking.answers(patient=True) == {"one": LATE, "two": LATE}
    assert time.monotonic() - began < 1.4
    for thread in asking._threads:
        thread.join(10)
    assert asking.answers(patient=False) == {"one": {}, "two": {}}


BOOK = """\
runbook: 1
name: x
connections:
  a: {type: http, env: OLLAMA_HOST}
  my_ollama_2: {type: http, env: A}
  asked: {type: http, env: B}
  measured: {type: http, env: C}
  other: {type: http, env: D}
  db: {type: postgres, env: OLLAMA_DB}
state: {s: {http: {connection: measured, get: "/api/tags?x=1", select: "{'n': 1}"}}}
preflight:
  p: {http: {connection: asked, get: api/ps}}
  q: {http: {connection: other, get: /api/postings}}
  r: {http: {get: "http://localhost/api/tags"}}
"""


def test_which_connections_are_an_ollama(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(BOOK)
    assert ollamas(load(tmp_path / "x.yaml")) == ["a", "my_ollama_2", "asked", "measured"]
