# shellcheck shell=bash
# The director as an emulated machine: PCI NICs behind an IOMMU, bound by scripts/nic, RSS over several queues; every
# mode with real programs at both ends, a daemon that dies, and NICs that come back to the kernel as they were.

# shellcheck source=/dev/null
source "$LAB_HOME/scripts/machine.d/build.sh"
# shellcheck source=/dev/null
source "$LAB_HOME/scripts/machine.d/boot.sh"

# Commands are typed on the machine; its tools are installed there.
director_types() { typed director "$*" && in_machine "$@"; }
ipvsadm_quiet() { in_machine ipvsadm "$@"; }
lvsctl_quiet() { in_machine lvsctl "$@"; }

# client, router — outside — wan [machine] lan — inside — rs1, rs2, router: one network for every mode.
machine_network() {
    local n
    VIP4=198.51.100.80 VIP6=2001:db8:1::80 DIRECTOR4=198.51.100.1 DIRECTOR6=2001:db8:1::1
    RS4=(192.0.2.11 192.0.2.12) RS6=(2001:db8:2::11 2001:db8:2::12) LOCAL4=(192.0.2.100) LOCAL6=(2001:db8:2::100)
    new_lan outside
    new_lan inside
    new_client
    new_host router
    forward router
    plug router outside outside
    plug router inside inside
    address router outside 198.51.100.254/24 2001:db8:1::fe/64
    address router inside 192.0.2.254/24 2001:db8:2::fe/64
    plug_nic wan outside
    plug_nic lan inside
    for n in 1 2; do
        new_host "rs$n"
        plug "rs$n" eth0 inside
        address "rs$n" eth0 "192.0.2.1$n/24" "2001:db8:2::1$n/64"
        start_nginx "rs$n"
    done
}

# gateway_is director|router|none: where the real servers send what is not of their network.
gateway_is() {
    local n
    for n in 1 2; do
        in_ns "rs$n" ip route del default 2>/dev/null || true
        in_ns "rs$n" ip -6 route del default 2>/dev/null || true
        case $1 in
        director) gateway "rs$n" 192.0.2.1 2001:db8:2::1 ;;
        router) gateway "rs$n" 192.0.2.254 2001:db8:2::fe ;;
        esac
    done
}

run_lab() {
    local family mode
    # Built by 'scripts/dev machine'.
    : "${MACHINE_PACKAGE:?names the package to install}"
    machine_network
    boot_machine "$MACHINE_NIC"
    install_package
    title "IOMMU, NICs"
    director_types /usr/sbin/lvs-nic list
    check_refusal
    bind_nics
    start_director
    for family in $FAMILIES; do
        use_family "$family"
        for mode in nat fullnat dr tun; do
            "mode_$mode"
            check "$mode: the first page comes" until_true 20 answers "$(url "$VIP")/" rs1 rs2
            check_alternates "$(url "$VIP")"
            check_ab "$MACHINE_REQUESTS" 20 "$(url "$VIP")"
            check_download "$(url "$VIP")"
            check_spread "$mode"
            ipvsadm -Ln
            ipvsadm -C
        done
    done
    check_link
    check_crash
    check_unbind
}

# The machine's file tree is this one's with a layer of its own: what the package needs is there.
install_package() {
    title "the package"
    cp "$MACHINE_PACKAGE" "$(machine_folder)/lvsd.deb"
    director_types dpkg -i /run/machine/lvsd.deb
    director_types systemctl daemon-reload
}

# The NIC of the operator's own session is not taken.
check_refusal() {
    local said
    said=$(in_machine /usr/sbin/lvs-nic bind mgmt 2>&1 || true)
    echo "$said"
    check "the NIC that carries the ssh session is refused" grep -q 'carries an ssh session' <<<"$said"
}

# What the NICs had before, for comparison at the end.
nic_state() { in_machine sh -c 'for name in eth1 eth2; do ip -o address show dev $name scope global; ip route show dev $name; done' | sed 's/valid_lft.*//'; }

bind_nics() {
    director_types ip address add 198.51.100.1/24 dev eth1
    director_types ip link set eth1 up
    director_types ip address add 192.0.2.1/24 dev eth2
    director_types ip link set eth2 up
    director_types ip route add 203.0.113.0/24 via 192.0.2.254
    NICS_BEFORE=$(nic_state)
    # A guest of this size cannot isolate cores; pages are what it needs.
    director_types /usr/sbin/lvs-host apply --no-boot --hugepages "$MACHINE_HUGEPAGES_MB" || true
    director_types /usr/sbin/lvs-nic bind eth1 eth2
    director_types /usr/sbin/lvs-nic status
}

