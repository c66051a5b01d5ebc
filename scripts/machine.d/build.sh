# shellcheck shell=bash
# The emulated machine's kernel and first file system: Debian's generic kernel, busybox, the modules that NICs need.

MACHINE_CACHE=${MACHINE_CACHE:-$LAB_HOME/target/machine}
MACHINE_MODULES="vfio vfio_pci vfio_iommu_type1 uio uio_pci_generic virtio_net virtio_pci virtio_rng virtio_blk e1000e igb vmxnet3
    crc32c_generic ext4 9p 9pnet_virtio overlay tun veth bridge autofs4"

machine_cannot() {
    echo "the emulated machine cannot be made: $*" >&2
    exit 1
}

# load FOLDER APT-OPTIONS -- PACKAGE...: Debian packages, as files. What apt knows of a mirror may be too old.
load() {
    local folder=$1 options=(-o APT::Sandbox::User=root)
    shift
    while [[ $1 != -- ]]; do
        options+=("$1")
        shift
    done
    shift
    (cd "$folder" && { apt-get "${options[@]}" download -qq "$@" ||
        { apt-get "${options[@]}" update -qq && apt-get "${options[@]}" download -qq "$@"; }; }) ||
        machine_cannot "no Debian mirror gives $*"
}

# unpack FOLDER APT-OPTIONS -- PACKAGE...: what Debian packages hold, below a folder; nothing is installed.
unpack() {
    local folder=$1 loaded file
    shift
    loaded=$(mktemp -d)
    load "$loaded" "$@"
    rm -rf "$folder.new"
    for file in "$loaded"/*.deb; do
        dpkg -x "$file" "$folder.new"
    done
    rm -rf "$loaded"
    mv "$folder.new" "$folder"
}

# find_qemu KIND: sets QEMU to a qemu that has this kind of NIC. Debian 12's own has no igb: then that of its backports.
find_qemu() {
    local apt=$MACHINE_CACHE/apt folder=$MACHINE_CACHE/qemu options
    QEMU=(qemu-system-x86_64 -accel "tcg,thread=multi")
    command -v "${QEMU[0]}" >/dev/null || machine_cannot "qemu is missing (scripts/dev setup installs it)"
    [[ $1 == igb ]] || return 0
    if [[ ! -d $folder ]]; then
        mkdir -p "$apt"/{lists/partial,cache/archives/partial}
        echo "deb http://deb.debian.org/debian bookworm-backports main" >"$apt/sources.list"
        options=(-o "Dir::State::Lists=$apt/lists" -o "Dir::Cache=$apt/cache" -o "Dir::Etc::sourcelist=$apt/sources.list"
            -o Dir::Etc::sourceparts=/dev/null)
        unpack "$folder" "${options[@]}" -- qemu-system-{x86,common,data}/bookworm-backports
    fi
    # With threads it now and then loses a processor's timer at boot; with one it does not.
    QEMU=("$folder/usr/bin/qemu-system-x86_64" -L "$folder/usr/share/qemu" -L /usr/share/seabios -accel "tcg,thread=single")
}

# The newest kernel that apt knows.
kernel_package() { apt-cache depends linux-image-amd64 2>/dev/null | awk '/Depends: linux-image-[0-9]/ && !found { print $2; found = 1 }'; }

# load_guest_packages: what a director of Debian has and a machine that builds one need not, into a folder.
load_guest_packages() {
    local folder=$MACHINE_CACHE/packages
    if [[ ! -d $folder ]]; then
        mkdir -p "$folder.new"
        load "$folder.new" -- driverctl ifupdown
        mv "$folder.new" "$folder"
    fi
    cp "$folder"/*.deb "$1/"
}

# build_machine: vmlinuz and initrd in MACHINE_CACHE, made once for each kernel version and each init.
build_machine() {
    local package kernel tree modules
    mkdir -p "$MACHINE_CACHE"
    package=$(kernel_package)
    [[ -n $package ]] || { apt-get update -qq && package=$(kernel_package); }
    [[ -n $package ]] || machine_cannot "no Debian mirror has linux-image-amd64"
    kernel=$MACHINE_CACHE/$package
    [[ -d $kernel ]] || unpack "$kernel" -- "$package"
    cp "$kernel"/boot/vmlinuz-* "$MACHINE_CACHE/vmlinuz"
    [[ $MACHINE_CACHE/initrd -nt $LAB_HOME/scripts/machine.d/init && $MACHINE_CACHE/initrd -nt $LAB_HOME/scripts/machine.d/build.sh ]] && return
    tree=$(mktemp -d)
    modules=$(basename "$kernel"/lib/modules/*)
    mkdir -p "$tree"/{bin,sbin,proc,sys,dev,lower,upper,root} "$tree/lib/modules/$modules"
    copy_modules "$kernel/lib/modules/$modules" "$tree/lib/modules/$modules"
    depmod -b "$tree" "$modules"
    cp /usr/bin/busybox "$tree/bin/busybox"
    install -m 755 "$LAB_HOME/scripts/machine.d/init" "$tree/init"
    (cd "$tree" && find . | cpio -o -H newc --quiet | gzip -1) >"$MACHINE_CACHE/initrd.new"
    mv "$MACHINE_CACHE/initrd.new" "$MACHINE_CACHE/initrd"
    rm -rf "$tree"
}

# copy_modules FROM TO: the wanted modules and all they depend on.
copy_modules() {
    local from=$1 to=$2 name file
    cp "$from"/modules.{builtin,order,builtin.modinfo} "$to/"
    depmod -b "${from%/lib/modules/*}" "$(basename "$from")"
    for name in $MACHINE_MODULES; do
        modprobe -d "${from%/lib/modules/*}" -S "$(basename "$from")" --show-depends "$name" 2>/dev/null | awk '$1 == "insmod" { print $2 }'
    done | sort -u | while read -r file; do
        install -D -m 644 "$file" "$to/${file#"$from"/}"
    done
}
