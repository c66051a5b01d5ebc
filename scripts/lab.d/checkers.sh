# shellcheck shell=bash
# The programs that watch real servers and each other: the distribution's keepalived and ldirectord.

# start_keepalived [HOST]: of the director that is typed on, with its keepalived.conf, there or on another host.
start_keepalived() {
    local host=${1:-$AT}
    typed "$host" "keepalived --use-file $(director_file keepalived.conf)"
    start "$host" keepalived "$(director_file bin/keepalived)" --dont-fork --log-console --log-detail --dump-conf \
        --use-file "$(director_file keepalived.conf)" --pid "$(director_file keepalived.pid)" \
        --checkers_pid "$(director_file checkers.pid)" --vrrp_pid "$(director_file vrrp.pid)" \
        --bfd_pid "$(director_file bfd.pid)"
    KEEPALIVED_PIDS[$AT]=$!
}

declare -A KEEPALIVED_PIDS=()

# reload_keepalived: as 'systemctl reload keepalived' does.
reload_keepalived() {
    typed "$AT" "kill -HUP keepalived"
    kill -s HUP "${KEEPALIVED_PIDS[$AT]}"
}

# stop_keepalived: as 'systemctl stop keepalived' does.
stop_keepalived() {
    typed "$AT" "kill -TERM keepalived"
    kill "${KEEPALIVED_PIDS[$AT]}"
    wait "${KEEPALIVED_PIDS[$AT]}" || true
}

# signal_keepalived SIGNAL: to it and its children.
signal_keepalived() {
    local pids=("${KEEPALIVED_PIDS[$AT]}")
    mapfile -t -O 1 pids < <(pgrep -P "${KEEPALIVED_PIDS[$AT]}")
    typed "$AT" "kill -$1 keepalived"
    kill -s "$1" "${pids[@]}"
}

# kill_keepalived: with its children, which would say goodbye if they outlived it.
kill_keepalived() {
    local pid pids=("${KEEPALIVED_PIDS[$AT]}")
    mapfile -t -O 1 pids < <(pgrep -P "${KEEPALIVED_PIDS[$AT]}")
    signal_keepalived KILL
    for pid in "${pids[@]}"; do
        wait "$pid" 2>/dev/null || true
    done
}

# servers_of OPTION...: real servers with their weights as the listing of a service has them, in one line.
servers_of() { ipvsadm_quiet -Ln "$@" 2>/dev/null | rows | awk '{ print $2 "=" $4 }' | sort | xargs; }

# servers_are TEXT OPTION...
servers_are() { [[ $(servers_of "${@:2}") == "$1" ]]; }

# becomes SECONDS SENTENCE TEXT OPTION...: the servers of a service are TEXT in time.
becomes() {
    local seconds=$1 sentence=$2 expected=$3 begun
    shift 3
    begun=$(now_ms)
    if until_true "$seconds" servers_are "$expected" "$@"; then
        pass "$sentence, after $((($(now_ms) - begun) / 100 * 100)) ms"
    else
        fail "$sentence: expected '$expected', saw '$(servers_of "$@")'"
    fi
}

now_ms() {
    local us=${EPOCHREALTIME/[.,]/}
    echo "${us%???}"
}

# pid_of HOST NAME: of a program that 'start' started last.
pid_of() { awk -v name="$1-$2" '$2 == name { pid = $1 } END { print pid }' "$LAB_STATE/pids"; }

# stop HOST NAME: ends a program that 'start' started last.
stop() {
    local pid
    pid=$(pid_of "$1" "$2")
    typed "$1" "kill $2"
    kill "$pid"
    wait "$pid" || true
}

# stop_nginx HOST
stop_nginx() { stop "$1" nginx; }
