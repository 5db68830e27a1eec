"""Text for terminals, files and pipes, whatever their encoding and whatever is in a name."""

from __future__ import annotations

import io
import logging
import re
import sys
from functools import cache
from typing import TYPE_CHECKING

from p2u.cli import logs

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: A piece of a line: words, or words and their style.
Part = str | tuple[str, str]

#: Names come from strangers. These characters would move the cursor, set a title, begin another
#: line, or change the direction of the text around them.
_HIDDEN = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
#: Signs, and what stands for them where the encoding lacks them.
_PLAIN = str.maketrans({"✓": "+", "→": "->"})


def shown(text: object, keep: str = "") -> str:
    """A text in which nothing acts on a terminal: such characters are escaped.

    Args:
        text: Any words, or an object that has some.
        keep: Characters that stay in any case.
    """

    def escaped(found: re.Match[str]) -> str:
        sign = found[0]
        if sign in keep:
            return sign
        return sign.encode("unicode_escape", "surrogatepass").decode("ascii")

    return _HIDDEN.sub(escaped, str(text))


def prepare() -> None:
    """Let stdout and stderr escape what their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write what stdout holds back, so that an error is one of the command.

    Raises:
        BrokenPipeError: Nobody reads it.
    """
    if sys.stdout is not None:
        sys.stdout.flush()


@cache
def console(*, stderr: bool = False) -> Console:
    """The console of a stream."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False)


def has_signs(stream: Console) -> bool:
    """Whether a console's encoding has our signs and bars."""
    try:
        "✓→━╌┃".encode(stream.encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def assemble(stream: Console, *parts: Part) -> Text:
    """A line for a console, of harmless characters that its encoding has."""
    from rich.text import Text

    plain = not has_signs(stream)
    line = Text()
    for part in parts:
        words, style = (part, "") if isinstance(part, str) else part
        line.append(shown(words.translate(_PLAIN) if plain else words), style)
    return line


def say(*parts: Part, stderr: bool = False) -> None:
    """Print a line, however long it is: it is neither wrapped nor cut."""
    if stderr and logs.is_json():
        logs.log(logging.INFO, "".join(p if isinstance(p, str) else p[0] for p in parts))
        return
    stream = console(stderr=stderr)
    stream.print(assemble(stream, *parts), soft_wrap=True)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    if logs.is_json():
        logs.log(logging.WARNING, text, event="warning")
        return
    say(f"p2u: {text}", stderr=True)
