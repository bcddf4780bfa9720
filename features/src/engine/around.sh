# Starts the engine's namespaces and cleans up after them, whatever ended them: also when the test that wanted the
# engine is dead.
#
# $1: what to run inside; from $2 on, what that is given: see there.
inside=$1
shift
unshare --net --mount --pid --fork --mount-proc --kill-child -- docker-init -s -- sh -c "$inside" inside "$@"
rm -rf "$1"
for group in "/sys/fs/cgroup/$3" /sys/fs/cgroup/*/"$3"; do
  [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} +
done
