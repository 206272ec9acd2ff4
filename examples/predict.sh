#!/bin/sh
# Send a photo to macule and print the JSON of its answer. Needs curl 7.55 or later.
#
#     examples/predict.sh [--later] PHOTO [URL]
#
# MACULE_API_KEY, if the service needs one, and MACULE_TIMEOUT_S (60) come from the environment.
# Exits with 0 for an answer, 1 for a problem, 2 for wrong usage. A script that sources it (`.`) gets the
# functions `predict` and `predict_later`: PHOTO [URL].

predict() (
    begin "$@"
    ask POST /predict/ --data-binary "@$photo"
    answer
)

predict_later() (
    begin "$@"
    ask POST /predictions --data-binary "@$photo" \
        --header 'Prefer: respond-async' --header "Idempotency-Key: $(random)"
    job=$(field id)
    tag=
    state=$(field status)
    while [ "$state" = starting ] || [ "$state" = processing ]; do
        pause "$(header Retry-After)"
        ask GET "/predictions/$job" --header "If-None-Match: $tag"
        if [ "$status" != 304 ]; then
            tag=$(header ETag)
            state=$(field status)
        fi
    done
    answer
)

# Everything below runs in the subshell of one of the two functions, so `exit` ends only that subshell.

begin() {
    set -eu
    photo=$1
    url=${2:-http://localhost:8080}
    timeout=${MACULE_TIMEOUT_S:-60}
    end=$(($(date +%s) + timeout))
    id=$(random)
    folder=$(mktemp -d)
    trap 'rm -rf "$folder"' EXIT
    {
        echo "X-Request-Id: $id" # the id of the request in the service's log
        echo 'Content-Type: application/octet-stream'
        # in a file, because every user of this machine can see command lines
        [ -z "${MACULE_API_KEY:-}" ] || echo "Authorization: Bearer $MACULE_API_KEY"
    } >"$folder/always"
}

# ask METHOD PATH [OPTION...]: send one request, and retry if told so, five times at most.
# Predicting changes nothing, so a photo may be sent twice.
ask() {
    method=$1 path=$2
    shift 2
    for try in 1 2 3 4 5; do
        left=$((end - $(date +%s)))
        [ "$left" -gt 0 ] || no_answer "none came within $timeout s"
        : >"$folder/body"
        status=$(curl --silent --show-error --request "$method" --connect-timeout 3 \
            --max-time "$left" --header "@$folder/always" "$@" --dump-header "$folder/head" \
            --output "$folder/body" --write-out '%{http_code}' "${url%/}$path" 2>"$folder/why") ||
            no_answer "$(cat "$folder/why")"
        case $status in
        200 | 202 | 304) return ;;
        429 | 503) [ "$try" = 5 ] || pause "$(header Retry-After)" ;;
        *) problem ;;
        esac
    done
    problem
}

# pause [SECONDS]: wait, unless the time limit comes first.
pause() {
    seconds=1
    case ${1:-x} in *[!0-9]*) ;; *) seconds=$1 ;; esac
    if [ "$(($(date +%s) + seconds))" -ge "$end" ]; then
        case $status in 429 | 503) problem ;; *) no_answer "none came within $timeout s" ;; esac
    fi
    sleep "$seconds"
}

answer() {
    [ "$(field status)" = succeeded ] || problem
    cat "$folder/body"
    echo
}

problem() {
    code=$(sed -nE 's/.*"status":([0-9]+).*/\1/p' "$folder/body") # of a prediction that failed
    title=$(field title) detail=$(field detail)
    : "${title:=No answer}" "${detail:=What came is no answer of macule.}"
    echo "${code:-$status} $title: $detail (request $id)" >&2
    exit 1
}

no_answer() {
    echo "0 No answer: $1 (request $id)" >&2
    exit 1
}

# header NAME: of the last answer.
header() {
    tr -d '\r' <"$folder/head" | awk -v name="$1:" '
        tolower($1) == tolower(name) { value = $2 }
        END { print value }'
}

# field NAME: a text in the last answer's JSON.
field() {
    sed -nE "s/.*\"$1\":\"(([^\"\\]|\\\\.)*)\".*/\1/p" "$folder/body"
}

random() {
    od -An -N12 -tx1 /dev/urandom | tr -d ' \n'
}

case ${0##*/} in predict.sh)
    send=predict
    if [ "${1:-}" = --later ]; then
        send=predict_later
        shift
    fi
    case ${1:--} in -*) set -- ;; esac
    case ${MACULE_TIMEOUT_S:-60} in *[!0-9]*) set -- ;; esac
    if [ $# -lt 1 ] || [ $# -gt 2 ] || [ ! -f "$1" ] || [ ! -r "$1" ]; then
        echo 'usage: predict.sh [--later] PHOTO [URL]' >&2
        exit 2
    fi
    "$send" "$@"
    ;;
esac
