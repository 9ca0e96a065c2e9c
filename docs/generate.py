"""Fill the generated blocks of docs/protocol.md from the code.

`python docs/generate.py` rewrites what stands between the markers; with `--check` it
only looks, and exits with 1 when something is stale. Tables come from the structs and
their docstrings, diagrams from the protocol's tables, and the examples are recorded:
both machines run back to back, once in each encoding.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async import messages as m
from openenv_async.protocol import ClientProtocol, ServerProtocol, SessionTable
from openenv_async.protocol.tables import (
    OUTCOMES,
    PERMITS,
    RECEIVES,
    Outcome,
    Role,
    Stage,
)

__all__ = ["main", "render"]

DOCUMENT: Final = Path(__file__).with_name("protocol.md")
_BLOCK: Final = re.compile(
    r"<!-- generated:(?P<name>[^>]+?) -->\n.*?<!-- /generated -->", re.DOTALL
)
_TYPES: Final = {
    "int": "integer",
    "Seed": "integer of 64 bits, signed",
    "float": "number",
    "str": "text",
    "bool": "boolean",
    "bytes": "bytes",
    "Payload": "payload",
    "Limits": "map `Limits`",
    "SessionRow": "map `SessionRow`",
    "Executed": '`"yes"`, `"no"` or `"unknown"`',
    "Fault": '`"caller"`, `"environment"` or `"infrastructure"`',
    "list[str]": "array of text",
    "list[SessionRow]": "array of `SessionRow`",
    "dict[str, object]": "map",
    "None": "null",
}

# Tables of fields


class _Field(msgspec.Struct, frozen=True):
    name: str
    kind: str
    default: str | None
    meaning: str


def _kind_of(annotation: ast.expr) -> str:
    if isinstance(annotation, ast.BinOp):
        return f"{_kind_of(annotation.left)} or {_kind_of(annotation.right)}"
    text = ast.unparse(annotation)
    if text.startswith("Literal["):
        values: list[str] = list(ast.literal_eval(text.removeprefix("Literal")))
        quoted = [f'`"{value}"`' for value in values]
        return ", ".join(quoted[:-1]) + " or " + quoted[-1]
    return _TYPES[text]


def _default_of(kind: type[msgspec.Struct], name: str) -> str | None:
    info = next(item for item in msgspec.structs.fields(kind) if item.name == name)
    if info.required:
        return None
    if isinstance(info.default, m.Limits):
        return "`{}`"
    return f"`{m.JSON.encode(info.default).decode()}`"


def _fields(kind: type[msgspec.Struct]) -> Iterator[_Field]:
    (node,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(node, ast.ClassDef)
    body = node.body
    for item, after in zip(body, [*body[1:], ast.Pass()], strict=True):
        if not isinstance(item, ast.AnnAssign):
            continue
        assert isinstance(item.target, ast.Name)
        text = ""
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            text = " ".join(str(after.value.value).split())
        name = item.target.id
        yield _Field(
            name, _kind_of(item.annotation), _default_of(kind, name), _cell(text)
        )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _tag(kind: type[msgspec.Struct]) -> str:
    return str(kind.__struct_config__.tag)


_MESSAGES: Final = {
    _tag(kind): kind for kind in (*m.ClientMessage.__args__, *m.ServerMessage.__args__)
}


def _sender(kind: type[msgspec.Struct]) -> str:
    is_client = kind in m.ClientMessage.__args__
    if is_client and kind in m.ServerMessage.__args__:
        return "either side"
    return "client" if is_client else "server"


def _message(tag: str) -> str:
    kind = _MESSAGES[tag]
    rows = [["0", "tag", f'`"{tag}"`', "", ""]]
    for position, field in enumerate(_fields(kind), 1):
        default = "required" if field.default is None else field.default
        rows.append(
            [str(position), f"`{field.name}`", field.kind, default, field.meaning]
        )
    head = ["#", "field", "type", "default", "meaning"]
    return f"Sent by: {_sender(kind)}.\n\n{_table(head, rows)}"


def _map(name: str) -> str:
    kind: type[msgspec.Struct] = m.Limits if name == "Limits" else m.SessionRow
    rows: list[list[str]] = []
    for field in _fields(kind):
        default = "required" if field.default is None else field.default
        rows.append([f"`{field.name}`", field.kind, default, field.meaning])
    return _table(["key", "type", "default", "meaning"], rows)


def _codes() -> str:
    rows = [
        [
            f"`{code}`",
            row.executed,
            "yes" if row.retryable else "no",
            row.fault,
            _cell(row.meaning),
        ]
        for code, row in m.CODES.items()
    ]
    return _table(["code", "executed", "retryable", "fault", "meaning"], rows)


# Who may say what, when


def _phases(role: str) -> str:
    """Who receives what in which phase, and the phase after it."""
    table = RECEIVES["client" if role == "client" else "server"]
    phases = [phase for phase in table if table[phase]]
    kinds = dict.fromkeys(kind for phase in phases for kind in table[phase])
    rows: list[list[str]] = []
    for kind in kinds:
        row = [f"`{_tag(kind)}`"]
        for phase in phases:
            then = table[phase].get(kind)
            row.append("error" if then is None else then.value)
        rows.append(row)
    return _table(["received", *(f"in {phase.value}" for phase in phases)], rows)


def _mermaid(first: str, edges: dict[tuple[str, str], list[str]]) -> str:
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {first}"]
    for (before, then), labels in edges.items():
        lines.append(f"    {before} --> {then}: {', '.join(labels)}")
    return "\n".join([*lines, "```"])


def _connection(role: str) -> str:
    known: Role = "client" if role == "client" else "server"
    edges: dict[tuple[str, str], list[str]] = {}
    for phase, receives in RECEIVES[known].items():
        for kind, then in receives.items():
            if then is not phase:
                edges.setdefault((phase.value, then.value), []).append(_tag(kind))
    if known == "server":
        edges["ready", "draining"] = ["goodbye is sent"]
    for phase in RECEIVES[known]:
        if RECEIVES[known][phase]:
            edges.setdefault((phase.value, "closed"), []).append("socket lost or error")
    return _mermaid("greeting", edges)


_POSSIBLE: Final = {
    Outcome.ONGOING: (m.Reset, m.Step),
    Outcome.FINAL: (m.Reset, m.Step),
    Outcome.BROKEN: (m.Reset, m.Step),
    Outcome.POISONED: (m.Reset, m.Step, m.GetState),
    Outcome.CLOSED: (m.Close,),
}
"""Which requests can end how; an outcome that changes nothing is not drawn."""


def _session() -> str:
    edges: dict[tuple[str, str], list[str]] = {}
    for stage in Stage:
        for outcome, kinds in _POSSIBLE.items():
            then = OUTCOMES[outcome][stage]
            for kind in kinds:
                if not PERMITS[stage][kind]:
                    label = f"{_tag(kind)} / {outcome.value}"
                    edges.setdefault((stage.value, then.value), []).append(label)
    return _mermaid(Stage.NEW.value, edges)


def _permits() -> str:
    kinds = list(PERMITS[Stage.NEW])
    rows = [
        [
            stage.value,
            _stage_text(stage),
            *(f"`{permits[k]}`" if permits[k] else "allowed" for k in kinds),
        ]
        for stage, permits in PERMITS.items()
    ]
    return _table(["stage", "means", *(f"`{_tag(kind)}`" for kind in kinds)], rows)


def _outcomes() -> str:
    rows = [
        [outcome.value, *(after[stage].value for stage in Stage)]
        for outcome, after in OUTCOMES.items()
    ]
    return _table(["outcome", *(f"from {stage.value}" for stage in Stage)], rows)


def _stage_text(stage: Stage) -> str:
    return {
        Stage.NEW: "no episode has begun",
        Stage.RUNNING: "an episode is running",
        Stage.DONE: "the last observation was terminated or truncated",
        Stage.BROKEN: "a request of the episode ended in an unknown state",
        Stage.POISONED: "a call hangs in the environment and cannot be stopped",
        Stage.CLOSED: "the session is ending",
    }[stage]


# Examples


class _Scene:
    """Both machines with a recorder between them; an action is echoed."""

    def __init__(self, codec: m.Codec, limits: m.Limits | None = None) -> None:
        self.codec = codec
        self.table = SessionTable(["echo"], limits=m.Limits())
        self.client: ClientProtocol[object] = ClientProtocol(
            codec=codec, client="example 1.0", limits=limits
        )
        self.frames: list[tuple[str, bytes]] = []
        self.recording = True
        self.connect()

    def connect(self) -> None:
        """Replace the line by a new one."""
        self.server = ServerProtocol(
            self.table,
            codec=self.codec,
            server="openenv-async",
            incarnation="5f3a9c0e1b2d4f68",
        )
        self.client.connection_made(0.0)
        self.pump()

    def drop(self) -> None:
        """Cut the line."""
        self.server.connection_lost(0.0)
        self.client.connection_lost()

    def record(self, sender: str, frame: bytes) -> None:
        """Keep a frame for the document."""
        if self.recording:
            self.frames.append((sender, frame))

    def up(self) -> bool:
        """Carry one frame to the server and execute what it asks for."""
        frame = self.client.next_frame()
        if frame is None:
            return False
        self.record("client", frame)
        for channel, request in self.server.receive(frame, 0.0):
            session = channel.session
            session.queue_ns = 1500
            if isinstance(request, m.Step):
                self.step(session, self.codec.generic(raw_of(request.action)))
            elif isinstance(request, m.Reset):
                session.reply({"reward": None, "text": "go"}, environment_ns=2000)
            elif isinstance(request, m.GetState):
                session.reply({"episode_id": None, "step_count": session.step})
            elif isinstance(request, m.Close):
                session.reply(None)
        return True

    def step(self, session: Any, action: Any) -> None:
        """Echo, or fail as an environment does."""
        if "text" not in action:
            message = "Object missing required field `text`"
            session.fail("invalid_action", message, executed="no")
            return
        session.reply({"reward": 1.0, "text": action["text"]}, environment_ns=2500)

    def down(self) -> bool:
        """Carry one frame to the client."""
        frame = self.server.next_frame()
        if frame is None:
            return False
        self.record("server", frame)
        self.client.receive(frame, 0.0)
        return True

    def pump(self) -> None:
        """Carry everything."""
        while self.up() or self.down():
            pass

    def open(self) -> Any:
        """Open a session and start its episode."""
        session = self.client.open("000102030405060708090a0b0c0d0e0f", owner="me")
        self.pump()
        return session


def raw_of(payload: object) -> msgspec.Raw:
    """A payload as the machines hand it out."""
    assert isinstance(payload, msgspec.Raw)
    return payload


def _play_greeting(codec: m.Codec) -> _Scene:
    return _Scene(codec)


def _silent(codec: m.Codec, limits: m.Limits | None = None) -> tuple[_Scene, Any]:
    """A scene with an open session, recorded from now on."""
    scene = _Scene(codec, limits)
    session = scene.open()
    scene.client.reset(session, seed=7)
    scene.pump()
    scene.frames.clear()
    return scene, session


def _play_episode(codec: m.Codec) -> _Scene:
    scene = _Scene(codec)
    scene.frames.clear()
    session = scene.open()
    scene.client.reset(session, seed=7)
    scene.pump()
    scene.client.step(session, {"text": "hi"}, 5.0)
    scene.pump()
    scene.client.state(session)
    scene.pump()
    scene.client.close(session)
    scene.pump()
    return scene


def _play_resume(codec: m.Codec) -> _Scene:
    scene, session = _silent(codec)
    scene.client.step(session, {"text": "hi"}, None)
    scene.up()
    # The reply was on the line when it was cut.
    scene.drop()
    scene.recording = False
    scene.server = ServerProtocol(
        scene.table,
        codec=codec,
        server="openenv-async",
        incarnation="5f3a9c0e1b2d4f68",
    )
    scene.client.connection_made(0.0)
    scene.up()
    scene.down()
    scene.recording = True
    scene.pump()
    return scene


def _play_error(codec: m.Codec) -> _Scene:
    scene, session = _silent(codec)
    scene.client.step(session, {"txt": "hi"}, None)
    scene.pump()
    return scene


def _play_chunks(codec: m.Codec) -> _Scene:
    scene, session = _silent(codec, m.Limits(chunk_bytes=256))
    scene.recording = False
    scene.client.step(session, {"text": "x" * 250}, None)
    scene.up()
    scene.recording = True
    scene.pump()
    return scene


def _play_watch(codec: m.Codec) -> _Scene:
    scene, session = _silent(codec)
    scene.client.say(m.Watch(1, session.id))
    scene.pump()
    scene.client.step(session, {"text": "hi"}, None)
    scene.pump()
    return scene


_SCENES: Final[dict[str, Callable[[m.Codec], _Scene]]] = {
    "greeting": _play_greeting,
    "episode": _play_episode,
    "resume": _play_resume,
    "error": _play_error,
    "chunks": _play_chunks,
    "watch": _play_watch,
}


def _example(name: str) -> str:
    play = _SCENES[name]
    texts, binaries = play(m.JSON).frames, play(m.MSGPACK).frames
    lines = ["```text"]
    for (sender, text), (other, binary) in zip(texts, binaries, strict=True):
        assert sender == other
        assert name == "chunks" or m.JSON.generic(text) == m.MSGPACK.generic(binary)
        lines.append("client → server" if sender == "client" else "server → client")
        lines.append(f"  JSON     {text.decode()}")
        pieces = [binary[i : i + 32] for i in range(0, len(binary), 32)]
        lines.append(f"  msgpack  {pieces[0].hex()}")
        lines += [f"           {piece.hex()}" for piece in pieces[1:]]
    return "\n".join([*lines, "```"])


_BLOCKS: Final[dict[str, Callable[[str], str]]] = {
    "message": _message,
    "map": _map,
    "codes": lambda _: _codes(),
    "phases": _phases,
    "connection": _connection,
    "session": lambda _: _session(),
    "permits": lambda _: _permits(),
    "outcomes": lambda _: _outcomes(),
    "example": _example,
}


def render(text: str) -> str:
    """Fill the generated blocks of a document."""

    def block(match: re.Match[str]) -> str:
        name = match["name"]
        kind, _, argument = name.partition(" ")
        body = _BLOCKS[kind](argument)
        return f"<!-- generated:{name} -->\n\n{body}\n\n<!-- /generated -->"

    return _BLOCK.sub(block, text)


def main(arguments: list[str]) -> int:
    """Rewrite the document, or with `--check` tell whether that is needed."""
    before = DOCUMENT.read_text(encoding="utf-8")
    after = render(before)
    if before == after:
        return 0
    if arguments == ["--check"]:
        sys.stderr.write(f"{DOCUMENT.name} is stale: run python docs/generate.py\n")
        return 1
    DOCUMENT.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
