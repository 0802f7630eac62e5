# Virtual environments below $DIRECTORY, made by $PYTHON; sourced by the scripts that fill them.

make_environment() {
  test -x "$DIRECTORY/$1/bin/python" || "$PYTHON" -m venv "$DIRECTORY/$1"
}

install() {
  environment=$1
  shift
  "$DIRECTORY/$environment/bin/python" -m pip install --quiet ${PIP_ARGS:-} "$@"
}
