"""Known causes that show when the package (or a library of it) is loaded."""

from __future__ import annotations

from ortforge.build.diagnose.known import Known

__all__ = ["IMPORTING"]

IMPORTING = (
    Known(
        id="glibc-old",
        phase="importing",
        title="this system's glibc is older than the one the library was built for",
        signs=("version `GLIBC_…' not found", "version 'GLIBC_…' not found", "undefined reference to `…@GLIBC_"),
        cause="It was compiled on a newer distribution; glibc works backwards only.",
        remedy="Build in an image no newer than where it runs (image = \"manylinux\"); 'ldd --version' shows what is"
        " here.",
        threads=(6021, 20803),
        samples=(
            "ImportError: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by"
            " /v/onnxruntime/capi/onnxruntime_pybind11_state.so)",
        ),
    ),
    Known(
        id="libstdcxx-old",
        phase="importing",
        title="the libstdc++ that is found is older than the one the library was built for ({0})",
        signs=("version `GLIBCXX_…' not found", "version `CXXABI_…' not found"),
        cause="It was compiled with a newer GCC, or conda's older libstdc++ is found first.",
        remedy='Build in the manylinux image, or put the newer libstdc++ first (conda install "libstdcxx-ng",'
        " LD_LIBRARY_PATH).",
        threads=(1001,),
        samples=("ImportError: /opt/conda/lib/libstdc++.so.6: version `GLIBCXX_3.4.32' not found (required by x.so)",),
    ),
    Known(
        id="executable-stack",
        phase="importing",
        title="a library asks for an executable stack, which glibc 2.41 refuses",
        signs=("cannot enable executable stack as shared object requires",),
        cause="One object of it (often hand-written assembler without a .note.GNU-stack section) marks the whole"
        " library.",
        remedy="'patchelf --clear-execstack LIBRARY', or link with -Wl,-z,noexecstack; ortforge's audit reports it.",
        threads=(24911,),
        samples=(
            "ImportError: libonnxruntime.so.1: cannot enable executable stack as shared object requires: Invalid"
            " argument",
        ),
    ),
    Known(
        id="static-tls",
        phase="importing",
        title="a library needs its thread-local memory from the start of the process",
        signs=("cannot allocate memory in static TLS block",),
        cause="jemalloc and some OpenMP libraries cannot be loaded late, as Python loads extension modules.",
        remedy='Load it first: LD_PRELOAD (allocator = "jemalloc" in the target does so); do not link it into the'
        " wheel.",
        samples=("ImportError: /lib/x86_64-linux-gnu/libjemalloc.so.2: cannot allocate memory in static TLS block",),
    ),
    Known(
        id="preload-missing",
        phase="importing",
        title="a library to be loaded first is not there: {0}",
        signs=("ERROR: ld.so: object '…' from LD_PRELOAD cannot be preloaded",),
        cause="LD_PRELOAD names a file that does not exist here; the program goes on without it.",
        remedy="Install the allocator's package where it runs, or write its full path.",
        kind="hint",
        samples=(
            "ERROR: ld.so: object 'libjemalloc.so.2' from LD_PRELOAD cannot be preloaded (cannot open shared object"
            " file): ignored.",
        ),
    ),
    Known(
        id="cudnn-missing",
        phase="importing",
        title="cuDNN is not installed, or is another major version",
        signs=(
            "libcudnn…: cannot open shared object file",
            "Could not load library libcudnn…",
            "Unable to load any of {libcudnn",
            "Could not locate cudnn",
            "Cannot load symbol cudnn",
        ),
        cause="Each release wants one: onnxruntime-gpu 1.18.1 and later for CUDA 12 cuDNN 9, before cuDNN 8.",
        remedy="pip install 'onnxruntime-gpu[cuda,cudnn]' and call onnxruntime.preload_dlls(), or install"
        " libcudnn9-cuda-12; the"
        " table of versions is in ORT's page of the CUDA EP.",
        threads=(6953, 14802, 19616, 19631, 24719),
        samples=(
            "[E:onnxruntime:Default, provider_bridge_ort.cc:1862 TryGetProviderInfo_CUDA] Failed to load library"
            " libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open shared object file: No such"
            " file or directory",
            "Unable to load any of {libcudnn_ops.so.9.1.0, libcudnn_ops.so.9.1, libcudnn_ops.so.9, libcudnn_ops.so}",
        ),
    ),
    Known(
        id="cuda-libraries-missing",
        phase="importing",
        title="CUDA's libraries are not installed, or are another major version",
        signs=(
            "libcublasLt…: cannot open shared object file",
            "libcublas…: cannot open shared object file",
            "libcudart…: cannot open shared object file",
            "libcufft…: cannot open shared object file",
            "libcurand…: cannot open shared object file",
            "libnvrtc…: cannot open shared object file",
        ),
        cause="A wheel is for one CUDA: the number in the missing name is it (.so.12: CUDA 12, .so.11: CUDA 11).",
        remedy="Install that CUDA (pip install 'onnxruntime-gpu[cuda,cudnn]' and onnxruntime.preload_dlls()), or the"
        " wheel for"
        " the CUDA that is here.",
        threads=(6953, 13932, 14802, 20944, 24719),
        samples=(
            "Failed to load library libonnxruntime_providers_cuda.so with error: libcublasLt.so.12: cannot open"
            " shared object"
            " file: No such file or directory",
        ),
    ),
    Known(
        id="tensorrt-missing",
        phase="importing",
        title="TensorRT is not installed, or is another major version",
        signs=("libnvinfer…: cannot open shared object file", "libnvonnxparser…: cannot open shared object file"),
        cause="libnvinfer.so.10 is TensorRT 10, .so.8 is TensorRT 8; the EP takes the one it was built with.",
        remedy="pip install tensorrt-cu12 (of that major version) and put its folder into LD_LIBRARY_PATH, or leave"
        " the EP out.",
        threads=(14802,),
        samples=(
            "Failed to load library libonnxruntime_providers_tensorrt.so with error: libnvinfer.so.10: cannot open"
            " shared object file: No such file or directory",
        ),
    ),
    Known(
        id="driver-missing",
        phase="importing",
        title="NVIDIA's driver is not here",
        signs=(
            "libcuda.so.1: cannot open shared object file",
            "CUDA failure 100:",
            "no CUDA-capable device is detected",
            "Found no NVIDIA driver on your system",
        ),
        cause="The machine has no NVIDIA GPU or driver, or the container was started without the GPU.",
        remedy="Start the container with --gpus all, install the driver on the host, or run the CPU EP.",
        samples=(
            "OSError: libcuda.so.1: cannot open shared object file: No such file or directory",
            "CUDA failure 100: no CUDA-capable device is detected ; GPU=0",
        ),
    ),
    Known(
        id="dnnl-missing",
        phase="importing",
        title="oneDNN's library is not beside the EP's",
        signs=("libdnnl…: cannot open shared object file",),
        cause="setup.py packs libdnnl.so.2 by name while newer oneDNN is .so.3; the wheel then lacks it.",
        remedy="ortforge puts it into the wheel; by hand: copy libdnnl.so.3 from the build folder into"
        " onnxruntime/capi, or"
        " auditwheel repair.",
        threads=(10275, 7155),
        samples=(
            "Failed to load library libonnxruntime_providers_dnnl.so with error: libdnnl.so.3: cannot open shared"
            " object file: No such file or directory",
        ),
    ),
    Known(
        id="openvino-missing",
        phase="importing",
        title="OpenVINO's libraries are not found",
        signs=("libopenvino…: cannot open shared object file", "libtbb…: cannot open shared object file"),
        cause="The wheel was built without packing them, and no OpenVINO of that version is in the search path.",
        remedy="pip install openvino of the version it was built with and put its libs folder into LD_LIBRARY_PATH;"
        " ortforge"
        " packs them into the wheel.",
        samples=(
            "Failed to load library libonnxruntime_providers_openvino.so with error: libopenvino.so.2500: cannot"
            " open shared object file: No such file or directory",
        ),
    ),
    Known(
        id="library-not-found",
        phase="importing",
        title="a shared library is not found",
        signs=("cannot open shared object file: No such file or directory", "error while loading shared libraries:"),
        cause="A package is missing where it runs, or its folder is not searched.",
        remedy="'ldd LIBRARY | grep not' lists all that are missing; install them, or let auditwheel pack them.",
        yields="line",
        threads=(4489,),
        samples=("ImportError: libgomp.so.1: cannot open shared object file: No such file or directory",),
    ),
    Known(
        id="undefined-symbol",
        phase="importing",
        title="a library lacks a function that another one expects: {0}",
        signs=("undefined symbol: …",),
        cause="Two versions of a library are mixed: leftovers of another ONNX Runtime, or one found first through"
        " LD_LIBRARY_PATH.",
        remedy="Install into a fresh environment and clear LD_LIBRARY_PATH.",
        yields="line",
        certain=False,
        samples=(
            "ImportError: /v/onnxruntime_pybind11_state.so: undefined symbol:"
            " OrtSessionOptionsAppendExecutionProvider_Foo",
        ),
    ),
    Known(
        id="wrong-elf",
        phase="importing",
        title="a library is for another processor, or is no library",
        signs=(
            "wrong ELF class: ELFCLASS",
            "invalid ELF header",
            "file too short",
            "cannot open shared object file: Exec format error",
            "ELF load command …",
        ),
        cause="The wheel is for another machine, or the file is cut off or a link that was packed as text.",
        remedy="Check it with 'file LIBRARY'; install or build the wheel anew.",
        samples=("ImportError: /v/libonnxruntime.so.1: invalid ELF header", "OSError: /v/libdnnl.so.3: file too short"),
    ),
    Known(
        id="numpy-abi",
        phase="importing",
        title="the package was built for NumPy 1, and NumPy 2 is here (or the other way round)",
        signs=(
            "A module that was compiled using NumPy 1.x cannot be run in",
            "_ARRAY_API not found",
            "module compiled against API version 0x",
            "module compiled against ABI version 0x",
            "numpy.core.multiarray failed to import",
            "numpy._core.multiarray failed to import",
            "numpy.dtype size changed, may indicate binary incompatibility",
        ),
        cause="ONNX Runtime before 1.19 is built with NumPy 1, whose binary interface NumPy 2 changed.",
        remedy="pip install 'numpy<2', or ONNX Runtime 1.19 or later; build with NumPy 2's headers (they serve both).",
        threads=(11771, 21063),
        samples=(
            "A module that was compiled using NumPy 1.x cannot be run in\nNumPy 2.1.0 as it may crash.",
            "AttributeError: _ARRAY_API not found",
            "RuntimeError: module compiled against API version 0x10 but this version of numpy is 0xf",
        ),
    ),
    Known(
        id="numpy-missing",
        phase="importing",
        title="NumPy is not installed",
        signs=("ModuleNotFoundError: No module named 'numpy'", "ImportError: No module named numpy"),
        cause="The wheel was installed without its dependencies (--no-deps), or into another environment.",
        remedy="pip install numpy in the same environment.",
        samples=("ModuleNotFoundError: No module named 'numpy'",),
    ),
    Known(
        id="extension-missing",
        phase="importing",
        title="the package is here without its compiled part for this Python",
        signs=(
            "No module named 'onnxruntime.capi.onnxruntime_pybind11_state'",
            "cannot import name 'onnxruntime_pybind11_state'",
            "module 'onnxruntime' has no attribute '",
            "No module named 'onnxruntime.capi'",
            "cannot import name '…' from 'onnxruntime.capi",
        ),
        cause="Python found the source folder onnxruntime (or leftovers of another variant) instead of the installed"
        " package, or"
        " the wheel is for another Python. All variants install the same import package and overwrite each other.",
        remedy="Leave the source folder; uninstall all variants (onnxruntime, onnxruntime-gpu, …), then install one.",
        threads=(2068, 8623, 26996),
        samples=(
            "ModuleNotFoundError: No module named 'onnxruntime.capi.onnxruntime_pybind11_state'",
            "AttributeError: module 'onnxruntime' has no attribute 'InferenceSession'",
            "ModuleNotFoundError: No module named 'onnxruntime.capi'",
        ),
    ),
    Known(
        id="python-mismatch",
        phase="importing",
        title="the extension module is for another Python",
        signs=("Python version mismatch: module was compiled for Python",),
        cause="A build tree configured for one Python was packed by another.",
        remedy="Configure and pack with the same interpreter; ortforge keeps a build folder for each Python.",
        samples=(
            "ImportError: Python version mismatch: module was compiled for Python 3.11, but the interpreter version is"
            " incompatible: 3.13.5.",
        ),
    ),
    Known(
        id="protobuf-twice",
        phase="importing",
        title="two copies of ONNX's protobuf descriptions meet in one process",
        signs=(
            "File already exists in database: onnx",
            "File already exists in database:",
            "Check failed: GeneratedDatabase()->Add",
        ),
        cause="ONNX Runtime and another library (onnx, a system libonnx, TensorRT's parser) register them in one shared"
        " libprotobuf.",
        remedy="Link protobuf statically into ORT, or compile ONNX within the build"
        " (FETCHCONTENT_SOURCE_DIR_ONNX) instead of linking the system's.",
        threads=(7597, 24245),
        samples=(
            "[libprotobuf ERROR google/protobuf/descriptor_database.cc:642] File already exists in database:"
            " onnx/onnx-ml.proto",
        ),
    ),
    Known(
        id="protobuf-python",
        phase="importing",
        title="Python's protobuf does not fit the generated code",
        signs=(
            "Descriptors cannot be created directly.",
            "Descriptors cannot not be created directly.",
            "Detected incompatible Protobuf Gencode/Runtime versions",
            "cannot import name 'builder' from 'google.protobuf.internal'",
        ),
        cause="onnx or another package was generated with a protobuf newer or much older than the installed one.",
        remedy="pip install -U protobuf (or the version that the message names).",
        samples=(
            "TypeError: Descriptors cannot be created directly.",
            "google.protobuf.runtime_version.VersionError: Detected incompatible Protobuf Gencode/Runtime versions when"
            " loading onnx/onnx.proto: gencode 6.31.0 runtime 5.29.5.",
        ),
    ),
    Known(
        id="schema-registered",
        phase="importing",
        title="operators are registered twice",
        signs=("Schema error: …already registered", "Trying to register schema with name"),
        cause="The system's libonnx registers its operators when loaded, and ONNX Runtime registers them again. The"
        " second is"
        " dropped: nothing is lost.",
        remedy="Nothing has to be done. To be rid of the lines, compile ONNX within the build"
        " (FETCHCONTENT_SOURCE_DIR_ONNX);"
        ' dependencies = "system" does so.',
        kind="harmless",
        samples=(
            "Schema error: Trying to register schema with name Abs (domain:  version: 13) from file x.cc line 1, but"
            " it is already registered from file y.cc line 2",
        ),
    ),
    Known(
        id="gpu-discovery",
        phase="importing",
        title="ONNX Runtime looks for GPUs and finds no description of one",
        signs=("GPU device discovery failed:", "NPU device discovery failed:"),
        cause="Containers and virtual machines show no /sys/class/drm/card0/device/vendor. EPs named by the session"
        " work without it.",
        remedy="Nothing has to be done.",
        kind="harmless",
        threads=(26763, 27806),
        samples=(
            "[W:onnxruntime:Default, device_discovery.cc:164 DiscoverDevicesForPlatform] GPU device discovery failed:"
            ' device_discovery.cc:89 ReadFileContents Failed to open file: "/sys/class/drm/card0/device/vendor"',
        ),
    ),
    Known(
        id="cpuinfo",
        phase="importing",
        title="the processor's description cannot be read",
        signs=("Error in cpuinfo:", "cpuinfo_initialize failed"),
        cause="The sandbox hides /sys/devices/system/cpu, or the processor is unknown to cpuinfo. Some kernels are"
        " then chosen"
        " more carefully.",
        remedy="Nothing has to be done; mount /sys read-only into the container for full speed.",
        kind="harmless",
        samples=(
            "Error in cpuinfo: failed to parse the list of possible processors in /sys/devices/system/cpu/possible",
        ),
    ),
    Known(
        id="provider-library-missing",
        phase="importing",
        title="the wheel lacks a library of ONNX Runtime itself: libonnxruntime_providers_{0}",
        signs=(
            "libonnxruntime_providers_…: cannot open shared object file",
            "libonnxruntime_providers_…: No such file",
        ),
        cause="setup.py packs these libraries by fixed names and conditions, and left it out; or the C++"
        " program runs in another folder than the library lies in.",
        remedy="Build it with ortforge, which packs and audits the libraries of each EP; by hand: copy it"
        " from the build folder into onnxruntime/capi (or beside libonnxruntime.so).",
        threads=(
            8111,
            10275,
            7155,
        ),
        samples=(
            "[E:onnxruntime:Default, provider_bridge_ort.cc:902 Ensure] Failed to load library"
            " libonnxruntime_providers_shared.so with error: libonnxruntime_providers_shared.so: cannot"
            " open shared object file: No such file or directory",
        ),
    ),
    Known(
        id="page-size",
        phase="importing",
        title="jemalloc was built for smaller memory pages than this system has",
        signs=("<jemalloc>: Unsupported system page size",),
        cause="It was compiled where pages have 4 KiB; ARM servers and some SBCs have 16 or 64.",
        remedy="Build jemalloc with --with-lg-page=16, or leave allocator out of the target there.",
        samples=("<jemalloc>: Unsupported system page size",),
    ),
)
