"""Known causes that show while compiling and linking."""

from __future__ import annotations

from ortforge.build.diagnose.known import Known

__all__ = ["COMPILING", "OUT_OF_MEMORY"]

#: The one cause that the build driver acts on by itself.
OUT_OF_MEMORY = "out-of-memory"

COMPILING = (
    Known(
        id=OUT_OF_MEMORY,
        phase="compiling",
        title="a compiler was killed for want of memory",
        signs=(
            "fatal error: Killed signal terminated program",
            "internal compiler error: Killed (program",
            "died due to signal 9",
            "ld terminated with signal 9",
            "virtual memory exhausted: Cannot allocate memory",
            "out of memory allocating",
            "LLVM ERROR: out of memory",
            "ptxas fatal   : Memory allocation failure",
            "memory exhausted",
            "^Killed$",
            "] Killed$",
            ": line …Killed    ",
            "exit code 137",
            "exit code: 137",
            "] Error 137",
            "Out of memory: Killed process",
            "posix_spawn: Cannot allocate memory",
            "fork: Cannot allocate memory",
            "returned a non-zero code: 137",
            "catastrophic error: out of memory",
            "catastrophic error : out of memory",
            ": line …: … Killed    …",
            "ut of memory: Killed process",
        ),
        cause="More compilers ran at once than the memory holds: C++ files of ONNX Runtime take up to 2 GB each,"
        " CUDA ones more"
        " (and nvcc_threads multiplies them).",
        remedy="Fewer at once: jobs = 2 in the target or --parallel 2 (ortforge halves it by itself), nvcc_threads ="
        " 1 in flags for CUDA, fewer CMAKE_CUDA_ARCHITECTURES in defines, or more memory for the container"
        " (memory in the target).",
        threads=(18579, 22859, "dusty-nv/jetson-containers#1430"),
        samples=(
            "c++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.",
            "nvcc error   : 'cicc' died due to signal 9 (Kill signal)",
            "collect2: fatal error: ld terminated with signal 9 [Killed]",
            "gmake[2]: *** [CMakeFiles/onnxruntime_providers_cuda.dir/build.make:90: x.cu.o] Error 137",
            "#14 812.4 Killed",
            "cc1plus: out of memory allocating 65536 bytes after a total of 41832448 bytes",
            "g++: internal compiler error: Killed (program cc1plus)",
            "./build.sh: line 21:    71 Killed                  python3 tools/ci_build/build.py",
            "make[2]: *** [x.cc.o] Killed",
            "The command '/bin/sh -c ./build.sh' returned a non-zero code: 137, exit code: 137",
            "The command '/bin/sh -c ./build.sh --build_wheel' returned a non-zero code: 137",
            "/build.sh: line 21:    12 Killed                  python3 tools/ci_build/build.py --build_dir build",
            "/_deps/cutlass-src/include/cute/layout_composed.hpp(478): catastrophic error: out of memory",
        ),
    ),
    Known(
        id="compiler-crash",
        phase="compiling",
        title="the compiler itself crashed",
        signs=(
            "internal compiler error: Segmentation fault",
            "internal compiler error: in ",
            "died due to signal 11",
            "PLEASE submit a bug report to https://",
        ),
        cause="A defect of this compiler's version, or bad memory of the machine when it happens at changing places.",
        remedy="Build again with jobs = 1 in the target: if it crashes at the same file, use another compiler"
        " version in the image.",
        certain=False,
        samples=(
            "/source/onnxruntime/core/x.cc:11:1: internal compiler error: Segmentation fault",
            "nvcc error   : 'cudafe++' died due to signal 11 (Invalid memory reference)",
        ),
    ),
    Known(
        id="nvcc-gnu-version",
        phase="compiling",
        title="this CUDA does not take this GCC",
        signs=("unsupported GNU version!", "unsupported clang version!"),
        cause="Each CUDA names the newest host compiler it takes, and the image has a newer one.",
        remedy="Install the older g++ in the image and set CMAKE_CUDA_HOST_COMPILER in defines, or use a newer CUDA"
        " image.",
        threads=(23286,),
        samples=(
            "/usr/local/cuda/include/crt/host_config.h:139:2: error: #error -- unsupported GNU version! gcc versions"
            " later than"
            " 12 are not supported!",
        ),
    ),
    Known(
        id="cuda-glibc",
        phase="compiling",
        title="CUDA's headers and this glibc declare the same functions differently",
        signs=(
            "exception specification is incompatible with that of previous function",
            "specification is incompatible with that of",
        ),
        cause="glibc 2.41 declares sinpi, cospi and others (2.42 rsqrt) as noexcept; headers of CUDA up to 12.9"
        " (13.0) do not.",
        remedy="Use the cuda image with its own, older base, or a newer CUDA.",
        threads=(26177, "NVIDIA/cuda-samples#378"),
        samples=(
            "/usr/local/cuda/include/crt/math_functions.h(2556): error: exception specification is incompatible with"
            " that of"
            ' previous function "cospi" (declared at line 79 of /usr/include/x86_64-linux-gnu/bits/mathcalls.h)',
        ),
    ),
    Known(
        id="cuda-arch",
        phase="compiling",
        title="this CUDA cannot compile for the architecture {0}",
        signs=(
            "nvcc fatal   : Unsupported gpu architecture '…'",
            "ptxas fatal   : Value '…' is not defined for option 'gpu-name'",
            'is set to "native", but no NVIDIA GPU was',
        ),
        cause="The architecture is newer than this CUDA, or was dropped by it.",
        remedy='Correct CMAKE_CUDA_ARCHITECTURES in defines (e.g. "80;90"), or use another CUDA image.',
        samples=("nvcc fatal   : Unsupported gpu architecture 'compute_120'",),
    ),
    Known(
        id="nvcc-option",
        phase="compiling",
        title="this CUDA is too old for what the build asks of nvcc",
        signs=(
            "nvcc fatal   : Value '…' is not defined for option 'std'",
            "^nvcc fatal   : Unknown option …",
            "CUDA_STANDARD is set to invalid value",
        ),
        cause="ONNX Runtime asks for a C++ standard or an option (C++20 since 1.21 or so) that this nvcc does not"
        " know.",
        remedy="Use the CUDA version that the release was made with: the cuda image's default.",
        samples=(
            "nvcc fatal   : Value 'c++20' is not defined for option 'std'",
            "nvcc fatal   : Unknown option '-static-global-template-stub=false'",
        ),
    ),
    Known(
        id="warning-as-error",
        phase="compiling",
        title="a compiler newer than this ONNX Runtime warns, and warnings stop the build",
        signs=("error: …[-Werror", "all warnings being treated as errors", "all warnings treated as errors"),
        cause="ORT compiles with -Werror; a newer GCC knows more warnings (GCC 13, 14: dangling-reference,"
        " maybe-uninitialized,"
        " stringop-overflow …).",
        remedy="Add compile_no_warning_as_error = true to flags of the target (exists since 1.14).",
        threads=(24290,),
        samples=(
            "/source/onnxruntime/core/session/inference_session.cc:1:1: error: possibly dangling reference to a"
            " temporary"
            " [-Werror=dangling-reference]",
            "cc1plus: all warnings being treated as errors",
        ),
    ),
    Known(
        id="cstdint",
        phase="compiling",
        title="a source file forgot <cstdint>, and this compiler no longer brings it along",
        signs=(
            "did you forget to '#include <cstdint>'?",
            "did you forget to '#include <cstdint>'?",
            "is defined in header '<cstdint>'",
            "'uint8_t' does not name a type",
            "'uint32_t' does not name a type",
            "'uint8_t' was not declared in this scope",
            "'uint32_t' was not declared in this scope",
            "is defined in header '<cstdint>'",
        ),
        cause="GCC 13 and 15 took headers out of others; older dependencies relied on them.",
        remedy='Use an image with an older GCC, or add CMAKE_CXX_FLAGS = "-include cstdint" to defines of the target.',
        threads=(24583, 25658),
        samples=(
            "/build/_deps/date-src/x.h:4:1: note: 'uint32_t' is defined in header '<cstdint>'; did you forget to"
            " '#include <cstdint>'?",
        ),
    ),
    Known(
        id="eigen-system",
        phase="compiling",
        title="the system's Eigen is older than what ONNX Runtime uses",
        signs=("error: …PropagateNaN>(", "'PropagateNaN' is not a member of", "'PropagateNaN' is not a member of"),
        cause="Eigen 3.4.0, which distributions have, lacks NaN propagation in binary min and max.",
        remedy='Let dependencies = "system" of ortforge do it (it brings what is missing), or take ORT\'s own Eigen.',
        certain=False,
        samples=(
            "/source/onnxruntime/core/providers/cpu/math/element_wise_ops.cc:9:2: error: no matching function for"
            " call to"
            " 'Eigen::ArrayBase<D>::min<Eigen::PropagateNaN>(float)'",
        ),
    ),
    Known(
        id="tensorrt-headers",
        phase="compiling",
        title="TensorRT's headers are missing",
        signs=(
            "fatal error: NvInfer.h: No such file or directory",
            "fatal error: NvInferVersion.h: No such file or directory",
            "fatal error: NvOnnxParser.h: No such file or directory",
            "^  Could NOT find TensorRT",
            "Could not find TENSORRT_INCLUDE_DIR",
        ),
        cause="The image holds TensorRT's runtime without its development files, or tensorrt_home is another folder.",
        remedy='Use image = "tensorrt", or install libnvinfer-dev and libnvonnxparsers-dev and set tensorrt_home.',
        threads=(13479,),
        samples=(
            "/source/onnxruntime/core/providers/tensorrt/nv_includes.h:12:10: fatal error: NvInfer.h: No such file"
            " or directory",
        ),
    ),
    Known(
        id="tensorrt-version",
        phase="compiling",
        title="this TensorRT is of another version than this ONNX Runtime was written for",
        signs=(
            "'class nvinfer1::…' has no member named",
            "is not a member of 'nvinfer1'",
            "undefined symbol: getBuilderPluginRegistry",
            "libnvinfer_plugin…: undefined symbol",
        ),
        cause="Each ONNX Runtime takes one or two releases of TensorRT; its parser is written for one.",
        remedy="Use the release that ORT's page of the TensorRT EP names for this version, or leave"
        " use_tensorrt_builtin_parser out of flags.",
        threads=(12766, 12922, 14802),
        samples=(
            "/source/cmake/external/onnx-tensorrt/onnx2trt_utils.hpp:119:21: error: 'class"
            " nvinfer1::INetworkDefinition' has"
            " no member named 'setWeightsName'; did you mean 'setName'?",
            "Failed to load library libonnxruntime_providers_tensorrt.so with error:"
            " /v/libonnxruntime_providers_tensorrt.so: undefined symbol: getBuilderPluginRegistry",
        ),
    ),
    Known(
        id="header-missing",
        phase="compiling",
        title="a header is missing: {0}",
        signs=("fatal error: …: No such file or directory", "fatal error: '…' file not found"),
        cause="The development package that has it is not installed, or its folder is not searched.",
        remedy="Install the package that has the header ('apt-file search' names it) in the image (a Dockerfile of"
        ' your own: image = "PATH/Dockerfile").',
        yields="line",
        samples=("/source/onnxruntime/core/common/x.cc:1:10: fatal error: gsl/gsl: No such file or directory",),
    ),
    Known(
        id="host-protobuf",
        phase="compiling",
        title="another protobuf than the build's own is used",
        signs=(
            "This file was generated by a newer version of protoc",
            "This file was generated by an older version of protoc",
            "undefined symbol: _ZN6google8protobuf",
            "undefined symbol: _ZNK6google8protobuf",
            "undefined reference to `google::protobuf::",
            "Protobuf compiler version … doesn't match library version",
            "#error regenerate this file with a newer version of protoc",
            'error "Protobuf C++ gencode is built with an incompatible version',
        ),
        cause="protoc or headers of the host (or conda) are found before those the build has made: code of one"
        " version meets"
        " headers of another.",
        remedy="Remove libprotobuf-dev and protobuf-compiler from the image or the PATH, or take protobuf wholly"
        " from the"
        ' system: dependencies = "system".',
        threads=(18077, 21381, 23103, 24245),
        samples=(
            "/build/_deps/onnx-build/onnx/onnx-ml.pb.h:17:2: error: #error This file was generated by an older"
            " version of"
            " protoc which is",
            "CMake Warning at FindProtobuf.cmake:524 (message):\n  Protobuf compiler version 21.12 doesn't match"
            " library version 3.21.9",
        ),
    ),
    Known(
        id="host-flatbuffers",
        phase="compiling",
        title="another flatbuffers than the build's own is used",
        signs=("Non-compatible flatbuffers version included", "undefined reference to `flatbuffers::"),
        cause="ONNX Runtime's generated headers take one version of flatbuffers; the host (or conda) has another.",
        remedy="Remove libflatbuffers-dev from the image, or take the version that cmake/deps.txt of this release"
        " names.",
        threads=(22666,),
        samples=(
            "/source/onnxruntime/core/flatbuffers/schema/ort.fbs.h:12:46: error: static assertion failed:"
            " Non-compatible"
            " flatbuffers version included",
        ),
    ),
    Known(
        id="host-abseil",
        phase="compiling",
        title="another abseil than the build's own is used",
        signs=(
            "undefined reference to `absl::",
            "undefined symbol: _ZN4absl",
            "undefined symbol: _ZNK4absl",
            "undefined reference to symbol '_ZN4absl",
            "undefined reference to symbol '_ZNK4absl",
            "libabsl_…: error adding symbols: DSO missing from command line",
            "/abslTargets.cmake:",
            "^    absl::…",
            "fatal error: absl/",
        ),
        cause="abseil's symbols hold its version: headers of the host (or of conda, vcpkg) and libraries of the"
        " build do not"
        " fit.",
        remedy="Remove libabsl-dev from the image (and CMAKE_PREFIX_PATH from environment), or take abseil, re2 and"
        " protobuf"
        ' all from the system: dependencies = "system".',
        threads=(
            23103,
            24245,
            20777,
            23661,
        ),
        samples=(
            "/usr/bin/ld: x.cc:(.text+0x1): undefined reference to"
            " `absl::lts_20240722::container_internal::kEmptyGroup'",
            "ImportError: /v/onnxruntime_pybind11_state.so: undefined symbol:"
            " _ZN4absl12lts_2024011618container_internal17",
            "CMake Error at /usr/local/lib64/cmake/absl/abslTargets.cmake:42 (message):\n"
            "  Some (but not all) targets in this export set were already defined.",
            "CMake Error at onnxruntime_common.cmake:138 (target_link_libraries):\n"
            '  Target "onnxruntime_common" links to:\n'
            "\n    absl::low_level_hash\n\n  but the target was not found.  Possible reasons include:",
            "/usr/include/gtest/internal/gtest-port.h:62:10: fatal error:"
            " absl/strings/has_absl_stringify.h: No such file or directory",
        ),
    ),
    Known(
        id="not-pic",
        phase="compiling",
        title="a static library that was not made for shared libraries is linked into one",
        signs=(
            "recompile with -fPIC",
            "can not be used when making a shared object",
            "can not be used when making a PIE object",
        ),
        cause="Distributions' static libraries (Debian's libprotobuf.a) are often not position-independent.",
        remedy='Link the shared one (Protobuf_USE_STATIC_LIBS = "OFF" in defines; dependencies = "system" does so),'
        " or set"
        ' CMAKE_POSITION_INDEPENDENT_CODE = "ON".',
        samples=(
            "/usr/bin/ld: /usr/lib/x86_64-linux-gnu/libprotobuf.a(arena.o): relocation R_X86_64_TPOFF32 against symbol"
            " `_ZN6google' can not be used when making a shared object; recompile with -fPIC",
        ),
    ),
    Known(
        id="library-missing",
        phase="compiling",
        title="the linker does not find a library: {0}",
        signs=("ld: cannot find -l…: No such file", "ld: cannot find -l…", "unable to find library -l…"),
        cause="The development package with the library (or its .so link) is not installed, or lies in an unsearched"
        " folder.",
        remedy='Install the -dev package in the image (a Dockerfile of your own: image = "PATH/Dockerfile"), or name'
        " the library's folder in LIBRARY_PATH in environment.",
        samples=("/usr/bin/ld: cannot find -lcudnn: No such file or directory", "/usr/bin/ld: cannot find -lnvinfer"),
    ),
    Known(
        id="undefined-reference",
        phase="compiling",
        title="the linker finds no definition of a function",
        signs=(
            "undefined reference to `…'",
            "undefined reference to symbol '…'",
            "error adding symbols: DSO missing from command line",
        ),
        cause="Headers and library are of different versions, a library is missing on the link line, or parts were"
        " compiled"
        " with another C++ ABI.",
        remedy="Look which library should define it and whether the host has a second one; build in a clean image.",
        yields="line",
        certain=False,
        samples=("/usr/bin/ld: x.cc:(.text+0x10): undefined reference to `OrtGetApiBase'",),
    ),
    Known(
        id="wrong-architecture",
        phase="compiling",
        title="objects of another processor are linked",
        signs=(
            "error adding symbols: file in wrong format",
            "is incompatible with elf",
            "unknown architecture of input file",
            "is incompatible with …output",
        ),
        cause="Libraries or objects of a cross-compiled or older build lie in the searched folders.",
        remedy="Remove the build folder; for cross-compiling give a toolchain file with its own sysroot.",
        samples=(
            "/usr/bin/ld: libcpuinfo.a(init.c.o): error adding symbols: file in wrong format",
            "/usr/bin/ld: unknown architecture of input file `x.o' is incompatible with i386:x86-64 output",
        ),
    ),
    Known(
        id="relocation-overflow",
        phase="compiling",
        title="the library has grown beyond 2 GB",
        signs=("relocation truncated to fit: R_X86_64", "relocation truncated to fit: R_AARCH64"),
        cause="CUDA code for many architectures, or a debug build, in one library.",
        remedy='Fewer architectures: CMAKE_CUDA_ARCHITECTURES = "90" in defines; config = "Release".',
        samples=(
            "crtbeginS.o: in function `deregister_tm_clones': (.text+0x3): relocation truncated to fit:"
            " R_X86_64_PC32 against `.tm_clone_table'",
        ),
    ),
    Known(
        id="disk-full",
        phase="compiling",
        title="the disk is full",
        signs=("No space left on device", "Disk quota exceeded", "no space left on device"),
        cause="A build tree takes 2 to 10 GB (CUDA, Debug more), images and ccache come on top.",
        remedy="'ortforge cache show' and 'ortforge cache builds' tell what can go, 'docker system df' what the"
        " engine holds; or put the engine's data folder on a larger disk.",
        samples=(
            "/usr/bin/ld: final link failed: No space left on device",
            "fatal error: error writing to /tmp/ccXYZ.s: No space left on device",
            "failed to register layer: write /usr/lib/x: no space left on device",
        ),
    ),
    Known(
        id="read-only",
        phase="compiling",
        title="something is written where nothing may be written",
        signs=("Read-only file system",),
        cause="A folder is mounted read-only: often the source tree, into which the build wants to write.",
        remedy="Give build_dir outside of it; ortforge copies the source into its own volume.",
        samples=("CMake Error: cannot create directory '/source/build': Read-only file system",),
    ),
    Known(
        id="too-many-files",
        phase="compiling",
        title="too many files are open",
        signs=("Too many open files",),
        cause="The limit of open files of the container or user is low, and many linkers or jobs run.",
        remedy="Raise it (ulimit -n 65536, or default-ulimits of the engine), or lower jobs in the target.",
        samples=("/usr/bin/ld: cannot open linker script file x.ld: Too many open files",),
    ),
    Known(
        id="ccache-permission",
        phase="compiling",
        title="ccache may not write into its folder",
        signs=("ccache: error: …Permission denied", "ccache: error: Failed to create directory"),
        cause="The cache was made by another user (often root), or HOME is not writable in the container.",
        remedy="Set CCACHE_DIR to a folder of this user, or chown it; 'ortforge cache builds --clean --all' removes"
        " ortforge's, it is made again.",
        samples=(
            "ccache: error: Failed to create directory /ccache/tmp: Permission denied",
            "ccache: error: Failed to create temporary file for /ccache/9/c/x.tmp: Permission denied",
        ),
    ),
    Known(
        id="clock-skew",
        phase="compiling",
        title="files are newer than the clock",
        signs=(
            "Clock skew detected.",
            "has modification time … in the future",
        ),
        cause="The source comes from another machine or a network disk whose clock runs ahead; make and ninja judge"
        " by time.",
        remedy="Set the clock, touch the files of the source, and build again: what was built may be incomplete.",
        kind="hint",
        samples=("make[2]: warning:  Clock skew detected.  Your build may be incomplete.",),
    ),
    Known(
        id="assembler-old",
        phase="compiling",
        title="the assembler or compiler does not know an instruction that is asked for",
        signs=(
            "Error: no such instruction: `…'",
            "error: unrecognized command-line option '-m…'",
            "error: unrecognized command-line option '-m…'",
            "error: unrecognized command line option '-m…'",
            "error: bad value ('…') for '-m",
        ),
        cause="MLAS has AVX-512, AMX and VNNI code; binutils or GCC of the image are older.",
        remedy="Use an image with newer binutils and GCC (at least 11).",
        samples=(
            "ccA.s:10: Error: no such instruction: `vpdpbusd %ymm1,%ymm2,%ymm3'",
            "cc1plus: error: unrecognized command-line option '-mamx-tile'; did you mean '-maltivec'?",
        ),
    ),
    Known(
        id="compiler-old",
        phase="compiling",
        title="the compiler is older than this ONNX Runtime takes",
        signs=(
            "GCC version must be greater than or equal to",
            "GCC version must not be less than",
            "error: #error GCC version too old",
            "unrecognized command-line option '-std=c++",
            "unrecognized command line option '-std=c++",
            "unrecognized command-line option '-std=c++",
            "CMAKE_CXX_COMPILER version …is too old",
        ),
        cause="ORT 1.21 and later want GCC 11 or newer, older ones GCC 9.",
        remedy='Use image = "debian" or "manylinux", whose compilers are new enough, or set CC and CXX in environment.',
        samples=(
            "CMake Error at CMakeLists.txt:52 (message):\n  GCC version must be greater than or equal to 11.1",
            "c++: error: unrecognized command-line option '-std=c++20'; did you mean '-std=c++2a'?",
        ),
    ),
    Known(
        id="lto-mixed",
        phase="compiling",
        title="objects of two compiler versions meet in link-time optimization",
        signs=("lto1: fatal error: bytecode stream in file", "generated with LTO version"),
        cause="Static libraries with LTO code of another GCC are linked with enable_lto.",
        remedy="Leave enable_lto out of flags, or build all dependencies with this compiler.",
        samples=(
            "lto1: fatal error: bytecode stream in file 'libx.a' generated with LTO version 11.2 instead of the"
            " expected 12.0",
        ),
    ),
    Known(
        id="mimalloc-lost",
        phase="compiling",
        title="mimalloc is asked for and not built in",
        signs=("-Donnxruntime_USE_MIMALLOC=ON",),
        cause="Since 1.14 a dependent option turns it off on Linux; CMake's cache goes on saying ON.",
        remedy='Take use_mimalloc out of flags and write allocator = "mimalloc" into the target: it is loaded first.',
        kind="hint",
        threads=(25213,),
        samples=("  /usr/bin/cmake /source/cmake -Donnxruntime_USE_MIMALLOC=ON -Donnxruntime_ENABLE_PYTHON=ON",),
    ),
    Known(
        id="clock-ninja",
        phase="compiling",
        title="ninja finds files that are newer than the clock, again and again",
        signs=("still dirty after 100 tries",),
        cause="The source comes from a machine or disk whose clock runs ahead, or was unpacked with times of the"
        " future.",
        remedy="Set the clock, touch the files of the source and of the build folder, and build again.",
        samples=("ninja: error: manifest 'build.ninja' still dirty after 100 tries, perhaps system time is not set",),
    ),
    Known(
        id="imported-target",
        phase="compiling",
        title="a package's CMake files name a library where it does not lie: {0}",
        signs=(
            'The imported target "…" references the file',
            "but this file does not exist.  Possible reasons include",
        ),
        cause="The archive was packed with lib and installed as lib64 (ONNX Runtime's own 1.22 archives), or a part"
        " of a package"
        " is not installed.",
        remedy="Link lib64 to lib beside it, or install the missing package.",
        threads=(25279,),
        samples=(
            "CMake Error at lib/cmake/onnxruntime/onnxruntimeTargets.cmake:83 (message):\n  The imported target"
            ' "onnxruntime::onnxruntime" references the file',
        ),
    ),
    Known(
        id="copy-of-nothing",
        phase="compiling",
        title="a step after linking copies an empty list of files",
        signs=(
            "cmake -E copy … destination",
            "CMake Error: cmake version …",
        ),
        near=("Usage: …cmake -E <command> [arguments...]", "Usage: cmake -E <command>", "-E copy"),
        cause="Source packages of distributions are stripped of models and data, and the build copies whatever lies"
        " there.",
        remedy="Put any file into onnxruntime/python/datasets (ortforge does so for debian: sources).",
        certain=False,
        samples=(
            "FAILED: onnxruntime_pybind11_state.so\ncd /build && /usr/bin/cmake -E copy /build/onnxruntime/datasets/\n"
            "CMake Error: cmake version 3.31.6\nUsage: /usr/bin/cmake -E <command> [arguments...]",
        ),
    ),
    Known(
        id="glibc-objects",
        phase="compiling",
        title="objects made with a newer glibc are linked on a system with an older one",
        signs=(
            "undefined reference to `__isoc23_",
            "undefined symbol: __isoc23_",
            "undefined reference to `__libc_single_threaded'",
            "undefined reference to `…@GLIBC_",
            "undefined reference to `…@GLIBCXX_",
        ),
        cause="A prebuilt library (often a static ONNX Runtime) was compiled on a newer distribution. From"
        " GCC's C23 mode on, its headers name functions that older glibc does not have, without a"
        " version.",
        remedy="Link on a system as new as the library's, or build the library in the manylinux image:"
        ' artifact = "cxx", image = "manylinux".',
        threads=(
            20803,
            "pykeio/ort#523",
            "pykeio/ort#268",
        ),
        samples=(
            "undefined reference to `__isoc23_strtol@GLIBC_2.38'",
            "lib/libonnxruntime.so: undefined reference to `dlclose@GLIBC_2.34'",
            "ImportError: /v/x.abi3.so: undefined symbol: __isoc23_strtoll",
        ),
    ),
    Known(
        id="needed-file-gone",
        phase="compiling",
        title="a file that the build was configured with is gone: {0}",
        signs=(
            "ninja: error: '…', needed by '…', missing and no known rule to make it",
            "No rule to make target '…', needed by '…'",
        ),
        cause="A library was removed or updated after configuring, a build before this one was broken off,"
        " or the build folder came from elsewhere.",
        remedy="Configure again (build.py --update); when that does not help, remove the build folder.",
        samples=(
            "ninja: error: '/usr/lib/x86_64-linux-gnu/libprotobuf.so', needed by 'libonnxruntime.so',"
            " missing and no known rule to make it",
            "make[2]: *** No rule to make target '/usr/lib/libcudnn.so', needed by"
            " 'libonnxruntime_providers_cuda.so'.  Stop.",
        ),
    ),
    Known(
        id="not-configured",
        phase="compiling",
        title="the build folder was never configured to its end",
        signs=(
            "ninja: error: loading 'build.ninja': No such file or directory",
            "Error: could not load cache",
            "Makefile: No such file or directory",
        ),
        cause="CMake failed or was not run before; its error stands in an earlier log.",
        remedy="Run build.py with --update (not --build alone), and diagnose that log.",
        samples=("ninja: error: loading 'build.ninja': No such file or directory",),
    ),
    Known(
        id="bus-error",
        phase="compiling",
        title="the linker lost the memory it had mapped",
        signs=(
            "terminated with signal 7 [Bus error]",
            "ld: final link failed: Bus error",
        ),
        cause="The disk or /dev/shm (64 MB in containers by default) was full while a file was written through memory.",
        remedy="Free space, or give the container more: --shm-size, TMPDIR on a disk.",
        certain=False,
        samples=("collect2: fatal error: ld terminated with signal 7 [Bus error], core dumped",),
    ),
    Known(
        id="process-limit",
        phase="compiling",
        title="no more processes or threads may be started",
        signs=(
            "fork: retry: Resource temporarily unavailable",
            "fork: Resource temporarily unavailable",
            "Cannot fork",
            "pthread_create failed",
            "can't start new thread",
            "Thread creation failed: Resource temporarily unavailable",
            "failed to create new OS thread",
        ),
        cause="The limit of processes (docker run --pids-limit, ulimit -u) is reached, or an old engine's"
        " seccomp profile forbids a call of a newer glibc.",
        remedy="Raise the limit, lower parallel, or update the engine.",
        threads=(6040,),
        samples=(
            "sh: 0: Cannot fork",
            "OpenBLAS blas_thread_init: pthread_create failed for thread 3 of 48: Operation not permitted",
            "RuntimeError: can't start new thread",
            "libgomp: Thread creation failed: Resource temporarily unavailable",
        ),
    ),
    Known(
        id="permission",
        phase="compiling",
        title="a file or folder may not be written by this user",
        signs=(
            "PermissionError: [Errno 13] Permission denied: …",
            "cannot create directory …: Permission denied",
            "cannot open output file …: Permission denied",
            "fatal error: can't create …: Permission denied",
            "cannot touch …: Permission denied",
            "error: could not create …: Permission denied",
        ),
        cause="It was made by another user, often by root in an earlier run of a container.",
        remedy="chown it, or remove it and build again; ortforge keeps its build trees in volumes of each user.",
        yields="line",
        samples=(
            "PermissionError: [Errno 13] Permission denied: '/build/Linux'",
            "mkdir: cannot create directory '/build': Permission denied",
        ),
    ),
    Known(
        id="tests-failed",
        phase="compiling",
        title="it was built; ONNX Runtime's own tests failed",
        signs=(
            "Errors while running CTest",
            "The following tests FAILED:",
        ),
        cause="build.py runs the tests unless told not to; some need a GPU, much memory or the network.",
        remedy="skip_tests = true in flags (ortforge proves the wheel on a model instead); the failed tests"
        " are listed below that line.",
        samples=("The following tests FAILED:\n\t  1 - onnxruntime_test_all (Failed)\nErrors while running CTest",),
    ),
)
