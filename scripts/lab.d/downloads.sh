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

# still_downloading: how many have not ended.
still_downloading() {
    local pid running=0
    for pid in "${DOWNLOADS[@]}"; do
        kill -0 "$pid" 2>/dev/null && running=$((running + 1))
    done
    echo "$running"
}

# tell_running WHOSE: how many of the downloads that ran come to their end; those that never will are given up.
tell_running() {
    local pid
    touch "$LAB_STATE/released"
    until_true 60 all_downloads_ended || true
    for pid in "${DOWNLOADS[@]}"; do
        kill "$pid" 2>/dev/null || true
    done
    end_downloads
    echo "note  connections $1 that go on: $(whole_downloads) of ${#DOWNLOADS[@]}"
}

all_downloads_ended() { (($(still_downloading) == 0)); }

# at_least_active COUNT: on the VIP's web service.
at_least_active() { (($(active_conns "$(vip 80)") >= $1)); }
