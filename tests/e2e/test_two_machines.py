"""A model over two machines, each a process tree of its own: the same tokens, and none lost when one goes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from histrio.testing.launched import LaunchedServer, free_port

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(180)]

TOPOLOGY = """
[model]
path = "demo"
[cluster]
name = "den"
listen = "127.0.0.1"
port = {port}
links-port = 0
folder = "{folder}"
[engine]
drafter = "off"
[[stage]]
layers = "0:2"
[[stage]]
layers = "2:6"
host = "studio"
"""
PROMPT = "Once upon a time there was an actor"


class Machine:
    """`histrio join` of one machine, on loopback."""

    def __init__(self, door: int, folder: Path, log: Path, *arguments: str) -> None:
        program = "import sys; from histrio.cli.commands import main; sys.exit(main())"
        command = [sys.executable, "-c", program, "join", f"127.0.0.1:{door}", "--name", "studio"]
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [*command, "--folder", str(folder), *arguments], stdout=output, stderr=subprocess.STDOUT
            )

    def end(self, signum: int) -> int:
        self.process.send_signal(signum)
        return self.process.wait(30)


def wait_for(log: Path, pattern: str, timeout_s: float = 60.0) -> re.Match[str]:
    deadline = time.monotonic() + timeout_s
    while True:
        found = re.search(pattern, log.read_text(errors="replace"))
        if found:
            return found
        assert time.monotonic() < deadline, f"{pattern} does not come:\n{log.read_text()[-3000:]}"
        time.sleep(0.05)


@contextmanager
def cluster(folder: Path) -> Iterator[tuple[LaunchedServer, int, list[Machine]]]:
    """A head, the port of its door, and the machines that tests start; all are ended."""
    door = free_port()
    file = folder / "topology.toml"
    file.write_text(TOPOLOGY.format(port=door, folder=folder / "head"))
    server = LaunchedServer(str(file), log=folder / "head.log")
    machines: list[Machine] = []
    try:
        yield server, door, machines
    finally:
        for machine in machines:
            machine.process.kill()
            machine.process.wait()
        server.stop()


def complete(server: LaunchedServer, **fields: Any) -> dict[str, Any]:
    body = json.dumps({"prompt": PROMPT, "max_tokens": 40, **fields}).encode()
    request = urllib.request.Request(f"{server.base_url}/v1/completions", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=90) as reply:
        answer: dict[str, Any] = json.load(reply)
    return answer


def text(server: LaunchedServer, **fields: Any) -> str:
    said: str = complete(server, **fields)["choices"][0]["text"]
    return said


def test_two_machines_give_the_tokens_of_one_and_lose_none(tmp_path: Path) -> None:
    seeded = {"temperature": 1.0, "seed": 11}
    with LaunchedServer("--model", "demo", "--drafter", "off", log=tmp_path / "one.log") as one:
        expected = [text(one, temperature=0), text(one, **seeded), text(one, temperature=0, max_tokens=400)]
    assert expected[0] != expected[1]

    with cluster(tmp_path) as (server, door, machines):
        token = wait_for(server.log, r"--token (\S+)").group(1)
        assert server.health() == 503, "nothing is served before the machine is there"
        machines.append(Machine(door, tmp_path / "studio", tmp_path / "studio.log", "--token", token))
        server.wait_ready()
        assert [text(server, temperature=0), text(server, **seeded)] == expected[:2]
        assert "wants to join" not in server.log_tail()

        answers: list[str] = []
        stream = threading.Thread(target=lambda: answers.append(text(server, temperature=0, max_tokens=400)))
        stream.start()
        time.sleep(0.3)
        machines[0].end(signal.SIGKILL)
        wait_for(server.log, "studio is lost")
        machines.append(Machine(door, tmp_path / "studio", tmp_path / "studio.log"))
        stream.join(90)
        assert answers == expected[2:], "the same tokens, with another incarnation of the machine"

        assert machines[1].end(signal.SIGINT) == 0, "it leaves in order"
        wait_for(server.log, "studio is lost(?s:.)*studio is lost")


def test_a_stranger_waits_and_one_that_is_removed_is_put_out(tmp_path: Path) -> None:
    program = "import sys; from histrio.cli.commands import main; sys.exit(main())"

    def hosts(*words: str) -> str:
        command = [sys.executable, "-c", program, "hosts", *words, "--folder", str(tmp_path / "head")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        return done.stdout + done.stderr

    with cluster(tmp_path) as (server, door, machines):
        wait_for(server.log, "other machines join with")
        machines.append(Machine(door, tmp_path / "studio", tmp_path / "studio.log"))
        mark = wait_for(server.log, r"studio \(127.0.0.1\) wants to join, fingerprint (\S+):").group(1)
        wait_for(machines[0].log, f"this machine is studio, fingerprint {mark}")
        assert mark in hosts("list")
        assert "admitted studio" in hosts("accept", "studio")
        server.wait_ready()
        assert "removed studio" in hosts("remove", mark)
        wait_for(server.log, "studio is lost: it was removed")
        assert server.health() == 503
        assert "no machine called" in hosts("accept", "cellar")
