"""Known causes that show before the first compiler starts: the engine, downloads, build.py's arguments, CMake."""

from __future__ import annotations

from ortforge.build.diagnose.known import Known

__all__ = ["CONFIGURING"]

CONFIGURING = (
    Known(
        id="eigen-hash",
        phase="configuring",
        title="the archive of Eigen is not the one whose digest deps.txt has",
        signs=("does not match expected value", "HASH mismatch for file", "DOWNLOAD HASH mismatch"),
        near=("eigen-populate", "eigen3-populate", "libeigen/eigen", "mismatch for file: …eigen", "for file: […eigen"),
        within=3,
        cause="The host packs archives of a commit anew from time to time; the bytes change, the source does not.",
        remedy='Take Eigen from elsewhere: dependencies = "system" in the target (Debian\'s libeigen3-dev), or'
        " gather the"
        " archives once with 'ortforge vendor' and set dependencies = \"vendored\"; or write the new digest into"
        " cmake/deps.txt by a patch.",
        threads=(18286, 25098, 25206, 26656, 26707),
        samples=(
            "-- SHA1 hash of\n"
            "    /build/Release/_deps/eigen-subbuild/eigen-populate-prefix/src/eigen-e7248b26a1ed.zip\n"
            "  does not match expected value\n"
            "    expected: 'be8be39fdbc6e60e94fa7870b280707069b5b81a'\n"
            "      actual: '32b145f525a8308d7ab1c09388b2e288312d8eba'\n"
            "-- Hash mismatch, removing...",
        ),
    ),
    Known(
        id="archive-hash",
        phase="configuring",
        title="a downloaded archive is not the one whose digest is asked for",
        signs=("does not match expected value", "HASH mismatch for file", "HASH mismatch"),
        cause="The archive was packed anew by its host, a proxy answered with a page of its own, or the download is"
        " cut.",
        remedy="Compare the file's size and first bytes; then 'ortforge vendor' from a place that has the right one and"
        ' dependencies = "vendored" in the target.',
        threads=(25098,),
        yields="line",
        samples=(
            "CMake Error at date-subbuild/date-populate-prefix/src/date-populate-stamp/download-date.cmake:170"
            " (message):\n"
            "  HASH mismatch for file: /build/date-v3.0.1.zip\n    expected hash: [2dac0c81]",
        ),
    ),
    Known(
        id="no-network",
        phase="configuring",
        title="the build wants to download something, and there is no network (or no name resolution)",
        signs=(
            "Could not resolve host",
            "Temporary failure in name resolution",
            "Temporary failure resolving '",
            "Failed to connect to … port …: Connection refused",
            "Failed to connect to … after … Couldn't connect to server",
            "Network is unreachable",
            "Name or service not known",
            "no such host",
        ),
        cause="ONNX Runtime's build fetches its dependencies with CMake (and oneDNN with git); ortforge turns the"
        " network off"
        " after fetching.",
        remedy="Set dependencies = \"system\" (Debian's packages) or run 'ortforge vendor' where there is a network"
        " and set"
        ' dependencies = "vendored"; else let the engine reach the network (ORTFORGE_DOCKER_NETWORK=host).',
        threads=(17199, 22402, 29456),
        samples=(
            "fatal: unable to access 'https://github.com/oneapi-src/onednn.git/': Could not resolve host: github.com",
            '         status_code: 6\n         status_string: "Could not resolve hostname"',
            "WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError(': Failed to"
            " establish a new"
            " connection: [Errno -3] Temporary failure in name resolution')': /simple/numpy/",
            "W: Failed to fetch http://mirror.example.org/debian/dists/trixie/InRelease  Temporary failure resolving"
            " 'mirror.example.org'",
            'docker: Error response from daemon: Get "https://registry.example.org/v2/": dial tcp:'
            " lookup registry.example.org on 127.0.0.53:53: no such host",
        ),
    ),
    Known(
        id="download-failed",
        phase="configuring",
        title="a download failed",
        signs=("Each download failed!", "error: downloading '", "Failed to clone repository: '", 'status_string: "'),
        cause="The host did not give the file: it is gone, the network is slow or filtered, or git may not reach it.",
        remedy="Open the address by hand. 'ortforge vendor' gathers all of them once; then dependencies ="
        ' "vendored".',
        threads=(17199, 22402),
        yields="near",
        certain=False,
        samples=(
            "CMake Error at onnx-populate-prefix/src/onnx-populate-stamp/download-onnx-populate.cmake:170 (message):\n"
            "  Each download failed!\n\n    error: downloading 'https://github.com/onnx/onnx/archive/v1.17.0.zip'"
            " failed",
            "    Failed to clone repository: 'https://github.com/oneapi-src/onednn.git'",
        ),
    ),
    Known(
        id="tls-certificate",
        phase="configuring",
        title="the certificate of the host is not trusted",
        signs=(
            "SSL certificate problem:",
            "certificate verify failed",
            "server certificate verification failed.",
            "SSL peer certificate or SSH remote key was not OK",
            "Peer certificate cannot be authenticated with given CA certificates",
        ),
        cause="A proxy signs with a certificate of its own, ca-certificates is missing in the image, or the clock is"
        " wrong.",
        remedy="Put the certificate into the toolchain image (own Dockerfile: /usr/local/share/ca-certificates and"
        ' update-ca-certificates) or avoid downloads: dependencies = "vendored".',
        samples=(
            "fatal: unable to access 'https://github.com/onnx/onnx.git/': SSL certificate problem: unable to get local"
            " issuer certificate",
            "ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed"
            " certificate in certificate chain (_ssl.c:1006)",
            '         status_code: 60\n         status_string: "SSL peer certificate or SSH remote key was not OK"',
        ),
    ),
    Known(
        id="proxy",
        phase="configuring",
        title="the proxy refuses or cannot be found",
        signs=(
            "Received HTTP code 407 from proxy after CONNECT",
            "HTTP code 403 from proxy after CONNECT",
            "Could not resolve proxy:",
            "Proxy Authentication Required",
            "Cannot connect to proxy.",
            "CONNECT tunnel failed, response",
        ),
        cause="The proxy's variables are not set in the container, or the proxy wants a login.",
        remedy="Set http_proxy, https_proxy and no_proxy under environment of the target and for the engine, or avoid"
        ' downloads: dependencies = "vendored".',
        samples=(
            "fatal: unable to access 'https://github.com/google/re2/': Received HTTP code 407 from proxy after CONNECT",
            "curl: (56) CONNECT tunnel failed, response 403",
            "curl: (5) Could not resolve proxy: proxy.example",
        ),
    ),
    Known(
        id="unknown-flag",
        phase="configuring",
        title="build.py of this version does not have: {0}",
        signs=("build.py: error: unrecognized arguments: …",),
        cause="The flag was removed, renamed, is misspelt, or is for another system; many guides are older than the"
        " version.",
        remedy="'ortforge flags explain NAME --ort VERSION' says since and until when it exists and what replaced"
        " it; take it"
        " out of flags in matrix.toml or write what replaced it.",
        threads=(14067, 6212),
        samples=("build.py: error: unrecognized arguments: --use_openmp",),
    ),
    Known(
        id="flag-value",
        phase="configuring",
        title="a flag of build.py does not take this value: {0}",
        signs=(
            "build.py: error: argument …: invalid choice",
            "build.py: error: argument …: expected",
            "build.py: error: argument …: invalid ",
            "build.py: error: argument …: ignored explicit argument",
        ),
        cause="What a flag takes changes between versions (--use_openvino CPU_FP32 until 1.17, CPU from 1.18).",
        remedy="'ortforge flags explain {0} --ort VERSION' says what it takes; correct flags in matrix.toml.",
        samples=(
            "build.py: error: argument --config: invalid choice: 'Relase' (choose from 'Debug', 'MinSizeRel',"
            " 'Release',"
            " 'RelWithDebInfo')",
            "build.py: error: argument --build_dir: expected one argument",
            "build.py: error: argument --parallel: invalid int value: 'all'",
        ),
    ),
    Known(
        id="root-refused",
        phase="configuring",
        title="build.py refuses to run as root",
        signs=("Running as root is not allowed.",),
        cause="From 1.15 on build.py asks for a flag when its user is root, as it is in most containers.",
        remedy="Add allow_running_as_root = true to flags of the target (ortforge does by itself), or give the"
        " container a"
        " user.",
        threads=(15164,),
        samples=(
            "build.BuildError: Running as root is not allowed. If you really want to do that, use"
            " '--allow_running_as_root'.",
        ),
    ),
    Known(
        id="cmake-too-old",
        phase="configuring",
        title="CMake {0} or newer is needed",
        signs=("CMake … or higher is required.  You are running version", "CMake … or higher is required"),
        cause="Each version of ONNX Runtime asks for a newer CMake than long-lived distributions have.",
        remedy='Use a newer toolchain image (image = "debian" has a current one), or install CMake from its Python'
        " package"
        " in your Dockerfile: pip install 'cmake>=3.28,<4'.",
        samples=(
            "CMake Error at CMakeLists.txt:6 (cmake_minimum_required):\n"
            "  CMake 3.28 or higher is required.  You are running version 3.25.1",
        ),
    ),
    Known(
        id="cmake4-policy",
        phase="configuring",
        title="CMake 4 no longer takes the old CMake files of a dependency",
        signs=(
            "Compatibility with CMake < 3.5 has been removed from CMake.",
            "OLD behavior for policy … has been removed",
        ),
        cause="A bundled dependency says cmake_minimum_required below 3.5, and CMake 4 has dropped that.",
        remedy='Add CMAKE_POLICY_VERSION_MINIMUM = "3.5" to defines of the target, or use CMake 3.x in the image.',
        threads=(26949,),
        samples=(
            "CMake Error at /build/Release/_deps/dlpack-src/CMakeLists.txt:4 (cmake_minimum_required):\n"
            "  Compatibility with CMake < 3.5 has been removed from CMake.",
        ),
    ),
    Known(
        id="no-generator",
        phase="configuring",
        title="the tool that runs the build is not installed ({0})",
        signs=("CMake was unable to find a build program corresponding to …",),
        cause="CMake writes files for ninja or make; neither is installed where the build runs.",
        remedy='Install ninja-build or make in the image (a Dockerfile of your own: image = "PATH/Dockerfile").',
        samples=(
            'CMake Error: CMake was unable to find a build program corresponding to "Ninja".  CMAKE_MAKE_PROGRAM is'
            " not set."
            "  You probably need to select a different build tool.",
        ),
    ),
    Known(
        id="no-compiler",
        phase="configuring",
        title="no C or C++ compiler is installed",
        signs=(
            "No CMAKE_CXX_COMPILER could be found",
            "No CMAKE_C_COMPILER could be found",
            "CMAKE_CXX_COMPILER not set, after EnableLanguage",
            "is not a full path to an existing compiler tool",
        ),
        cause="The image has no compiler, or CC and CXX name one that does not exist.",
        remedy='Use a toolchain image (image = "debian"), or correct CC and CXX in environment of the target.',
        samples=("CMake Error at CMakeLists.txt:21 (project):\n  No CMAKE_CXX_COMPILER could be found.",),
    ),
    Known(
        id="compiler-broken",
        phase="configuring",
        title="the compiler cannot compile an empty program",
        signs=("is not able to compile a simple test program.",),
        cause="Usually the C library's headers or the linker are missing, or CXXFLAGS hold something the compiler"
        " refuses.",
        remedy="Read the lines that follow it; install libc6-dev and binutils in the image (a Dockerfile of your"
        ' own: image = "PATH/Dockerfile"), or clear CFLAGS, CXXFLAGS and LDFLAGS.',
        yields="near",
        certain=False,
        samples=('  The C++ compiler\n\n    "/usr/bin/c++"\n\n  is not able to compile a simple test program.',),
    ),
    Known(
        id="no-nvcc",
        phase="configuring",
        title="CUDA's compiler was not found",
        signs=(
            "No CMAKE_CUDA_COMPILER could be found",
            "Failed to find nvcc.",
            "Failed to detect a default CUDA architecture",
            "nvcc: command not found",
            "nvcc: not found",
        ),
        cause="The image has no CUDA toolkit (the runtime images have none), or it is not on PATH.",
        remedy='Use image = "cuda" (made from a devel image), or give flags cuda_home = "/usr/local/cuda" and put'
        " its bin"
        " folder on PATH.",
        samples=(
            "  No CMAKE_CUDA_COMPILER could be found.\n\n  Tell CMake where to find the compiler",
            "  Failed to find nvcc.\n\n  Compiler requires the CUDA toolkit.",
        ),
    ),
    Known(
        id="cuda-home",
        phase="configuring",
        title="the folders of CUDA and cuDNN are not said, or are not there",
        signs=("cuda_home and cudnn_home paths must be specified and valid.",),
        cause="build.py wants both folders (or CUDA_HOME and CUDNN_HOME), and looks whether they exist.",
        remedy='Set flags cuda_home = "/usr/local/cuda" and cudnn_home = "/usr" (or where cudnn.h lies) in the target.',
        threads=(1777, "triton-inference-server/onnxruntime_backend#33"),
        samples=(
            "build.BuildError: ('cuda_home and cudnn_home paths must be specified and valid.', \"cuda_home='None'"
            " valid=False."
            " cudnn_home='None' valid=False\")",
        ),
    ),
    Known(
        id="tensorrt-home",
        phase="configuring",
        title="the folder of TensorRT is not said, or is not there",
        signs=("tensorrt_home paths must be specified and valid.",),
        cause="build.py wants the folder that holds TensorRT's include and lib.",
        remedy='Set flags tensorrt_home in the target; image = "tensorrt" has it.',
        samples=(
            "build.BuildError: ('tensorrt_home paths must be specified and valid.', \"tensorrt_home='None'"
            ' valid=False.")',
        ),
    ),
    Known(
        id="no-cudnn",
        phase="configuring",
        title="cuDNN's headers or libraries were not found",
        signs=(
            "^  Could NOT find CUDNN",
            "Could not find CUDNN_INCLUDE_DIR using the following files",
            "^  Could NOT find CUDNN_INCLUDE_DIR",
            "fatal error: cudnn.h: No such file or directory",
            "fatal error: cudnn_version.h: No such file",
            "^  Could NOT find LIBRARY (missing: CUDNN_",
        ),
        cause="CUDA images come without cuDNN unless their tag says so; a runtime package holds no headers.",
        remedy='Use image = "cuda", or install libcudnn9-dev-cuda-12 in yours and set cudnn_home in flags.',
        threads=(17961, 24361),
        samples=(
            "CMake Error at FindPackageHandleStandardArgs.cmake:230 (message):\n"
            "  Could NOT find CUDNN (missing: CUDNN_INCLUDE_DIR cudnn_LIBRARY)",
            "/source/onnxruntime/core/providers/cuda/cuda_pch.h:12:10: fatal error: cudnn.h: No such file or directory",
        ),
    ),
    Known(
        id="python-headers",
        phase="configuring",
        title="Python's headers are missing",
        signs=(
            "^  Could NOT find Python (missing: Python_INCLUDE_DIRS",
            "^  Could NOT find Python3 (missing: Python3_INCLUDE_DIRS",
            "^  Could NOT find Python (missing: …Development.Module",
            "fatal error: Python.h: No such file or directory",
            "fatal error: pyconfig.h: No such file or directory",
        ),
        cause="The extension module is compiled against the interpreter's headers; the package with them is not"
        " installed.",
        remedy="Install python3-dev, or the one of your Python, in the image (a Dockerfile of your own: image ="
        ' "PATH/Dockerfile"); python in the target must be one the image has headers of.',
        threads=(3810, 6841, 20697),
        samples=(
            "  Could NOT find Python (missing: Python_INCLUDE_DIRS Development.Module)\n  (found suitable version"
            ' "3.11.2", minimum required is "3.10")',
            "/source/onnxruntime/python/onnxruntime_pybind.h:8:10: fatal error: Python.h: No such file or directory",
        ),
    ),
    Known(
        id="build-numpy",
        phase="configuring",
        title="NumPy is missing in the Python that builds",
        signs=(
            "^  Could NOT find Python (missing: …NumPy",
            "^  Could NOT find Python3 (missing: …NumPy",
            "^    Python::NumPy",
            "fatal error: numpy/arrayobject.h: No such file",
        ),
        cause="CMake looks for NumPy's headers in the interpreter that build.py runs in.",
        remedy="Install NumPy for that interpreter in the image (a Dockerfile of your own: image ="
        ' "PATH/Dockerfile"); Debian\'s package is python3-numpy.',
        threads=(9923, 11796, 15423),
        samples=(
            '  Could NOT find Python (missing: Python_NumPy_INCLUDE_DIRS NumPy) (found\n  suitable version "3.12.3")',
            "CMake Error at onnxruntime_python.cmake:193 (target_link_libraries):\n"
            '  Target "onnxruntime_pybind11_state"'
            " links to:\n\n    Python::NumPy\n\n  but the target was not found.  Possible reasons include:",
        ),
    ),
    Known(
        id="submodule-missing",
        phase="configuring",
        title="a git submodule was not checked out",
        signs=(
            "does not contain a CMakeLists.txt file",
            "fatal: no submodule mapping found in .gitmodules for path",
            "error: Server does not allow request for unadvertised object",
        ),
        near=("/external/", ".gitmodules", "unadvertised object"),
        cause="The tree was cloned without its submodules, or comes from the host's automatic archive, which has none.",
        remedy="Run 'git submodule update --init --recursive' in the tree, or let ortforge fetch: source = \"git:…\".",
        samples=(
            "CMake Error at CMakeLists.txt:842 (add_subdirectory):\n  The source directory\n\n"
            "    /source/cmake/external/emsdk does not contain a CMakeLists.txt file.",
        ),
    ),
    Known(
        id="dubious-ownership",
        phase="configuring",
        title="git refuses a tree that belongs to another user",
        signs=("fatal: detected dubious ownership in repository at", "fatal: unsafe repository ('"),
        cause="The source was mounted into the container and belongs to the host's user.",
        remedy="git config --global --add safe.directory '*' in the container, or run it with the owner's uid;"
        " ortforge copies"
        " sources in and is not concerned.",
        samples=("fatal: detected dubious ownership in repository at '/onnxruntime'",),
    ),
    Known(
        id="no-repository",
        phase="configuring",
        title="the source is not a git repository",
        signs=("fatal: not a git repository",),
        cause="The build asks git for the commit to write it into the version; sources from an archive have none.",
        remedy="Nothing has to be done.",
        kind="harmless",
        samples=("fatal: not a git repository (or any of the parent directories): .git",),
    ),
    Known(
        id="patch-fails",
        phase="configuring",
        title="a patch does not apply",
        signs=(
            "Hunk #… FAILED at",
            "error: patch failed:",
            "patch does not apply",
            "out of … hunks FAILED",
            "can't find file to patch at input line",
        ),
        cause="The patch was written for another version of the file, or line endings differ (CRLF).",
        remedy="Limit the patch to its versions in the plugin, or make it anew against this tree; for one of ORT's"
        " own, look"
        " whether a dependency was replaced by another version.",
        samples=(
            "patching file CMakeLists.txt\nHunk #1 FAILED at 12.\n1 out of 1 hunk FAILED -- saving rejects to file"
            " CMakeLists.txt.rej",
            "error: patch failed: cmake/CMakeLists.txt:44\nerror: cmake/CMakeLists.txt: patch does not apply",
        ),
    ),
    Known(
        id="patch-twice",
        phase="configuring",
        title="a patch is applied to a tree that already has it",
        signs=("Reversed (or previously applied) patch detected!",),
        cause="The build folder was configured before, with another CMake, and FetchContent patches the dependency"
        " again.",
        remedy="Remove _deps in the build folder ('ortforge cache builds --clean' removes ortforge's build trees)"
        " and configure again.",
        samples=("Reversed (or previously applied) patch detected!  Skipping patch.",),
    ),
    Known(
        id="no-patch-tool",
        phase="configuring",
        title="the program patch is not installed",
        signs=("^  Could NOT find Patch (missing: Patch_EXECUTABLE)", "patch: command not found", "patch: not found"),
        cause="ONNX Runtime patches several of its dependencies while configuring.",
        remedy='Install patch in the image (a Dockerfile of your own: image = "PATH/Dockerfile").',
        samples=("  Could NOT find Patch (missing: Patch_EXECUTABLE)", "/bin/sh: 1: patch: not found"),
    ),
    Known(
        id="openvino-not-found",
        phase="configuring",
        title="OpenVINO's CMake files were not found",
        signs=('Could not find a package configuration file provided by "OpenVINO"',),
        cause="OpenVINO_DIR does not point to the folder that has OpenVINOConfig.cmake.",
        remedy='Use image = "openvino", or set OpenVINO_DIR in environment to <site-packages>/openvino/cmake.',
        samples=(
            '  Could not find a package configuration file provided by "OpenVINO" with any\n  of the following'
            " names:\n\n"
            "    OpenVINOConfig.cmake\n    openvino-config.cmake",
        ),
    ),
    Known(
        id="package-not-found",
        phase="configuring",
        title="a package that CMake asks for is not installed: {0}",
        signs=("Could not find a package configuration file provided by …", "No package '…' found"),
        cause="A dependency is taken from the system here, and its development package is missing.",
        remedy='Install the -dev package in the image (a Dockerfile of your own: image = "PATH/Dockerfile"), or set'
        ' dependencies = "download" or "vendored".',
        yields="line",
        near=("CMake Error at",),
        within=8,
        samples=(
            "CMake Error at CMakeLists.txt:9 (find_package):\n"
            '  Could not find a package configuration file provided by "Microsoft.GSL"\n  (requested version 4.0)'
            " with any of"
            " the following names:",
            "--   No package 're2' found\n"
            "CMake Error at /usr/share/cmake-3.31/Modules/FindPkgConfig.cmake:645 (message):\n"
            "  The following required packages were not found:",
        ),
    ),
    Known(
        id="image-lacks-source",
        phase="configuring",
        title='the image lacks sources or headers that dependencies = "system" needs',
        signs=("There is no CUTLASS in …", "There is no front end of cuDNN in …", "There is no source of ONNX in …"),
        cause="ortforge's images bring them on a Debian base; this one, or a Dockerfile of your own, has none there.",
        remedy='Use base = "debian:trixie-slim", or put them into your Dockerfile and say where in defines:'
        ' ORTFORGE_CUTLASS, ORTFORGE_CUDNN_FRONTEND, ORTFORGE_ONNX_SOURCE; or set dependencies = "download".',
        near=("CMake Error at",),
        within=8,
        samples=(
            "CMake Error at /work/cmake/modules/cutlass.cmake:6 (message):\n"
            "  There is no CUTLASS in /opt/nvidia/cutlass_library/source: the image has to\n  bring it.",
            "CMake Error at /work/cmake/modules/cudnn_frontend.cmake:4 (message):\n"
            "  There is no front end of cuDNN in /opt/nvidia/include: the image has to\n  bring it.",
            "CMake Error at /work/cmake/system.cmake:28 (message):\n"
            "  There is no source of ONNX in /usr/src/onnx: the image has to bring it.",
        ),
    ),
    Known(
        id="stale-cache",
        phase="configuring",
        title="the build folder belongs to another source folder",
        signs=(
            "CMake Error: The current CMakeCache.txt directory",
            "used to generate cache.  Re-run cmake with a different",
        ),
        cause="The tree or the build folder was moved or copied after configuring; CMake keeps absolute paths.",
        remedy="Remove the build folder and configure again.",
        samples=(
            "CMake Error: The current CMakeCache.txt directory /b/CMakeCache.txt is different than the directory"
            " /a/CMakeCache.txt where CMakeCache.txt was created.",
        ),
    ),
    Known(
        id="other-generator",
        phase="configuring",
        title="the build folder was configured for another build tool",
        signs=("Does not match the generator used previously:",),
        cause="The folder was made for make and is now asked for with ninja, or the other way round.",
        remedy="Remove CMakeCache.txt and CMakeFiles in the build folder, or keep to one cmake_generator in flags.",
        samples=(
            "CMake Error: Error: generator : Ninja\nDoes not match the generator used previously: Unix Makefiles",
        ),
    ),
    Known(
        id="no-daemon",
        phase="configuring",
        title="no Docker engine answers",
        signs=(
            "Cannot connect to the Docker daemon at",
            "Is the docker daemon running?",
            "error during connect: ",
            "failed to connect to the docker API at",
        ),
        cause="The engine is not running, or DOCKER_HOST points elsewhere.",
        remedy="Start it (systemctl start docker) or correct DOCKER_HOST; 'ortforge doctor' shows what is reached.",
        samples=("Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?",),
    ),
    Known(
        id="docker-permission",
        phase="configuring",
        title="this user may not use the Docker engine",
        signs=(
            "permission denied while trying to connect to the Docker daemon socket",
            "permission denied while trying to connect to the docker API",
            "Got permission denied while trying to connect to the Docker",
        ),
        cause="The socket belongs to root and the group docker.",
        remedy="Add the user to the group docker and log in again, or use a rootless engine.",
        samples=(
            "Got permission denied while trying to connect to the Docker daemon socket at"
            " unix:///var/run/docker.sock: Get"
            ' "http://%2Fvar%2Frun%2Fdocker.sock/v1.24/info": dial unix /var/run/docker.sock: connect: permission'
            " denied",
        ),
    ),
    Known(
        id="image-not-found",
        phase="configuring",
        title="the base image is not there",
        signs=(
            "manifest unknown",
            "pull access denied for",
            "manifest for … not found",
            "no matching manifest for",
            "failed to resolve source metadata for",
        ),
        cause="The tag was removed (old CUDA images are), is misspelt, or is not made for this machine.",
        remedy='Name another base in the target (base = "…"); the registry\'s page lists the tags that exist.',
        threads=(20840,),
        samples=(
            "Error response from daemon: manifest for nvidia/cuda:11.4.3-cudnn8-devel-ubuntu20.04 not found:"
            " manifest unknown:"
            " manifest unknown",
            "docker: no matching manifest for linux/arm64/v8 in the manifest list entries.",
        ),
    ),
    Known(
        id="pull-limit",
        phase="configuring",
        title="the registry's pull limit is reached",
        signs=("toomanyrequests:",),
        cause="Registries limit pulls without a login.",
        remedy="docker login, or wait, or name a base from another registry; dockerfiles/bootstrap makes the Debian"
        " base with"
        " no registry.",
        samples=("Error response from daemon: toomanyrequests: You have reached your pull rate limit.",),
    ),
    Known(
        id="exec-format",
        phase="configuring",
        title="the image or program is made for another processor",
        signs=("exec format error", "cannot execute binary file: Exec format error"),
        cause="An arm64 image runs on x86_64 or the other way round, with no emulation.",
        remedy="Name a base for this machine, or build on a machine of that kind.",
        samples=(
            "exec /usr/bin/sh: exec format error",
            "standard_init_linux.go:228: exec user process caused: exec format error",
        ),
    ),
    Known(
        id="no-gpu-runtime",
        phase="configuring",
        title="the Docker engine cannot give the container a GPU",
        signs=(
            'could not select device driver "…" with capabilities',
            "nvidia-container-cli: initialization error",
            "unknown or invalid runtime name: nvidia",
        ),
        cause="NVIDIA's container toolkit is not installed, or the engine was not restarted after it.",
        remedy="Install nvidia-container-toolkit, run 'nvidia-ctk runtime configure --runtime=docker', restart the"
        " engine."
        " Compiling needs no GPU: only running does.",
        samples=('docker: Error response from daemon: could not select device driver "" with capabilities: [[gpu]].',),
    ),
    Known(
        id="apt-404",
        phase="configuring",
        title="the package lists are older than the mirror, or the release has left it",
        signs=("E: Failed to fetch …404  Not Found", "does not have a Release file.", "no longer has a Release file."),
        cause="apt-get update ran in another layer long ago, or the distribution has moved to its archive.",
        remedy="Write 'apt-get update && apt-get install' in one RUN and build without cache; for a release that has"
        " ended, use"
        " a newer base.",
        threads=(20840,),
        samples=(
            "E: Failed to fetch http://mirror.example.org/debian/pool/main/c/curl/curl_7.88.1-10_amd64.deb  404  Not"
            " Found [IP:"
            " 151.101.2.132 80]",
            "E: The repository 'http://security.ubuntu.com/ubuntu impish-security Release' no longer has a Release"
            " file.",
        ),
    ),
    Known(
        id="apt-package",
        phase="configuring",
        title="the distribution has no package of this name: {0}",
        signs=("E: Unable to locate package …", "E: Package '…' has no installation candidate"),
        cause="The package has another name in this release, needs another repository, or apt-get update did not run.",
        remedy="Look for its name with 'apt-cache search' in the image, and correct the Dockerfile.",
        samples=("E: Unable to locate package libonnx-devel",),
    ),
    Known(
        id="apt-key",
        phase="configuring",
        title="apt does not trust the key of a repository",
        signs=(
            "the public key is not available: NO_PUBKEY",
            "The following signatures couldn't be verified because",
            "At least one invalid signature was encountered",
            "' is not signed.",
        ),
        cause="The repository's key was changed (CUDA's in 2022), is missing in the image, or the clock is wrong.",
        remedy="Install the repository's current keyring package in the Dockerfile, or use a newer base.",
        threads=(11418, 20840),
        samples=(
            "W: GPG error: https://developer.download.nvidia.com/compute/cuda/repos/ubuntu2004/x86_64  InRelease:"
            " The following"
            " signatures couldn't be verified because the public key is not available: NO_PUBKEY A4B469963BF863CC",
        ),
    ),
    Known(
        id="git-login",
        phase="configuring",
        title="git asks for a login, or has no right to the repository",
        signs=(
            "fatal: could not read Username for",
            "fatal: Authentication failed for",
            "Permission denied (publickey)",
            "Host key verification failed.",
        ),
        cause="The address of a repository is misspelt or private (hosts ask for a login for both), or it"
        " is an ssh address and there is no key in the container.",
        remedy="Correct the address (source in the target, .gitmodules in the tree), or bring the tree as"
        ' an archive: source = "archive:…".',
        samples=(
            "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
            "git@github.com: Permission denied (publickey).",
        ),
    ),
    Known(
        id="download-cut",
        phase="configuring",
        title="a download was cut off",
        signs=(
            "error: RPC failed;",
            "fatal: early EOF",
            "fetch-pack: unexpected disconnect while reading sideband packet",
            "The TLS connection was non-properly terminated",
            "transfer closed with … bytes remaining to read",
            "IncompleteRead(",
            "Connection reset by peer",
            "Hash Sum mismatch",
            "ReadTimeoutError(",
        ),
        cause="The network or a proxy between is slow or limits what it lets through.",
        remedy="Run it again; 'ortforge vendor' gathers the dependencies once and goes on where it ended,"
        ' then dependencies = "vendored".',
        certain=False,
        samples=(
            "error: RPC failed; curl 92 HTTP/2 stream 0 was not closed cleanly: CANCEL (err 8)\nfatal: early EOF",
            "E: Failed to fetch http://mirror.example.org/debian/pool/main/g/gcc.deb  Hash Sum mismatch",
        ),
    ),
    Known(
        id="not-a-source",
        phase="configuring",
        title="the folder is not a source tree",
        signs=(
            "does not appear to contain CMakeLists.txt.",
            "CMake Error: The source directory … does not exist.",
        ),
        cause="The folder is the wrong one: ONNX Runtime's CMakeLists.txt lies in its folder cmake.",
        remedy="Call build.py (or build.sh) of the tree; with CMake alone give its folder cmake: cmake -S"
        " onnxruntime/cmake.",
        samples=(
            'CMake Error: The source directory "/work/onnxruntime" does not appear to contain CMakeLists.txt.',
            'CMake Error: The source directory "/work/none" does not exist.',
        ),
    ),
    Known(
        id="target-missing",
        phase="configuring",
        title="the build asks for a part that was not configured",
        signs=(
            'The dependency target "…" of target',
            "but the target was not found.  Possible reasons include",
        ),
        cause="Two flags do not go together (an EP as a library of its own has no place in a minimal"
        " build), or a package of the system was found whose targets have other names.",
        remedy="Remove what does not go together ('ortforge flags check' knows it), and -dev packages of"
        " flatbuffers, protobuf and abseil from the image; or take all from the system: dependencies"
        ' = "system".',
        threads=(
            12011,
            13991,
        ),
        yields="near",
        samples=(
            '  The dependency target "onnxruntime_providers_shared" of target\n'
            '  "onnxruntime_providers_dnnl" does not exist.',
            "CMake Error at onnxruntime_graph.cmake:88 (add_dependencies):\n"
            '  The dependency target "flatbuffers" of target "onnxruntime_graph" does not\n  exist.',
        ),
    ),
    Known(
        id="python-old",
        phase="configuring",
        title="the Python that runs build.py is too old",
        signs=("SyntaxError: future feature annotations is not defined",),
        cause="build.py is written for the Python versions that the release has wheels for.",
        remedy='Use a toolchain image with Python 3.10 or later, or name a newer one: python = "3.12" in the target.',
        samples=(
            '  File "tools/ci_build/build.py", line 5\n'
            "    from __future__ import annotations\n"
            "    ^\nSyntaxError: future feature annotations is not defined",
        ),
    ),
    Known(
        id="python-module",
        phase="configuring",
        title="the Python that builds lacks a module: {0}",
        signs=(
            "ModuleNotFoundError: No module named '…'",
            "python3: No module named …",
            "python: No module named …",
        ),
        cause="What tools/ci_build and setup.py import is not installed for this interpreter.",
        remedy="Install it for that interpreter in the image (packages of the target, or pip in your"
        " Dockerfile); tools/ci_build/requirements of the tree names what is needed.",
        yields="line",
        certain=False,
        samples=(
            "ModuleNotFoundError: No module named 'flatbuffers'",
            "/usr/bin/python3: No module named pip",
        ),
    ),
    Known(
        id="buildkit",
        phase="configuring",
        title="the Dockerfile needs BuildKit, and the engine builds without it",
        signs=(
            "the --mount option requires BuildKit",
            "the --chmod option requires BuildKit",
            "the --link option requires BuildKit",
            "BuildKit is enabled but the buildx component is missing or broken",
        ),
        cause="The engine's older builder knows no RUN --mount and no heredocs; the SDK always uses it.",
        remedy="Write the Dockerfile without them (those of ortforge are), or build the image with docker"
        " buildx and name it as base.",
        samples=(
            "the --mount option requires BuildKit. Refer to https://docs.docker.com/go/buildkit/ to"
            " learn how to build images with BuildKit enabled",
        ),
    ),
    Known(
        id="dockerfile",
        phase="configuring",
        title="the Dockerfile cannot be read",
        signs=(
            "dockerfile parse error",
            "Dockerfile parse error",
        ),
        cause="An instruction is misspelt, a line break lacks its backslash, or a heredoc met the engine's"
        " older builder.",
        remedy="Correct the line it names; 'hadolint Dockerfile' finds such lines.",
        samples=("Error response from daemon: dockerfile parse error line 3: unknown instruction: ECHO",),
    ),
    Known(
        id="build-context",
        phase="configuring",
        title="a file that the Dockerfile copies is not in the build context",
        signs=(
            "COPY failed: ",
            "ADD failed: ",
            "failed to compute cache key: failed to calculate checksum of ref",
        ),
        cause="Only what lies beside the Dockerfile is sent to the engine, less what .dockerignore names.",
        remedy="Put the file beside the Dockerfile, or correct .dockerignore.",
        samples=(
            "COPY failed: file not found in build context or excluded by .dockerignore: stat wheels:"
            " file does not exist",
        ),
    ),
    Known(
        id="docker-network",
        phase="configuring",
        title="the engine cannot make a network for the container",
        signs=(
            "iptables failed: iptables",
            "iptables: No chain/target/match by that name",
            "failed to create endpoint … on network",
            "failed to set up container networking",
        ),
        cause="The firewall's rules were changed under the engine, or it runs where it may not set them.",
        remedy="Restart the engine, or go without a network of its own: ORTFORGE_DOCKER_NETWORK=host.",
        samples=(
            "docker: Error response from daemon: driver failed programming external connectivity on"
            " endpoint x: (iptables failed: iptables --wait -t nat: No chain/target/match by that name.",
        ),
    ),
    Known(
        id="crlf-scripts",
        phase="configuring",
        title="a script has Windows line ends",
        signs=(
            "bash\\r': No such file or directory",
            "python3\\r': No such file or directory",
            "$'\\r': command not found",
            "/bin/bash^M: bad interpreter",
            "/bin/sh^M: bad interpreter",
        ),
        cause="The tree was checked out on Windows, or an editor changed the line ends.",
        remedy="git config core.autocrlf input and check out again, or bring the tree as an archive.",
        samples=(
            "/usr/bin/env: 'bash\\r': No such file or directory",
            "./build.sh: line 2: $'\\r': command not found",
        ),
    ),
    Known(
        id="vcpkg",
        phase="configuring",
        title="vcpkg could not make a dependency",
        signs=(
            "vcpkg install failed",
            "-- Running vcpkg install - failed",
            "error: building …failed with: BUILD_FAILED",
        ),
        cause="--use_vcpkg downloads and builds every dependency by itself, and one of them failed.",
        remedy="Look into the log it names (vcpkg-manifest-install.log), or leave use_vcpkg out of flags.",
        certain=False,
        samples=(
            "-- Running vcpkg install - failed",
            "error: building protobuf:x64-linux failed with: BUILD_FAILED",
        ),
    ),
)
