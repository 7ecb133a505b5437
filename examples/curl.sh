#!/usr/bin/env bash
# One picture, a grid, JSON and an interpolation with curl. Start the service first: make serve
set -euo pipefail
genserve=${GENSERVE_URL:-http://127.0.0.1:8000}

curl -fsS -X POST "$genserve/generate/gan" -o one.png
curl -fsS -X POST "$genserve/generate/ddpm" -d '{"n": 16, "seed": 7, "class_label": "sneaker", "scale": 4}' -o grid.png
curl -fsS -X POST "$genserve/generate/vae" -d '{"n": 2, "seed": 7}' -H 'Accept: application/json' -o two.json
curl -fsS -X POST "$genserve/interpolate" -o strip.png \
  -d '{"model": "vae", "from": {"seed": 1}, "to": {"seed": 2}, "class_label": "dress", "scale": 4}'
ls -l one.png grid.png two.json strip.png
