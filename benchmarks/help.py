"""How long ``ortforge --help`` takes, against the help of a typer app with one empty command, in turns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

EMPTY = '''import typer

app = typer.Typer()


@app.command()
def main() -> None:
    """Do nothing."""


if __name__ == "__main__":
    app()
'''


def seconds(argv: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    ortforge = str(Path(sys.executable).with_name("ortforge"))
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder, "empty.py")
        script.write_text(EMPTY, encoding="utf-8")
        for argv in ([ortforge, "--help"], [sys.executable, str(script), "--help"]):
            seconds(argv)
        pairs = [(seconds([ortforge, "--help"]), seconds([sys.executable, str(script), "--help"])) for _ in range(15)]
    ours, theirs = median(a for a, _ in pairs), median(b for _, b in pairs)
    print(f"ortforge --help {ours:.3f} s (limit 0.30), empty typer app {theirs:.3f} s")
    print(f"ratio {median(a / b for a, b in pairs):.2f} (limit 2.00), median of {len(pairs)} pairs")


if __name__ == "__main__":
    main()
