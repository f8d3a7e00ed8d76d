#!/usr/bin/env bash
# A quarter of an hour on one GPU or TPU, at real size: the overhead of sampling, a fit, guided sampling and true paths, in float32
# and bfloat16, on the CIFAR10 network of the paper. Writes one CSV: benchmarks/accelerator.sh [OUT.csv]
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-accelerator.csv}
echo "task,dtype,batch,seconds,unit,device" >"$out"
for task in velocity sample guided truth fit; do
  for dtype in float32 bfloat16; do
    timeout 120 python -m benchmarks.accelerator "$task" --dtype "$dtype" >>"$out" || echo "$task,$dtype,,,failed," >>"$out"
  done
done
cat "$out"
