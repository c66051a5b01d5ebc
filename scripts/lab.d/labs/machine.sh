# shellcheck shell=bash
# The director as an emulated machine: PCI NICs behind an IOMMU, bound by scripts/nic, RSS over several queues; every
# mode with real programs at both ends, a daemon that dies, and NICs that come back to the kernel as they were.

# shellcheck source=/dev/null
source "$LAB_HOME/scripts/machine.d/build.sh"
# shellcheck source=/dev/null
source "$LAB_HOME/scripts/machine.d/boot.sh"

# The pair of docs/deploy.md, of which the machine is one.
# shellcheck source=scripts/lab.d/labs/pair.sh
source "$LAB_HOME/scripts/lab.d/labs/pair.sh"
PAIR=(director director2)

# Commands are typed on the machine, where the tools are installed, or in the namespace of the director beside it.
on_director() {
    if [[ $AT == director ]]; then
        in_machine "$@"
    else
        PATH=$(director_file bin):$PATH in_ns "$AT" "$@"
    fi
}

# What can be asked for, in this order. Installation, refusals, binding and the first start come before all but 'bare'.
MACHINE_STEPS="bare unit nat fullnat dr tun spread workers interrupts link crash upgrade pair reboot unbind revert"

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
    local step steps begun firmware=$MACHINE_VTD words="intel_iommu=on iommu=pt"
    read -ra steps <<<"${STEPS:-$MACHINE_STEPS}"
    machine_addresses
    if [[ $AGAIN == true ]]; then
        DEVICES=(wan lan)
        log_in
    else
        # Built by 'scripts/dev machine'.
        : "${MACHINE_PACKAGE:?names the package to install}"
        if [[ ${steps[0]} == bare ]]; then
            firmware="" words=""
            steps=(install bare refusals bind start "${steps[@]:1}")
        else
            steps=(install refusals bind start "${steps[@]}")
        fi
        machine_network
        boot_machine "$MACHINE_NIC" "$firmware" "$words"
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

# A server as it comes: no IOMMU in use, no hugepages, all cores for everybody.
step_bare() {
    title "a server as it comes"
    director_types lvs-nic list
    check_refused "a NIC where no IOMMU is in use" 'this machine has no IOMMU in use' enp1s0
    # shellcheck disable=SC2016
    check "with what to put on the kernel command line" grep -q 'put `iommu=pt intel_iommu=on` on the kernel command line' <<<"$REFUSAL"
    check_refused "vfio without IOMMU where this kernel has not got it" 'this kernel has no no-IOMMU mode' --no-iommu enp1s0
    check_refused "a driver that is not there" 'the driver igb_uio is not loaded and cannot be' --driver igb_uio enp1s0
    director_types ip address add 198.51.100.1/24 dev enp1s0
    director_types ip link set enp1s0 up
    director_types lvs-nic bind --driver uio_pci_generic enp1s0
    check "asked for by name, uio_pci_generic takes a NIC without an IOMMU" nic_is_with uio_pci_generic
    director_types lvs-nic unbind enp1s0
    check "and gives it back" grep -q 198.51.100.1/24 <(in_machine ip address show dev enp1s0)
    in_machine ip address flush dev enp1s0
    host_is "IOMMU,hugepages node0,isolated cores,tickless cores,RCU callbacks,transparent hugepages" check --cores "1-$MACHINE_QUEUES"
    host_is "IOMMU,isolated cores,tickless cores,RCU callbacks" apply --cores "1-$MACHINE_QUEUES"
    reboot_machine
    host_is "" check --cores "1-$MACHINE_QUEUES"
    cores_are "isolated from the boot on" "1-$MACHINE_QUEUES"
}

# cores_are WORDS LIST: as the kernel says.
cores_are() { equal "cores ${2:-none} are $1" "$2" "$(in_machine cat /sys/devices/system/cpu/isolated)"; }

