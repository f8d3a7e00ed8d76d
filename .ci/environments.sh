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

# environment NAME INTERPRETER: makes it.
environment() {
  "$2" -m venv "$work/$1"
  echo "== $1: $("$work/$1/bin/python" --version)"
}

# requirements PYTHON EXTRA: those of this extra of pyproject.toml, a line each.
requirements() {
  "$1" -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")' "$2"
}