start_director() {
    local index address
    {
        echo '[eal]'
        echo 'hugepages = "require"'
        echo "worker_cores = [$(seq -s, 1 "$WORKERS")]"
        echo '[workers]'
        echo 'idle = "sleep"'
        index=1
        for device in wan lan; do
            address=$(in_machine sh -c "/usr/sbin/lvs-nic status | awk '/eth$index/ { print \$1 }'")
            printf '[[device]]\nname = "%s"\ndpdk = "%s"\n' "$device" "$address"
            index=$((index + 1))
        done
        printf '[connections]\nipv4_max = 65536\nipv6_max = 16384\n'
    } >"$(machine_folder)/lvsd.toml"
    director_types cp /run/machine/lvsd.toml /etc/lvsd/lvsd.toml
    start_unit
    twin_has wan 198.51.100.1/24 198.51.100.80/32 2001:db8:1::1/64 2001:db8:1::80/128
    twin_has lan 192.0.2.1/24 192.0.2.100/32 2001:db8:2::1/64 2001:db8:2::100/128
    director_types lvsctl devices
}

# Type=notify: systemctl returns when the sockets are open.
start_unit() {
    director_types systemctl start lvsd || {
        in_machine journalctl -u lvsd --no-pager | tail -n 40
        exit 1
    }
}

servers() {
    ipvsadm -A -t "$(vip 80)" -s rr
    ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" "$1"
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" "$1"
}

mode_nat() {
    gateway_is director
    servers -m
}

mode_fullnat() {
    gateway_is none
    ipvsadm -A -t "$(vip 80)" -s rr
    lvsctl local-address set "$(tcp 80)" "${LOCALS[0]}"
    ipvsadm -a -t "$(vip 80)" -r "$(rs 1 80)" -m
    ipvsadm -a -t "$(vip 80)" -r "$(rs 2 80)" -m
}

mode_dr() {
    local n
    gateway_is router
    for n in 1 2; do
        in_ns "rs$n" ip addr show dev lo | grep -q "$(host_part "$VIP")" || silent_vip "rs$n" "$VIP4/32" "$VIP6/128"
    done
    servers -g
}

host_part() { echo "${1%/*}"; }

mode_tun() {
    local n
    gateway_is router
    for n in 1 2; do
        in_ns "rs$n" ip link show tunl >/dev/null 2>&1 || {
            start "rs$n" tunnel "$(program tunnel-endpoint)" --interface tunl
            until_true 5 in_ns "rs$n" ip link show tunl >/dev/null
        }
    done
    servers -i
}

# workers FIELD: one number for each worker.
workers() { lvsctl_quiet --json workers | jq -r ".[].$1" | xargs; }

# Every worker had packets, where the NIC spreads them; FULLNAT needs no hand-over then.
check_spread() {
    local received handed
    received=$(workers rx_packets)
    handed=$(workers hand_over_packets)
    echo "received by worker: $received; handed over: $handed"
    ((WORKERS > 1)) || return 0
    case $MACHINE_NIC in
    virtio-rss | igb) check "$1: every worker received frames" every_one_received "$received" ;;
    esac
}

every_one_received() {
    local number
    for number in $1; do
        ((number > 0)) || return 1
    done
}

# The switch takes the cable out and puts it back.
check_link() {
    title "a cable comes off"
    monitor "set_link net1 off"
    check "the director notices" until_true 20 link_is down
    monitor "set_link net1 on"
    check "and notices its return" until_true 20 link_is up
}

link_is() { [[ $(lvsctl_quiet --json devices | jq -r '.[] | select(.name == "wan") | .link_up') == "$([[ $1 == up ]] && echo true || echo false)" ]]; }

# kill -9 leaves NICs that the next start can use; systemd starts it.
check_crash() {
    title "kill -9"
    use_family 4
    mode_nat
    check "before: a page comes" until_true 20 answers "$(url "$VIP")/" rs1 rs2
    director_types systemctl kill -s KILL lvsd
    check "after: rules are back and pages come again" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    ipvsadm -Ln
}

check_unbind() {
    title "the NICs go back"
    director_types systemctl stop lvsd
    director_types /usr/sbin/lvs-nic unbind eth1 eth2
    equal "addresses and routes are as before" "$NICS_BEFORE" "$(nic_state)"
    check "and the kernel's own stack answers on them" pings client 198.51.100.1
}
