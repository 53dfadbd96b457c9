# Builds ONNX Runtime with TensorRT 10.8, CUDA and cuDNN from NVIDIA's image: flags cuda_home=/usr/local/cuda,
# cudnn_home=/usr, tensorrt_home=/usr.
# Not built where it was written: NVIDIA's registry was out of reach. Its instructions were run on Debian's base.
ARG BASE=nvcr.io/nvidia/tensorrt:25.01-py3
FROM ${BASE}

ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 CUDA_HOME=/usr/local/cuda

# TensorRT comes with the base or not at all: neither Debian nor PyPI has its headers and libraries.
RUN lacking="" \
    && for file in NvInfer.h NvOnnxParser.h libnvinfer.so libnvinfer_plugin.so libnvonnxparser.so cudnn.h libcudnn.so; do \
        if [ -z "$(find -L /usr/include /usr/lib -maxdepth 2 -name "$file" -print -quit)" ]; then lacking="$lacking $file"; fi; \
    done \
    && if [ ! -x /usr/local/cuda/bin/nvcc ]; then lacking="$lacking /usr/local/cuda/bin/nvcc"; fi \
    && if [ -n "$lacking" ]; then \
        echo "This base image is none of TensorRT's: below /usr it lacks$lacking." >&2; \
        echo "NVIDIA's TensorRT images have them; or install CUDA, libcudnn9-dev-cuda-12, libnvinfer-dev," \
            "libnvinfer-plugin-dev and libnvonnxparsers-dev of NVIDIA's repository into a base of your own." >&2; \
        exit 1; \
    fi

# Ubuntu's compiler is one that this CUDA takes; its CMake (3.28) is new enough for ORT.
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates ccache cmake g++ git make ninja-build patch patchelf pkgconf \
        python3-dev python3-numpy python3-packaging python3-pip python3-setuptools python3-venv python3-wheel \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*

# Repairs and audits wheels, out of the way of the Python that builds them.
ARG AUDITWHEEL=6.8.2
RUN python3 -m venv /opt/auditwheel \
    && /opt/auditwheel/bin/pip install --no-cache-dir --disable-pip-version-check auditwheel==${AUDITWHEEL}

# What the target's EPs and allocator add. Last, so that targets share the layers above.
ARG PACKAGES=
RUN if [ -n "${PACKAGES}" ]; then \
        apt-get update \
        && apt-get install -y --no-install-recommends ${PACKAGES} \
        && apt-get clean \
        && rm -rf /var/lib/apt/lists/*; \
    fi

# Volumes are mounted here. Containers run as the user who asked for the build, so there is no USER.
RUN install -d -m 1777 /work /ccache
ENV CCACHE_DIR=/ccache
WORKDIR /work
