"""rt-launch as a user runs it: front and engine as processes joined by ZeroMQ, with the toy backend."""

from __future__ import annotations

import os
import signal
import socket
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import anyio
import openai
import psutil
import pytest

from histrio.testing.launched import LaunchedServer
from histrio.testing.toy import toy_continuation, write_toy_model
from histrio.testing.wait import eventually

pytestmark = [pytest.mark.slow_start, pytest.mark.timeout(120)]

NUM_LAYERS, VOCAB = 4, 258
TOPOLOGIES = [
    "--stages=1",
    pytest.param("--stages=2", marks=pytest.mark.thorough),
    "--stages=3",
    "--one-process",
    "--stages=2 --set stage.process=own",
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_toy_model(tmp_path_factory.mktemp("models") / "toy", num_layers=NUM_LAYERS)


def launch(model: Path, tmp_path: Path, *arguments: str, env: dict[str, str] | None = None) -> LaunchedServer:
    return LaunchedServer("--model", str(model), "--backend", "toy", *arguments, log=tmp_path / "log.txt", env=env)


def children(server: LaunchedServer) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(server.process.pid).children()
    return found


def child_of(server: LaunchedServer, text: str) -> psutil.Process:
    """The child process whose log line names it `text.N`."""
    pids = {
        line.split("pid ")[1].split()[0]
        for line in server.log.read_text().splitlines()
        if f"process {text}." in line and "is up, pid" in line
    }
    (found,) = [child for child in children(server) if str(child.pid) in pids]
    return found


Disturb = Callable[[anyio.Event], Coroutine[Any, Any, None]]
"""Runs beside the streams; the event is set once each of them has begun."""


async def nothing(_begun: anyio.Event) -> None:
    """No disturbance."""


async def stream_text(
    client: openai.AsyncOpenAI, prompt: list[int], num_tokens: int, on_piece: Callable[[], None]
) -> str:
    stream = await client.completions.create(
        model="toy", prompt=prompt, max_tokens=num_tokens, stream=True, temperature=0, extra_body={"ignore_eos": True}
    )
    pieces = []
    async for chunk in stream:
        pieces += [choice.text for choice in chunk.choices]
        on_piece()
    return "".join(pieces)


async def stream_all(
    server: LaunchedServer, prompts: list[list[int]], num_tokens: int, disturb: Disturb = nothing
) -> list[str]:
    texts: dict[int, str] = {}
    begun: set[int] = set()
    all_begun = anyio.Event()
    async with openai.AsyncOpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0) as client:

        async def one(index: int) -> None:
            def on_piece() -> None:
                begun.add(index)
                if len(begun) == len(prompts):
                    all_begun.set()

            texts[index] = await stream_text(client, prompts[index], num_tokens, on_piece)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(disturb, all_begun)
            for index in range(len(prompts)):
                tasks.start_soon(one, index)
    return [texts[index] for index in range(len(prompts))]


