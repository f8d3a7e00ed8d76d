# Virtual environments in the folder $work; for `source`.

# interpreter NAME...: the path of the first that there is, supported and able to make environments; pyenv's count.
interpreter() {
  local name version path
  for name in "$@"; do
    version=$(pyenv versions --bare 2>/dev/null | grep -E "^${name#python}(\.|$)" | sort -V | tail -n 1 || true)
    for path in "$(command -v "$name" || true)" "${version:+$(pyenv prefix "$version")/bin/python}"; do
      if [ -n "$path" ] && "$path" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        echo "$path"
        return
      fi
    done
  done
  return 1
}

# environment NAME INTERPRETER [OPTION...]: makes it.
environment() {
  "$2" -m venv "${@:3}" "$work/$1"
  echo "== $1: $("$work/$1/bin/python" --version)"
}

# installer INTERPRETER: makes the environment `installer`, with uv in it, which installs in seconds what takes pip a minute.
installer() {
  "$1" -m venv "$work/installer"
  "$work/installer/bin/pip" install -qq --no-compile uv || echo "== uv cannot be installed; pip takes its place"
}

# install NAME ARGUMENT...: what `pip install` takes, into this environment, which needs no pip of its own. By pip if uv fails,
# which reads no configuration of pip's and may not know the index.
install() {
  local python=$work/$1/bin/python bin=$work/installer/bin
  shift
  { [ -x "$bin/uv" ] && "$bin/uv" pip install --quiet --python "$python" "$@"; } ||
    "$bin/pip" --python "$python" install -qq --no-compile "$@"
}

# requirements PYTHON EXTRA: those of this extra of pyproject.toml, a line each.
requirements() {
  "$1" -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' "$2"
}
