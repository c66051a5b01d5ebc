//! Finds libdpdk by pkg-config, generates the bindings by allow-list and compiles `shim.c`.
//!
//! Links DPDK's shared libraries: drivers are plugins that the EAL loads from the directory compiled into
//! `librte_eal` (Debian: `/usr/lib/<triplet>/dpdk/pmds-*`), so a new driver package needs no new build.

use std::path::PathBuf;
use std::process::Command;

/// Oldest DPDK whose API `shim.c` and `src/dpdk/` are written for.
const VERSION_MIN: &str = "22.11";

/// What to do when DPDK is not there.
const CURE: &str =
    "lvsd needs DPDK 22.11 or newer with its headers: apt install libdpdk-dev pkg-config libclang-dev clang";

/// The libraries whose symbols are used; everything else of DPDK is loaded as a plugin or not at all.
const LIBRARIES: &[&str] = &[
    "rte_eal",
    "rte_ethdev",
    "rte_mbuf",
    "rte_mempool",
    "rte_net",
    "rte_ring",
];

/// Functions that have a symbol of their own.
const FUNCTIONS: &[&str] = &[
    "rte_dev_probe",
    "rte_eal_cleanup",
    "rte_eal_get_runtime_dir",
    "rte_eal_init",
    "rte_eal_remote_launch",
    "rte_eal_wait_lcore",
    "rte_epoll_wait",
    "rte_eth_allmulticast_enable",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_mac_addr_add",
    "rte_eth_dev_mac_addr_remove",
    "rte_eth_dev_rss_reta_update",
    "rte_eth_dev_rx_intr_ctl_q",
    "rte_eth_dev_rx_intr_disable",
    "rte_eth_dev_rx_intr_enable",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_link_get_nowait",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_enable",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_eth_xstats_get",
    "rte_eth_xstats_get_names",
    "rte_free",
    "rte_get_tsc_hz",
    "rte_mempool_avail_count",
    "rte_mempool_in_use_count",
    "rte_openlog_stream",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create_by_ops",
    "rte_socket_id",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
    "rte_zmalloc_socket",
    "shim_.*",
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=shim.c");
    println!("cargo:rerun-if-changed=shim.h");
    let dpdk = match pkg_config::Config::new()
        .atleast_version(VERSION_MIN)
        .cargo_metadata(false)
        .probe("libdpdk")
    {
        Ok(dpdk) => dpdk,
        Err(cause) => {
            eprintln!("{CURE}\n\n{cause}");
            std::process::exit(1);
        }
    };
    let flags = compiler_flags();
    compile_shim(&flags);
    generate_bindings(&flags);
    for path in &dpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib={library}");
    }
}

/// All of DPDK's C flags. The `pkg_config` crate leaves out `-march` and `-include`, without which the
/// inline functions would be compiled for another machine than the library's.
fn compiler_flags() -> Vec<String> {
    let program = std::env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(program)
        .args(["--cflags", "libdpdk"])
        .output()
        .expect("pkg-config ran a moment ago");
    let text = String::from_utf8(output.stdout).expect("C flags are text");
    text.split_whitespace().map(str::to_owned).collect()
}

fn compile_shim(flags: &[String]) {
    let mut build = cc::Build::new();
    for flag in flags {
        build.flag(flag);
    }
    // Optimised in every profile: these are the inlined halves of rx_burst, tx_burst and alloc.
    build
        .opt_level(3)
        .flag("-Wno-unused-parameter")
        .file("shim.c")
        .compile("dpdk_shim");
}

fn generate_bindings(flags: &[String]) {
    let mut builder = bindgen::Builder::default()
        .header("shim.h")
        .clang_args(flags)
        .allowlist_var("SHIM_.*")
        .allowlist_type("shim_.*")
        .default_macro_constant_type(bindgen::MacroTypeVariation::Signed)
        .derive_default(true)
        .generate_comments(false)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .rust_target("1.88".parse().expect("a Rust version"))
        // Types behind pointers that nobody looks into. `MbufField` reaches the fields of an mbuf.
        .opaque_type("rte_mbuf|rte_mempool|rte_device|rte_eth_.*_fc_conf|rte_devargs|_IO_FILE");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let bindings = builder.generate().unwrap_or_else(|cause| {
        eprintln!("{CURE}\n\nbindgen: {cause}");
        std::process::exit(1);
    });
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("bindings.rs");
    bindings.write_to_file(out).expect("OUT_DIR is writable");
}
