# Builds wheels for every Linux with glibc 2.28 or newer, for each Python below /opt/python.
# Not built where it was written: the registry was out of reach.
ARG BASE=quay.io/pypa/manylinux_2_28_x86_64:2026.09.14-1@sha256:531d7aa844bbb0c131d4ab011d3db741c4abc8d498cd5ccc86121046f62303b4
FROM ${BASE}

ENV LANG=C.UTF-8

# The base has compilers, CMake, patchelf and auditwheel; ccache comes from EPEL.
RUN dnf install -y --setopt=install_weak_deps=False epel-release \
    && dnf install -y --setopt=install_weak_deps=False ccache \
    && dnf clean all

# What ORT's packaging imports, for the Pythons that wheels are made for, and ninja.
RUN for python in cp311-cp311 cp312-cp312 cp313-cp313; do \
        /opt/python/$python/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
            numpy==2.2.6 packaging==25.0 setuptools==80.9.0 wheel==0.45.1 flatbuffers==25.2.10 ninja==1.13.0 || exit 1; \
    done \
    && ln -s /opt/python/cp312-cp312/bin/ninja /usr/local/bin/ninja \
    && install -d /opt/auditwheel/bin \
    && ln -s "$(command -v auditwheel)" /opt/auditwheel/bin/auditwheel
ENV PATH=/opt/python/cp312-cp312/bin:${PATH}

# What the target's EPs and allocator add. Last, so that targets share the layers above.
ARG PACKAGES=
RUN if [ -n "${PACKAGES}" ]; then \
        dnf install -y --setopt=install_weak_deps=False ${PACKAGES} \
        && dnf clean all; \
    fi

# Volumes are mounted here. Containers run as the user who asked for the build, so there is no USER.
RUN install -d -m 1777 /work /ccache
ENV CCACHE_DIR=/ccache
WORKDIR /work
