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

# What comes first, and what can be asked for behind it, in this order.
MACHINE_FIRST="install refusals bind start" MACHINE_STEPS="unit nat fullnat dr tun spread workers interrupts link crash unbind"

machine_addresses() {
    VIP4=198.51.100.80 VIP6=2001:db8:1::80 DIRECTOR4=198.51.100.1 DIRECTOR6=2001:db8:1::1
    RS4=(192.0.2.11 192.0.2.12) RS6=(2001:db8:2::11 2001:db8:2::12) LOCAL4=(192.0.2.100) LOCAL6=(2001:db8:2::100)
}

# client, router — outside — wan [machine] lan — inside — rs1, rs2, router: one network for every mode.
machine_network() {
    local n
    new_lan outside
    new_lan inside
    new_client
    # Less on its way than a receive queue holds: where qemu spreads frames itself and a queue is full, it stops reading
    # that tap's queue and waits for a kick of the other one, for ever.
    set_sysctl client net.ipv4.tcp_rmem="4096 65536 262144"
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
    local step steps begun
    read -ra steps <<<"${STEPS:-$MACHINE_STEPS}"
    machine_addresses
    if [[ $AGAIN == true ]]; then
        log_in
    else
        # Built by 'scripts/dev machine'.
        : "${MACHINE_PACKAGE:?names the package to install}"
        read -ra steps <<<"$MACHINE_FIRST ${STEPS:-$MACHINE_STEPS}"
        machine_network
        boot_machine "$MACHINE_NIC"
    fi
    for step in "${steps[@]}"; do
        begun=$SECONDS
        "step_$step"
        echo "step $step took $((SECONDS - begun)) s"
    done
}

# The machine's file tree is this one's with a layer of its own: what the package needs is there.
step_install() {
    title "the package"
    cp "$MACHINE_PACKAGE" "$(machine_folder)/lvsd.deb"
    director_types dpkg -i /run/machine/lvsd.deb
}

# Nothing is taken whose loss would cut the operator off; each refusal names its cure.
step_refusals() {
    title "IOMMU, NICs, and what is not taken"
    director_types lvs-nic list
    check_refused "the NIC that carries the ssh session" 'carries an ssh session' mgmt
    in_machine ip link set enp1s0 up
    in_machine ip -6 address add 2001:db8:1::1/64 dev enp1s0 nodad
    in_machine ip -6 route add default via 2001:db8:1::fe
    check_refused "the NIC of the IPv6 default route" 'carries the default route' enp2s0 enp1s0
    in_machine ip -6 route del default
    in_machine ip -6 address flush dev enp1s0 scope global
    check "and none of those named with it is bound" in_machine test -e /sys/class/net/enp2s0
    check_refused "one of two NICs in an IOMMU group" 'its IOMMU group .* also holds' enp4s1
    check "both together would not be" in_machine lvs-nic bind --dry-run enp4s1 enp4s2
    check_refused "what is no NIC" 'is no network device' 0000:00:00.0
}

# check_refused WHOM WORDS NAME...
check_refused() {
    local whom=$1 words=$2 said
    shift 2
    said=$(director_types lvs-nic bind "$@" || true)
    echo "$said"
    check "$whom is refused" grep -q "$words" <<<"$said"
}

# What the NICs had before, for comparison at the end.
nic_state() {
    # shellcheck disable=SC2016
    in_machine sh -c 'for name in enp1s0 enp2s0; do ip -o address show dev $name scope global; ip route show dev $name; done' |
        sed -E 's/^[0-9]+: //; s/ *\\? *valid_lft.*//; s/ linkdown//'
}

step_bind() {
    title "the NICs are bound"
    director_types ip address add 198.51.100.1/24 dev enp1s0
    director_types ip address add 192.0.2.1/24 dev enp2s0
    director_types ip link set enp1s0 up
    director_types ip link set enp2s0 up
    director_types ip route add 203.0.113.0/24 via 192.0.2.254
    nic_state >"$(machine_folder)/nics-before"
    director_types lvs-nic bind enp1s0 enp2s0
    director_types lvs-nic status | tee "$(machine_folder)/nic-status"
    equal "both NICs belong to vfio-pci" "vfio-pci vfio-pci" "$(awk '/^0000:/ { print $2 }' "$(machine_folder)/nic-status" | xargs)"
}

# write_director_config WORKERS
write_director_config() {
    local device index=1
    {
        printf '[eal]\nhugepages = "require"\nmain_core = 0\nworker_cores = [%s]\n\n' "$(seq -s, 1 "$1")"
        # All processors of the machine share those of this one.
        printf '[workers]\nidle = "%s"\nidle_sleep_us = 500\n\n[connections]\nipv4_max = 65536\nipv6_max = 16384\n' "${IDLE:-sleep}"
        for device in wan lan; do
            printf '\n[[device]]\nname = "%s"\ndpdk = "%s"\n' "$device" "$(pci_address "enp${index}s0")"
            index=$((index + 1))
        done
    } >"$(machine_folder)/lvsd.toml"
    director_types cp /run/machine/lvsd.toml /etc/lvsd/lvsd.toml
}

