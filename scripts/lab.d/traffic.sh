# shellcheck shell=bash
# Traffic that several labs send, with what must be seen of it.

# check_ab COUNT CONCURRENCY URL: a crowd of short requests, not one of which may fail.
check_ab() {
    local report=$LAB_STATE/ab.log
    typed client "ab -n $1 -c $2 $3/"
    in_ns client ab -q -s 30 -n "$1" -c "$2" "$3/" >"$report" 2>&1 || true
    if grep -Eq "^Complete requests: +$1$" "$report" && grep -Eq '^Failed requests: +0$' "$report" &&
        ! grep -q '^Non-2xx' "$report"; then
        pass "ab -n $1 -c $2: none failed, $(awk '/^Requests per second/ { print $4 }' "$report") a second"
    else
        fail "ab -n $1 -c $2"
        cat "$report"
    fi
}

# check_download URL: the big file, the same at both ends.
check_download() {
    local sum
    sum=$({ in_ns client curl -s --max-time "${DOWNLOAD_SECONDS:-300}" "$1/files/big" || true; } | sha256sum | cut -d' ' -f1)
    equal "download of $(du -h "$LAB_STATE/files/big" | cut -f1): same sha256" "$(sum_of big)" "$sum"
}

# check_upload URL HOST...: the big file arrives whole at one of the hosts.
check_upload() {
    local url=$1 host sum=""
    shift
    in_ns client curl -s --max-time 300 -T "$LAB_STATE/files/big" "$url/upload/big" >/dev/null || true
    for host in "$@"; do
        if [[ -f $LAB_STATE/nginx-$host/upload/big ]]; then
            sum=$(sha256sum "$LAB_STATE/nginx-$host/upload/big" | cut -d' ' -f1)
            rm "$LAB_STATE/nginx-$host/upload/big"
        fi
    done
    equal "upload of $(du -h "$LAB_STATE/files/big" | cut -f1): same sha256" "$(sum_of big)" "$sum"
}

sum_of() { awk -v name="$1" '$2 == name { print $1 }' "$LAB_STATE/files/sums"; }

# udp_says PORT, tcp_says PORT TEXT: the first line that the VIP answers.
udp_says() { says udp "$1" question; }
tcp_says() { says tcp "$1" "$2"; }

# says PROTOCOL PORT TEXT
says() {
    # The parameters are the inner shell's.
    # shellcheck disable=SC2016
    in_ns client timeout 20 bash -c 'exec 3<>"/dev/$0/$1/$2" && echo "$3" >&3 && head -n 1 <&3' "$1" "$VIP" "$2" "$3" || true
}

# check_udp VIP: ten thousand datagrams over ten flows are all answered, and the director lost none of them.
check_udp() { check_datagrams "UDP" "$1" 7 --count 10000; }

# check_datagrams SENTENCE VIP PORT OPTION...: all are answered. What the director lost, its own counters say; what a
# busy machine lost elsewhere was sent again and is no fault of the director's.
check_datagrams() {
    local sentence=$1 target before said
    target=$(host_of "$2"):$3
    shift 3
    before=$(losses)
    typed client "udp-load $target $*"
    if said=$(in_ns client "$(program udp-load)" "$target" "$@"); then
        pass "$sentence: $said"
    else
        fail "$sentence: $said"
    fi
    equal "$sentence: the director lost none by its counters" "$before" "$(losses)"
}

# losses: what the director has dropped by name, and what each of its devices has missed. The ends of a crowd repeat
# their last packets for minutes after its server was deleted; what has no server any more is no loss.
losses() {
    lvsctl_quiet drops --json |
        jq -r '.[] | select(.packets > 0 and .reason != "real_server_gone") | "\(.reason)=\(.packets)"'
    lvsctl_quiet devices --json | jq -r '.[] | "\(.name): missed=\(.rx_missed) no_mbuf=\(.rx_no_mbuf) errors=\(.rx_errors)"'
}

# check_vip_is_alive VIP DEVICE DIRECTOR: the kernel's side of the VIP works while lvsd balances.
check_vip_is_alive() {
    check "the client pings $1" pings client "$1"
    local seen mac
    seen=$(in_ns client ip neigh show "$1" | awk '{ for (i = 1; i < NF; i++) if ($i == "lladdr") print $(i + 1) }')
    mac=$(in_ns director cat "/sys/class/net/$2/address")
    equal "ARP or ND for $1 tells the device's MAC" "$mac" "$seen"
    check_ssh_to_director "$3"
}

# pings HOST ADDRESS
pings() { in_ns "$1" ping -c 3 -i 0.2 -W 2 -q "$2" >/dev/null; }

check_ssh_to_director() {
    equal "ssh to the director over its data interface, $1" director "$(ssh_from_client "$1" || true)"
}

# check_traffic VIP DEVICE: what every mode must carry, after rr.
check_traffic() {
    check_ab 5000 100 "$(url "$1")"
    check_download "$(url "$1")"
    check_upload "$(url "$1")" rs1 rs2
    check_udp "$1"
}

# capture HOST INTERFACE NAME FILTER...: frames into a file, until stop_capture.
capture() {
    local host=$1 interface=$2 name=$3
    shift 3
    # One that is left of an earlier capture would say that this one runs already.
    rm -f "$LAB_STATE/$name.pcap"
    start "$host" "capture-$name" tcpdump -i "$interface" -s 128 -U --immediate-mode -w "$LAB_STATE/$name.pcap" "$@"
    CAPTURE=$!
    until_true 60 test -s "$LAB_STATE/$name.pcap"
}

stop_capture() {
    kill "$CAPTURE"
    wait "$CAPTURE" || true
}

# frames NAME FILTER...: how many captured frames match.
frames() {
    local name=$1
    shift
    tcpdump -nr "$LAB_STATE/$name.pcap" "$@" 2>/dev/null | wc -l
}

some_frames() { (($(frames "$@") > 0)); }
at_least_frames() { (($(frames "${@:2}") >= $1)); }

# seen_to_their_end NAME COUNT FILTER...: whether the capture has so many TCP ends, so all that came before them.
seen_to_their_end() {
    local name=$1 count=$2
    shift 2
    (($(tcpdump -nr "$LAB_STATE/$name.pcap" "$@" 2>/dev/null | grep -c 'Flags \[F') >= count))
}
