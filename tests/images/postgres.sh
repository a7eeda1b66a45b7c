#!/bin/bash
# Makes the data where there is none, with a server of its own for what the instance asks for, and then runs the command.
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    chmod 700 "$PGDATA"
    initdb --auth-local=peer --auth-host=trust --no-sync
    echo 'host all all all trust' >>"$PGDATA/pg_hba.conf"
    pg_ctl -w start -o "-c listen_addresses=''"
    createdb "${POSTGRES_DB:-app}"
    pg_ctl -m fast -w stop
fi
exec "$@"
