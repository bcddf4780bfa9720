#!/bin/sh
# Entry point with the contract of the official PostgreSQL image; see the Dockerfile beside this file.
set -eu

fail() {
    echo "postgres: $1" >&2
    exit 1
}

# Sets a variable from <NAME>_FILE, or to its default; setting both is a mistake worth stopping for.
from_file() {
    eval "value=\${$1:-}; file=\${$1_FILE:-}"
    if [ -n "$value" ] && [ -n "$file" ]; then
        fail "$1 and $1_FILE are both set; set one of them"
    fi
    if [ -n "$file" ]; then
        [ -r "$file" ] || fail "$1_FILE names $file, which user $(id -u) cannot read"
        value=$(cat "$file")
    fi
    eval "export $1=\"\${value:-\$2}\""
    unset "$1_FILE"
}

become_postgres() {
    mkdir -p "$PGDATA" /run/postgresql
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    chown postgres:postgres /run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0" "$@"
}

# Runs what lies in /docker-entrypoint-initdb.d, in the order of its names.
run_init_files() {
    for file in /docker-entrypoint-initdb.d/*; do
        case "$file" in
            *.sh) if [ -x "$file" ]; then "$file"; else . "$file"; fi ;;
            *.sql) psql -v ON_ERROR_STOP=1 --no-psqlrc -U "$POSTGRES_USER" -d "$POSTGRES_DB" -f "$file" ;;
            *.sql.gz) gzip -dc "$file" | psql -v ON_ERROR_STOP=1 --no-psqlrc -U "$POSTGRES_USER" -d "$POSTGRES_DB" ;;
            *'/*') ;;
            *) echo "postgres: ignoring $file" ;;
        esac
    done
}

# The cluster is made in $PGDATA/.new and moved up when it is complete, PG_VERSION last: whoever is killed on the way
# starts again from nothing instead of from half a cluster.
initialise() {
    new=$PGDATA/.new
    if [ -e "$new" ]; then
        find "$PGDATA" -mindepth 1 \! -path "$new" \! -path "$new/*" -delete
        rm -rf "$new"
    fi
    [ -n "$POSTGRES_PASSWORD" ] || [ "${POSTGRES_HOST_AUTH_METHOD:-}" = trust ] ||
        fail "set POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE (or POSTGRES_HOST_AUTH_METHOD=trust, which lets everybody in)"

    mkdir -m 700 "$new"
    # An empty password file is refused, and with `trust` nobody asks for the password.
    password_file=$(mktemp)
    printf '%s\n' "${POSTGRES_PASSWORD:-unused}" > "$password_file"
    # shellcheck disable=SC2086 # the arguments are meant to be split
    initdb --no-sync --username="$POSTGRES_USER" --pwfile="$password_file" --encoding=UTF8 --locale=C.UTF-8 \
        --auth-local=trust --auth-host=scram-sha-256 -D "$new" ${POSTGRES_INITDB_ARGS:-} > /dev/null
    rm -f "$password_file"
    echo "listen_addresses = '*'" >> "$new/postgresql.conf"
    echo "host all all all ${POSTGRES_HOST_AUTH_METHOD:-scram-sha-256}" >> "$new/pg_hba.conf"

    # Only the local socket: nobody takes this server for the one that is ready.
    pg_ctl -D "$new" -s -w -o "-c listen_addresses='' -c fsync=off" start
    if [ "$POSTGRES_DB" != postgres ]; then
        psql -v ON_ERROR_STOP=1 --no-psqlrc -q -U "$POSTGRES_USER" -d postgres -v db="$POSTGRES_DB" <<'SQL'
CREATE DATABASE :"db";
SQL
    fi
    run_init_files
    pg_ctl -D "$new" -s -m fast -w stop

    find "$new" -mindepth 1 -maxdepth 1 \! -name PG_VERSION -exec mv -t "$PGDATA" '{}' +
    sync -f "$PGDATA"
    mv "$new/PG_VERSION" "$PGDATA/"
    sync -f "$PGDATA"
}

case "${1:-}" in
    '' | -*) set -- postgres "$@" ;;
esac
if [ "$1" = postgres ]; then
    [ "$(id -u)" != 0 ] || become_postgres "$@"
    from_file POSTGRES_PASSWORD ''
    from_file POSTGRES_USER postgres
    from_file POSTGRES_DB "$POSTGRES_USER"
    mkdir -p "$PGDATA"
    [ -s "$PGDATA/PG_VERSION" ] || initialise
    rm -rf "$PGDATA/.new"
    unset POSTGRES_PASSWORD
fi
exec "$@"
