"""The ``ortforge`` command: registers one verb per module and turns errors into messages and exit codes."""

from __future__ import annotations

import functools
import os
import sys
import traceback
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, TextIO, cast

import typer
from typer.core import TyperGroup

from ortforge import __version__
from ortforge.cli import (
    build,
    cache,
    compare,
    diagnose,
    diff,
    doctor,
    explain,
    flags,
    init,
    lock,
    plan,
    plugins,
    report,
    repro,
    run,
    schema,
    vendor,
)
from ortforge.cli.shared import Shared
from ortforge.errors import ExitCode, OrtforgeError, PluginError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from ortforge.api import Command

__all__ = ["app", "main"]


class _Verbs(TyperGroup):
    """The verbs of this package, and those that third-party plugins bring."""

    # typer's releases differ in whose Context and Command these are: its own or click's.

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of all verbs."""
        return list(dict.fromkeys([*super().list_commands(ctx), *_third_party(*_chosen(ctx))]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a verb by its name, or ``None``."""
        return super().get_command(ctx, cmd_name) or _third_party(*_chosen(ctx)).get(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb that the arguments name; an unknown one is answered with the nearest."""
        if args and self.get_command(ctx, args[0]) is None:
            close = nearest(args[0], self.list_commands(ctx))
            hint = f" Perhaps you meant {close!r}." if close else ""
            ctx.fail(f"there is no verb {args[0]!r}.{hint} 'ortforge --help' lists them all.")
        return super().resolve_command(ctx, args)


def _chosen(ctx: Any) -> tuple[tuple[str, ...], bool]:
    """Return the plugins that the options before the verb leave out, and whether any of others' are wanted."""
    return tuple(ctx.params.get("plugin") or ()), not ctx.params.get("no_plugins")


@functools.cache
def _third_party(blocked: tuple[str, ...], wanted: bool) -> dict[str, Any]:
    """Return the verbs of third-party plugins; costs a look at the installed entry points when there are none."""
    from ortforge.plugin_manager import third_party_commands

    found: dict[str, Any] = {}
    for command in third_party_commands(blocked=blocked) if wanted else ():
        try:
            module, _, function = command.target.partition(":")
            found[command.name] = _verb(command, getattr(import_module(module), function))
        except (Exception, SystemExit) as error:  # one plugin's broken verb must not keep the others from working
            found[command.name] = _verb(command, _broken(command, f"{type(error).__name__}: {error}"))
    return found


def _verb(command: Command, function: Callable[..., Any]) -> Any:
    extra = typer.Typer(rich_markup_mode=None)
    anything = {"ignore_unknown_options": True, "allow_extra_args": True} if hasattr(function, "broken") else {}
    extra.command(command.name, help=command.summary, context_settings=anything)(function)
    return typer.main.get_command(extra)


def _broken(command: Command, why: str) -> Callable[[], None]:
    """Return what runs in the place of a verb that cannot be had."""

    def refuse() -> None:
        raise PluginError(
            f"the verb {command.name!r} of a plugin cannot be used: {command.target}: {why}.",
            todo="Update or remove that plugin; 'ortforge plugins list' shows where each comes from.",
        )

    refuse.broken = True  # type: ignore[attr-defined]
    return refuse


app = typer.Typer(
    cls=_Verbs,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which model variant is correct and fast on which ONNX Runtime build: one file, one run, a verdict per cell.",
    epilog="First steps: 'ortforge init model.onnx', then 'ortforge run'.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ortforge {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    ctx: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
    plugin: Annotated[
        list[str] | None, typer.Option("-p", metavar="no:NAME", help="Leave a plugin out; may be repeated.")
    ] = None,
    no_plugins: Annotated[bool, typer.Option("--no-plugins", help="Leave all third-party plugins out.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    ctx.obj = Shared(debug=debug, blocked=tuple(plugin or ()), third_party=not no_plugins)


for _module in (
    init, lock, plan, build, run, report, compare, diff, explain, repro, doctor, diagnose, flags, plugins, vendor,
    cache, schema,
):  # fmt: skip
    _module.register(app)


class _Output:
    """Standard output that goes on quietly when its reader goes away (``ortforge run | head``).

    The verb ends as it would have, so its exit code is its own.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._closed = False

    def write(self, text: str) -> int:
        """Write text, or drop it when nobody reads it any more."""
        return self._unless_closed(lambda: self._stream.write(text)) or len(text)

    def flush(self) -> None:
        """Flush, when somebody still reads."""
        self._unless_closed(self._stream.flush)

    def _unless_closed(self, act: Callable[[], Any]) -> Any:
        if self._closed:
            return None
        try:
            return act()
        except BrokenPipeError:
            self._closed = True
            # What is still buffered would be written once more when Python ends.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def main() -> None:
    """Run the command line; never shows a traceback unless ``--debug`` is given."""
    sys.stdout = cast("TextIO", _Output(sys.stdout))
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # a full disk is noticed here, and not when Python ends
    except OrtforgeError as error:
        _complain(f"ortforge: {error}", error.exit_code)
    except Exception as error:
        from ortforge.engine.lacking import is_full_disk

        if is_full_disk(error):
            name = getattr(error, "filename", None)
            if name or (isinstance(error, OSError) and error.errno):
                what = f"{name or 'the output'} could not be written."
            else:
                what = str(error)[:300]
            _complain(
                f"ortforge: The disk is full: {what}\nFree space and run again; what was finished is kept.",
                ExitCode.ENVIRONMENT,
            )
        _complain_of_defect(error)


def _complain_of_defect(error: Exception) -> None:
    text = f"ortforge: a defect: {type(error).__name__}: {error}\n"
    _complain(f"{text}Please report it with the output of the same command under 'ortforge --debug'.", ExitCode.DEFECT)


def _complain(message: str, code: int) -> Any:
    if "--debug" in sys.argv:
        traceback.print_exc()
    with suppress(OSError):  # standard error may be on the full disk, too
        typer.echo(message, err=True)
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(int(code))


if __name__ == "__main__":
    main()
