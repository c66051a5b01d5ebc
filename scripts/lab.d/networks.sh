# shellcheck shell=bash
# The networks of the labs: which hosts, which LANs, which addresses.

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

LOCAL4=() LOCAL6=()

# client — [wan director lan] — rs1, rs2 ...: the real servers' gateway is the director.
nat_network() {
    local n
    VIP4=198.51.100.80 VIP6=2001:db8:1::80 DIRECTOR4=198.51.100.1 DIRECTOR6=2001:db8:1::1 RS4=() RS6=()
    cat <<'PICTURE'
  client 198.51.100.2 ── outside ── wan [director] lan ── inside ── rs1 192.0.2.11, rs2 192.0.2.12 ...
  2001:db8:1::2          VIP 198.51.100.80, 2001:db8:1::80          2001:db8:2::11, ::12; gateway .1
PICTURE
    new_lan outside
    new_lan inside
    new_client
    new_host director
    plug_device wan outside
    plug_device lan inside
    for n in $(seq "$1"); do
        new_host "rs$n"
        plug "rs$n" eth0 inside
        address "rs$n" eth0 "192.0.2.1$n/24" "2001:db8:2::1$n/64"
        gateway "rs$n" 192.0.2.1 2001:db8:2::1
        RS4+=("192.0.2.1$n") RS6+=("2001:db8:2::1$n")
    done
}

nat_addresses() {
    twin_has wan 198.51.100.1/24 198.51.100.80/32 2001:db8:1::1/64 2001:db8:1::80/128
    twin_has lan 192.0.2.1/24 2001:db8:2::1/64
}

# client — [wan director1 lan] — rs1, rs2, and director2 beside director1; the addresses between them are VRRP's.
pair_network() {
    local n
    VIP4=198.51.100.80 VIP6=2001:db8:1::80 DIRECTOR4=192.0.2.1 DIRECTOR6=2001:db8:2::1
    RS4=(192.0.2.11 192.0.2.12) RS6=(2001:db8:2::11 2001:db8:2::12)
    cat <<'PICTURE'
  client 198.51.100.2 ── outside ──┬── wan [director1] lan ──┬── inside ── rs1 192.0.2.11, rs2 192.0.2.12
                                   └── wan [director2] lan ──┘             gateway 192.0.2.1
        VIP 198.51.100.80                                  192.0.2.1: both are where the master is
PICTURE
    new_lan outside
    new_lan inside
    new_client
    for n in 1 2; do
        new_host "director$n"
        at "director$n"
        plug_device wan outside
        plug_device lan inside
    done
    for n in 1 2; do
        new_host "rs$n"
        plug "rs$n" eth0 inside
        address "rs$n" eth0 "192.0.2.1$n/24" "2001:db8:2::1$n/64"
        gateway "rs$n" 192.0.2.1 2001:db8:2::1
    done
}

# client — router — one LAN with the director and the real servers; their gateway is the router.
dr_network() {
    local n
    VIP4=192.0.2.80 VIP6=2001:db8:2::80 DIRECTOR4=192.0.2.1 DIRECTOR6=2001:db8:2::1
    RS4=(192.0.2.11 192.0.2.12) RS6=(2001:db8:2::11 2001:db8:2::12)
    cat <<'PICTURE'
  client 198.51.100.2 ── router ── inside ──┬── lan [director] 192.0.2.1, VIP 192.0.2.80
  2001:db8:1::2        .1   .254            ├── rs1 192.0.2.11  (VIP silent on lo)
                                            └── rs2 192.0.2.12  (VIP silent on lo)
PICTURE
    new_lan outside
    new_lan inside
    new_client
    new_router
    plug router inside inside
    address router inside 192.0.2.254/24 2001:db8:2::fe/64
    new_host director
    plug_device lan inside
    for n in 1 2; do
        new_host "rs$n"
        plug "rs$n" eth0 inside
        address "rs$n" eth0 "192.0.2.1$n/24" "2001:db8:2::1$n/64"
        gateway "rs$n" 192.0.2.254 2001:db8:2::fe
        silent_vip "rs$n" "$VIP4/32" "$VIP6/128"
    done
}

