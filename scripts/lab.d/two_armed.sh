# shellcheck shell=bash
# Networks whose director stands between two LANs: clients outside, real servers inside.
# use_family reads the addresses.
# shellcheck disable=SC2034

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
    forward director
    plug_device wan outside
    plug_device lan inside
    for n in $(seq "$1"); do
        new_real_server "rs$n" inside "192.0.2.1$n/24" "2001:db8:2::1$n/64" 192.0.2.1 2001:db8:2::1
        RS4+=("192.0.2.1$n") RS6+=("2001:db8:2::1$n")
    done
}

# Three real servers that serve pages behind a director that has its addresses.
start_nat_of_three() {
    local host
    nat_network 3
    for host in rs1 rs2 rs3; do
        start_nginx "$host"
    done
    start_lvsd
    nat_addresses
    use_family 4
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
        forward "director$n"
        at "director$n"
        plug_device wan outside
        plug_device lan inside
    done
    for n in 1 2; do
        new_real_server "rs$n" inside "192.0.2.1$n/24" "2001:db8:2::1$n/64" 192.0.2.1 2001:db8:2::1
    done
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
        new_real_server "rs$n" far "203.0.113.1$n/24" "2001:db8:3::1$n/64" 203.0.113.1 2001:db8:3::1
    done
}

fullnat_addresses() {
    twin_has wan 198.51.100.1/24 198.51.100.80/32 2001:db8:1::1/64 2001:db8:1::80/128
    twin_has lan 192.0.2.1/24 192.0.2.100/32 192.0.2.101/32
    twin_has lan 2001:db8:2::1/64 2001:db8:2::100/128 2001:db8:2::101/128
    director_types ip route add 203.0.113.0/24 via 192.0.2.254
    director_types ip route add 2001:db8:3::/64 via 2001:db8:2::fe
}
