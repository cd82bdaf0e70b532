# The first process of a build. It has namespaces of its own: for users, mounts, processes, IPC, the
# host name, cgroups and the network, which has no way out but the proxy of http_proxy, if there is
# one. It gets the files of the commit as an archive on its input, and leaves what is asked for on its
# output; everything that it prints besides goes to the log.
#
# Arguments: the size of its file system, a folder with a layout of base images or nothing, and a
# builder of builders.sh with its arguments.
set -eu
umask 022
disk=$1 base=$2
shift 2
new=/tmp

# show SOURCE PLACE [OPTIONS]: lets a file or a folder of the machine be seen, and not changed.
show() {
    mount --bind "$1" "$2"
    mount -o "remount,bind,ro,nosuid,nodev${3:-}" "$2"
}

# A file system of its own, of which nothing is left when the last process ends. The programs of the
# machine are in it, read-only, and nothing else of the machine.
mount -t tmpfs -o "size=$disk,nr_inodes=1000000,mode=0755,nosuid,nodev" build "$new"
cd "$new"
mkdir dev etc etc/containers home old proc run sys tmp usr var var/tmp work
mount --rbind /usr usr
mount -o remount,bind,ro,nosuid,nodev usr
for folder in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$folder" ]; then
        ln -s "$(readlink "/$folder")" "$folder"
    elif [ -d "/$folder" ]; then
        mkdir "$folder"
        mount --rbind "/$folder" "$folder"
        mount -o remount,bind,ro,nosuid,nodev "$folder"
    fi
done
case $1 in
bazel-*)
    # A program of the operator.
    : > bazel
    show "$2" bazel
    ;;
esac
if [ -n "$base" ]; then
    mkdir base
    show "$base" base ,noexec
fi
# Where names in /usr lead to, such as that of awk.
if [ -d /etc/alternatives ]; then
    mkdir etc/alternatives
    show /etc/alternatives etc/alternatives
fi
mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mkdir dev/pts dev/shm
for device in null zero full random urandom; do
    : > "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
ln -s /proc/self/fd dev/fd
ln -s /proc/self/fd/0 dev/stdin
ln -s /proc/self/fd/1 dev/stdout
ln -s /proc/self/fd/2 dev/stderr
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
ln -s pts/ptmx dev/ptmx
chmod 1777 tmp var/tmp dev/shm

printf 'root:x:0:0:root:/home:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' > etc/group
printf '127.0.0.1 localhost build\n::1 localhost\n' > etc/hosts
: > etc/resolv.conf
printf '{"default":[{"type":"insecureAcceptAnything"}]}\n' > etc/containers/policy.json
printf 'unqualified-search-registries = []\nshort-name-mode = "disabled"\n' > etc/containers/registries.conf
printf '[storage]\ndriver = "vfs"\ngraphroot = "/home/storage"\nrunroot = "/run/storage"\n' > etc/containers/storage.conf
if [ -n "${http_proxy:-}" ] && [ -d /etc/ssl/certs ]; then
    # The authorities of mirrors; its links are to /usr.
    mkdir -p etc/ssl/certs
    show /etc/ssl/certs etc/ssl/certs ,noexec
fi
hostname build

pivot_root . old
cd /
umount -l old
rmdir old
# What is built needs no user namespace, and they are where most holes of kernels were.
echo 0 > /proc/sys/user/max_user_namespaces

exec 3>&1 1>&2
echo started >&3
tar -x --no-same-owner -f - -C /work
cd /work
