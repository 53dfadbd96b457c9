# Toolchain for building ONNX Runtime with Debian's own compilers and libraries.
# The base is an argument: pin it by digest where a registry gives one; `dockerfiles/bootstrap` makes one where none can be reached.
ARG BASE=debian:trixie-slim
FROM ${BASE}

ENV DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8

# Debian's onnxruntime source package names what a build needs; ccache keeps object files between builds.
RUN echo "deb-src $(sed -n 's/^deb \([^ ]*\) .*/\1/p' /etc/apt/sources.list | head -n 1) trixie main" > /etc/apt/sources.list.d/source.list \
    && apt-get update \
    && apt-get build-dep -y --no-install-recommends onnxruntime \
    && apt-get install -y --no-install-recommends ccache git ninja-build patchelf python3-dev python3-pip python3-wheel \
    && rm -rf /var/lib/apt/lists/*

# Builds run as the caller's user, with these folders as volumes.
RUN install -d -m 1777 /build /ccache /source
ENV CCACHE_DIR=/ccache
WORKDIR /build
