"""ortforge flags: what build.py of a version takes, what became of a flag, and whether flags suit a version."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ortforge.cli.shared import Json, echo_json, load_matrix

if TYPE_CHECKING:
    from ortforge.build.flags import Flag


def _names(incomplete: str) -> Iterable[str]:
    """Complete a flag's name, with or without dashes, for the shell."""
    from ortforge.build.flags import canonical, table

    dashes = incomplete[: len(incomplete) - len(incomplete.lstrip("-"))]
    return [dashes + name for name in table() if name.startswith(canonical(incomplete))]


def _versions(incomplete: str) -> Iterable[str]:
    from ortforge.build.flags import known_versions

    return [version for version in known_versions() if version.startswith(incomplete)]


Version = Annotated[
    str | None,
    typer.Option(
        "--ort", metavar="VERSION", help="Version of ONNX Runtime, e.g. 1.21 or 1.21.0.", autocompletion=_versions
    ),
]
Source = Annotated[
    Path | None,
    typer.Option("--source", metavar="DIR", help="An ONNX Runtime source tree: its own parser is read, never run."),
]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    group = typer.Typer(no_args_is_help=True, help="Explain, list and check flags of ONNX Runtime's build.py.")
    group.command("list", epilog="Example: ortforge flags list use_ --ort 1.21")(flags_list)
    # A flag may be written as on build.py's command line: what is no option of ours is a word.
    as_words = {"ignore_unknown_options": True}
    group.command(
        "explain", epilog="Example: ortforge flags explain use_jemalloc --ort 1.21", context_settings=as_words
    )(flags_explain)
    group.command(
        "check",
        epilog="Example: ortforge flags check --ort 1.21 --config Release --build_wheel --parallel 4 --use_dnnl",
        context_settings=as_words,
    )(flags_check)
    app.add_typer(group, name="flags")


@dataclass(frozen=True, slots=True)
class _Parser:
    """What is asked about: a version's flags, and where they are known from."""

    version: str
    flags: Mapping[str, Flag]
    tree: Mapping[str, Flag] | None
    note: str


def _parser(version: str | None, source: Path | None) -> _Parser:
    """Read the flags of a version from the table, or of a source tree from its own parser.

    :raises UsageError: neither is given, or the version or the tree does not exist.
    """
    from ortforge.build.flags import flags_of, moment, read_parser
    from ortforge.build.flags.explanation import beyond_note
    from ortforge.errors import UsageError

    if source is not None:
        found = {name: source / "tools" / "ci_build" / name for name in ("build.py", "build_args.py")}
        texts = {name: path.read_text(encoding="utf-8") for name, path in found.items() if path.is_file()}
        number = source / "VERSION_NUMBER"
        if not texts or not number.is_file():
            raise UsageError(
                f"{source} is not an ONNX Runtime source tree.",
                meant="Its top folder holds VERSION_NUMBER and tools/ci_build/build.py.",
                todo="Give that folder, or a version with --ort.",
            )
        tree = read_parser(texts)
        return _Parser(version or number.read_text(encoding="utf-8").strip(), tree, tree, "")
    if version is None:
        raise UsageError("which version of ONNX Runtime is not said.", todo="Give --ort VERSION, or --source DIR.")
    when = moment(version)
    return _Parser(version, flags_of(version), None, beyond_note(when) if when.beyond else "")


def flags_list(
    part: Annotated[str, typer.Argument(metavar="[PART]", help="Only flags whose name has this in it.")] = "",
    version: Version = None,
    source: Source = None,
    everywhere: Annotated[bool, typer.Option("--all", help="Those of other systems than Linux, too.")] = False,
    as_json: Json = False,
) -> None:
    """List the flags of a version, with what each takes, from the version table or a source tree's own parser."""
    from ortforge.build.flags import explain, takes
    from ortforge.build.flags.knowledge import effect_of, platforms_of
    from ortforge.build.flags.versions import moment

    parser = _parser(version, source)
    entry = moment(parser.version).version
    rows = []
    for name, flag in sorted(parser.flags.items()):
        platforms = flag.platforms | platforms_of(name, entry)
        if part in name and (everywhere or not platforms or "linux" in platforms):
            rows.append((flag, sorted(platforms), effect_of(name, entry, "linux")))
    if as_json:
        echo_json(
            {
                "version": parser.version,
                "flags": [
                    {"name": flag.name, "option": flag.option, **flag.shape(), "platforms": systems, "effect": effect}
                    for flag, systems, effect in rows
                ],
            }
        )
        return
    width = max((len(flag.name) for flag, _, _ in rows), default=0)
    for flag, systems, effect in rows:
        only = f" [{', '.join(systems)}]" if systems else ""
        lost = " (without effect)" if effect else ""
        typer.echo(f"{flag.name:<{width}}  {takes(flag)}{only}{lost}")
    if parser.note:
        typer.echo(parser.note, err=True)
    if not rows and part:
        told = explain(part, parser.version)
        hint = f" Perhaps you meant {told.nearest}." if told.nearest else ""
        typer.echo(f"No flag of {parser.version} has {part!r} in its name.{hint}", err=True)


