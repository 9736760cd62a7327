# The job's image: `docker run --gpus all --shm-size 1g -v "$PWD/work":/opt/ml embedtune train`.
# torch's wheels include CUDA, so any Python base image works. Layers that change rarely come first:
# torch, the other packages, our code. Needs BuildKit.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS wheel
COPY pyproject.toml README.md LICENSE CHANGELOG.md /src/
COPY infra/stack.yaml /src/infra/
COPY job /src/job
COPY launcher /src/launcher
# The secret is an optional pip.conf (a mirror, a proxy's certificate).
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=bind,source=container/locks,target=/run/locks \
    python -m venv /build \
 && /build/bin/pip install --no-cache-dir --no-deps --require-hashes --requirement /run/locks/build.txt \
 && /build/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels /src

# For hosts whose driver is older than CUDA 13 needs: the address of NVIDIA's Debian package
# `cuda-compat-13-0` and its SHA-256. The entrypoint uses it where the driver is older.
FROM ${BASE_IMAGE} AS compat
ARG CUDA_COMPAT=""
ARG CUDA_COMPAT_SHA256=""
RUN mkdir /compat \
 && if [ -n "$CUDA_COMPAT" ]; then \
      python -c 'import sys, urllib.request as r; r.urlretrieve(sys.argv[1], "/tmp/compat.deb")' "$CUDA_COMPAT" \
      && echo "$CUDA_COMPAT_SHA256  /tmp/compat.deb" > /tmp/compat.sum \
      && sha256sum --check --quiet /tmp/compat.sum \
      && dpkg-deb --extract /tmp/compat.deb /tmp/files \
      && mv /tmp/files/usr/local/cuda-*/compat /compat/cuda-compat; \
    fi

FROM ${BASE_IMAGE} AS packages
ENV PATH=/opt/venv/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1
# The package index of another torch build: for CPUs, or for another CUDA version.
ARG TORCH_INDEX=""
# Every package must have a hash in container/locks. The exception is torch for another CUDA version:
# its version is pinned, but not its hash.
# The base image's pip installs into the venv, which has no pip. Tests and headers of packages (a
# tenth of the size) are removed in the layer that installs them.
# hadolint does not see that "$@" is pinned.
# hadolint ignore=DL3013
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=bind,source=container/locks,target=/run/locks \
    python -m venv --without-pip /opt/venv \
 && case "$TORCH_INDEX" in \
      "") set -- --no-deps --require-hashes --requirement /run/locks/torch.txt ;; \
      */cpu) set -- --no-deps --require-hashes --requirement /run/locks/torch-cpu.txt ;; \
      *) set -- "$(grep -o '^torch==[^ ]*' /run/locks/torch.txt)" ;; \
    esac \
 && pip --python /opt/venv/bin/python install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$@" \
 && find /opt/venv \( -name tests -o -path '*/torch/test' -o -path '*/torch/include' \
      -o -path '*/torch/bin/*' ! -name torch_shm_manager \) -prune -exec rm -rf {} +
# `train,demo` includes the demo's model.
ARG EXTRAS=train
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=bind,source=container/locks,target=/run/locks \
    IFS=,; for extra in $EXTRAS; do \
      pip --python /opt/venv/bin/python install --no-deps --require-hashes \
        --requirement "/run/locks/$extra.txt" || exit; \
    done \
 && pip --python /opt/venv/bin/python check \
 && find /opt/venv -type d -name tests -prune -exec rm -rf {} +

FROM packages
COPY --from=compat /compat/ /opt/
COPY --chmod=755 container/entrypoint.sh /usr/local/bin/embedtune-entrypoint
WORKDIR /opt/ml
RUN --mount=type=bind,from=wheel,source=/wheels,target=/mnt \
    pip --python /opt/venv/bin/python install --no-deps --no-index /mnt/*.whl
# Settings of the NVIDIA runtime; without that runtime they have no effect.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    GOMP_SPINCOUNT=1000 \
    PYTORCH_ALLOC_CONF=expandable_segments:True \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HOME=/tmp/huggingface
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="embedtune" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}" \
      embedtune.spec-version="1"
ENTRYPOINT ["embedtune-entrypoint"]
CMD ["train"]
