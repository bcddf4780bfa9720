# Runs in namespaces of its own and does what it is told on standard input; when that ends, everything in here ends.
#
# $1: the engine's directory; $2: how large its disk is; $3: the control group of its containers; $4: wopr-machine.
home=$1 disk=$home/disk
set -e
# Containers are not to hear of it when the disk goes away, nor the machine of what is mounted here.
mount -t tmpfs -o mode=0755 run /run
mount -t tmpfs -o "size=$2,mode=0711" wopr-engine "$disk"
ip link set lo up
set +e

# What gives up by itself is started again, as by any machine's own keeper of services: on a busy machine an engine does when
# containerd takes too long.
start() {
  rm -f /run/engine.pid /run/engine.stop
  (
    while :; do
      dockerd --config-file "$home/config.json" --data-root "$disk/docker" --exec-root /run/docker \
        --pidfile /run/docker.pid --host "unix://$home/docker.sock" --cgroup-parent "/$3" \
        --exec-opt native.cgroupdriver=cgroupfs --storage-driver overlay2 --bridge none \
        --iptables=false --ip6tables=false --ip-forward=false --ip-masq=false \
        --log-level warn </dev/null >>"$home/log" 2>&1 &
      echo $! >/run/engine.pid
      wait $!
      [ $? -eq 1 ] && [ ! -e /run/engine.stop ] || break
    done
  ) &
  keeper=$!
  while [ ! -s /run/engine.pid ]; do sleep 0.01; done
}

engine() { cat /run/engine.pid; }
containerd() { cat /run/docker/containerd/containerd.pid 2>/dev/null; }

# A pid that is still taken would make the next engine believe that the last one lives.
gone() { while kill -0 "$1" 2>/dev/null; do sleep 0.01; done; }

# As on any machine of ours. Without it nothing here would say what it is to say.
("$4" strays --socket "$home/docker.sock" --cgroup-parent "/$3" </dev/null >>"$home/log" 2>&1; kill -KILL $$) &

while read -r order; do
  case $order in
    start) start "$@" ;;
    kill) : >/run/engine.stop; kill -KILL "$(engine)"; wait "$keeper" ;;
    kill-all)
      other=$(containerd)
      : >/run/engine.stop
      kill -KILL "$(engine)" $other
      wait "$keeper"
      [ -z "$other" ] || gone "$other" ;;
    freeze) kill -STOP "$(engine)" $(containerd) ;;
    thaw) kill -CONT "$(engine)" $(containerd) ;;
    fill) dd if=/dev/zero of="$disk/ballast" bs=64k; dd if=/dev/zero bs=4k >>"$disk/ballast" ;;
    note) rm -rf "$home/noted"; cp -a "$disk/docker/containers" "$home/noted" ;;
    forget) cp -a "$home/noted/." "$disk/docker/containers/" ;;
    free) rm -f "$disk/ballast" ;;
    *) echo "unknown order $order"; exit 1 ;;
  esac >>"$home/orders" 2>&1
  echo "done $order"
done
