"""Hosts that are none: network namespaces with an address, a host name and a folder of their own, on a link that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.conftest import ROOT

GATEWAY = "10.213.{number}.1"
CAN = os.geteuid() == 0 and shutil.which("ip") is not None and shutil.which("unshare") is not None


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Host:
    """One host; the test's own machine is reached from it at `gateway`."""

    def __init__(self, number: int, folder: Path) -> None:
        self.name = f"rb{os.getpid() % 10000}h{number}"
        self.link, self.gateway, self.folder = f"{self.name}v", GATEWAY.format(number=number), folder
        (folder / ".runbook").mkdir(parents=True)
        self._processes: list[subprocess.Popen[bytes]] = []
        _ip("netns", "add", self.name)
        _ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        _ip("addr", "add", f"{self.gateway}/24", "dev", self.link)
        _ip("link", "set", self.link, "up")
        _ip("-n", self.name, "addr", "add", f"10.213.{number}.2/24", "dev", "eth0")
        _ip("-n", self.name, "link", "set", "eth0", "up")
        _ip("-n", self.name, "link", "set", "lo", "up")

    def start(self, *arguments: str, log: Path, env: Mapping[str, str]) -> psutil.Process:
        """`runbook ARGUMENT...` on this host, its output in `log`."""
        inner = f'hostname {self.name}; exec "$@"'
        words = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c", inner, "sh", sys.executable]
        known = {k: v for k, v in os.environ.items() if k != "DATABASE_URL" and not k.startswith("PG")}
        with log.open("ab") as said:
            made = subprocess.Popen(
                [*words, "-m", "runbook", *arguments],
                cwd=self.folder,
                env={**known, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.folder / "state"), **env},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._processes.append(made)
        return psutil.Process(made.pid)

    def cut(self) -> None:
        """Nothing goes over the link any more, and nobody is told."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        _ip("link", "set", self.link, "up")

    def end(self) -> None:
        for process in psutil.process_iter(["cwd"]):
            if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(self.folder):
                process.kill()
        for made in self._processes:
            made.wait(30)
        _ip("netns", "del", self.name)
        subprocess.run(["ip", "link", "del", self.link], capture_output=True, check=False)


@contextmanager
def hosts(folder: Path, count: int) -> Iterator[list[Host]]:
    made: list[Host] = []
    try:
        for number in range(1, count + 1):
            made.append(Host(number, folder / f"host-{number}"))
        yield made
    finally:
        for host in made:
            host.end()
