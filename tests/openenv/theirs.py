"""OpenEnv's own server, in a process with its own interpreter."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .venvs import interpreter

__all__ = ["Theirs", "serving_theirs"]

_SCRIPT = Path(__file__).with_name("count_server.py")
_PATIENCE = 10.0


class Theirs:
    """A server of OpenEnv's.

    Args:
        path: Its Unix socket.
    """

    def __init__(self, path: Path) -> None:
        self.path: Path | None = path
        self.url = f"ws+unix://{path}"


@contextlib.contextmanager
def serving_theirs(
    version: str, *, sessions: int = 64, tools: bool = False
) -> Iterator[Theirs]:
    """Serve `count_server.py` with OpenEnv of a version.

    Args:
        version: Of OpenEnv.
        sessions: Most sessions.
        tools: Whether to serve an environment of tools instead.
    """
    python = interpreter(version)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        options = json.dumps({"path": str(path), "sessions": sessions, "tools": tools})
        log = (Path(folder) / "log").open("w+")
        process = subprocess.Popen(
            [str(python), str(_SCRIPT), options],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if not said:
                log.seek(0)
                raise RuntimeError(f"expected a server, got {log.read()[-2000:]}")
            yield Theirs(path)
        finally:
            process.kill()
            process.communicate(timeout=_PATIENCE)
            log.close()