nic_is_with() { in_machine test -e "/sys/bus/pci/drivers/$1/0000:01:00.0"; }

# host_is WRONG COMMAND...: what 'lvs-host' says to be wrong; but for interrupts of NICs that are still the kernel's.
host_is() {
    local said wrong=$1
    shift
    said=$(director_types lvs-host "$@" --hugepages "$MACHINE_HUGEPAGES_MB" || true)
    echo "$said"
    equal "lvs-host $1: wrong is ${wrong:-nothing}" "$wrong" \
        "$(awk -F'  +' -v kernels="$(kernels_nics)" '/^WRONG/ && !($2 == "interrupts" && kernels > 0) { print $2 }' <<<"$said" | paste -sd,)"
}

# kernels_nics: how many of the two are.
kernels_nics() { in_machine sh -c 'ls /sys/class/net | grep -c ^enp[12]s0' || true; }

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
    in_machine ip address add 198.51.100.1/24 dev enp1s0
    in_machine ip route add default via 198.51.100.254
    check_refused "the NIC of the IPv4 default route" 'carries the default route' enp2s0 enp1s0
    in_machine ip address flush dev enp1s0
    check "and none of those named with it is bound" in_machine test -e /sys/class/net/enp2s0
    check_refused "one of two NICs in an IOMMU group" 'its IOMMU group .* also holds' enp4s1
    check "both together would not be" in_machine lvs-nic bind --dry-run enp4s1 enp4s2
    check_refused "what is no NIC" 'is no network device' 0000:00:00.0
}

# check_refused WHOM WORDS NAME...: with a cure; what was said stays in REFUSAL.
check_refused() {
    local whom=$1 words=$2
    shift 2
    REFUSAL=$(director_types lvs-nic bind "$@" || true)
    echo "$REFUSAL"
    check "$whom is refused" awk -v words="$words" '$0 ~ words { why = 1 } /^ *cure: ./ { cure = 1 } END { exit !(why && cure) }' <<<"$REFUSAL"
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
    if [[ -n $(in_machine cat /sys/devices/system/cpu/isolated) ]]; then
        host_is "" apply --no-boot
    else
        # Without isolation the disk's interrupt may come anywhere, and cannot be moved.
        director_types lvs-host apply --no-boot --hugepages "$MACHINE_HUGEPAGES_MB" || true
    fi
    director_types lvsd --check
    # Twins that outlast the daemon keep their addresses.
    director_types ip tuntap add dev wan mode tap
    director_types ip tuntap add dev lan mode tap
    director_types systemctl enable lvsd
    systemd_does start
    director_addresses
    director_types lvsctl devices
    in_machine journalctl -u lvsd -o cat --no-pager
}

director_addresses() {
    twin_has wan 198.51.100.1/24 198.51.100.80/32 2001:db8:1::1/64 2001:db8:1::80/128
    twin_has lan 192.0.2.1/24 192.0.2.100/32 2001:db8:2::1/64 2001:db8:2::100/128
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
    workers_have_their_cores
    check "a NIC in use is not given back" grep -q 'in use by lvsd' <(director_types lvs-nic unbind enp1s0)
}

