"""The image's health check finds the server's address, and tells well from unwell."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openenv_async.images import health
from tests.chaos.processes import short_folder


@contextmanager
def _answering(listener: socket.socket, answer: bytes) -> Generator[None]:
    """Answer one request."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            assert connection.recv(1024).startswith(b"GET /health HTTP/1.0\r\n")
            connection.sendall(answer)

    thread = threading.Thread(target=serve)
    with listener:
        thread.start()
        yield
        thread.join(5)


@pytest.mark.parametrize(
    ("arguments", "address"),
    [
        ("serve echo_env --host 0.0.0.0 --port 8000", ("127.0.0.1", 8000)),
        ("serve echo_env --host :: --port 80", ("::1", 80)),
        ("serve echo_env --host 10.0.0.7 --port=81", ("10.0.0.7", 81)),
        ("serve echo_env", ("127.0.0.1", 8000)),
        ("serve --port 8000 --port 9000", ("127.0.0.1", 9000)),
        ("serve --port 8000 --uds /run/openenv/s", "/run/openenv/s"),
        ("serve --uds=/run/a --uds=/run/b", "/run/b"),
    ],
)
def test_the_address_is_the_servers(
    arguments: str, address: str | tuple[str, int]
) -> None:
    """As for `serve`: a socket comes before a port, and the last option counts."""
    assert health.address_of(["dumb-init", "--", *arguments.split(), ""]) == address


@pytest.mark.parametrize(
    ("answer", "well"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", False),
        (b"", False),
    ],
)
def test_only_200_is_well(answer: bytes, well: bool) -> None:
    """Any other answer, and none, is not."""
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    with _answering(listener, answer):
        assert health.is_healthy(address) is well


def test_a_unix_socket_is_asked() -> None:
    """A path is a socket's."""
    with short_folder() as folder:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(folder / "s"))
        listener.listen()
        with _answering(listener, b"HTTP/1.1 200 OK\r\n\r\n"):
            assert health.is_healthy(str(folder / "s"))


def test_nobody_is_unwell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nobody listens, the check fails and says where it asked."""
    arguments = tmp_path / "cmdline"
    monkeypatch.setattr(health, "_FIRST_PROCESS", str(arguments))
    for command, said in [
        ("serve\0--uds\0/nowhere/s\0", "/nowhere/s"),
        ("serve\0--port\0nine\0", "nine"),
    ]:
        arguments.write_text(command)
        assert health.main() == 1
        assert said in capsys.readouterr().out


def test_it_runs_as_a_bare_file() -> None:
    """It needs neither this package nor anything else that is installed."""
    file = health.__file__
    assert file is not None
    outcome = subprocess.run(
        [sys.executable, "-I", "-S", file], capture_output=True, text=True, timeout=10
    )
    # This process's first ancestor serves nothing.
    assert outcome.returncode == 1, outcome.stderr
    assert outcome.stdout.startswith("no healthy server at ")