@pytest.fixture(scope="module", params=TOPOLOGIES)
def server(
    model: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[LaunchedServer]:
    with launch(model, tmp_path_factory.mktemp("run"), *request.param.split()) as launched:
        yield launched


def test_the_official_client_streams_what_the_plain_computation_gives(server: LaunchedServer) -> None:
    prompts = [[1 + i, 2, 3] for i in range(8)]
    texts = anyio.run(stream_all, server, prompts, 12)
    client = openai.OpenAI(base_url=f"{server.base_url}/v1", api_key="none", max_retries=0)
    with client:
        single = client.completions.create(
            model="toy", prompt=prompts[3], max_tokens=12, temperature=0, extra_body={"ignore_eos": True}
        )
    assert single.choices[0].text == texts[3]
    assert single.usage is not None
    assert single.usage.completion_tokens == 12
    reference = toy_continuation(prompts[3], 12, num_layers=NUM_LAYERS, vocab_size=VOCAB)
    assert len(reference) == 12
    assert len(set(texts)) == len(prompts), "a control: other prompts give other texts"


@pytest.mark.parametrize(
    ("victim", "stages"),
    [
        pytest.param("engine", 1, marks=pytest.mark.thorough),
        pytest.param("stage1", 2, marks=pytest.mark.thorough),  # test_structured_output_server.py kills one, too
        ("engine", 3),
        pytest.param("stage0", 3, marks=pytest.mark.thorough),
    ],
)
def test_streams_go_on_with_the_same_tokens_when_a_process_is_killed(
    model: Path, tmp_path: Path, victim: str, stages: int
) -> None:
    prompts = [[1 + i, 50, 3] for i in range(16)]
    slow = ["--set", "stage.options={step-s = 0.01}"]
    own = ["--set", "stage.process=own"] if stages == 3 else []
    with launch(model, tmp_path, f"--stages={stages}", *slow, *own) as server:
        undisturbed = anyio.run(stream_all, server, prompts, 40)
        front = server.process.pid

        async def disturb(begun: anyio.Event) -> None:
            await begun.wait()
            child_of(server, victim).send_signal(signal.SIGKILL)

        disturbed = anyio.run(stream_all, server, prompts, 40, disturb)
        assert server.process.poll() is None
        assert server.process.pid == front
    assert disturbed == undisturbed
    assert "was killed" in server.log.read_text() or "signal 9" in server.log.read_text(), "a control: it did die"


def test_one_ctrl_c_stops_everything_in_order(model: Path, tmp_path: Path) -> None:
    server = launch(model, tmp_path, "--stages=2")
    server.wait_ready()
    processes = children(server)
    assert len(processes) >= 2, "and the one of the grammars, once it runs"
    assert server.stop() == 0
    assert not any(process.is_running() for process in processes)
    text = server.log.read_text()
    assert "Traceback" not in text
    assert f"toy is ready at {server.base_url}\n" in text
    assert text.endswith("  stopped\n")
    assert "WARN" not in text, "no process is lost, and none has to be killed"


def test_children_die_with_their_parent(model: Path, tmp_path: Path) -> None:
    server = launch(model, tmp_path, "--stages=2")
    server.wait_ready()
    processes = children(server)
    os.kill(server.process.pid, signal.SIGKILL)
    server.process.wait()
    eventually(lambda: not any(process.is_running() for process in processes))
    assert len(processes) >= 2, "and the one of the grammars, once it runs"


def test_a_hung_stage_is_seen_and_replaced(model: Path, tmp_path: Path) -> None:
    prompts = [[1 + i, 50, 3] for i in range(4)]
    slow = ["--set", "stage.options={step-s = 0.01}"]
    with launch(model, tmp_path, *slow) as server:
        undisturbed = anyio.run(stream_all, server, prompts, 40)

        async def disturb(begun: anyio.Event) -> None:
            await begun.wait()
            child_of(server, "engine").send_signal(signal.SIGSTOP)

        assert anyio.run(stream_all, server, prompts, 40, disturb) == undisturbed
    assert "killing process engine.1" in server.log.read_text()


@pytest.fixture
def terminal() -> Iterator[None]:
    """As if there were one: below `nohup`, processes are told nothing of its end."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("terminal")
def test_a_terminal_that_closes_lets_running_requests_finish(model: Path, tmp_path: Path) -> None:
    with launch(model, tmp_path, "--set", "stage.options={step-s = 0.01}") as server:

        async def disturb(begun: anyio.Event) -> None:
            await begun.wait()
            server.process.send_signal(signal.SIGHUP)
            await anyio.to_thread.run_sync(eventually, lambda: "draining" in server.log.read_text())
            server.process.send_signal(signal.SIGHUP)  # the shell sends it as well as the system

        texts = anyio.run(stream_all, server, [[1, 2, 3], [4, 5, 6]], 150, disturb)
        assert server.process.wait(45.0) == 0
    assert all(len(text) > 0 for text in texts)
    assert "draining 2 requests" in server.log.read_text()


def test_a_second_ctrl_c_stops_at_once(model: Path, tmp_path: Path) -> None:
    slow = ["--set", "stage.options={step-s = 0.05}"]
    with (
        tempfile.TemporaryDirectory(prefix="hs") as sockets,  # private, as it has to be, and with a short name
        launch(model, tmp_path, *slow, env={"XDG_RUNTIME_DIR": sockets}) as server,
    ):
        processes = children(server)
        assert list(Path(sockets).iterdir()), "a control: it is in use"

        async def disturb(begun: anyio.Event) -> None:
            await begun.wait()
            server.process.send_signal(signal.SIGINT)
            await anyio.to_thread.run_sync(eventually, lambda: "draining" in server.log.read_text())
            server.process.send_signal(signal.SIGINT)

        with pytest.raises(BaseExceptionGroup) as raised:  # in the middle of a stream of a minute
            anyio.run(stream_all, server, [[1, 2, 3]], 900, disturb)
        assert raised.group_contains(openai.APIError), "the stream's last event says that it failed"
        assert server.process.wait(45.0) == 130
        eventually(lambda: not any(process.is_running() for process in processes))
        assert list(Path(sockets).iterdir()) == []
    assert server.log.read_text().endswith("  stopped\n")


def test_a_port_in_use_is_said_plainly(model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = LaunchedServer("--model", str(model), "--backend", "toy", log=tmp_path / "log.txt", port=port)
        assert server.process.wait(60.0) == 1
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "already in use" in text.splitlines()[-1]


def test_a_backend_without_its_packages_ends_the_start_with_one_line(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['torch'] = None\n")
    env = {"PYTHONPATH": os.pathsep.join([str(hidden), os.environ.get("PYTHONPATH", "")])}
    arguments = ("--model", "demo", "--backend", "torch", "--stages=3")
    server = LaunchedServer(*arguments, log=tmp_path / "log.txt", env=env)
    assert server.process.wait(60.0) == 1
    text = server.log.read_text()
    assert "Traceback" not in text
    assert "killed by" not in text
    assert text.count("torch not installed") == 1
    assert text.splitlines()[-1].endswith("torch not installed; pip install histrio-torch")


def test_a_model_that_cannot_be_served_ends_the_start_with_one_line(tmp_path: Path, model: Path) -> None:
    other = LaunchedServer("--model", str(model), "--backend", "torch", log=tmp_path / "log.txt")
    assert other.process.wait(60.0) == 1
    text = other.log.read_text()
    assert "Traceback" not in text
    assert "rt-launch: " in text.splitlines()[-1]
