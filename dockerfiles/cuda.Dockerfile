# Builds ONNX Runtime with CUDA and cuDNN: flags cuda_home=/usr/local/cuda, cudnn_home=/usr.
# From NVIDIA's image, which has both; or from plain Debian (base = "debian:trixie-slim"), where CUDA comes from Debian's
# non-free packages (12.4 in trixie), cuDNN and the headers that ORT would download from NVIDIA's Python packages.
# Not built on NVIDIA's image where it was written: its registry was out of reach.
ARG BASE=nvidia/cuda:12.8.1-cudnn-devel-ubuntu24.04
FROM ${BASE}

ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8 CUDA_HOME=/usr/local/cuda

# Ubuntu's compiler is one that NVIDIA's CUDA takes; its CMake (3.28) is new enough for ORT.
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

# Debian's CUDA, with the older g++ that it takes. It lies in the system's own folders; /usr/local/cuda only leads there.
# Its static libraries are 2.4 GB that nothing here is linked with.
RUN if [ ! -x /usr/local/cuda/bin/nvcc ]; then \
        if ! grep -qx "ID=debian" /etc/os-release; then \
            echo "The base image has no CUDA in /usr/local/cuda, and only on Debian is there one to install." >&2; exit 1; \
        fi \
        && for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do \
            if [ -f "$list" ]; then \
                sed 's/^Components:.*/Components: contrib non-free/; s/^\(deb .*\) main.*/\1 contrib non-free/' "$list" \
                    > "/etc/apt/sources.list.d/cuda.${list##*.}"; \
            fi; \
        done \
        && apt-get update \
        && apt-get install -y --no-install-recommends nvidia-cuda-toolkit \
        && find /usr/lib -name 'lib*_static*.a' ! -name libcudart_static.a -delete \
        && install -d /usr/local/cuda/bin \
        && ln -s /usr/bin/nvcc /usr/local/cuda/bin/nvcc \
        && apt-get clean \
        && rm -rf /var/lib/apt/lists/* /etc/apt/sources.list.d/cuda.*; \
    fi

# cuDNN where the base has none, and in the versions of ORT 1.21's deps.txt the headers of its front end and of CUTLASS.
# Python packages have no lib*.so to link with; ORT looks for cuDNN's in cudnn_home.
ARG CUDNN=9.5.1.17
ARG CUDNN_FRONTEND=1.7.0
ARG CUTLASS=3.5.1.0
RUN if grep -qx "ID=debian" /etc/os-release; then \
        /opt/auditwheel/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --target /opt/nvidia \
            --only-binary=:all: --python-version=3.12 \
            nvidia-cudnn-cu12==${CUDNN} nvidia-cudnn-frontend==${CUDNN_FRONTEND} nvidia-cutlass==${CUTLASS} \
        && ln -s /opt/nvidia/nvidia/cudnn/include/cudnn*.h /usr/include/ \
        && for library in /opt/nvidia/nvidia/cudnn/lib/libcudnn*.so.9; do \
            soname="${library##*/}" \
            && ln -s "$library" "/usr/lib/$(uname -m)-linux-gnu/$soname" \
            && ln -s "$soname" "/usr/lib/$(uname -m)-linux-gnu/${soname%.9}" \
            || exit 1; \
        done; \
    fi

# What dependencies = "system" takes from Debian, as in debian.Dockerfile.
RUN if grep -qx "ID=debian" /etc/os-release; then \
        apt-get update \
        && apt-get install -y --no-install-recommends \
            libboost-dev libcpuinfo-dev libdlpack-dev libeigen3-dev libflatbuffers-dev libhowardhinnant-date-dev libmsgsl-dev \
            libpng-dev libprotobuf-dev libpthreadpool-dev libpython3-dev libre2-dev libsafeint-dev nlohmann-json3-dev \
            protobuf-compiler python3-protobuf python3-pybind11 zlib1g-dev \
        && for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do \
            if [ -f "$list" ]; then \
                sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' "$list" > "/etc/apt/sources.list.d/source.${list##*.}"; \
            fi; \
        done \
        && apt-get update \
        && apt-get source --download-only --tar-only onnx \
        && mkdir /usr/src/onnx \
        && tar -C /usr/src/onnx --strip-components=1 -xf onnx_*.orig.tar.* \
        && apt-get clean \
        && rm -rf /var/lib/apt/lists/* onnx_* /etc/apt/sources.list.d/source.*; \
    fi

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
