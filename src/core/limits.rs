//! A limit on everything, each with its reason.

/// Frames taken from a queue at once: enough to overlap memory latency, few enough to stay in L1.
pub const BURST_MAX: usize = 32;

/// Workers of one director; ids must fit the mailbox arrays.
pub const WORKERS_MAX: usize = 64;

/// Devices of one director.
pub const DEVICES_MAX: usize = 32;

/// Longest timeout that may be configured, in seconds: 31 days, as ipvsadm and keepalived have it. The kernel alone
/// would take 99 days.
pub const TIMEOUT_CONFIGURED_MAX_SEC: u32 = 31 * 86_400;

/// Longest timeout of the path, in seconds: a 32-bit millisecond clock can compare 24 days. What is configured
/// longer is shown as configured and runs for 20 days.
pub const TIMEOUT_MAX_SEC: u32 = 20 * 86_400;
/// The same in milliseconds.
pub const TIMEOUT_MAX_MS: u32 = TIMEOUT_MAX_SEC * 1_000;

/// Largest weight: the kernel's and ipvsadm's, although ipvsadm(8) says 65535.
pub const WEIGHT_MAX: u32 = i32::MAX as u32;

/// Virtual services: slots of per-worker scheduler state are allocated at start.
pub const SERVICES_MAX: usize = 16_384;

/// Real servers over all services, deleted ones in the trash included: one counter line a worker each.
pub const REAL_SERVERS_MAX: usize = 65_536;

/// How long a worker goes on with what it last saw of the other workers' connections: a fraction of what the
/// shortest connection lasts, and too rarely for their cache lines to bounce.
pub const LOADS_BEAT_US: u32 = 100;

/// Published loads that one look at the other workers reads: some 10 µs when all of them changed.
pub const LOADS_READ_MAX: usize = 4_096;

/// How long a worker goes on with the response times that it last saw.
pub const RESPONSES_MERGE_MS: u32 = 100;

/// Longest response time that is measured: servers that take longer are not there.
pub const RESPONSE_MAX_MS: u32 = 60_000;

/// Servers whose traffic is sampled in one pass of housekeeping: some 10 µs.
pub const SERVERS_SAMPLED_PER_PASS_MAX: usize = 1_024;

/// Local addresses of one service's pool.
pub const LOCAL_ADDRESSES_MAX: usize = 1_024;

/// First and last local port that FULLNAT uses; the range below belongs to services.
pub const LOCAL_PORT_FIRST: u16 = 1_024;
/// See [`LOCAL_PORT_FIRST`].
pub const LOCAL_PORT_LAST: u16 = 65_535;

/// How many (local address, port) candidates a new FULLNAT connection tries before it is refused.
pub const LOCAL_PORT_TRIES_MAX: u32 = 256;

/// How many local ports a new FULLNAT connection asks for the way of their replies where NICs have RSS: with 64
/// workers, the most there are, one in 64 comes home, and one connection in ten million finds none.
pub const RSS_PORT_TRIES_MAX: u32 = 1_024;

/// Packets that wait for one neighbour (kernel: `unres_qlen`, about 100 full frames).
pub const HELD_PER_NEIGHBOUR_MAX: usize = 64;

/// Packets that wait for any neighbour, per worker: bounds the buffers a scan can pin.
pub const HELD_MAX: usize = 512;

/// Bytes of an ICMPv4 error in total (RFC 1812 4.3.2.3, kernel `icmp_send`).
pub const ICMP4_ERROR_MAX: usize = 576;
/// Bytes of an ICMPv6 error in total (RFC 4443 2.4 c).
pub const ICMP6_ERROR_MAX: usize = 1_280;
/// ICMP errors a worker may send per second (kernel `icmp_msgs_per_sec`).
pub const ICMP_ERRORS_PER_SEC: u32 = 1_000;
/// ICMP errors a worker may send at once (kernel `icmp_msgs_burst` is 50; the golden bursts need no more).
pub const ICMP_ERRORS_BURST: u32 = 64;

/// IPv6 extension headers walked before a packet is called malformed.
pub const IPV6_EXTENSIONS_MAX: usize = 8;

/// VLAN tags walked (802.1Q and 802.1ad).
pub const VLAN_TAGS_MAX: usize = 2;

/// Timers of one family served in one pass of the loop, so that a mass expiry never stalls the queue. One pass begins
/// up to [`BURST_MAX`] connections a queue, each of which is served twice or three times (it may come down a level first).
pub const TIMERS_PER_PASS_MAX: usize = 128;

