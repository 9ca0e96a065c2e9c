"""Random strings that a simple regular expression matches."""

from __future__ import annotations

import random
import re
import string
from typing import Final

from ...errors import LocalProtocolError

__all__ = ["sample_pattern"]

_PRINTABLE: Final = string.ascii_letters + string.digits + " _-.,:;!?"
_CLASSES: Final = {
    "d": string.digits,
    "w": string.ascii_letters + string.digits + "_",
    "s": " ",
    "D": string.ascii_letters,
    "W": " .-",
    "S": string.ascii_letters + string.digits,
}
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r"}
_MORE: Final = 8
"""Repetitions beyond the fewest, where the pattern names no bound."""
_TRIES: Final = 200


def sample_pattern(
    pattern: str, source: random.Random, *, least: int, most: int, at: str = "$"
) -> str:
    """Draw a string that a pattern matches.

    Understands literals, classes, `.`, groups, `|` and repetitions; what it draws is
    checked against the pattern, so that nothing wrong is returned.

    Args:
        pattern: A regular expression.
        source: Where chance comes from.
        least: Fewest characters.
        most: Most characters.
        at: The place in a schema, for the error's text.

    Raises:
        LocalProtocolError: The pattern is wrong, or has more than that.
    """
    try:
        compiled = re.compile(pattern)
        for attempt in range(_TRIES):
            # Repetitions without a bound grow until there are enough characters.
            more = _MORE if attempt < _TRIES // 2 else max(_MORE, least)
            text = _Reader(pattern, source, more).alternatives()
            if least <= len(text) <= most and compiled.search(text):
                return text
    except (re.error, IndexError, ValueError) as error:
        raise LocalProtocolError(
            f"expected a plain regular expression at {at}, got {pattern!r}: {error}"
        ) from error
    raise LocalProtocolError(
        f"expected a pattern with strings of {least} to {most} characters at {at}, got "
        f"{pattern!r}, for which none was found"
    )


class _Reader:
    """Reads a pattern once, and draws a string on the way."""

    def __init__(self, pattern: str, source: random.Random, more: int) -> None:
        self._pattern = pattern
        self._source = source
        self._more = more
        self._at = 0

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        self._at += 1
        return self._pattern[self._at - 1]

    def alternatives(self) -> str:
        """Draw one of what is separated by `|`, up to the end of a group."""
        drawn = [self._sequence()]
        while self._peek() == "|":
            self._next()
            drawn.append(self._sequence())
        return self._source.choice(drawn)

    def _sequence(self) -> str:
        text = ""
        while self._peek() not in ("", "|", ")"):
            start = self._at
            piece = self._atom()
            end = self._at
            low, high = self._repetition()
            after = self._at
            count = self._source.randint(low, high)
            for index in range(count):
                if index:
                    # Anew, because each repetition is drawn by itself.
                    self._at = start
                    piece = self._atom()
                    assert self._at == end
                text += piece
            self._at = after
        return text

    def _atom(self) -> str:
        letter = self._next()
        match letter:
            case "^" | "$":
                return ""
            case ".":
                return self._source.choice(_PRINTABLE)
            case "[":
                return self._source.choice(self._class())
            case "(":
                return self._group()
            case "\\":
                return self._escape()
            case _:
                return letter

    def _group(self) -> str:
        if self._peek() == "?":
            self._next()
            if self._next() != ":":
                raise ValueError("groups other than (...) and (?:...) are not drawn")
        text = self.alternatives()
        self._next()
        return text

    def _escape(self) -> str:
        letter = self._next()
        if letter in _CLASSES:
            return self._source.choice(_CLASSES[letter])
        if letter in "AZ":
            return ""
        return self._plain(letter)

    def _plain(self, letter: str) -> str:
        """What an escape stands for that means one character."""
        sizes = {"x": 2, "u": 4, "U": 8}
        if letter in sizes:
            size = sizes[letter]
            self._at += size
            return chr(int(self._pattern[self._at - size : self._at], 16))
        if letter.isalnum() and letter not in _ESCAPES:
            raise ValueError(f"the escape \\{letter} is not drawn")
        return _ESCAPES.get(letter, letter)

    def _class(self) -> str:
        is_negated = self._peek() == "^"
        if is_negated:
            self._next()
        letters = ""
        is_first = True
        while is_first or self._peek() != "]":
            is_first = False
            letter = self._next()
            if letter == "\\":
                escaped = self._next()
                if escaped in _CLASSES:
                    letters += _CLASSES[escaped]
                    continue
                letter = self._plain(escaped)
            if self._peek() == "-" and self._pattern[self._at + 1] != "]":
                self._next()
                last = self._next()
                last = self._plain(self._next()) if last == "\\" else last
                letters += "".join(map(chr, range(ord(letter), ord(last) + 1)))
            else:
                letters += letter
        self._next()
        if is_negated:
            return "".join(letter for letter in _PRINTABLE if letter not in letters)
        return letters

    def _repetition(self) -> tuple[int, int]:
        bounds = {"?": (0, 1), "*": (0, self._more), "+": (1, 1 + self._more)}
        letter = self._peek()
        low, high = 1, 1
        if letter in bounds and letter:
            self._next()
            low, high = bounds[letter]
        elif found := re.compile(r"\{(\d*)(,?)(\d*)\}").match(self._pattern, self._at):
            self._at = found.end()
            low = int(found[1] or 0)
            high = int(found[3]) if found[3] else low + self._more if found[2] else low
        else:
            return low, high
        if self._peek() in ("?", "+"):
            self._next()
        return low, high