# pci_address INTERFACE: of a NIC that was called so before it was bound.
pci_address() { awk -v name="$1" '$3 == name { print $1 }' "$(machine_folder)/nic-status"; }

step_start() {
    title "lvsd under systemd"
    write_director_config "$WORKERS"
    director_types lvs-host apply --no-boot --hugepages "$MACHINE_HUGEPAGES_MB" || true
    director_types lvsd --check
    # Twins that outlast the daemon keep their addresses.
    director_types ip tuntap add dev wan mode tap
    director_types ip tuntap add dev lan mode tap
    director_types systemctl enable lvsd
    systemd_does start
    twin_has wan 198.51.100.1/24 198.51.100.80/32 2001:db8:1::1/64 2001:db8:1::80/128
    twin_has lan 192.0.2.1/24 192.0.2.100/32 2001:db8:2::1/64 2001:db8:2::100/128
    director_types lvsctl devices
    in_machine journalctl -u lvsd -o cat --no-pager
}

# systemd_does VERB: Type=notify, so systemctl returns when the sockets are open.
systemd_does() {
    director_types systemctl "$1" lvsd || {
        in_machine journalctl -u lvsd --no-pager -n 40
        exit 1
    }
    # The NICs' links need a moment to come up; neighbours are asked only then.
    check "lvsd runs and the links are up" until_true 30 links_are_up
}

links_are_up() { [[ $(lvsctl_quiet --json devices | jq -r '.[].link_up' | xargs) == "true true" ]]; }

# The sandbox as systemd makes it, which nothing but a running systemd shows.
step_unit() {
    local status exposure
    title "the unit"
    # shellcheck disable=SC2016
    status=$(in_machine sh -c 'cat /proc/$(pidof lvsd)/status')
    equal "system calls are filtered" 2 "$(awk '$1 == "Seccomp:" { print $2 }' <<<"$status")"
    equal "no new privileges" 1 "$(awk '$1 == "NoNewPrivs:" { print $2 }' <<<"$status")"
    equal "capabilities: chown, net_admin, net_raw, ipc_lock" 0000000000007001 "$(awk '$1 == "CapEff:" { print $2 }' <<<"$status")"
    # shellcheck disable=SC2016
    check "its file system is read-only" in_machine sh -c '! nsenter -t $(pidof lvsd) -m touch /etc/lvsd/new 2>/dev/null'
    exposure=$(in_machine systemd-analyze security --no-pager lvsd | awk '/Overall exposure/ { print $(NF - 2) }')
    check "systemd-analyze security says $exposure, at most 3.0" awk -v exposure="$exposure" 'BEGIN { exit !(exposure > 0 && exposure <= 3.0) }'
    check "a NIC in use is not given back" grep -q 'in use by lvsd' <(director_types lvs-nic unbind enp1s0)
}

step_nat() { serve nat; }
step_fullnat() { serve fullnat; }
step_dr() { serve dr; }
step_tun() { serve tun; }

# serve MODE: pages, a crowd and a download in each family, and which worker had what of it.
serve() {
    local family before
    for family in $FAMILIES; do
        use_family "$family"
        title "$1 over IPv$family, $WORKERS worker(s)"
        "mode_$1"
        check "$1: pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
        before=$(workers_now)
        check_alternates "$(url "$VIP")"
        check_ab "$MACHINE_REQUESTS" 20 "$(url "$VIP")"
        check_download "$(url "$VIP")"
        check_spread "$1" "$before" "$(workers_now)"
        ipvsadm -Ln
        ipvsadm -C
    done
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
    gateway_is router
    real_servers_have_vip
    servers -g
}

mode_tun() {
    local n
    gateway_is router
    real_servers_have_vip
    for n in 1 2; do
        in_ns "rs$n" ip link show tunl >/dev/null 2>&1 || {
            start "rs$n" tunnel "$(program tunnel-endpoint)" --interface tunl
            until_true 30 in_ns "rs$n" ip link show tunl >/dev/null 2>&1
        }
    done
    servers -i
}

real_servers_have_vip() {
    local n
    for n in 1 2; do
        [[ $(in_ns "rs$n" ip addr show dev lo) == *" $VIP4/"* ]] || silent_vip "rs$n" "$VIP4/32" "$VIP6/128"
    done
}

# workers_now: for each worker a line: frames received, connections begun, frames handed over.
workers_now() { lvsctl_quiet --json workers | jq -r '.[] | "\(.rx_packets) \(.scheduler_picks) \(.hand_over_packets)"'; }

