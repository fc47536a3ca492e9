#!/usr/bin/env bash
# A file in pieces, for a machine that takes little at a time (onnxruntime-gpu's wheel has 255 MB):
#   bash benchmarks/gpu/pieces.sh split FILE FOLDER [MB a piece, default 40]
#   bash benchmarks/gpu/pieces.sh join FOLDER OUT_FOLDER
# Pieces may arrive in any order. A piece that is missing or damaged is an error, and no file is written then.
set -euo pipefail
usage="usage: pieces.sh split FILE FOLDER [MB], or pieces.sh join FOLDER OUT_FOLDER"
case ${1:-} in
split)
    file=${2:?$usage} folder=${3:?$usage}
    [ -f "$file" ] || { echo "error: $file: no such file" >&2; exit 2; }
    mkdir -p "$folder"
    name=$(basename "$file")
    split --bytes="${4:-40}M" --numeric-suffixes --suffix-length=3 "$file" "$folder/$name.piece-"
    (cd "$folder" && sha256sum "$name".piece-* >"$name.sha256")
    ls -l "$folder"
    ;;
join)
    folder=${2:?$usage} out=${3:?$usage}
    mkdir -p "$out"
    out=$(cd "$out" && pwd)
    cd "$folder"
    found=(*.sha256)
    [ -f "${found[0]}" ] || { echo "error: $folder: no .sha256 there; bring what split wrote" >&2; exit 2; }
    for list in "${found[@]}"; do
        name=${list%.sha256}
        sha256sum --check --quiet "$list" >&2 || { echo "error: $name: a piece is missing or damaged" >&2; exit 2; }
        cat "$name".piece-* >"$out/$name.part"
        mv "$out/$name.part" "$out/$name"
        echo "$out/$name"
    done
    ;;
*)
    echo "error: $usage" >&2
    exit 2
    ;;
esac
