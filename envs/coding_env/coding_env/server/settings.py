"""What an operator can choose, and the checks of it."""

from __future__ import annotations

import math
import re
from typing import Annotated, Final, Literal, get_args

import msgspec

from openenv_async import LocalProtocolError

from ..interpreters.base import Kind
from ..sandbox.limits import Limits
from ..sandbox.pool import Namespaces, PoolConfig

__all__ = ["InterpreterName", "Settings"]

InterpreterName = Literal["smolagents", "cpython"]

_Count = Annotated[int, msgspec.Meta(ge=1)]
_MOST_SECONDS: Final = 86_400.0


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Options of the coding environment, as in `coding_env?interpreter=cpython`.

    README.md explains each of them.
    """

    interpreter: InterpreterName = "smolagents"
    authorized_imports: str | list[str] = ""
    """Modules that code may import beyond what smolagents allows: a list, or names
    with commas between them."""
    timeout: float = 10.0
    """Seconds of a step whose action names none."""
    max_timeout: float = 60.0
    """The most that an action may ask for."""
    memory_mib: int = 512
    cpu_seconds: int = 600
    file_mib: int = 16
    scratch_mib: int = 64
    scratch_files: int = 4096
    files: int = 64
    threads: int = 64
    output_bytes: int = 65_536
    tasks: str | None = None
    """A task set, such as `human_eval`."""
    max_attempts: _Count | None = None
    """Judged steps after which an episode with a task is truncated."""
    namespaces: Namespaces = "auto"
    require_fences: str | list[str] = ""
    """Fences without which the server refuses to start."""
    linger: float = 300.0
    """Seconds that the warmed-up process outlives the last session."""

    @classmethod
    def of(cls, options: dict[str, object]) -> Settings:
        """Check an operator's options.

        Raises:
            LocalProtocolError: One of them is unknown, or its value cannot be meant.
        """
        known = {field.name for field in msgspec.structs.fields(cls)}
        for name in options:
            if name not in known:
                raise LocalProtocolError(
                    f"expected options of {sorted(known)}, got {name!r}"
                )
        try:
            settings = msgspec.convert(options, cls)
        except msgspec.ValidationError as error:
            raise LocalProtocolError(_explain(str(error), options)) from error
        settings.check()
        return settings

    def check(self) -> None:
        """Refuse values that cannot be meant, naming the first of them."""
        for name in ("timeout", "max_timeout"):
            value = getattr(self, name)
            if not 0 < value <= _MOST_SECONDS:
                raise LocalProtocolError(
                    f"expected {name!r} as seconds above 0 and up to "
                    f"{_MOST_SECONDS:g}, got {value!r}"
                )
        if self.timeout > self.max_timeout:
            raise LocalProtocolError(
                f"expected 'timeout' of at most 'max_timeout', {self.max_timeout:g}, "
                f"got {self.timeout!r}"
            )
        if not (self.linger >= 0 and math.isfinite(self.linger)):
            raise LocalProtocolError(
                f"expected 'linger' as seconds from 0 up, got {self.linger!r}"
            )
        self.limits().check()

    def limits(self) -> Limits:
        """The part that is about a worker's resources."""
        names = [field.name for field in msgspec.structs.fields(Limits)]
        return Limits(**{name: getattr(self, name) for name in names})

    def imports(self) -> tuple[str, ...]:
        """The modules to allow, in order, without doubles."""
        return _names(self.authorized_imports)

    def required(self) -> tuple[str, ...]:
        """The fences to insist on."""
        return _names(self.require_fences)

    def pool_config(self, hidden: tuple[str, ...]) -> PoolConfig:
        """What workers get.

        Args:
            hidden: Paths that no code may read.
        """
        judge: tuple[Kind, ...] = ("judge",) if self.tasks else ()
        return PoolConfig(
            kinds=(self.interpreter, *judge),
            authorized_imports=self.imports(),
            limits=self.limits(),
            hidden=hidden,
            namespaces=self.namespaces,
        )


def _names(given: str | list[str]) -> tuple[str, ...]:
    names = given.split(",") if isinstance(given, str) else given
    stripped = (name.strip() for name in names)
    return tuple(dict.fromkeys(name for name in stripped if name))


_CHOICES: Final = {"interpreter": InterpreterName, "namespaces": Namespaces}


def _explain(fault: str, options: dict[str, object]) -> str:
    """Name the option, its value and what was expected."""
    found = re.search(r"\$\.(\w+)", fault)
    if found is None:
        return f"expected options that fit: {fault}"
    name = found[1]
    expected = fault.split(" - at")[0]
    if name in _CHOICES:
        expected = f"one of {get_args(_CHOICES[name])}"
    return f"expected {name!r} to fit ({expected}), got {options[name]!r}"
