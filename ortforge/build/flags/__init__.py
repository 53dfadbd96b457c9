"""The flags of ORT's build.py: which version has which, what they take, and how they become an argument list."""

from ortforge.build.flags.argv import arguments
from ortforge.build.flags.check import problems_of
from ortforge.build.flags.commandline import read_command_line
from ortforge.build.flags.explanation import Explanation, explain, takes, text_of
from ortforge.build.flags.flag import Flag, canonical
from ortforge.build.flags.parser import read_parser
from ortforge.build.flags.versions import Moment, Span, flags_of, known_versions, moment, table

__all__ = [
    "Explanation",
    "Flag",
    "Moment",
    "Span",
    "arguments",
    "canonical",
    "explain",
    "flags_of",
    "known_versions",
    "moment",
    "problems_of",
    "read_command_line",
    "read_parser",
    "table",
    "takes",
    "text_of",
]
