# shellcheck shell=bash
# The addresses of a lab's round in one family, as each tool names them.
# The networks' files set VIP4, DIRECTOR4, RS4, LOCAL4 and the same of IPv6.
# shellcheck disable=SC2153

# use_family 4|6: sets the addresses that the family's round of a lab works with.
use_family() {
    if [[ $1 == 4 ]]; then
        VIP=$VIP4 DIRECTOR=$DIRECTOR4 RS=("" "${RS4[@]}") LOCALS=("${LOCAL4[@]}")
    else
        VIP=$VIP6 DIRECTOR=$DIRECTOR6 RS=("" "${RS6[@]}") LOCALS=("${LOCAL6[@]}")
    fi
    export VIP DIRECTOR RS LOCALS
    title "IPv$1"
}

# vip PORT: a service on the VIP as ipvsadm names it.
vip() { echo "$(host_of "$VIP"):$1"; }

# tcp PORT, udp PORT: the same as lvsctl names it.
tcp() { echo "tcp:$(vip "$1")"; }
udp() { echo "udp:$(vip "$1")"; }

# rs N PORT: a real server as ipvsadm names it.
rs() { echo "$(host_of "${RS[$1]}"):$2"; }

# balanced OPTION PORT SERVER_PORT MODE: an rr service of the VIP over both real servers. OPTION (-t, -u, --sctp-service) and
# MODE (-g, -i, -m) are ipvsadm's.
balanced() {
    ipvsadm -A "$1" "$(vip "$2")" -s rr
    ipvsadm -a "$1" "$(vip "$2")" -r "$(rs 1 "$3")" "$4"
    ipvsadm -a "$1" "$(vip "$2")" -r "$(rs 2 "$3")" "$4"
}

# full_nat OPTION PORT SERVER_PORT [ADDRESS...]: the same by FULLNAT, through these local addresses or all of the round's.
full_nat() {
    local option=$1 port=$2
    local -A protocols=([-t]=tcp [-u]=udp [--sctp-service]=sctp)
    balanced "$1" "$2" "$3" -m
    shift 3
    (($#)) || set -- "${LOCALS[@]}"
    lvsctl local-address set "${protocols[$option]}:$(vip "$port")" "$@"
}

LOCAL4=() LOCAL6=()
