# shellcheck shell=bash
# Pages that a client asks for, and which server they come from.

# host_of ADDRESS: as URLs, service names and listings write it.
host_of() { if [[ $1 == *:* ]]; then echo "[$1]"; else echo "$1"; fi; }

url() { echo "http://$(host_of "$1"):${2:-80}"; }

# page URL: what a fresh connection brings; empty when nothing does.
page() { in_ns client curl -sk --max-time 10 "$1" || true; }

# answers URL EXPECTED...: whether a page comes from one of these.
answers() {
    local got
    got=$(page "$1")
    shift
    [[ " $* " == *" $got "* && -n $got ]]
}

# pages COUNT URL: one word a page, each over a connection of its own.
pages() {
    local n
    for ((n = 0; n < $1; n++)); do
        page "$2"
    done | xargs
}

# only URL SERVER: ten connections reach this server alone.
only() { [[ $(pages 10 "$1" | tr ' ' '\n' | sort -u) == "$2" ]]; }

# check_alternates URL: with rr two servers take turns.
check_alternates() {
    local got
    got=$(pages 10 "$1/")
    case $got in
    "rs1 rs2 rs1 rs2 rs1 rs2 rs1 rs2 rs1 rs2" | "rs2 rs1 rs2 rs1 rs2 rs1 rs2 rs1 rs2 rs1")
        pass "rr alternates: $got"
        ;;
    *) if ((WORKERS > 1 && $(wc -w <<<"$got") == 10)); then
        within "rr is even over $WORKERS workers ($got)" 3 7 "$(wc -w <<<"${got//rs2/}")"
    else
        fail "rr does not alternate: $got"
    fi ;;
    esac
}
