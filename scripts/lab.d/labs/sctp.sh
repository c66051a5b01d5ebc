# shellcheck shell=bash
# SCTP: associations of a userland stack, for few kernels here have one, echoed through NAT and FULLNAT.

SCTP_PROGRAMS=/usr/lib/usrsctp

run_lab() {
    local family host
    [[ -x $SCTP_PROGRAMS/echo_server ]] || {
        echo "missing: apt-get install libusrsctp-examples" >&2
        exit 1
    }
    nat_network 2
    # shellcheck disable=SC2034
    LOCAL4=(192.0.2.100) LOCAL6=(2001:db8:2::100)
    for host in rs1 rs2; do
        start "$host" sctp-echo "$SCTP_PROGRAMS/echo_server"
    done
    start_lvsd
    nat_addresses
    twin_has lan 192.0.2.100/32 2001:db8:2::100/128
    for family in $FAMILIES; do
        use_family "$family"
        balanced --sctp-service 7 7 -m
        check_echo NAT 7
        full_nat --sctp-service 77 7
        check_echo FULLNAT 77
        ipvsadm -Ln --sctp-service "$(vip 7)" --stats
        ipvsadm -Lnc
    done
    lvsctl drops
}

# associate PORT TEXT: an association whose echo goes to a file; the client lingers for some seconds after its end.
associate() {
    SAID=$LAB_STATE/sctp-said-$((++ASSOCIATIONS))
    { echo "$2" && sleep 1; } | ip netns exec "$(ns client)" timeout 5 "$SCTP_PROGRAMS/client" "$VIP" "$1" >"$SAID" 2>&1 &
    remember $! "client-sctp"
}

ASSOCIATIONS=0

has_said() { grep -q "$1" "$SAID"; }

# comes_back PORT TEXT
comes_back() {
    associate "$@"
    until_true 5 has_said "$2"
}

# check_echo MODE PORT
check_echo() {
    check "$1: an association echoes" until_true 60 comes_back "$2" "one two three"
    check "$1: another one too" until_true 60 comes_back "$2" "four five six"
    # Each worker takes turns by itself.
    ((WORKERS == 1)) || return 0
    equal "$1: both servers had one" 2 "$(rows_of "$(vip "$2")" | awk '$1 == "SCTP" { print $6 }' | sort -u | wc -l)"
}