# workers_have_their_cores: each polls on one of its own, where no other program may run if it was isolated at boot.
workers_have_their_cores() {
    local allowed
    # Of each thread that is not the kernel's: the cores it may use, its name.
    allowed=$(in_machine sh -c "grep -hE '^(Name|VmSize|Cpus_allowed_list):' /proc/[0-9]*/task/*/status 2>/dev/null" |
        awk '$1 == "Name:" { name = $2; user = 0 } $1 == "VmSize:" { user = 1 } /^Cpus/ && user { print $2, name }')
    equal "each worker polls on a core of its own" "$(seq -s' ' 1 "$WORKERS")" \
        "$(awk '$2 ~ /^rte-worker/ { print $1 }' <<<"$allowed" | sort -n | xargs)"
    if [[ -n $(in_machine cat /sys/devices/system/cpu/isolated) ]]; then
        equal "and nobody else may run there" "0 " "$(awk '$2 !~ /^rte-worker/ { print $1 }' <<<"$allowed" | sort -u | xargs) "
    fi
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
        client_has_ports_of_its_own
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

# A director that sees no replies keeps a connection that its client closed for two minutes, and what that client sends
# from the same port goes the old way, whatever the service's mode is by then (conn_reuse_mode 1, as in the kernel). A
# crowd in a new mode therefore comes from other ports than those before.
client_has_ports_of_its_own() {
    local turn first
    turn=$(cat "$(machine_folder)/turn" 2>/dev/null || echo 0)
    echo "$((turn + 1))" >"$(machine_folder)/turn"
    first=$((16000 + turn % 48 * 1000))
    set_sysctl client net.ipv4.ip_local_port_range="$first $((first + 999))"
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
workers_now() { lvsctl_quiet --json workers | jq -r '.[] | "\(.rx_packets) \(.scheduler_picks) \(.handoff_out_packets)"'; }

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
    client_has_ports_of_its_own
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
spread_is() { [[ $(lvsctl_quiet --json devices | jq -r '.[] | select(.name == "wan") | .rss') == "$1" ]]; }

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
    check "its twin has no carrier" until_true 10 twin_carrier_is 0
    monitor "set_link net1 on"
    check "and notices its return" until_true 60 link_is true
    check "its twin has one again" until_true 10 twin_carrier_is 1
    use_family 4
    mode_nat
    check "and pages come as before" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    ipvsadm -C
}

twin_carrier_is() { [[ $(in_machine cat /sys/class/net/wan/carrier) == "$1" ]]; }
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

# A newer package over a running lvsd.
step_upgrade() {
    local before
    newer_package
    title "an upgrade"
    use_family 4
    mode_nat
    before=$(in_machine pidof lvsd)
    director_types dpkg -i /run/machine/newer.deb
    # shellcheck disable=SC2016
    equal "the newer package is installed" 0.1.0-2 "$(in_machine dpkg-query -W -f '${Version}' lvsd)"
    check "the new lvsd runs" another_runs "$before"
    check "with the rules of the old one" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    ipvsadm -C
}

# newer_package: the one that was installed, with a higher version.
newer_package() {
    local tree
    tree=$(machine_folder)/newer
    rm -rf "$tree"
    dpkg-deb -R "$(machine_folder)/lvsd.deb" "$tree"
    sed -i 's/^Version: .*/Version: 0.1.0-2/' "$tree/DEBIAN/control"
    dpkg-deb -Zgzip -z1 -b "$tree" "$tree.deb" >/dev/null
}

# The pair of docs/deploy.md: the machine is master, a director in a namespace beside it the backup.
step_pair() {
    title "The pair of docs/deploy.md"
    client_has_ports_of_its_own
    gateway_is director
    second_director
    at director
    in_machine ip address flush dev wan scope global
    in_machine ip address flush dev lan scope global
    own_addresses 1
    deploy_keepalived 150 >"$(machine_folder)/keepalived.conf"
    director_types cp /run/machine/keepalived.conf /etc/keepalived/keepalived.conf
    director_types keepalived --config-test
    director_types systemctl enable --now keepalived
    use_family 4
    comes_up_as_deploy_says
    leaves_with_downloads "keepalived of the master stopped" director_types systemctl stop keepalived
    director_types systemctl start keepalived
    comes_back_to_machine
    leaves_with_downloads "the master's cable pulled" monitor "set_link net1 off"
    monitor "set_link net1 on"
    comes_back_to_machine
    # systemd starts another, so the VIP may be back before the backup has missed it.
    director_types systemctl kill -s KILL lvsd
    check_takeover "lvsd of the master killed"
    comes_back_to_machine
    director_types systemctl disable --now keepalived
    at director2
    stop_keepalived
    end_lvsd TERM
    at director
    in_machine ip address flush dev wan scope global
    in_machine ip address flush dev lan scope global
    director_addresses
}

second_director() {
    at director2
    new_host director2
    plug_device wan outside
    plug_device lan inside
    start_lvsd
    own_addresses 2
    copy_from_deploy 100
    start_keepalived
}

# leaves_with_downloads SENTENCE COMMAND...: by the command the VIP goes to the backup, and with it downloads that run.
leaves_with_downloads() {
    start_downloads 4 "$(url "$VIP")"
    check "downloads run" until_true 30 at_least_active 4
    at director2
    check "director2 knows them" until_true 30 has_connections 4
    at director
    "${@:2}"
    check_takeover "$1"
    check_downloads
    at director2
    check "director2 is master" is_master
    at director
}

comes_back_to_machine() {
    check "the machine is master again" until_true 60 is_master
    check "the client is told" until_true 30 is_reached
    check "pages come by it" until_true 10 answers "$(url "$VIP")/" rs1 rs2
}

# NICs bound, twins with their addresses, lvsd with its rules: all of it comes back by itself.
step_reboot() {
    title "from power-on to the first page nobody types anything"
    use_family 4
    mode_nat
    # What a director keeps its bindings and its twins with.
    load_guest_packages "$(machine_folder)"
    director_types sh -c 'dpkg -i /run/machine/driverctl_*.deb /run/machine/ifupdown_*.deb'
    director_types lvs-nic bind --persist 0000:01:00.0 0000:02:00.0
    write_interfaces >"$(machine_folder)/interfaces"
    director_types cp /run/machine/interfaces /etc/network/interfaces.d/lvsd
    director_types systemctl enable networking lvsd
    # What sees devices come, driverctl's rule among it.
    in_machine systemctl --quiet unmask systemd-udevd.service systemd-udev-trigger.service systemd-udevd-{kernel,control}.socket
    reboot_machine
    check "both NICs are bound and lvsd runs" until_true 120 links_are_up
    director_types lvs-nic status
    check "its rules are back and pages come" until_true 60 answers "$(url "$VIP")/" rs1 rs2
    ipvsadm -Ln
    ipvsadm -C
}

# The twins, as ifupdown makes them at boot.
write_interfaces() {
    local twin addresses address
    for twin in "wan 198.51.100.1/24 198.51.100.80/32 2001:db8:1::1/64 2001:db8:1::80/128" \
        "lan 192.0.2.1/24 192.0.2.100/32 2001:db8:2::1/64 2001:db8:2::100/128"; do
        read -r twin addresses <<<"$twin"
        printf 'auto %s\niface %s inet manual\n' "$twin" "$twin"
        printf '    pre-up ip tuntap add dev %s mode tap\n    up ip link set %s up\n' "$twin" "$twin"
        for address in $addresses; do
            printf '    up ip address add %s dev %s%s\n' "$address" "$twin" "$([[ $address != *:* ]] || echo " nodad")"
        done
        printf '    post-down ip tuntap del dev %s mode tap\n\n' "$twin"
    done
}

step_unbind() {
    title "the NICs go back"
    director_types systemctl disable --now lvsd
    director_types ip link del wan
    director_types ip link del lan
    director_types lvs-nic unbind enp1s0 enp2s0
    equal "addresses and routes are as before" "$(cat "$(machine_folder)/nics-before")" "$(nic_state)"
    check "and the kernel's own stack answers on them" until_true 30 pings client 198.51.100.1
}

# lvs-host puts back what it found, for now and for the next boot.
step_revert() {
    title "the machine as it was"
    director_types lvs-host revert
    reboot_machine
    cores_are "isolated" ""
    equal "no hugepage is kept" 0 "$(in_machine cat /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages)"
    check "and both NICs are the kernel's" in_machine test -e /sys/class/net/enp1s0 -a -e /sys/class/net/enp2s0
}
