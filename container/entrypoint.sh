#!/bin/sh
# Decides nothing but the user: results belong to whom the mounted folder belongs to.
# SageMaker's folders belong to root; with `docker run --user` the choice is made already.
set -eu
owner=$(stat -c %u /opt/ml) group=$(stat -c %g /opt/ml)
if [ "$(id -u)" = 0 ] && [ "$owner" != 0 ]; then
    exec setpriv --reuid="$owner" --regid="$group" --clear-groups python -P -m job "$@"
fi
exec python -P -m job "$@"
