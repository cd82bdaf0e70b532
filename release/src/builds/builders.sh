
# How a sandbox builds. Arguments: a builder, and its arguments. The folder has the files of the
# commit; what is left goes to descriptor 3.

fail() {
    echo "$1"
    exit 1
}

# leave PATH NAME [OPTION]: writes the OCI layout at a path, a folder or an archive, as an archive.
# It is hostile like everything here: what reads it trusts nothing in it.
leave() {
    [ -e "$1" ] || fail "the build left no $2"
    if [ -d "$1" ]; then
        cd -- "$1"
    else
        mkdir /home/unpacked
        cd /home/unpacked
        tar -x --no-same-owner -f "$1" || fail "$2 is neither a folder nor an archive"
        if [ ! -e index.json ] && [ -e manifest.json ]; then
            # Its own name may have a colon.
            ln -s -- "$1" /home/archive
            image=$(buildah pull --quiet docker-archive:/home/archive)
            buildah push --quiet --format oci "$image" oci:/home/layout:build
            cd /home/layout
        fi
    fi
    for file in oci-layout index.json blobs; do
        [ -e "$file" ] || fail "$2 is not an OCI layout: it has no $file"
    done
    tar -c --format=gnu --hard-dereference ${3:-} -f - oci-layout index.json blobs >&3
}

# bazel MEBIBYTES COMMAND ARGUMENT...: without a server, a configuration of the machine, or files
# outside of the sandbox. It has no namespaces of its own to put actions into.
bazel() {
    heap=$1 command=$2
    shift 2
    hostile /bazel --batch --nosystem_rc --nohome_rc --output_user_root=/home/bazel \
        "--host_jvm_args=-Xmx${heap}m" "$command" --color=no --curses=no --noshow_progress "$@"
}

# hostile PROGRAM ARGUMENT...: executes what a repository brings, with the capabilities that buildah
# leaves to RUN: the others are for setting up the sandbox, and reach parts of the kernel that no build
# needs. By another program, so that the shell reads none of it.
hostile() {
    setpriv --inh-caps=-all --ambient-caps=-all \
        --bounding-set=-all,+chown,+dac_override,+fowner,+fsetid,+kill,+setuid,+setgid,+sys_chroot \
        -- nice -n 0 -- "$@"
}

builder=$1
shift
case $builder in
dockerfile) # ARGUMENT...: those of buildah
    buildah bud --isolation chroot --format oci --pull=missing --layers=false --tag build "$@" \
        3>&- < /dev/null
    buildah push --quiet --format oci build oci:/home/layout:build 3>&- < /dev/null
    leave /home/layout layout
    ;;
command) # CONTEXT OUTPUT PROGRAM ARGUMENT...
    context=$1 output=$2
    shift 2
    cd -- "/work/$context"
    hostile "$@" 3>&- < /dev/null
    path=$(realpath -m -- "/work/$output")
    [ "$path" = "/work/$output" ] || fail "$output is behind a symbolic link"
    leave "$path" "$output"
    ;;
bazel-query) # PROGRAM MEBIBYTES EXPRESSION
    bazel "$2" query --output=label -- "$3" >&3 3>&- < /dev/null
    ;;
bazel-build) # PROGRAM MEBIBYTES LABEL OUTPUT
    bazel "$2" build --spawn_strategy=local --symlink_prefix=/home/bazel- -- "$3" 3>&- < /dev/null \
        || fail "Bazel failed to build $3"
    path=/home/bazel-bin/$4
    [ -e "$path" ] || path=$path.tar
    # What Bazel leaves are links.
    leave "$path" "$3" --dereference
    ;;
*)
    fail "there is no builder $builder"
    ;;
esac