def flags_explain(
    name: Annotated[
        str,
        typer.Argument(metavar="NAME", help="use_jemalloc, use-jemalloc or --use_jemalloc.", autocompletion=_names),
    ],
    version: Version = None,
    as_json: Json = False,
) -> None:
    """Say whether a version has a flag, since and until when it exists, what replaced it and what it takes."""
    from ortforge.build.flags import explain, text_of
    from ortforge.errors import UsageError

    if version is None:
        raise UsageError("which version of ONNX Runtime is not said.", todo="Give --ort VERSION, e.g. --ort 1.21.")
    told = explain(name, version)
    if as_json:
        echo_json(told.to_json())
    else:
        typer.echo(text_of(told))


def flags_check(
    ctx: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="FLAG...", help="As on build.py's command line, or NAME=VALUE; with -m: targets."),
    ],
    version: Version = None,
    source: Source = None,
    matrix: Annotated[
        Path | None, typer.Option("--matrix", "-m", metavar="FILE", help="Check targets of this file instead.")
    ] = None,
    artifact: Annotated[str, typer.Option("--artifact", help="wheel or cxx.")] = "wheel",
    as_json: Json = False,
) -> None:
    """Check flags against a version before anything is built: existence, values, system, conflicts.

    Exit code 2 when they do not suit it.
    """
    from ortforge.errors import ConfigurationError, UsageError

    if artifact not in ("wheel", "cxx"):
        raise UsageError(f"there is no artifact {artifact!r}.", todo="It is wheel or cxx.")
    if matrix is not None:
        _check_targets(ctx, matrix, words, as_json)
        return
    from ortforge.build.flags import arguments, problems_of, read_command_line

    parser = _parser(version, source)
    flags = read_command_line(words)
    found = problems_of(flags, parser.version, artifact=artifact, parser=parser.tree)
    argv = [] if found else arguments(flags, parser.flags)
    if as_json:
        echo_json({"version": parser.version, "flags": flags, "problems": found, "argv": argv})
        if found:
            raise typer.Exit(2)
    elif found:
        raise ConfigurationError(
            f"these flags do not suit build.py of {parser.version}:\n" + "\n".join(f"- {each}" for each in found),
            todo=f"'ortforge flags explain NAME --ort {parser.version}' tells more of one.",
        )
    else:
        typer.echo(f"These flags suit build.py of {parser.version}: {' '.join(argv)}")
        if parser.note:
            typer.echo(parser.note, err=True)


def _check_targets(ctx: typer.Context, matrix: Path, names: list[str], as_json: bool) -> None:
    """Compose the builds of targets, with what their backends and allocator add, and check them."""
    from ortforge.errors import UsageError, nearest
    from ortforge.plan.building import build_request
    from ortforge.runtime import device

    loaded, plugins = load_matrix(ctx, matrix)
    sources = {name: target for name, target in loaded.targets.items() if target.from_ == "source"}
    here = device.probe()
    composed: dict[str, Any] = {}
    for name in names:
        if name not in sources:
            close = nearest(name, sources)
            raise UsageError(
                f"{matrix} has no source target {name!r}.",
                meant=f"Perhaps you meant {close!r}." if close else "",
                todo=f"Its source targets: {', '.join(sources) or 'none'}.",
            )
        composed[name] = dict(build_request(name, sources[name], loaded, plugins, here).flags)
    if as_json:
        echo_json([{"target": name, "version": sources[name].version, "flags": composed[name]} for name in composed])
        return
    from ortforge.build.flags import arguments

    for name, flags in composed.items():
        typer.echo(f"{name}: these flags suit build.py of {sources[name].version}: {' '.join(arguments(flags))}")
