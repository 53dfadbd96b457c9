"""ortforge diagnose: what a log of a build, an installation or a run says about why it failed."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortforge.cli.shared import Json, echo_json

if TYPE_CHECKING:
    from ortforge.build.diagnose import Cause, Diagnosis


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(
        "diagnose",
        epilog="Example: docker build . 2>&1 | ortforge diagnose -      Exit code 1: the failure is not known.",
    )(diagnose)


def diagnose(
    log: Annotated[
        str | None, typer.Argument(metavar="FILE", help="A log of any size; - reads it from standard input.")
    ] = None,
    version: Annotated[
        str | None,
        typer.Option("--ort", metavar="VERSION", help="ONNX Runtime's version: unknown flags are explained for it."),
    ] = None,
    as_json: Json = False,
    everything: Annotated[bool, typer.Option("--list", help="List all known causes instead.")] = False,
) -> None:
    """Look for known causes in a log: configuring, compiling, packaging, installing, importing, running."""
    from ortforge.errors import UsageError

    if everything:
        _list(as_json)
        return
    if log is None:
        raise UsageError("which log is not said.", todo="Give a log file, or - for standard input.")
    found = _examine(log)
    causes = [_explained(cause, version) for cause in found.causes]
    known = any(cause.kind == "error" for cause in causes)
    if as_json:
        echo_json(
            {
                "known": known,
                "lines": found.lines,
                "causes": [dataclasses.asdict(cause) for cause in causes],
                "first_errors": [{"line_number": number, "line": line} for number, line in found.suspects],
            }
        )
    else:
        typer.echo(_text(found, causes, known))
    if not known:
        raise typer.Exit(1)


def _list(as_json: bool) -> None:
    from ortforge.build.diagnose import KNOWN
    from ortforge.build.diagnose.known import url
    from ortforge.build.diagnose.listing import as_markdown

    if as_json:
        echo_json([{**dataclasses.asdict(each), "threads": [url(thread) for thread in each.threads]} for each in KNOWN])
    else:
        typer.echo(as_markdown(KNOWN), nl=False)


def _examine(log: str) -> Diagnosis:
    """Read the log from where it is.

    :raises UsageError: it cannot be read.
    """
    from ortforge.build.diagnose import examine
    from ortforge.errors import UsageError, nearest

    if log == "-":
        return examine(sys.stdin.buffer)
    path = Path(log)
    try:
        with path.open("rb") as stream:
            return examine(stream)
    except OSError as error:
        beside = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() and not path.exists() else []
        close = nearest(path.name, beside)
        raise UsageError(
            f"the log {log} cannot be read: {error.strerror or error}.",
            meant=f"Perhaps you meant {path.with_name(close)}." if close else "",
            todo="Give a log file, or - for standard input.",
        ) from error


def _explained(cause: Cause, version: str | None) -> Cause:
    """Put in what the flag table of a version says, and the version itself.

    :raises UsageError: there is no such version.
    """
    if version is None:
        return cause
    from ortforge.build.flags import explain, moment, text_of

    moment(version)
    words = [word.partition("=")[0] for word in cause.title.split() if word.startswith("--")]
    told = [text_of(explain(word, version)) for word in words if cause.id == "unknown-flag"]
    return dataclasses.replace(
        cause,
        cause="\n".join([cause.cause, *told]),
        remedy=cause.remedy.replace("--ort VERSION", f"--ort {version}"),
    )


def _text(found: Diagnosis, causes: list[Cause], known: bool) -> str:
    """Write the causes for people; when none is known, what looks like the first errors."""
    errors = [cause for cause in causes if cause.kind == "error"]
    parts = [_one(cause) for cause in errors]
    earlier = (
        [f"  line {number}: {line}" for number, line in found.suspects if number < errors[0].line_number]
        if errors
        else []
    )
    if earlier:
        parts.append("\n".join(["Before it, and of no known cause, these lines look like errors:", *earlier[:3]]))
    if not known:
        parts.append(f"No known cause in these {found.lines} lines.")
        if found.suspects:
            lines = "\n".join(f"  line {number}: {line}" for number, line in found.suspects)
            parts.append(f"The first lines that look like errors:\n{lines}")
        parts.append(
            "What would help: the whole log from its start, with stderr (2>&1), and one job at a time (--parallel 1),"
            " so that the first error stands before what follows from it."
        )
    parts += [f"Besides: {_one(cause)}" for cause in causes if cause.kind == "hint"]
    parts += [
        f"Not the cause: line {cause.line_number}: {cause.title}. {cause.cause}"
        for cause in causes
        if cause.kind == "harmless"
    ]
    return "\n\n".join(parts)


def _one(cause: Cause) -> str:
    sure = "" if cause.confidence == "certain" else " (likely)"
    rows: list[tuple[str, Any]] = [
        (f"line {cause.line_number}", cause.evidence),
        ("why", cause.cause),
        ("do", cause.remedy),
        *(("thread", thread) for thread in cause.threads),
    ]
    body = "\n".join(f"  {name}: {value}".replace("\n", "\n    ") for name, value in rows)
    return f"{cause.phase}: {cause.title}{sure} [{cause.id}]\n{body}"
