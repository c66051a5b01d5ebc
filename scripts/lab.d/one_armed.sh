# shellcheck shell=bash
# Networks whose director has one LAN, behind a router; real servers answer round it.
# use_family reads the addresses.
# shellcheck disable=SC2034

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
    director_behind_router
    for n in 1 2; do
        new_real_server "rs$n" inside "192.0.2.1$n/24" "2001:db8:2::1$n/64" 192.0.2.254 2001:db8:2::fe
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
    director_behind_router
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

# The LANs, the client, the router and the director, which has one LAN behind the router.
director_behind_router() {
    new_lan outside
    new_lan inside
    new_client
    new_router
    plug router inside inside
    address router inside 192.0.2.254/24 2001:db8:2::fe/64
    new_host director
    plug_device lan inside
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
