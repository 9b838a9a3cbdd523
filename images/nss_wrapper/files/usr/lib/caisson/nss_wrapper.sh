# shellcheck shell=sh
# To be sourced by an entry point, before it executes its program: gives a user id that nobody has named a name.
#
# Where the platform picks user ids no image knows them, and whoami, getpass, Java and Hadoop fail. libnss_wrapper answers
# look-ups out of files of this process's own. /etc/passwd stays as it is: who could write to it could be anyone.
# Programs without the C library's look-ups (static ones, Go, musl) and setuid ones see nothing of it.
#
# CAISSON_USER is the name. NSS_WRAPPER_PASSWD, when it is set already, wins: then files are provided.

nss_wrapper_refuse() {
    echo "nss_wrapper: user id $(id -u) has no name: $1" >&2
}

nss_wrapper() {
    if [ -n "${NSS_WRAPPER_PASSWD:-}" ] || getent passwd "$(id -u)" >/dev/null; then
        return 0
    fi
    nss_wrapper_name=${CAISSON_USER:-sandbox}
    case $nss_wrapper_name in
    [!a-z_]* | *[!a-z0-9_-]*)
        nss_wrapper_refuse "CAISSON_USER '$nss_wrapper_name' is not one: lower-case letters, digits, _ and -"
        return 0
        ;;
    esac
    nss_wrapper_library=
    for nss_wrapper_file in /usr/lib/*/libnss_wrapper.so /usr/lib64/libnss_wrapper.so; do
        if [ -e "$nss_wrapper_file" ]; then nss_wrapper_library=$nss_wrapper_file; fi
    done
    if [ -z "$nss_wrapper_library" ]; then
        nss_wrapper_refuse "libnss_wrapper.so is not in this image"
        return 0
    fi
    nss_wrapper_directory=
    for nss_wrapper_base in "${TMPDIR:-/tmp}" /dev/shm; do
        # A new directory that is only this user's: nothing that lies there already is followed.
        if nss_wrapper_directory=$(mktemp -d "$nss_wrapper_base/nss_wrapper.XXXXXXXX" 2>/dev/null); then break; fi
    done
    if [ -z "$nss_wrapper_directory" ]; then
        nss_wrapper_refuse "neither ${TMPDIR:-/tmp} nor /dev/shm can be written to"
        return 0
    fi
    # Images count on HOME being somewhere; / is what a user without a name gets.
    case ${HOME:-/} in
    /) HOME=$nss_wrapper_base && export HOME ;;
    esac
    {
        cat /etc/passwd
        printf '%s:x:%s:%s:%s:%s:/usr/sbin/nologin\n' \
            "$nss_wrapper_name" "$(id -u)" "$(id -g)" "$nss_wrapper_name" "$HOME"
    } >"$nss_wrapper_directory/passwd"
    {
        cat /etc/group
        getent group "$(id -g)" >/dev/null || printf '%s:x:%s:\n' "$nss_wrapper_name" "$(id -g)"
    } >"$nss_wrapper_directory/group"
    chmod 0400 "$nss_wrapper_directory/passwd" "$nss_wrapper_directory/group"
    NSS_WRAPPER_PASSWD=$nss_wrapper_directory/passwd
    NSS_WRAPPER_GROUP=$nss_wrapper_directory/group
    LD_PRELOAD=$nss_wrapper_library${LD_PRELOAD:+:$LD_PRELOAD}
    export NSS_WRAPPER_PASSWD NSS_WRAPPER_GROUP LD_PRELOAD
}

nss_wrapper
