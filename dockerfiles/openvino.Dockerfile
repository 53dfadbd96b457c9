# Builds ONNX Runtime against OpenVINO, whose Python package brings headers, libraries and CMake files.
# The first steps are those of debian.Dockerfile, word for word: the engine makes them once for both.
ARG BASE=debian:trixie-slim
FROM ${BASE}

ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8

# Compilers, and the libraries that dependencies = "system" takes from Debian (what Debian's own onnxruntime is built from).
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        ca-certificates ccache cmake g++ git make ninja-build patch patchelf pkgconf \
        libpython3-dev python3-dev python3-numpy python3-packaging python3-pip python3-setuptools python3-venv python3-wheel \
        libboost-dev libcpuinfo-dev libdlpack-dev libeigen3-dev libflatbuffers-dev libhowardhinnant-date-dev libmsgsl-dev \
        libpng-dev libprotobuf-dev libpthreadpool-dev libre2-dev libsafeint-dev nlohmann-json3-dev \
        protobuf-compiler python3-protobuf python3-pybind11 zlib1g-dev \
    # These two are not made for every architecture.
    && for package in libdnnl-dev libxnnpack-dev; do \
        if apt-cache show "$package" > /dev/null 2>&1; then apt-get install -y --no-install-recommends "$package"; fi; \
    done \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*

# ONNX, to be built as ORT builds its own copy: Debian's library registers its schemas when it is loaded, and ORT again.
RUN for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do \
        if [ -f "$list" ]; then \
            sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' "$list" > "/etc/apt/sources.list.d/source.${list##*.}"; \
        fi; \
    done \
    && apt-get update \
    && apt-get source --download-only --tar-only onnx \
    && mkdir /usr/src/onnx \
    && tar -C /usr/src/onnx --strip-components=1 -xf onnx_*.orig.tar.* \
    && rm -rf onnx_* /etc/apt/sources.list.d/source.* /var/lib/apt/lists/*

# Repairs and audits wheels, out of the way of the Python that builds them.
ARG AUDITWHEEL=6.8.2
RUN python3 -m venv /opt/auditwheel \
    && /opt/auditwheel/bin/pip install --no-cache-dir --disable-pip-version-check auditwheel==${AUDITWHEEL}

# OpenVINO's package is compiled for the older ABI of libstdc++, and so must be all C++ that is linked to it. These are
# the versions of Debian's own libraries.
RUN for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do \
        if [ -f "$list" ]; then \
            sed 's/^Types: deb$/Types: deb-src/; s/^deb /deb-src /' "$list" > "/etc/apt/sources.list.d/source.${list##*.}"; \
        fi; \
    done \
    && apt-get update \
    && apt-get source --download-only --tar-only abseil protobuf re2 \
    && mkdir /usr/src/abseil_cpp /usr/src/protobuf /usr/src/re2 \
    && tar -C /usr/src/abseil_cpp --strip-components=1 -xf abseil_*.orig.tar.* \
    && tar -C /usr/src/protobuf --strip-components=1 -xf protobuf_*.orig.tar.* \
    && tar -C /usr/src/re2 --strip-components=1 -xf re2_*.orig.tar.* \
    && rm -rf abseil_*.tar.* protobuf_*.tar.* re2_*.tar.* /etc/apt/sources.list.d/source.* /var/lib/apt/lists/*

# Each ORT release is made for one release of OpenVINO: 2025.0 for 1.21.
ARG OPENVINO=2025.0.0
RUN /opt/auditwheel/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --target /opt/openvino \
        openvino==${OPENVINO}
ENV OpenVINO_DIR=/opt/openvino/openvino/cmake LD_LIBRARY_PATH=/opt/openvino/openvino/libs

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
