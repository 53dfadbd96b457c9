"""Reading flags out of a build.py, written in the styles that ORT's had over the years, without running it."""

from __future__ import annotations

import pytest

from ortforge.build.flags import Flag, read_parser
from ortforge.errors import ConfigurationError, ExitCode

# One file, flags in one function: as up to 1.21.
OLD = """
import argparse, os, sys
from somewhere_that_does_not_exist import is_windows

raise SystemExit("a parser that is read is never run")

def _device(read):
    wanted = ["CPU", "GPU"]
    more = ["CPU_ALONE"]
    if read in wanted:
        return read
    elif read in more:
        return read
    elif read.startswith("PAIR:") or read.startswith(("TRIO:", "MANY:")):
        for each in read.split(":")[1].split(","):
            known = ["CPU", "GPU", "NPU"]
            if each not in known:
                sys.exit("no")
        return read
    sys.exit("no")

def parse_arguments():
    class Parser(argparse.ArgumentParser):
        def convert_arg_line_to_args(self, line):
            return line.split()

    parser = Parser(usage="--not_a_flag", fromfile_prefix_chars="@")
    parser.add_argument("--build_dir", required=True, help="Where.")
    parser.add_argument("-c", "--config", nargs="+", default=["Debug"], choices=["Debug", "Release"], help="a" "b")
    parser.add_argument("--jobs", nargs="?", const="0", default="1", type=int)
    parser.add_argument("--use_thing", action='store_true', help="--inside_help")
    parser.add_argument("--gen-docs", action="store_true")
    parser.add_argument("--sdk", default=os.environ.get("SDK", ""), type=str)
    parser.add_argument("--device", nargs="?", const="CPU", type=_device)
    parser.add_argument("--settings", action="append", nargs="+")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--phone", action="store_true")
    if not is_windows():
        parser.add_argument("--as_root", action="store_true")
    args = parser.parse_args()
    args.later = parser.add_argument
    return args

def unrelated(parser):
    parser.add_argument("--of_another_parser")
"""

# Two files, flags in groups under conditions: as since 1.22.
GROUPED = '''
KINDS = ["static", "shared"]

def add_core(parser: "argparse.ArgumentParser") -> None:
    """Adds."""
    parser.add_argument("--kind", choices=KINDS + ["both"], default=None)
    for name, text in [("cpu", "x"), ("gpu", "y")]:
        parser.add_argument(f"--use_{name}", action="store_true", help=text)
    for name in ("first", "second"):
        parser.add_argument("--" + name + "_home")

def add_console(parser):
    parser.add_argument("--console", action="store_true")

def add_windows(parser):
    parser.add_argument("--toolset")
    add_console(parser)
    theirs = parser.add_argument_group("Theirs")
    theirs.add_argument("--store", action="store_true")

def add_apple(parser):
    parser.add_argument("--xcode", action="store_const", const="Xcode", dest="generator")

def add_linux(parser):
    parser.add_argument("--as_root", action="store_true")

def never_called(parser):
    parser.add_argument("--never")

def parse_arguments() -> "argparse.Namespace":
    parser = argparse.ArgumentParser()
    add_core(parser)
    if is_windows():
        add_windows(parser)
    elif is_macOS():
        add_apple(parser)
    else:  # Linux
        add_linux(parser)
    if is_windows() or is_macOS():
        parser.add_argument("--desktop", action="store_true")
    if not (is_linux() and something()):
        parser.add_argument("--perhaps", action="store_true")
    if os.environ.get("MORE"):
        parser.add_argument("--more", action="store_true")
    return parser.parse_args()
'''
CALLER = "from build_args import parse_arguments\n\ndef main():\n    args = parse_arguments()\n"


def test_one_file() -> None:
    found = read_parser({"build.py": OLD})
    assert sorted(found) == [
        *("as_root", "build_dir", "config", "device", "gen_docs", "jobs", "phone", "sdk", "settings", "use_thing")
    ]
    assert found["build_dir"] == Flag("build_dir", "--build_dir", required=True)
    assert found["config"].shape() == {"nargs": "+", "default": "['Debug']", "choices": ["Debug", "Release"]}
    assert found["jobs"] == Flag("jobs", "--jobs", nargs="?", const="0", default="1", type="int")
    assert found["gen_docs"].option == "--gen-docs"
    assert found["sdk"].default == "os.environ.get('SDK', '')"
    assert (found["settings"].is_repeated, found["settings"].takes_several) == (True, True)
    assert found["use_thing"].is_switch
    assert found["as_root"].platforms == {"linux", "macos"}
    assert found["phone"].platforms == frozenset()


@pytest.mark.parametrize(
    ("value", "accepted"),
    [
        ("CPU", True),
        ("CPU_ALONE", True),
        ("PAIR:GPU,CPU", True),
        ("MANY:NPU,GPU,CPU", True),
        ("PAIR:GPU,TPU", False),
        ("PAIR:GPU", False),
        ("PAIR", False),
        ("NPU", False),
    ],
)
def test_values_that_a_checking_function_accepts(value: str, accepted: bool) -> None:
    known = read_parser({"build.py": OLD})["device"].accepted
    assert known is not None
    assert known.accepts(value) is accepted


def test_groups_under_conditions() -> None:
    found = read_parser({"build.py": CALLER, "build_args.py": GROUPED})
    systems = {name: set(flag.platforms) for name, flag in found.items()}
    assert systems == {
        "kind": set(),
        "use_cpu": set(),
        "use_gpu": set(),
        "first_home": set(),
        "second_home": set(),
        "toolset": {"windows"},
        "console": {"windows"},
        "store": {"windows"},
        "xcode": {"macos"},
        "as_root": {"linux"},
        "desktop": {"windows", "macos"},
        "perhaps": set(),
        "more": set(),
    }
    assert found["kind"].choices == ("static", "shared", "both")
    assert found["xcode"].shape() == {"action": "store_const", "const": "Xcode"}


def test_a_function_that_calls_itself_ends() -> None:
    text = "def add(p):\n    p.add_argument('--one')\n    add(p)\ndef parse_arguments():\n    add(parser)\n"
    assert list(read_parser({"build.py": text})) == ["one"]


def test_a_flag_of_two_systems_is_one_flag() -> None:
    text = (
        "def parse_arguments():\n"
        "    if is_windows():\n        p.add_argument('--tool')\n"
        "    if is_linux():\n        p.add_argument('--tool')\n"
    )
    assert read_parser({"build.py": text})["tool"].platforms == {"windows", "linux"}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"build.py": "def parse_arguments(:\n"}, "build.py cannot be read"),
        ({"build.py": "print('hello')\n"}, "no flag was found in build.py"),
        ({"build.py": "\0"}, "build.py cannot be read"),
        ({}, "no flag was found in the source"),
    ],
)
def test_what_is_not_orts_is_refused(files: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_parser(files)
    assert refused.value.exit_code == ExitCode.USAGE
    assert said in refused.value.what
