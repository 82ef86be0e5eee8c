#!/bin/sh
# The MLflow server of compose.yaml, and the same without containers; docs/servers.md says how to use either.
# Everything comes from variables, so that no password stands on a command line.
set -eu
: "${MLFLOW_BACKEND_STORE_URI:?such as postgresql+psycopg://mlflow@localhost:5432/mlflow, password in PGPASSWORD}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?such as s3://mlflow/artifacts, with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY}"
export MLFLOW_HOST="${MLFLOW_HOST:-127.0.0.1}" MLFLOW_PORT="${MLFLOW_PORT:-5000}" MLFLOW_WORKERS="${MLFLOW_WORKERS:-2}"
export MLFLOW_SERVER_ALLOWED_HOSTS="${MLFLOW_SERVER_ALLOWED_HOSTS:-localhost:$MLFLOW_PORT,127.0.0.1:$MLFLOW_PORT}"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true

if [ -z "${MLFLOW_AUTH_ADMIN_PASSWORD:-}" ]; then
  case "$MLFLOW_HOST" in
    127.0.0.1 | ::1 | localhost) exec mlflow server --serve-artifacts ;;
  esac
  echo "mlflow-server.sh: MLFLOW_HOST is $MLFLOW_HOST, and anybody there could change every model." \
    "Set MLFLOW_AUTH_ADMIN_PASSWORD, or leave MLFLOW_HOST at 127.0.0.1." >&2
  exit 2
fi

: "${MLFLOW_FLASK_SERVER_SECRET_KEY:?a long random text, such as from: openssl rand -hex 32}"
# Users and their rights live in the same database, so that one dump holds all.
MLFLOW_AUTH_CONFIG_PATH="$(mktemp)"
export MLFLOW_AUTH_CONFIG_PATH
cat >"$MLFLOW_AUTH_CONFIG_PATH" <<END
[mlflow]
default_permission = READ
database_uri = $MLFLOW_BACKEND_STORE_URI
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
# One migrator, before several workers look at a fresh database together.
python -m mlflow.server.auth db upgrade --url "$MLFLOW_BACKEND_STORE_URI"
exec mlflow server --app-name basic-auth --serve-artifacts
