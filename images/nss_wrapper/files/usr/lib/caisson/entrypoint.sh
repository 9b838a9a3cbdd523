#!/bin/sh
# Runs a command as a user with a name.
set -eu
# shellcheck source=images/nss_wrapper/files/usr/lib/caisson/nss_wrapper.sh
. /usr/lib/caisson/nss_wrapper.sh
exec "$@"
