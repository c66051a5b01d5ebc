# shellcheck shell=bash
# Downloads that run while a lab does something to the director.

# start_downloads COUNT URL: parallel downloads of 'part' in the background, at a trickle until they are released:
# however long it takes to type meanwhile, they are under way.
start_downloads() {
    local n
    DOWNLOADS=() TRICKLES=()
    rm -f "$LAB_STATE/released"
    for ((n = 0; n < $1; n++)); do
        mkfifo "$LAB_STATE/pipe-$n"
        trickle "$LAB_STATE/pipe-$n" "$LAB_STATE/part-$n" &
        TRICKLES+=($!)
        remember $! "trickle-$n"
        ip netns exec "$(ns client)" curl -s --max-time 300 -o "$LAB_STATE/pipe-$n" "$2/files/part" &
        DOWNLOADS+=($!)
        remember $! "download-$n"
    done
}

# trickle PIPE FILE
trickle() {
    exec <"$1" >"$2"
    while [[ ! -e $LAB_STATE/released ]]; do
        head -c 20000
        sleep 1
    done
    cat
}

# end_downloads: waits for them, and for what they wrote.
end_downloads() {
    local pid
    touch "$LAB_STATE/released"
    for pid in "${DOWNLOADS[@]}" "${TRICKLES[@]}"; do
        wait "$pid" || true
    done
    rm -f "$LAB_STATE"/pipe-*
}

# check_downloads: all of them came to their end unharmed.
check_downloads() {
    end_downloads
    equal "${#DOWNLOADS[@]} parallel downloads are whole" "${#DOWNLOADS[@]}" "$(whole_downloads)"
}

# whole_downloads: how many of those that have ended are whole; their files are taken away.
whole_downloads() {
    local n whole=0 expected
    expected=$(sum_of part)
    for n in "${!DOWNLOADS[@]}"; do
        [[ $(sha256sum "$LAB_STATE/part-$n" 2>/dev/null | cut -d' ' -f1) == "$expected" ]] && whole=$((whole + 1))
        rm -f "$LAB_STATE/part-$n"
    done
    echo "$whole"
}

# count_with SUM FILE...: how many of the files have it.
count_with() { sha256sum "${@:2}" | grep -c "^$1 " || true; }

# still_downloading: how many have not ended.
still_downloading() {
    local pid running=0
    for pid in "${DOWNLOADS[@]}"; do
        kill -0 "$pid" 2>/dev/null && running=$((running + 1))
    done
    echo "$running"
}

# at_least_active COUNT: on the VIP's web service.
at_least_active() { (($(active_conns "$(vip 80)") >= $1)); }

# start_request NAME CURL_OPTION...: runs in the background; what curl says is in NAME.log.
start_request() {
    local name=$1
    shift
    typed client "curl $*"
    ip netns exec "$(ns client)" curl -sS --max-time 300 "$@" 2>"$LAB_STATE/$name.log" >/dev/null &
    REQUEST=$! REQUEST_LOG=$LAB_STATE/$name.log
    remember $! "request-$name"
}

still_runs() { kill -0 "$REQUEST" 2>/dev/null; }
has_ended() { ! still_runs; }

# pause_request: the request stands still, and nothing of it is under way. Segments that came before lvsd knows an address
# would be answered by the kernel.
pause_request() {
    kill -STOP "$REQUEST"
    check "it stands still" until_true 60 all_is_acknowledged
}
resume_request() { kill -CONT "$REQUEST"; }
all_is_acknowledged() { ip netns exec "$(ns client)" ss -tnH state established | awk '$2 > 0 { left = 1 } END { exit left }'; }

# check_reset SENTENCE COUNTER HOST...: the request that runs ends by a reset that the director counts as COUNTER, and the
# next one is answered by one of the hosts.
check_reset() {
    local begun
    begun=$(now_ms)
    check "$1 ends" until_true 60 has_ended
    echo "note  $1 waited $(($(now_ms) - begun)) ms"
    check "$1 is told: $(cat "$REQUEST_LOG")" grep -q 'reset by peer' "$REQUEST_LOG"
    check "the director counts it as $2" until_true 60 counts_some "$2"
    check "it comes back at once" until_true 60 answers "$(url "$VIP")/" "${@:3}"
}

# check_lost_table ADDRESSES HOST...: an upload while lvsd dies and comes back with its services and without its connections.
# The web service has reset_unknown. The command ADDRESSES gives the twins theirs again; the hosts answer then.
check_lost_table() {
    start_request lost --limit-rate 100k -T "$LAB_STATE/files/part" "$(url "$VIP")/upload/part"
    check "an upload runs" until_true 60 at_least_active 1
    pause_request
    end_lvsd KILL
    forget_connections
    run_lvsd
    "$1"
    equal "the option came back with the service" true "$(option_of reset_unknown)"
    check "the services are back" until_true 60 answers "$(url "$VIP")/" "${@:2}"
    resume_request
    check_reset "after a restart without connections the client" resets_unknown "${@:2}"
}

option_of() { lvsctl_quiet list --json | jq -r --arg service "$(tcp 80)" ".[] | select(.service == \$service) | .$1"; }
counts_some() { (($(lvsctl_quiet workers --json | jq "[.[].$1] | add") > 0)); }
drops_of() { lvsctl_quiet drops --json | jq "[.[] | select(.reason == \"$1\") | .packets] | add // 0"; }
drops_more_than() { (($(drops_of "$1") > $2)); }
