#!/bin/sh
# predict.sh PHOTO [URL]: send a photo to macule; come back when a 503 says when.
set -eu
photo=${1:?usage: predict.sh PHOTO [URL]}
url=${2:-http://localhost:8080}

curl --silent --show-error --fail-with-body --max-time 60 \
  --retry 5 --retry-max-time 120 \
  --header 'Content-Type: image/jpeg' --data-binary "@$photo" "$url/predict/"
echo
