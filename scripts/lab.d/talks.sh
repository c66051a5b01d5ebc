# shellcheck shell=bash
# Programs of the client that stay connected, and are spoken to, while a lab does something to the director.

# The open end of each one's standard input, by its name, and its pid.
declare -A TALKS=() TALK_PIDS=()

# talk NAME COMMAND...: in the background on the client; what it says is in NAME.said.
talk() {
    local name=$1 input
    shift
    mkfifo "$LAB_STATE/$name.told"
    ip netns exec "$(ns client)" "$@" <"$LAB_STATE/$name.told" >"$LAB_STATE/$name.said" 2>&1 &
    TALK_PIDS[$name]=$!
    remember $! "client-$name"
    exec {input}>"$LAB_STATE/$name.told"
    TALKS[$name]=$input
}

# tell NAME LINE
tell() { echo "$2" >&"${TALKS[$1]}"; }

# has_said NAME LINE
has_said() { grep -qxF "$2" "$LAB_STATE/$1.said"; }

# repeats NAME LINE: whether it is echoed, once it is told.
repeats() {
    tell "$@" && until_true 60 has_said "$@"
}

# answers_flow NAME: whether one more datagram is answered. On a busy machine one may be lost.
answers_flow() {
    local before
    before=$(lines_of "$1")
    tell "$1" question
    until_true 2 has_more_lines "$1" "$before"
}

lines_of() { wc -l <"$LAB_STATE/$1.said"; }
has_more_lines() { (($(lines_of "$1") > $2)); }

# answerers_of NAME: who has ever answered.
answerers_of() { sort -u "$LAB_STATE/$1.said" | xargs; }

# end_talk NAME: waits until it has ended; succeeds as it did.
end_talk() { wait "${TALK_PIDS[$1]}"; }

# talk_by_ssh NAME ADDRESS: a login whose far end repeats lines.
talk_by_ssh() { talk "$1" ssh "${LOGIN[@]}" "root@$2" cat; }

# start_crowd NAME URL AB_OPTION...: short requests until end_crowd.
start_crowd() {
    local name=$1 url=$2
    shift 2
    typed client "ab $* $url/"
    ip netns exec "$(ns client)" ab -q -r -s 60 -c 2 -n 1000000 "$@" "$url/" >"$LAB_STATE/$name.log" 2>&1 &
    TALK_PIDS[$name]=$!
    remember $! "client-$name"
}

# end_crowd NAME SENTENCE: it tells what it has seen until then.
end_crowd() {
    local complete longest log=$LAB_STATE/$1.log
    kill -INT "${TALK_PIDS[$1]}"
    wait "${TALK_PIDS[$1]}" || true
    complete=$(awk '/^Complete requests/ { print $3 }' "$log")
    longest=$(awk '$1 == "100%" { print $2 }' "$log")
    check "$2: ${complete:-0} requests, the longest took ${longest:-?} ms" test "${complete:-0}" -gt 0
    equal "$2: failed requests" 0 "$(awk '/^(Failed requests|Non-2xx)/ { sum += $NF } END { print sum }' "$log")"
}
