#!/usr/bin/env bash
# The checkout without what a session on a GPU does not need, for a machine that takes 64 MiB (all of it has 110):
#   bash benchmarks/gpu/lean.sh daps-photo-256 daps-cifar10 daps-mnist     keeps these models, on a branch named lean
#   bash benchmarks/gpu/lean.sh back                                       goes back, and deletes that branch
# doctor needs daps-mnist. Nothing may be uncommitted, as files are removed.
set -euo pipefail
cd "$(dirname "$0")/../.."
usage="usage: lean.sh MODEL..., or lean.sh back"
[ $# -gt 0 ] || { echo "error: $usage" >&2; exit 2; }
if [ "$1" = back ]; then
    git checkout -q -
    git branch -q -D lean
    exit
fi
[ -z "$(git status --porcelain)" ] || { echo "error: commit or stash first; see git status" >&2; exit 2; }
models=daps_tokenizer/pretrained
for model in "$@"; do
    [ -f "$models/$model/config.json" ] || { echo "error: $model: not in $models" >&2; exit 2; }
done
git checkout -q -b lean
remove=(train/starts web docs benchmarks/results benchmarks/studies/control/*.onnx MODEL_CARD.md)
for folder in "$models"/*/; do
    name=$(basename "$folder")
    [[ " $* " == *" $name "* ]] || remove+=("$models/$name")
done
git rm -r -q --ignore-unmatch "${remove[@]}"
git -c user.name=lean -c user.email=lean@localhost commit -q -m "What a session on a GPU needs; not to be merged"
git ls-files -z | xargs -0 stat -c %s | awk '{ bytes += $1 } END { printf "%.1f MiB\n", bytes / 2^20 }'
