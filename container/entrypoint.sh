#!/bin/sh
# Run the job as the owner of the mounted folder, so that the results have the same owner.
# On SageMaker that is root. With `docker run --user` the container is not root, so nothing changes.
set -eu
# NVIDIA's forward-compatibility package (build argument CUDA_COMPAT) brings the libcuda of a newer
# driver. Only an older driver may use it: a newer one has the better libcuda of its own.
compat=$(readlink /opt/cuda-compat/libcuda.so.1 || true) compat=${compat#libcuda.so.}
driver=$(sed -n 's/^NVRM version:.* \([0-9]*\.[0-9.]*\) .*/\1/p' /proc/driver/nvidia/version 2> /dev/null || true)
if [ -n "$compat" ] && [ -n "$driver" ] && [ "$driver" != "$compat" ] \
    && [ "$(printf '%s\n' "$driver" "$compat" | sort -V | head -n 1)" = "$driver" ]; then
    export LD_LIBRARY_PATH="/opt/cuda-compat${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
fi
owner=$(stat -c %u /opt/ml) group=$(stat -c %g /opt/ml)
if [ "$(id -u)" = 0 ] && [ "$owner" != 0 ]; then
    exec setpriv --reuid="$owner" --regid="$group" --clear-groups python -P -m job "$@"
fi
exec python -P -m job "$@"
