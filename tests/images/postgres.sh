#!/bin/bash
# Makes the data on the first start and runs the command as the user `postgres`.
set -e
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chown -R postgres:postgres "$PGDATA" /run/postgresql
    chmod 700 "$PGDATA"
    exec setpriv --reuid postgres --regid postgres --init-groups env HOME=/var/lib/postgresql "$0" "$@"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --auth-local=peer --auth-host=trust --no-sync
    echo 'host all all all trust' >>"$PGDATA/pg_hba.conf"
fi
exec "$@"