/// Seconds that a deleted real server is remembered after its last connection
/// (`IP_VS_DEST_TRASH_PERIOD`, net/ip_vs.h).
pub const TRASH_PERIOD_SEC: u32 = 120;

/// Destinations that a worker remembers for lblc and lblcr (the kernel: 16,384 a service): 1.2 MB a worker.
pub const LOCALITIES_MAX: usize = 16_384;
/// Servers of one destination in lblcr.
pub const LOCALITY_SERVERS_MAX: usize = 8;

/// Rules of the classifier: each is looked at for every packet without a connection.
pub const MARK_RULES_MAX: usize = 256;
/// Port ranges of one rule of the classifier (iptables' multiport has 15).
pub const MARK_PORT_RANGES_MAX: usize = 32;

/// Shortest time in which a persistence template that has connections is looked at again, in milliseconds
/// (ip_vs_conn.c `ip_vs_conn_expire`: 60 s).
pub const TEMPLATE_EXTENSION_MS: u32 = 60_000;

/// How long a connection lives that an ICMP error began and of which nothing else has come, in milliseconds
/// (ip_vs_conn.c `ip_vs_conn_new`: 3 s until the first state is set).
pub const TIMEOUT_STATELESS_MS: u32 = 3_000;

/// The defences in automatic mode begin when less than one part in so many of a connection table is free.
pub const DEFENCE_RESERVE_PARTS: usize = 8;
/// Time between two looks at the defences, in milliseconds (ip_vs_ctl.c `DEFENSE_TIMER_PERIOD`: 1 s).
pub const DEFENCE_PERIOD_MS: u32 = 1_000;
/// `drop_entry` looks at one part in so many of the table each time (ip_vs_conn.c: a 32nd).
pub const DROP_ENTRY_PARTS: usize = 32;
/// Slots of a connection table looked at in one housekeeping pass by `drop_entry` and as many by `expire_nodest_conn`, so
/// that neither stalls the queue.
pub const SWEEP_SLOTS_MAX: usize = 256;

/// Hops (resolved neighbours times the MTUs that routes impose): ids are 16 bits and the last one means none.
pub const HOPS_MAX: usize = 65_535;

/// Fragmented datagrams that a worker puts together at the same time; the oldest gives way to a new one, so
/// that a flood of first fragments cannot keep others out.
pub const DATAGRAMS_MAX: usize = 64;

/// Fragments of one datagram: 64 KiB in fragments of 576 bytes are 119. More are a way of wasting time.
pub const FRAGMENTS_PER_DATAGRAM_MAX: usize = 128;

/// Bytes of IP header and options, or of the headers before the fragment header, that fragments may have.
pub const FRAGMENT_HEADER_MAX: usize = 256;

/// Seconds that an incomplete IPv4 datagram is kept (kernel `ipfrag_time`).
pub const REASSEMBLY4_SEC: u32 = 30;
/// Seconds that an incomplete IPv6 datagram is kept (RFC 8200 4.5, kernel `nf_conntrack_frag6_timeout`).
pub const REASSEMBLY6_SEC: u32 = 60;

/// Frames that one burst can make besides its own: each of its frames completes a datagram of most fragments.
pub const GENERATED_FRAMES_MAX: usize = BURST_MAX * FRAGMENTS_PER_DATAGRAM_MAX;
/// Their bytes: each is one of 64 KiB with the headers of its pieces.
pub const GENERATED_BYTES_MAX: usize = BURST_MAX * 72 * 1_024;

/// Limits of the MSS that a service may impose: from the kernel's own least (`TCP_MIN_MSS`) to the longest packet.
pub const MSS_MAX_RANGE: std::ops::RangeInclusive<u16> = 88..=65_495;

/// Datagrams of a UDP connection that carry the client's address (DPVS `uoa_max_trail`).
pub const UOA_DATAGRAMS_MAX: u8 = 3;

/// Real servers whose path MTU a worker remembers, learned from ICMP errors about tunnels.
pub const PATH_MTUS_MAX: usize = 256;
/// Seconds that a learned path MTU is believed (kernel `ip_rt_mtu_expires`).
pub const PATH_MTU_SEC: u32 = 600;
/// Smallest path MTU that an ICMP error can teach (kernel `ip_rt_min_pmtu`).
pub const PATH_MTU_MIN: u16 = 552;

/// Connections that wait in a worker to be told to another director: a burst in which every packet is due with
/// its template, and two housekeeping passes of expiring templates.
pub const SYNC_OUTBOX_MAX: usize = 2 * BURST_MAX + 4 * TIMERS_PER_PASS_MAX;
