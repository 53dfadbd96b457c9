"""Known causes that show while a wheel is made, repaired or published."""

from __future__ import annotations

from ortforge.build.diagnose.known import Known

__all__ = ["PACKAGING"]

PACKAGING = (
    Known(
        id="wheel-suffix",
        phase="packaging",
        title="setup.py does not take its arguments",
        signs=(
            "error: option --wheel_name_suffix",
            "error: option --wheel-name-suffix",
            "error: invalid command '--",
            "error: option --use_",
            "error: option --cuda_version",
        ),
        cause="setup.py looks for its own arguments in a fixed order; --wheel_name_suffix together with CUDA's stops"
        " it.",
        remedy="Leave wheel_name_suffix out of flags; distribution and local_version of the target rename the wheel"
        " afterwards.",
        samples=("error: option --wheel_name_suffix=gpu not recognized",),
    ),
    Known(
        id="setup-by-hand",
        phase="packaging",
        title="setup.py was run outside of the build folder",
        signs=(
            "error: package directory 'onnxruntime/backend' does not exist",
            "No such file or directory: 'VERSION_NUMBER'",
            "No such file or directory: './VERSION_NUMBER'",
        ),
        cause="setup.py packs what lies in the build folder, and wants VERSION_NUMBER beside it.",
        remedy="Use build_wheel = true in flags (build.py calls it rightly), or run it in build/Linux/Release.",
        threads=(1776, 2296, 12922, 20971),
        samples=(
            "error: package directory 'onnxruntime/backend' does not exist",
            "FileNotFoundError: [Errno 2] No such file or directory: 'VERSION_NUMBER'",
        ),
    ),
    Known(
        id="library-to-pack",
        phase="packaging",
        title="a file that setup.py packs was not built: {0}",
        signs=("error: can't copy '…': doesn't exist or not a regular file",),
        cause="setup.py names libraries by fixed names; an EP was not built, or its library has another number"
        " (libdnnl.so.2 and .so.3).",
        remedy="Build with the EP's flag; ortforge adds missing libraries afterwards by rewriting the wheel.",
        threads=(10275, 7155),
        samples=("error: can't copy 'onnxruntime/capi/libdnnl.so.2': doesn't exist or not a regular file",),
    ),
    Known(
        id="no-bdist-wheel",
        phase="packaging",
        title="the package wheel (or setuptools) is missing or too old in the Python that builds",
        signs=(
            "error: invalid command 'bdist_wheel'",
            "No module named 'wheel",
            "No module named 'setuptools'",
            "No module named 'distutils'",
        ),
        cause="A fresh interpreter has neither; Python 3.12 has no distutils.",
        remedy="Install setuptools and wheel for that interpreter in the image (a Dockerfile of your own: image ="
        ' "PATH/Dockerfile"); Debian\'s packages are python3-setuptools and python3-wheel.',
        threads=(11917,),
        samples=(
            "error: invalid command 'bdist_wheel'",
            "ModuleNotFoundError: No module named 'wheel.vendored'",
            "ModuleNotFoundError: No module named 'distutils'",
        ),
    ),
    Known(
        id="auditwheel-too-recent",
        phase="packaging",
        title="the wheel needs a newer glibc than the asked platform tag allows",
        signs=("because of the presence of too-recent versioned symbols",),
        cause="It was compiled on a newer distribution than the tag stands for.",
        remedy="Build in the manylinux image, or ask for the tag that fits (auditwheel show tells it).",
        threads=(20803,),
        samples=(
            'auditwheel: error: cannot repair "x-linux_x86_64.whl" to "manylinux_2_28_x86_64" ABI because of the'
            " presence of"
            " too-recent versioned symbols. You'll need to compile the wheel on an older toolchain.",
        ),
    ),
    Known(
        id="auditwheel-other",
        phase="packaging",
        title="the wheel does not fit the asked platform tag",
        signs=(
            "ABI because it depends on black-listed symbols",
            "ABI because it depends on unsupported ISA extensions",
            'auditwheel: error: cannot repair "',
        ),
        cause="A library in it breaks the tag's rules.",
        remedy="'auditwheel show' names the library; build in the manylinux image or ask for another tag.",
        yields="line",
        certain=False,
        samples=(
            'auditwheel: error: cannot repair "x.whl" to "manylinux_2_28_x86_64" ABI because it depends on'
            " black-listed symbols.",
        ),
    ),
    Known(
        id="auditwheel-missing-library",
        phase="packaging",
        title="a library that the wheel needs is not there to be packed: {0}",
        signs=('Cannot repair wheel, because required library "…" could not be located',),
        cause="It is the driver's or the EP's own (CUDA, TensorRT, OpenVINO) and comes from elsewhere, or its folder"
        " is not in"
        " LD_LIBRARY_PATH.",
        remedy="Exclude it (auditwheel repair --exclude; ortforge's backends do so), or put its folder into"
        " LD_LIBRARY_PATH.",
        samples=('ValueError: Cannot repair wheel, because required library "libcudnn.so.9" could not be located',),
    ),
    Known(
        id="no-patchelf",
        phase="packaging",
        title="patchelf is missing or too old",
        signs=("Cannot find required utility …patchelf", "found. auditwheel repair requires patchelf"),
        cause="auditwheel changes libraries with patchelf.",
        remedy="Install patchelf 0.14 or newer in the image (the toolchain images have it).",
        samples=(
            "ValueError: Cannot find required utility `patchelf` in PATH",
            "ValueError: patchelf 0.12 found. auditwheel repair requires patchelf >= 0.14.",
        ),
    ),
    Known(
        id="not-platform-wheel",
        phase="packaging",
        title="the wheel holds no library",
        signs=("This does not look like a platform wheel, no ELF executable",),
        cause="It was packed before the libraries were built, or in another folder.",
        remedy="Build first (build.py --build), then --build_wheel with the same build_dir and config.",
        samples=(
            "auditwheel: error: This does not look like a platform wheel, no ELF executable or shared library file"
            " (including"
            " compiled Python C extension) found in the wheel archive",
        ),
    ),
    Known(
        id="wheel-too-large",
        phase="packaging",
        title="the wheel is larger than the index takes",
        signs=(
            "File too large. Limit for project",
            "413 Request Entity Too Large",
            "413 Payload Too Large",
            "413 Content Too Large",
        ),
        cause="Package indexes take 100 MB unless the project asks for more; CUDA wheels are larger.",
        remedy="Fewer CMAKE_CUDA_ARCHITECTURES, strip libraries, a reduced-operator build, or serve it from your own"
        " simple/"
        " index.",
        threads=(26002,),
        samples=(
            "HTTPError: 400 Bad Request from https://upload.example/legacy/\nFile too large. Limit for project"
            " 'my-ort' is 100 MB.",
        ),
    ),
    Known(
        id="linux-tag",
        phase="packaging",
        title="the index does not take wheels with a plain linux tag",
        signs=("has an unsupported platform tag 'linux_",),
        cause="The wheel was not repaired: its tag says nothing about the glibc it needs.",
        remedy="Run auditwheel repair (ortforge does), or serve it from your own simple/ index.",
        samples=("Binary wheel 'x-1.0-cp313-cp313-linux_x86_64.whl' has an unsupported platform tag 'linux_x86_64'.",),
    ),
    Known(
        id="local-version",
        phase="packaging",
        title="the index does not take local versions",
        signs=(
            "The use of local versions in <Version(",
            "is an invalid value for Version. Error: Can't use PEP 440 local versions",
        ),
        cause="1.21.0+mine is for private indexes only.",
        remedy="Leave local_version out of the target and give a distribution name of its own, or use your own"
        " simple/ index.",
        samples=("HTTPError: 400 Bad Request\nThe use of local versions in <Version('1.21.0+mine')> is not allowed.",),
    ),
    Known(
        id="zip-time",
        phase="packaging",
        title="a file's time is before 1980, which zip cannot hold",
        signs=("ZIP does not support timestamps before 1980",),
        cause="SOURCE_DATE_EPOCH is 0 or small, or the sources have no times.",
        remedy="Set SOURCE_DATE_EPOCH in environment to at least 315532800.",
        samples=("ValueError: ZIP does not support timestamps before 1980",),
    ),
)
