"""Known causes that show when a session is made or run."""

from __future__ import annotations

from ortforge.build.diagnose.known import Known

__all__ = ["RUNNING"]

RUNNING = (
    Known(
        id="ep-missing",
        phase="running",
        title="this build does not have the execution provider {0}",
        signs=(
            "Specified provider '…' is not in available provider names",
            "Unknown Provider Type: …",
            "FAIL : … execution provider is not supported in this build",
            "FAIL : … execution provider is not enabled in this build",
        ),
        cause="The wheel was built without it, its libonnxruntime_providers library was not packed, or another"
        " variant was"
        " installed over it.",
        remedy="'ortforge build' proves that the EP is there; by hand: uninstall all variants, install one, and look at"
        " onnxruntime.get_available_providers().",
        threads=(10275, 8111, 7155, 26996),
        samples=(
            "UserWarning: Specified provider 'DnnlExecutionProvider' is not in available provider names.Available"
            " providers:"
            " 'CPUExecutionProvider'",
            "[ONNXRuntimeError] : 1 : FAIL : OpenVINO execution provider is not enabled in this build.",
        ),
    ),
    Known(
        id="providers-not-said",
        phase="running",
        title="the session names no execution providers",
        signs=("you are required to explicitly set the providers parameter",),
        cause="From 1.9 on a build with other EPs than the CPU's wants them to be named.",
        remedy="InferenceSession(path, providers=['CUDAExecutionProvider', 'CPUExecutionProvider']).",
        samples=(
            "ValueError: This ORT build has ['TensorrtExecutionProvider', 'CPUExecutionProvider'] enabled. Since ORT"
            " 1.9, you"
            " are required to explicitly set the providers parameter when instantiating InferenceSession.",
        ),
    ),
    Known(
        id="ep-not-created",
        phase="running",
        title="the execution provider {0} could not be made, and the session goes on without it",
        signs=(
            "Failed to create …ExecutionProvider.",
            "Failed to create …. Require cuDNN",
            "Failed to create …ExecutionProvider, ",
        ),
        cause="Its libraries (CUDA, cuDNN, TensorRT) are missing or are of versions it was not built for.",
        remedy="The message names the versions; ORT's page of the EP has the table. Install them, or"
        " pip install 'onnxruntime-gpu[cuda,cudnn]' and call onnxruntime.preload_dlls().",
        threads=(24719, 14802, 6953),
        yields="near",
        samples=(
            "[W:onnxruntime:Default, onnxruntime_pybind_state.cc:1055 CreateExecutionProviderInstance] Failed to create"
            " CUDAExecutionProvider. Require cuDNN 9.* and CUDA 12.*.",
        ),
    ),
    Known(
        id="no-kernel-image",
        phase="running",
        title="the build has no code for this GPU",
        signs=("no kernel image is available for execution on the device", "cudaErrorNoKernelImageForDevice"),
        cause="It was compiled for other architectures (CMAKE_CUDA_ARCHITECTURES); a newer GPU needs a newer build.",
        remedy="Add the GPU's architecture to defines: CMAKE_CUDA_ARCHITECTURES = \"80;90;120\" ('nvidia-smi"
        " --query-gpu=compute_cap --format=csv' shows it), or use a newer release.",
        threads=(26181, 27528),
        samples=("CUDA failure 209: no kernel image is available for execution on the device ; GPU=0",),
    ),
    Known(
        id="driver-old",
        phase="running",
        title="the GPU's driver is older than this CUDA",
        signs=(
            "CUDA driver version is insufficient for CUDA runtime version",
            "CUDA failure 35:",
            "the provided PTX was compiled with an unsupported toolchain",
            "forward compatibility was attempted on non supported HW",
        ),
        cause="CUDA 12 wants driver 525 or newer, CUDA 13 580 or newer.",
        remedy="Update the driver on the host, or use a wheel for an older CUDA.",
        samples=("CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version ; GPU=-1",),
    ),
    Known(
        id="gpu-memory",
        phase="running",
        title="the GPU's memory is full",
        signs=(
            "CUDA failure 2: out of memory",
            "CUDA_ERROR_OUT_OF_MEMORY",
            "CUBLAS_STATUS_ALLOC_FAILED",
            "CUDNN_STATUS_ALLOC_FAILED",
            "BFCArena::AllocateRawInternal",
        ),
        cause="Model, batch and work space do not fit, or another process holds the memory.",
        remedy="A smaller batch; gpu_mem_limit and arena_extend_strategy = kSameAsRequested of the CUDA EP; see"
        " nvidia-smi.",
        samples=("CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);",),
    ),
    Known(
        id="cpu-memory",
        phase="running",
        title="the memory is full",
        signs=(
            "Failed to allocate memory for requested buffer of size",
            "RUNTIME_EXCEPTION : std::bad_alloc",
            "what():  std::bad_alloc",
            "std::bad_alloc",
            "^MemoryError$",
        ),
        cause="A buffer of the model does not fit into what the machine or container has left.",
        remedy="A smaller batch, session option enable_cpu_mem_arena = False, or more memory for the container.",
        yields="line",
        samples=(
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size"
            " 17179869184",
            "onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException: [ONNXRuntimeError] : 6 :"
            " RUNTIME_EXCEPTION : Exception during initialization: std::bad_alloc",
        ),
    ),
    Known(
        id="cudnn-versions",
        phase="running",
        title="cuDNN's parts are of different versions, or it cannot start",
        signs=(
            "CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH",
            "CUDNN_STATUS_NOT_INITIALIZED",
            "CUDNN_STATUS_VERSION_MISMATCH",
            "CUDNN_STATUS_SUBLIBRARY_LOADING_FAILED",
        ),
        cause="Two cuDNN are installed (system and Python packages) and mixed, or the GPU has no memory left.",
        remedy="Keep one: clear LD_LIBRARY_PATH, or uninstall nvidia-cudnn-cu12; then onnxruntime.preload_dlls().",
        threads=(24719,),
        samples=("CUDNN failure 1002: CUDNN_STATUS_SUBLIBRARY_VERSION_MISMATCH ; GPU=0",),
    ),
    Known(
        id="kernel-missing",
        phase="running",
        title="no execution provider here has a kernel for {0}",
        signs=(
            "Could not find an implementation for …",
            "Failed to find kernel for …",
            "kernel not found in …ExecutionProvider",
            "Failed to find kernel for …",
        ),
        cause="In a reduced build the operator, its version or its type was left out; in a full one, no EP"
        " implements it (float16"
        " on the CPU most often).",
        remedy='Build with operators = "from-models" over all models, so that the list is right; else convert the model'
        " (type, opset) or give it to an EP that has the kernel.",
        threads=(
            6793,
            16904,
            22761,
            23018,
            16742,
        ),
        samples=(
            "[ONNXRuntimeError] : 9 : NOT_IMPLEMENTED : Could not find an implementation for Gelu(20) node with name"
            " 'g'",
            "Failed to find kernel for com.microsoft.nchwc.Conv(1) (node 'Conv_0'). Op with name"
            " (Conv_0) and type (Conv) kernel not found in CPUExecutionProvider.",
            "ai.onnxruntime.OrtException: Error code - ORT_NOT_IMPLEMENTED - message: Could not find an"
            " implementation for TreeEnsembleClassifier(1) node with name 't'",
        ),
    ),
    Known(
        id="minimal-build",
        phase="running",
        title="a minimal build takes models in ORT format only",
        signs=(
            "ONNX format model is not supported in this build",
            "ORT format model is not supported in this build",
            "Loading ONNX models is not supported in this build",
            "is not supported in this minimal build",
        ),
        cause="minimal_build leaves the reader of .onnx files out.",
        remedy="python -m onnxruntime.tools.convert_onnx_models_to_ort MODEL, or leave minimal_build out of flags.",
        threads=(22761,),
        samples=("[ONNXRuntimeError] : 1 : FAIL : ONNX format model is not supported in this build.",),
    ),
    Known(
        id="ir-version",
        phase="running",
        title="the model's IR version is newer than this ONNX Runtime: {0}",
        signs=("Unsupported model IR version: …",),
        cause="It was written by a newer onnx package than this ONNX Runtime knows.",
        remedy="Use a newer ONNX Runtime (version of the target), or set model.ir_version lower and save it again.",
        threads=(15874, 20559, 23602),
        samples=(
            "[ONNXRuntimeError] : 1 : FAIL : Load model from m.onnx failed:Unsupported model IR version: 13, max"
            " supported IR version: 10",
        ),
    ),
    Known(
        id="opset",
        phase="running",
        title="the model's opset is newer than this ONNX Runtime",
        signs=("guarantees* support for models stamped with official released onnx opset versions",),
        cause="The model asks for an operator set that this version does not know.",
        remedy="Use a newer ONNX Runtime (version of the target), or onnx.version_converter to an older opset.",
        threads=(9418, 11898),
        samples=(
            "Load model from m.onnx failed: ONNX Runtime only *guarantees* support for models stamped with official"
            " released onnx"
            " opset versions. Opset 27 is under development and support for this is limited.",
        ),
    ),
    Known(
        id="unknown-operator",
        phase="running",
        title="the model has an operator that nobody registered: {0}",
        signs=(
            "Fatal error: … is not a registered function/op",
            "No Op registered for …",
            "is not a registered function/op",
        ),
        cause="It belongs to a custom-operator library (onnxruntime-extensions), to another vendor's runtime, or the"
        " opset is"
        " wrong.",
        remedy="Register the library: SessionOptions.register_custom_ops_library(path); with minimal or reduced"
        " builds, build"
        " with contrib operators.",
        samples=(
            "Load model from m.onnx failed:Fatal error: ai.onnx.contrib:SentencepieceTokenizer(-1) is not a"
            " registered function/op",
            "INVALID_GRAPH : This is an invalid model. Error: No Op registered for Foo with domain_version of 21",
        ),
    ),
    Known(
        id="model-broken",
        phase="running",
        title="the model file is no ONNX model",
        signs=("Protobuf parsing failed.", "INVALID_PROTOBUF"),
        cause="It is cut off, a Git LFS pointer, a page of a proxy, or larger than 2 GB in one file.",
        remedy="Look at its size and first bytes ('version https://git-lfs' is a pointer: git lfs pull); fetch it"
        " again.",
        samples=("[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from m.onnx failed:Protobuf parsing failed.",),
    ),
    Known(
        id="model-missing",
        phase="running",
        title="the model file is not there: {0}",
        signs=("NO_SUCHFILE : Load model from … failed", "NO_SUCHFILE : …"),
        cause="The path is wrong, or relative to another folder.",
        remedy="Give an absolute path.",
        samples=(
            "onnxruntime.capi.onnxruntime_pybind11_state.NoSuchFile: [ONNXRuntimeError] : 3 : NO_SUCHFILE : Load"
            " model from"
            " /no/m.onnx failed:Load model /no/m.onnx failed. File doesn't exist",
        ),
    ),
    Known(
        id="external-data",
        phase="running",
        title="the model's weights, which lie in another file, are not found or may not be read",
        signs=(
            "External data path",
            "Failed to read external data:",
            "resolves outside model directory",
            "GetFileLength for … failed",
            "External data path validation failed",
        ),
        cause="Models over 2 GB keep weights beside the .onnx file under a fixed name; it was moved or renamed alone.",
        remedy="Keep the files together under their names; onnx.save with another location writes them anew.",
        samples=(
            "[ONNXRuntimeError] : 1 : FAIL : Deserialize tensor w failed.GetFileLength for ./m.onnx.data failed:open"
            " file ./m.onnx.data fail, errcode = 2",
        ),
    ),
    Known(
        id="input-shape",
        phase="running",
        title="an input has another shape than the model takes",
        signs=("INVALID_ARGUMENT : Got invalid dimensions for input:", "INVALID_ARGUMENT : Invalid rank for input:"),
        cause="The model has fixed dimensions, or axes are in another order.",
        remedy="session.get_inputs() shows what it takes.",
        samples=(
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions for input: x for the following indices",
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Invalid rank for input: x Got: 3 Expected: 4",
        ),
    ),
    Known(
        id="input-type",
        phase="running",
        title="an input has another type than the model takes",
        signs=("INVALID_ARGUMENT : Unexpected input data type.",),
        cause="NumPy makes float64 and int64 by default; models take mostly float32.",
        remedy="array.astype(numpy.float32); session.get_inputs() shows the type.",
        samples=(
            "[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Unexpected input data type. Actual: (tensor(double)) ,"
            " expected: (tensor(float))",
        ),
    ),
    Known(
        id="api-version",
        phase="running",
        title="the program was compiled for a newer ONNX Runtime than the library: API {0}",
        signs=(
            "The requested API version […] is not available",
            "The given version […] is not supported, only version",
            "version `VERS_…' not found",
            "The given version […] is not supported; only versions",
        ),
        cause="An older libonnxruntime.so is found first, or headers and library are of two versions.",
        remedy="'ldd PROGRAM' shows which is taken; put the right one first (RPATH, LD_LIBRARY_PATH).",
        threads=(
            13606,
            25547,
            17696,
        ),
        samples=(
            "The requested API version [23] is not available, only API versions [1, 21] are supported in this build."
            " Current ORT Version is: 1.21.0",
            "./app: /usr/lib/libonnxruntime.so.1: version `VERS_1.21.0' not found (required by ./app)",
            "The given version [16] is not supported; only versions 1 to 12 are supported in this build.",
        ),
    ),
    Known(
        id="illegal-instruction",
        phase="running",
        title="the processor does not know an instruction of this build",
        signs=("Illegal instruction", "signal SIGILL", "exit code 132", "exited with code 132", "invalid opcode ip:"),
        cause="It was compiled with -march=native or AVX-512 on another machine, or runs where AVX is hidden (old"
        " CPU, emulator).",
        remedy="Build without -march=native in CMAKE_CXX_FLAGS, or on the oldest processor it has to run on.",
        samples=(
            "Illegal instruction (core dumped)",
            "traps: python3[71] trap invalid opcode ip:7f3c sp:7ffd error:0 in libonnxruntime.so",
        ),
    ),
    Known(
        id="engine-plan",
        phase="running",
        title="a cached TensorRT engine is of another version or GPU",
        signs=(
            "The engine plan file is not compatible with this version of TensorRT",
            "The engine plan file is generated on an incompatible device",
        ),
        cause="Engines are bound to TensorRT's version and to the GPU they were made on.",
        remedy="Remove the folder trt_engine_cache_path; it is made anew.",
        samples=(
            "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (The engine plan file is not compatible"
            " with this version of TensorRT, expecting library version 10.3.0.26)",
        ),
    ),
    Known(
        id="affinity",
        phase="running",
        title="threads cannot be bound to processors",
        signs=("pthread_setaffinity_np failed for thread:",),
        cause="The container may use fewer processors than the machine has, and ONNX Runtime binds a thread to each.",
        remedy="Set intra_op_num_threads (threads of the target's session) to what the container has: results are"
        " right, but"
        " too many threads make it slow.",
        kind="hint",
        threads=(
            8313,
            7207,
            10113,
        ),
        samples=(
            "[E:onnxruntime:Default, env.cc:228 ThreadMain] pthread_setaffinity_np failed for thread: 71, index: 3,"
            " mask: {4, 52, },"
            " error code: 22 error msg: Invalid argument. Specify the number of threads explicitly so the affinity"
            " is not set.",
        ),
    ),
    Known(
        id="telemetry",
        phase="running",
        title="ONNX Runtime sends telemetry, or tries to",
        signs=("events.data.microsoft.com", "-Donnxruntime_USE_TELEMETRY=ON"),
        cause="Since 1.29 it is compiled in on Linux unless told otherwise. Without a network it does no harm.",
        remedy="Add no_telemetry = true to flags of the target, or set ORT_DISABLE_TELEMETRY=1 where it runs.",
        kind="harmless",
        threads=(27379,),
        samples=("curl: (6) Could not reach mobile.events.data.microsoft.com",),
    ),
    Known(
        id="fallback",
        phase="running",
        title="some nodes run on the CPU and not on the EP",
        signs=("Some nodes were not assigned to the preferred execution providers",),
        cause="ONNX Runtime keeps shape computations on the CPU by intent, and nodes that the EP does not have.",
        remedy="Nothing has to be done if few; a profile ('ortforge run' counts nodes for each EP) shows which.",
        kind="harmless",
        samples=(
            "[W:onnxruntime:, session_state.cc:1263 VerifyEachNodeIsAssignedToAnEp] Some nodes were not assigned to"
            " the preferred"
            " execution providers which may or may not have an negative impact on performance.",
        ),
    ),
    Known(
        id="trt-engine",
        phase="running",
        title="TensorRT could not make an engine of a part of the model",
        signs=(
            "TensorRT EP failed to create engine from network",
            "TensorRT EP could not build engine for fused node",
            "TensorRT EP could not build Engine for fused node",
        ),
        cause="An operator, type or shape in it is beyond this version of TensorRT, or the GPU is"
        " (TensorRT 10 has dropped Pascal), or memory was short. Its own message stands above.",
        remedy="Read TensorRT's lines above; keep operators out (trt_op_types_to_exclude), run shape"
        " inference on the model first, or put the CUDA EP behind it.",
        threads=(
            21415,
            5709,
        ),
        certain=False,
        samples=(
            "Status Message: TensorRT EP failed to create engine from network.",
            "[ONNXRuntimeError] : 11 : EP_FAIL : TensorRT EP could not build engine for fused node:"
            " TensorrtExecutionProvider_TRTKernel_graph_x_1",
        ),
    ),
    Known(
        id="openvino-device",
        phase="running",
        title="OpenVINO has no such device here: {0}",
        signs=('Device with "…" name is not registered in the OpenVINO Runtime',),
        cause="The driver (compute runtime for GPU, NPU driver) or OpenVINO's plugin for it is missing, or"
        " the container was not given /dev/dri or /dev/accel.",
        remedy="Give the container the device, install the driver, or ask for CPU: device_type of the EP's options.",
        samples=(
            'Exception from src/inference/src/dev/core_impl.cpp:557: Device with "GPU" name is not'
            " registered in the OpenVINO Runtime",
        ),
    ),
    Known(
        id="input-name",
        phase="running",
        title="an input is missing or has a name that the model does not know",
        signs=(
            "Required inputs ([",
            "INVALID_ARGUMENT : Missing Input:",
            "INVALID_ARGUMENT : Invalid input name:",
            "Invalid Feed Input Name:",
            "INVALID_ARGUMENT : Invalid output name:",
        ),
        cause="Names are fixed in the model, and exporters change them.",
        remedy="session.get_inputs() and get_outputs() show the names.",
        samples=("ValueError: Required inputs (['x']) are missing from input feed (['y']).",),
    ),
    Known(
        id="model-types",
        phase="running",
        title="the model is wrong: {0}",
        signs=("INVALID_GRAPH : …",),
        cause="Types or shapes of two nodes do not go together: a conversion (to float16 for instance)"
        " left one of them as it was.",
        remedy="Run onnx.checker.check_model(path, full_check=True), and repair the step that changed the model.",
        yields="line",
        samples=(
            "[ONNXRuntimeError] : 10 : INVALID_GRAPH : Load model from m.onnx failed:This is an invalid"
            " model. Type Error: Type 'tensor(float16)' of input parameter (x) of operator (Add) in node"
            " (a) is invalid.",
        ),
    ),
    Known(
        id="cuda-failed",
        phase="running",
        title="a call of CUDA or cuDNN failed",
        signs=(
            "CUDA failure …: …",
            "CUDNN_FE failure …",
            "CUDNN failure …",
            "CUBLAS failure …",
        ),
        cause="The versions of driver, CUDA and cuDNN do not go together, memory was short, or a kernel failed.",
        remedy="Compare the versions with the table of ORT's CUDA EP page; run with CUDA_LAUNCH_BLOCKING=1"
        " to see which node it is.",
        yields="line",
        certain=False,
        samples=(
            "CUDNN_FE failure 11: CUDNN_BACKEND_API_FAILED ; GPU=0",
            "CUDA failure 700: an illegal memory access was encountered ; GPU=0",
        ),
    ),
    Known(
        id="crashed",
        phase="running",
        title="the process crashed",
        signs=(
            "Segmentation fault",
            "Aborted (core dumped)",
            "exited with code 139",
            "exit code: 139",
            "exit code 139",
        ),
        cause="A defect, mixed versions of a library in one process, or memory that ran out.",
        remedy="'python -X faulthandler' shows where; clear LD_LIBRARY_PATH and LD_PRELOAD, install one"
        " variant into a fresh environment.",
        yields="near",
        certain=False,
        samples=("Segmentation fault (core dumped)",),
    ),
)
