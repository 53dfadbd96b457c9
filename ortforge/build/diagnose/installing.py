"""Known causes that show when a wheel is installed."""

from __future__ import annotations

from ortforge.build.diagnose.known import Known

__all__ = ["INSTALLING"]

INSTALLING = (
    Known(
        id="wheel-not-supported",
        phase="installing",
        title="the wheel is for another Python, processor or C library",
        signs=(
            "is not a supported wheel on this platform",
            "is not compatible with this Python",
            "has no wheels with a matching",
            "is incompatible with the current platform",
            "A path dependency is incompatible with the current platform",
        ),
        cause="The tags in its name (cp313, manylinux_2_39, x86_64) fit neither this interpreter nor this system; musl"
        " distributions take no manylinux wheel.",
        remedy='Build the target for this Python (python = "3.12"), or install with the Python it names; \'pip debug'
        " --verbose' lists the tags that fit.",
        threads=(24380,),
        samples=(
            "ERROR: onnxruntime-1.21.0-cp39-cp39-linux_aarch64.whl is not a supported wheel on this platform.",
            "  because onnxruntime==1.21.0 has no wheels with a matching Python ABI tag (e.g., `cp314`)",
        ),
    ),
    Known(
        id="wheel-name",
        phase="installing",
        title="the wheel's file name is not one",
        signs=(
            "is not a valid wheel filename",
            "Invalid wheel filename (",
            "error: The wheel filename `",
            'The wheel filename "…" is invalid',
        ),
        cause="The file was renamed: name, version and tags are read from it.",
        remedy="Give it the name it was built with (dist-info/WHEEL has the tags).",
        threads=(21102,),
        samples=("ERROR: onnxruntime.whl is not a valid wheel filename.",),
    ),
    Known(
        id="wheel-truncated",
        phase="installing",
        title="the wheel is cut off or damaged",
        signs=(
            "' located at … is invalid.",
            "zipfile.BadZipFile:",
            "BadZipFile: File is not a zip file",
            "failed to extract archive",
            "Failed to read metadata from zip",
            "unable to locate the end of central directory record",
            "Bad CRC-32 for file",
        ),
        cause="A download or copy ended early, the disk was full, or it is a page of a proxy.",
        remedy="Compare size and sha256 with the origin; fetch or build it again.",
        samples=(
            "ERROR: Wheel 'onnxruntime' located at /tmp/onnxruntime-1.21.0-cp313-cp313-linux_x86_64.whl is invalid.",
            "zipfile.BadZipFile: File is not a zip file",
        ),
    ),
    Known(
        id="wheel-hash",
        phase="installing",
        title="the wheel is not the one the requirements file names",
        signs=("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "Hash mismatch for `"),
        cause="It was built again (or replaced) after its digest was written down.",
        remedy="Find out which is right, then write its digest into the requirements file.",
        samples=(
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE. If you have updated the"
            " package versions",
            "  x Failed to download `onnxruntime==1.21.0`\n  ╰─▶ Hash mismatch for `onnxruntime==1.21.0`",
        ),
    ),
    Known(
        id="wheel-metadata",
        phase="installing",
        title="the wheel's metadata and its file name say different things",
        signs=(
            "has inconsistent name: expected",
            "has inconsistent version: expected",
            "has inconsistent Name: expected",
            "does not match filename",
            "Wheel version does not match",
            ".dist-info directory not found",
        ),
        cause="It was renamed by hand without changing dist-info.",
        remedy="Let ortforge rename it (distribution, local_version), which writes both and RECORD.",
        samples=(
            "Requested onnxruntime-dnnl from file:///w/x.whl has inconsistent name: expected 'onnxruntime-dnnl', but"
            " metadata has 'onnxruntime'",
        ),
    ),
    Known(
        id="requires-python",
        phase="installing",
        title="the package wants another Python: {0}",
        signs=("requires a different Python: …", "require a different python version: …"),
        cause="Each release of ONNX Runtime serves four or five Python versions.",
        remedy="Use a Python it names, or another version of ONNX Runtime (python and version of the target).",
        samples=("ERROR: Package 'onnxruntime' requires a different Python: 3.9.2 not in '>=3.10'",),
    ),
    Known(
        id="no-distribution",
        phase="installing",
        title="no release of the package fits: {0}",
        signs=(
            "ERROR: No matching distribution found for …",
            "ERROR: Could not find a version that satisfies the requirement …",
            "was not found in the package registry",
        ),
        cause="No wheel for this Python, system or processor, a misspelt name, or no network.",
        remedy="Look at the package's files for cp tags that fit; use another Python, or build from source.",
        yields="near",
        threads=(24380,),
        samples=("ERROR: No matching distribution found for onnxruntime==1.4.0",),
    ),
    Known(
        id="externally-managed",
        phase="installing",
        title="the system's Python takes no packages from pip",
        signs=("error: externally-managed-environment",),
        cause="Debian 12, Ubuntu 23.04 and later protect it.",
        remedy="Make an environment (python3 -m venv) and install there.",
        samples=("error: externally-managed-environment\n\nThis environment is externally managed",),
    ),
    Known(
        id="install-permission",
        phase="installing",
        title="the environment is not writable by this user",
        signs=(
            "Could not install packages due to an OSError: [Errno 13] Permission denied",
            "Could not install packages due to an EnvironmentError: [Errno 13]",
        ),
        cause="It belongs to root or another user.",
        remedy="Use an environment of your own (python3 -m venv).",
        samples=(
            "ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied:"
            " '/usr/lib/python3/dist-packages'",
        ),
    ),
    Known(
        id="resolution",
        phase="installing",
        title="the asked versions exclude each other",
        signs=("ERROR: ResolutionImpossible", "No solution found when resolving dependencies"),
        cause="Two packages want different versions of a third (numpy and protobuf most often).",
        remedy="Read which two are named, and loosen one; or install them in separate environments.",
        yields="near",
        certain=False,
        samples=(
            "ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/",
        ),
    ),
)