# check_spread MODE BEFORE AFTER: with RSS every worker has its share, and only NAT's replies need a hand-over; without
# it workers give each other their shares.
check_spread() {
    local shares least
    shares=$(paste -d' ' <(echo "$2") <(echo "$3") | awk '{ print $4 - $1, $5 - $2, $6 - $3 }')
    awk '{ print "worker " NR - 1 ": " $1 " frames received, " $2 " connections begun, " $3 " frames handed over" }' <<<"$shares"
    ((WORKERS > 1)) || return 0
    least=$(awk -v even="$((MACHINE_REQUESTS / WORKERS))" '{ if ($2 * 3 < even) few = 1 } END { print few ? "no" : "yes" }' <<<"$shares")
    equal "$1: each worker has at least a third of its even share" yes "$least"
    if spreads; then
        [[ $1 == nat ]] || equal "$1: nothing is handed over" 0 "$(awk '{ sum += $3 } END { print sum }' <<<"$shares")"
        check "$1: lvsd sees that flows are spread by RSS" until_true 10 spread_is rss
    fi
}

# A NIC with several queues that brings all by one: crowds without a single loud flow among them, until lvsd has seen it.
step_spread() {
    spreads && return 0
    title "a NIC that does not spread flows"
    use_family 4
    mode_dr
    check "lvsd notices that all flows come by one queue" until_true 120 a_crowd_shows_it
    check "and says so once" in_machine sh -c '[ $(journalctl -u lvsd -o cat | grep -c "wan.* receive queues, but all flows come by one of them") = 1 ]'
    lvsctl devices
    ipvsadm -C
}

a_crowd_shows_it() {
    in_ns client ab -q -s 30 -n "$((4 * MACHINE_REQUESTS))" -c 20 "$(url "$VIP")/" >/dev/null 2>&1
    until_true 5 spread_is none
}

# What lvsd found out of how the NIC with the clients spreads flows.
spread_is() { [[ $(lvsctl_quiet --json devices | jq -r '.[] | select(.name == "wan") | .spread') == "$1" ]]; }

# Whether frames of the run's NICs are spread by RSS; the others put all in one queue, whatever they claim.
spreads() { [[ $MACHINE_NIC == virtio-rss || $MACHINE_NIC == igb ]]; }

# The same with other numbers of workers.
step_workers() {
    local configured=$WORKERS count
    for count in 1 2 4; do
        ((count != configured && count <= MACHINE_QUEUES)) || continue
        WORKERS=$count
        title "$WORKERS worker(s)"
        write_director_config "$WORKERS"
        systemd_does restart
        equal "$WORKERS worker(s) run" "$WORKERS" "$(workers_now | wc -l)"
        serve fullnat
        serve nat
    done
    WORKERS=$configured
    write_director_config "$WORKERS"
    systemd_does restart
}

# Workers that sleep until a NIC interrupts.
step_interrupts() {
    local interrupts
    title "receive interrupts"
    IDLE=adaptive write_director_config "$WORKERS"
    systemd_does restart
    check "lvsd says what wakes its workers" in_machine sh -c 'journalctl -u lvsd -o cat | grep "its interrupts wake workers that sleep"'
    serve fullnat
    interrupts=$(lvsctl_quiet --json workers | jq -r '.[].interrupts' | xargs)
    # Where all comes by one queue, one worker is woken; qemu's e1000e never interrupts for a queue.
    if spreads; then
        check "every worker was woken: $interrupts times" awk -v counts="$interrupts" 'BEGIN { n = split(counts, a, " "); for (i = 1; i <= n; i++) if (a[i] == 0) exit 1; exit n == 0 }'
    else
        echo "note  workers were woken $interrupts times"
    fi
    write_director_config "$WORKERS"
    systemd_does restart
}

# The switch takes the cable out and puts it back.
step_link() {
    title "a cable comes off"
    monitor "set_link net1 off"
    check "the director notices" until_true 60 link_is false
    monitor "set_link net1 on"
    check "and notices its return" until_true 60 link_is true
    use_family 4
    mode_nat
    check "and pages come as before" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    ipvsadm -C
}

link_is() { [[ $(lvsctl_quiet --json devices | jq -r '.[] | select(.name == "wan") | .link_up') == "$1" ]]; }

# kill -9 leaves NICs that the next start can use; systemd starts it.
step_crash() {
    local before
    title "kill -9"
    use_family 4
    mode_nat
    check "before: a page comes" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    before=$(in_machine pidof lvsd)
    director_types systemctl kill -s KILL lvsd
    check "systemd starts another" until_true 60 another_runs "$before"
    check "its rules are back and pages come again" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    ipvsadm -Ln
    ipvsadm -C
}

another_runs() {
    local now
    now=$(in_machine pidof lvsd) && [[ $now != "$1" && $(in_machine systemctl is-active lvsd) == active ]]
}

step_unbind() {
    title "the NICs go back"
    director_types systemctl disable --now lvsd
    director_types ip tuntap del dev wan mode tap
    director_types ip tuntap del dev lan mode tap
    director_types lvs-nic unbind enp1s0 enp2s0
    equal "addresses and routes are as before" "$(cat "$(machine_folder)/nics-before")" "$(nic_state)"
    check "and the kernel's own stack answers on them" until_true 30 pings client 198.51.100.1
}
