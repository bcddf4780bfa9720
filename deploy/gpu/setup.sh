#!/bin/sh
# Sets a GPU machine up, step by step, and tells the platform after each. Every step looks first whether it is done, so
# the whole may run again: it does at every start of the machine.
set -eu

root=${WOPR_GPU_ROOT:-}
settings=$root/etc/wopr-gpu
. "$settings/settings"

step=installing_drivers
problem=

say() {
    printf '%s\n' "wopr-gpu: $1" >&2
}

# tell STAGE OK MESSAGE: reports to the platform, with six attempts.
tell() {
    body=$(printf '{"nodeId":"%s","ok":%s' "$NODE_ID" "$2")
    if [ -n "$3" ]; then
        body="$body,\"message\":\"$(printf '%s' "$3" | tr -c 'A-Za-z0-9 ._:/=-' ' ')\""
    fi
    for pause in 2 4 8 16 32 0; do
        # The credential is read from a file: arguments are there for everybody to see.
        if curl -fsS --max-time 15 -X POST -H @"$settings/authorization" -H 'Content-Type: application/json' \
            -d "$body}" "$PLATFORM_URL/internal/gpu/register?stage=$1" >/dev/null; then
            return 0
        fi
        sleep "$pause"
    done
    say "the platform could not be told of $1"
}

finished() {
    tell "$1" true ''
}

die() {
    problem=$1
    say "$1"
    exit 1
}

ended() {
    code=$?
    if [ "$code" -ne 0 ] && [ -f "$settings/authorization" ]; then
        tell "$step" false "${problem:-a command failed with status $code}"
    fi
}
trap ended EXIT

# The token this machine was born with is good for one thing: to be exchanged for its own secret.
identify() {
    if [ -s "$settings/node-secret" ]; then
        return 0
    fi
    for pause in 2 4 8 16 32 0; do
        if answer=$(curl -fsS --max-time 15 -X POST -H @"$settings/birth" -H 'Content-Type: application/json' \
            -d "{\"nodeId\":\"$NODE_ID\"}" "$PLATFORM_URL/internal/gpu/bootstrap"); then
            break
        fi
        answer=
        sleep "$pause"
    done
    secret=$(printf '%s' "$answer" | sed -n 's/.*"nodeSecret":"\([0-9a-f]\{64\}\)".*/\1/p')
    [ -n "$secret" ] || die 'the platform gave no secret'
    login=$(printf '%s' "$answer" | sed -n 's/.*"dockerConfig":"\([A-Za-z0-9+/=]*\)".*/\1/p')
    umask 077
    if [ -n "$login" ]; then
        mkdir -p "$root/root/.docker"
        printf '%s' "$login" | base64 -d >"$root/root/.docker/config.json"
    fi
    printf 'Authorization: Bearer %s\n' "$secret" >"$settings/authorization"
    printf '%s' "$secret" >"$settings/node-secret"
    umask 022
    rm -f "$settings/birth"
}

install_drivers() {
    export DEBIAN_FRONTEND=noninteractive
    if ! nvidia-smi >/dev/null 2>&1; then
        if [ -e "$settings/driver-installed" ]; then
            die 'the driver is installed and finds no card'
        fi
        apt-get update -q
        apt-get install -qy nvidia-driver-535-server
        touch "$settings/driver-installed"
        say 'restarting, so that the driver is loaded'
        trap - EXIT
        systemctl reboot
        exit 0
    fi
    if ! command -v nvidia-ctk >/dev/null 2>&1; then
        list=$root/etc/apt/sources.list.d/nvidia-container-toolkit.list
        keyring=/usr/share/keyrings/nvidia-container-toolkit.gpg
        mkdir -p "$root/etc/apt/sources.list.d" "$root/usr/share/keyrings"
        curl -fsSL --retry 5 https://nvidia.github.io/libnvidia-container/gpgkey | gpg --dearmor --yes -o "$root$keyring"
        printf 'deb [signed-by=%s] https://nvidia.github.io/libnvidia-container/stable/deb/%s /\n' \
            "$keyring" "\$(ARCH)" >"$list"
        apt-get update -q
        apt-get install -qy nvidia-container-toolkit
    fi
}

install_docker() {
    if ! docker compose version >/dev/null 2>&1; then
        apt-get update -q
        apt-get install -qy docker.io docker-compose-v2
    fi
    systemctl enable --now docker
    if ! docker info --format '{{.DefaultRuntime}}' | grep -qx nvidia; then
        nvidia-ctk runtime configure --runtime=docker --set-as-default
        systemctl restart docker
    fi
    docker run --rm --gpus all "$CHECK_IMAGE" nvidia-smi >/dev/null || die 'no container can see the card'
}

# The services' ports are for the platform. Docker publishes past the usual chains, so this is its own.
close_ports() {
    iptables -N WOPR-GPU 2>/dev/null || iptables -F WOPR-GPU
    for network in $PLATFORM_NETWORKS; do
        iptables -A WOPR-GPU -s "$network" -j RETURN
    done
    iptables -A WOPR-GPU -j DROP
    set -- -p tcp -m conntrack --ctstate NEW --ctdir ORIGINAL --ctorigdstport 8080:8083 -j WOPR-GPU
    iptables -C DOCKER-USER "$@" 2>/dev/null || iptables -I DOCKER-USER "$@"
    set -- -p tcp --dport 8080:8083 -j DROP
    ip6tables -C INPUT "$@" 2>/dev/null || ip6tables -I INPUT "$@"
}

# fetch URL FILE SHA256
fetch() {
    file=$root/opt/models/$2
    if [ -f "$file" ] && printf '%s  %s\n' "$3" "$file" | sha256sum -c --status; then
        return 0
    fi
    curl -fsSL --retry 5 --retry-all-errors -C - -o "$file.part" "$1" || die "$2 could not be downloaded"
    if ! printf '%s  %s\n' "$3" "$file.part" | sha256sum -c --status; then
        rm -f "$file.part"
        die "$2 is not the file that was wanted"
    fi
    mv "$file.part" "$file"
}

download_models() {
    mkdir -p "$root/opt/models" "$root/opt/voices"
    fetch "$LLAMA_MODEL_URL" "$LLAMA_MODEL_FILE" "$LLAMA_MODEL_SHA256"
    fetch "$EMBEDDINGS_MODEL_URL" "$EMBEDDINGS_MODEL_FILE" "$EMBEDDINGS_MODEL_SHA256"
}

start_services() {
    docker compose --env-file "$settings/settings" -f "$root/opt/wopr-gpu/compose.yml" up -d --remove-orphans
}

identify
install_drivers
finished "$step"
step=installing_docker
install_docker
close_ports
finished "$step"
step=downloading_models
download_models
finished "$step"
step=starting_services
start_services
# The daemon that is now up says when everything answers.
finished "$step"
