"""How an allocator gets into force: by a flag of ORT's while it had one, and by being loaded first since.

malloc is looked up in the order in which libraries were loaded, breadth-first from the program. Seen on Debian trixie:

- A Python module that needs libjemalloc.so.2 cannot be imported at all: "cannot allocate memory in static TLS block".
  One that needs libmimalloc.so.3 can, and malloc stays the C library's; only C++'s operator new changes.
- In a C++ program that is linked to a library that needs an allocator, malloc stays the C library's too: the program's
  own C library comes before what its libraries need.
- Loaded first (LD_PRELOAD), or linked to the program itself with ``-Wl,--no-as-needed``, it serves every call.

So libonnxruntime is never linked to one. The build brings the library, and processes load it first.
"""

from __future__ import annotations

import re

from ortforge.api import BuildContext, BuildContribution, ConfigurationError


def by_flag_or_first(
    context: BuildContext, *, flag: str, until: tuple[int, int], soname: str, packages: dict[str, tuple[str, ...]]
) -> BuildContribution:
    """Return what an allocator adds to a build.

    :param flag: of build.py, effective up to the version ``until``. :param soname: of the library that is loaded first.
    :param packages: by image, those that bring it; under ``""`` for the images that are not named, which have apt.
    :raises ConfigurationError: the image's distribution has no such package.
    """
    major, minor = (int(part) for part in (*re.findall(r"\d+", context.version), "0", "0")[:2])
    if (major, minor) <= until:
        return BuildContribution(flags={flag: True})
    names = packages.get(context.image, packages[""])
    if not names:
        raise ConfigurationError(
            f"The image {context.image} has no package that brings {soname}.",
            todo='Write image = "debian" into the target, or choose another allocator.',
        )
    return BuildContribution(packages=names, bundle=(soname,), must_hold=(f"*{soname.partition('.so')[0]}*.so*",))