# client — router — director, and each real server in a network of its own behind the router.
tun_network() {
    local n
    VIP4=192.0.2.80 VIP6=2001:db8:2::80 DIRECTOR4=192.0.2.1 DIRECTOR6=2001:db8:2::1
    RS4=(203.0.113.11 203.0.113.139) RS6=(2001:db8:3::11 2001:db8:4::11)
    cat <<'PICTURE'
  client 198.51.100.2 ── router ──┬── inside ── lan [director] 192.0.2.1, VIP 192.0.2.80
  2001:db8:1::2                   ├── rs1 203.0.113.11/25   (tunnel end, VIP silent on lo)
                                  └── rs2 203.0.113.139/25  (tunnel end, VIP silent on lo)
PICTURE
    new_lan outside
    new_lan inside
    new_client
    new_router
    plug router inside inside
    address router inside 192.0.2.254/24 2001:db8:2::fe/64
    new_host director
    plug_device lan inside
    for n in 1 2; do
        new_lan "far$n"
        plug router "far$n" "far$n"
        new_host "rs$n"
        plug "rs$n" eth0 "far$n"
        silent_vip "rs$n" "$VIP4/32" "$VIP6/128"
    done
    address router far1 203.0.113.1/25 2001:db8:3::1/64
    address router far2 203.0.113.129/25 2001:db8:4::1/64
    address rs1 eth0 203.0.113.11/25 2001:db8:3::11/64
    address rs2 eth0 203.0.113.139/25 2001:db8:4::11/64
    gateway rs1 203.0.113.1 2001:db8:3::1
    gateway rs2 203.0.113.129 2001:db8:4::1
}

# client — [wan director lan] — router — real servers, whose gateway knows no way to the client.
fullnat_network() {
    local n
    VIP4=198.51.100.80 VIP6=2001:db8:1::80 DIRECTOR4=198.51.100.1 DIRECTOR6=2001:db8:1::1
    RS4=(203.0.113.11 203.0.113.12) RS6=(2001:db8:3::11 2001:db8:3::12)
    LOCAL4=(192.0.2.100 192.0.2.101) LOCAL6=(2001:db8:2::100 2001:db8:2::101)
    cat <<'PICTURE'
  client 198.51.100.2 ── wan [director] lan ── inside ── gateway ── far ── rs1 203.0.113.11, rs2 203.0.113.12
  2001:db8:1::2          VIP 198.51.100.80     192.0.2.0/24         the gateway has no route to the client
                         local addresses 192.0.2.100, .101
PICTURE
    new_lan outside
    new_lan inside
    new_lan far
    new_client
    new_host director
    plug_device wan outside
    plug_device lan inside
    new_host gateway
    forward gateway
    plug gateway inside inside
    plug gateway far far
    address gateway inside 192.0.2.254/24 2001:db8:2::fe/64
    address gateway far 203.0.113.1/24 2001:db8:3::1/64
    for n in 1 2; do
        new_host "rs$n"
        plug "rs$n" eth0 far
        address "rs$n" eth0 "203.0.113.1$n/24" "2001:db8:3::1$n/64"
        gateway "rs$n" 203.0.113.1 2001:db8:3::1
    done
}

fullnat_addresses() {
    twin_has wan 198.51.100.1/24 198.51.100.80/32 2001:db8:1::1/64 2001:db8:1::80/128
    twin_has lan 192.0.2.1/24 192.0.2.100/32 192.0.2.101/32
    twin_has lan 2001:db8:2::1/64 2001:db8:2::100/128 2001:db8:2::101/128
    director_types ip route add 203.0.113.0/24 via 192.0.2.254
    director_types ip route add 2001:db8:3::/64 via 2001:db8:2::fe
}

# The director on one LAN: its addresses, the VIP and the router.
one_armed_addresses() {
    twin_has lan 192.0.2.1/24 192.0.2.80/32 2001:db8:2::1/64 2001:db8:2::80/128
    director_types ip route add default via 192.0.2.254
    director_types ip route add default via 2001:db8:2::fe
}

new_router() {
    new_host router
    forward router
    plug router outside outside
    address router outside 198.51.100.1/24 2001:db8:1::1/64
    gateway client 198.51.100.1 2001:db8:1::1
}
