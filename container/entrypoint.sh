#!/bin/sh
# Run the job as the owner of the mounted folder, so that the results have the same owner.
# On SageMaker that is root. With `docker run --user` the container is not root, so nothing changes.
set -eu
owner=$(stat -c %u /opt/ml) group=$(stat -c %g /opt/ml)
if [ "$(id -u)" = 0 ] && [ "$owner" != 0 ]; then
    exec setpriv --reuid="$owner" --regid="$group" --clear-groups python -P -m job "$@"
fi
exec python -P -m job "$@"
