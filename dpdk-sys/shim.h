/* What bindgen reads: DPDK's headers, and symbols for what DPDK offers only inline or as a macro. */
#ifndef LVSD_DPDK_SHIM_H
#define LVSD_DPDK_SHIM_H

#include <stddef.h>
#include <stdio.h>

#include <rte_cycles.h>
#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_epoll.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_launch.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_malloc.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_version.h>

/* Macros of 64-bit expressions, which bindgen cannot evaluate. */
static const uint64_t SHIM_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t SHIM_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t SHIM_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t SHIM_RSS_SCTP = RTE_ETH_RSS_SCTP;
/* What a hash over ports needs: RFC 9293 and RFC 768 over both families, without extension headers. */
static const uint64_t SHIM_RSS_PORTS = RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP |
	RTE_ETH_RSS_NONFRAG_IPV4_UDP | RTE_ETH_RSS_NONFRAG_IPV6_UDP;
static const uint64_t SHIM_TX_OFFLOAD_MBUF_FAST_FREE = RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE;
static const uint32_t SHIM_MQ_RX_NONE = RTE_ETH_MQ_RX_NONE;
static const uint32_t SHIM_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;
static const uint32_t SHIM_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
static const uint32_t SHIM_LCORES_MAX = RTE_MAX_LCORE;
static const uint32_t SHIM_MEMPOOL_CACHE_MAX = RTE_MEMPOOL_CACHE_MAX_SIZE;
static const int32_t SHIM_EPOLL_PER_THREAD = RTE_EPOLL_PER_THREAD;
static const int32_t SHIM_INTR_EVENT_ADD = RTE_INTR_EVENT_ADD;
static const int32_t SHIM_SOCKET_ID_ANY = SOCKET_ID_ANY;

/*
 * The offset and the type of a field of an mbuf. Since DPDK 24.11 most of these fields are in anonymous structs and
 * unions, to which bindgen gives names of its own.
 */
#define SHIM_MBUF_FIELD(field) \
	static const size_t SHIM_MBUF_OFFSET_##field = offsetof(struct rte_mbuf, field); \
	typedef __typeof__(((struct rte_mbuf *)0)->field) shim_mbuf_##field
SHIM_MBUF_FIELD(buf_addr);
SHIM_MBUF_FIELD(buf_len);
SHIM_MBUF_FIELD(data_len);
SHIM_MBUF_FIELD(data_off);
SHIM_MBUF_FIELD(nb_segs);
SHIM_MBUF_FIELD(pkt_len);

uint16_t shim_eth_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
uint16_t shim_eth_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **mbufs, uint16_t count);
struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool);
void shim_pktmbuf_free(struct rte_mbuf *mbuf);
uint32_t shim_lcore_id(void);
uint64_t shim_rdtsc(void);
int shim_errno(void);
/* Whether `link` says up, and its speed in Mbit/s: the fields are a union with bit fields. */
int shim_link_up(const struct rte_eth_link *link);
uint32_t shim_link_speed_mbps(const struct rte_eth_link *link);

#endif
