# shellcheck shell=bash
# One director that balances in every mode at once, each on a VIP of its own, between two LANs.
# use_family reads the addresses.
# shellcheck disable=SC2034,SC2153

# The modes, and FULLNAT that tells its servers the client; the place of each is the last digit of its VIP.
EVERY_MODE=(nat dr tun fullnat proxy toa)

# vip_of MODE 4|6
vip_of() {
    local n
    for n in "${!EVERY_MODE[@]}"; do
        [[ ${EVERY_MODE[n]} == "$1" ]] || continue
        if [[ $2 == 4 ]]; then echo "198.51.100.8$n"; else echo "2001:db8:1::8$n"; fi
    done
}

# The network of NAT with a router beside the director, which takes what servers say as the VIPs of DR and TUN.
every_mode_network() {
    local host mode
    nat_network 2
    LOCAL4=(192.0.2.100 192.0.2.101) LOCAL6=(2001:db8:2::100 2001:db8:2::101)
    cat <<'PICTURE'
                            └── router ──┘     answers of DR and TUN
  nat .80 ::80, dr .81 ::81, tun .82 ::82, FULLNAT .83 ::83, with PROXY .84 ::84, with TOA .85 ::85
PICTURE
    new_host router
    forward router
    plug router outside outside
    plug router inside inside
    address router outside 198.51.100.254/24 2001:db8:1::fe/64
    address router inside 192.0.2.254/24 2001:db8:2::fe/64
    for host in rs1 rs2; do
        for mode in dr tun; do
            silent_vip "$host" "$(vip_of "$mode" 4)/32" "$(vip_of "$mode" 6)/128"
            in_ns "$host" ip rule add from "$(vip_of "$mode" 4)" lookup 100
            in_ns "$host" ip -6 rule add from "$(vip_of "$mode" 6)" lookup 100
        done
        in_ns "$host" ip route add default via 192.0.2.254 table 100
        in_ns "$host" ip -6 route add default via 2001:db8:2::fe table 100
    done
}

every_mode_addresses() {
    local mode
    nat_addresses
    for mode in "${EVERY_MODE[@]:1}"; do
        twin_has wan "$(vip_of "$mode" 4)/32" "$(vip_of "$mode" 6)/128"
    done
    twin_has lan "${LOCAL4[@]/%//32}" "${LOCAL6[@]/%//128}"
}

# start_every_server HOST ADDRESS4 ADDRESS6: web pages, logins, UDP on port 7, and on 9000 an echo that also says what is
# added to the file 'pushes'.
start_every_server() {
    local host=$1 mode own=("$2:7" "[$3]:7")
    for mode in dr tun; do
        own+=("$(vip_of "$mode" 4):7" "[$(vip_of "$mode" 6)]:7")
    done
    start_nginx "$host"
    start_sshd "$host"
    start_udp_echo "$host" "${own[@]}" --say "$host"
    start "$host" tunnel "$(program tunnel-endpoint)" --interface tunl
    until_true 60 in_ns "$host" ip link show tunl >/dev/null 2>&1
    touch "$LAB_STATE/pushes"
    start "$host" pushes socat TCP6-LISTEN:9000,ipv6only=0,reuseaddr,backlog=64,fork \
        "SYSTEM:tail -n 0 -f $LAB_STATE/pushes & exec cat"
    wait_listen "$host" 9000
}

# serve_in MODE: the VIP's services: 22, 80, 8080, 9000 and UDP 7, and 443 with persistence.
serve_in() {
    local service
    rules_in "$1" >"$LAB_STATE/rules"
    ipvsadm -R <"$LAB_STATE/rules"
    [[ ! $1 =~ ^(nat|dr|tun)$ ]] || return 0
    for service in "$(tcp 22)" "$(tcp 80)" "$(tcp 443)" "$(tcp 8080)" "$(tcp 9000)" "$(udp 7)"; do
        lvsctl_quiet local-address set "$service" "${LOCALS[@]}"
    done
    case $1 in
    proxy) lvsctl service edit "$(tcp 80)" --client-address proxy-v2 ;;
    toa) lvsctl service edit "$(tcp 80)" --client-address toa ;;
    esac
}

# rules_in MODE: as ipvsadm-save would write them.
rules_in() {
    local n port server_port way=-m
    case $1 in
    dr) way=-g ;;
    tun) way=-i ;;
    esac
    for port in 22 80 443 8080 9000; do
        server_port=$port
        [[ $1 == proxy && $port == 80 ]] && server_port=8081
        echo "-A -t $(vip "$port") -s rr $([[ $port != 443 ]] || echo "-p 360")"
        for n in 1 2; do
            echo "-a -t $(vip "$port") -r $(rs "$n" "$server_port") $way"
        done
    done
    echo "-A -u $(vip 7) -s rr"
    for n in 1 2; do
        echo "-a -u $(vip 7) -r $(rs "$n" 7) $way"
    done
}
