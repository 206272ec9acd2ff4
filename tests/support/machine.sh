# Boot systemd as process 1 of a separate machine: namespaces over the files of this machine.
# sh machine.sh NAME CLONE: NAME is the name of a new cgroup; CLONE appears as /opt/macule there.
# Changes of /etc, /var, /run and /tmp stay inside; it has its own loopback.
# sh machine.sh install CLONE COMMANDS: run before, to install CLONE with network access.
set -e

place() { # mount the folder $1 at /opt/macule, beside the content of /opt
  mount -t tmpfs tmpfs /mnt
  mkdir -p /mnt/opt/macule
  for entry in /opt/*; do # an overlay would not contain folders mounted below /opt
    if [ -d "$entry" ] && [ "$entry" != /opt/macule ]; then
      mkdir "/mnt$entry"
      mount --rbind "$entry" "/mnt$entry"
    fi
  done
  mount --bind "$1" /mnt/opt/macule
  mount --rbind /mnt/opt /opt
}

case "$1 $3" in
"install installing")
  place "$2"
  cd /opt/macule
  exec sh -ec "$4"
  ;;
"install "*) exec unshare --mount sh "$0" install "$2" installing "$3" ;;
*" inside") ;;
*)
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    roots=/sys/fs/cgroup
    echo +memory > /sys/fs/cgroup/cgroup.subtree_control || true
  else
    roots=/sys/fs/cgroup/*
  fi
  for root in $roots; do
    mkdir "$root/$1" 2> /dev/null || continue # a second name of a hierarchy, or one without controllers
    for file in cpuset.cpus cpuset.mems; do
      [ ! -e "$root/$1/$file" ] || cat "$root/$file" > "$root/$1/$file"
    done
    echo $$ > "$root/$1/cgroup.procs"
  done
  exec unshare --pid --mount --cgroup --uts --ipc --net --fork --kill-child --mount-proc \
    sh "$0" "$1" "$2" inside
  ;;
esac

place "$2"
for folder in /etc /var; do
  mkdir "/mnt$folder" "/mnt$folder-work"
  mount -t overlay overlay -o "lowerdir=$folder,upperdir=/mnt$folder,workdir=/mnt$folder-work" $folder
done
for folder in /run /etc/systemd/system; do mount -t tmpfs -o mode=755 tmpfs $folder; done
mount -t tmpfs tmpfs /tmp

mkdir -p /run/lock /run/units /etc/systemd/system/service.d
for target in sysinit basic shutdown network multi-user sockets; do
  printf '[Unit]\nDefaultDependencies=no\n' > /run/units/$target.target
done
# There is no journal here.
printf '[Service]\nStandardOutput=append:/run/log\nStandardError=append:/run/log\n' \
  > /etc/systemd/system/service.d/log.conf

if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
  mount -t cgroup2 cgroup /sys/fs/cgroup
else
  mount -t tmpfs tmpfs /sys/fs/cgroup
  mkdir /sys/fs/cgroup/memory /sys/fs/cgroup/pids /sys/fs/cgroup/systemd /sys/fs/cgroup/unified
  mount -t cgroup -o memory cgroup /sys/fs/cgroup/memory
  mount -t cgroup -o pids cgroup /sys/fs/cgroup/pids
  mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
  mount -t cgroup2 cgroup /sys/fs/cgroup/unified
fi
mount --make-rshared / # as systemd does outside a container; credentials need it
ip link set lo up
export container=other SYSTEMD_UNIT_PATH=/etc/systemd/system:/run/units
exec /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=no
