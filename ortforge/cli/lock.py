"""ortforge lock: write the sha256 of every wheel of the package targets beside the matrix."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from ortforge.cli.shared import Json, MatrixFile, echo_json, load_matrix

if TYPE_CHECKING:
    from ortforge.matrix import Matrix


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("lock", epilog="Example: ortforge lock --check")(lock)


def lock(
    ctx: typer.Context,
    matrix: MatrixFile = Path("matrix.toml"),
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit with 1 when the lock file is out of date.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Resolve the package targets for this machine and lock every wheel by its sha256.

    The lock file lies beside the matrix (matrix.lock). 'ortforge run' then installs exactly these wheels. Entries for
    other platforms and Python versions are kept.
    """
    from ortforge.errors import ExitCode
    from ortforge.runtime.wheel_lock import lock_path, read_wheel_lock
    from ortforge.store.atomic import write_bytes

    loaded, _ = load_matrix(ctx, matrix)
    path = lock_path(matrix)
    before = read_wheel_lock(path).to_text() if path.exists() else ""
    after, changed = _resolved(loaded, path)
    is_current = before == after
    if not check and not is_current:
        write_bytes(path, after.encode("utf-8"))
    if as_json:
        echo_json(
            {"lock": str(path), "current": is_current, "written": not check and not is_current, "changed": changed}
        )
    elif is_current:
        typer.echo(f"{path} is up to date.")
    else:
        for sentence in changed:
            typer.echo(sentence)
        typer.echo(f"{path} is out of date; 'ortforge lock' writes it again." if check else f"wrote {path}")
    if check and not is_current:
        raise typer.Exit(ExitCode.VERDICT)


def _resolved(matrix: Matrix, path: Path) -> tuple[str, list[str]]:
    """Return the lock file's new text and a sentence for each target that changed."""
    import platform

    from ortforge.plan.locked_targets import REFERENCE_NAME, lockable_targets
    from ortforge.runtime.resolution import EnvironmentRequest
    from ortforge.runtime.wheel_lock import environment_key, read_wheel_lock, resolve_pins

    lock, changed = read_wheel_lock(path), []
    targets = lockable_targets(matrix)
    for gone in lock.requires.keys() - targets.keys():
        del lock.requires[gone], lock.pins[gone]
        changed.append(f"The target {gone} is no longer in the matrix.")
    for target, (requires, python) in targets.items():
        key = environment_key(platform.system().lower(), platform.machine().lower(), python)
        with TemporaryDirectory(prefix="ortforge-lock-") as folder:
            request = EnvironmentRequest(tuple(requires), python)
            pins = resolve_pins(request, Path(folder), lambda text: typer.echo(text, err=True))
        name = "The reference runtime" if target == REFERENCE_NAME else f"The target {target}"
        if target not in lock.requires or key not in lock.pins[target]:
            changed.append(f"{name} is new for {key}: {len(pins)} wheels.")
        elif lock.requires[target] != sorted(requires) or lock.pins[target][key] != pins:
            changed.append(f"{name} has other wheels for {key} than the lock file.")
        lock.put(target, requires, key, pins)
    return lock.to_text(), changed
