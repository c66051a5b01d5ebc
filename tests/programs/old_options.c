// Programs IPVS by the socket options that tools used before netlink, as ipvsadm without libnl and collectd do.
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

// linux/ip_vs.h, which has netlink's names only in newer versions.
enum { SO_BASE = 64 + 1024 + 64 };
struct service_user {
    uint16_t protocol;
    uint32_t addr;
    uint16_t port;
    uint32_t fwmark;
    char scheduler[16];
    unsigned flags, timeout;
    uint32_t netmask;
};
struct server_user {
    uint32_t addr;
    uint16_t port;
    unsigned method;
    int weight;
    uint32_t upper, lower;
};
struct statistics {
    uint32_t connections, in_packets, out_packets;
    uint64_t in_bytes, out_bytes;
    uint32_t rates[5];
};
struct service_entry {
    struct service_user service;
    unsigned servers;
    struct statistics statistics;
};
struct services {
    unsigned count;
    struct service_entry entry[4];
};
struct server_entry {
    struct server_user server;
    uint32_t active, inactive, persistent;
    struct statistics statistics;
};
struct servers {
    uint16_t protocol;
    uint32_t addr;
    uint16_t port;
    uint32_t fwmark;
    unsigned count;
    struct server_entry entry[4];
};

static int fd;

static int get(int option, void *value, socklen_t length) { return getsockopt(fd, IPPROTO_IP, SO_BASE + option, value, &length); }
static int set(int option, void *value, socklen_t length) { return setsockopt(fd, IPPROTO_IP, SO_BASE + option, value, length); }

static char *text(uint32_t address) { return inet_ntoa(*(struct in_addr *)&address); }

int main(void) {
    unsigned info[3];
    struct { struct service_user service; struct server_user server; } both = {{0}, {0}};
    struct services services;
    struct servers servers;
    unsigned timeouts[3] = {700, 70, 77};

    fd = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
    if (get(1, info, sizeof info)) {
        perror("info");
        return 1;
    }
    printf("info %u.%u.%u, %u services\n", info[0] >> 16, info[0] >> 8 & 255, info[0] & 255, info[2]);

    both.service.protocol = IPPROTO_TCP;
    both.service.addr = inet_addr("192.0.2.9");
    both.service.port = htons(99);
    strcpy(both.service.scheduler, "rr");
    both.service.netmask = 0xffffffff;
    if (set(2, &both.service, sizeof both.service) == 0) puts("added");
    both.server.addr = inet_addr("198.51.100.1");
    both.server.port = htons(80);
    both.server.weight = 3;
    if (set(7, &both, sizeof both) == 0) puts("server added");

    services.count = 1;
    if (get(2, &services, (char *)&services.entry[1] - (char *)&services) == 0)
        printf("%u services: %s:%u %s %u servers\n", services.count, text(services.entry[0].service.addr),
               ntohs(services.entry[0].service.port), services.entry[0].service.scheduler, services.entry[0].servers);
    servers.protocol = IPPROTO_TCP;
    servers.addr = both.service.addr;
    servers.port = both.service.port;
    servers.fwmark = 0;
    servers.count = 1;
    if (get(4, &servers, (char *)&servers.entry[1] - (char *)&servers) == 0)
        printf("server %s:%u weight %d\n", text(servers.entry[0].server.addr), ntohs(servers.entry[0].server.port),
               servers.entry[0].server.weight);
    if (set(10, timeouts, sizeof timeouts) == 0 && get(6, timeouts, sizeof timeouts) == 0)
        printf("timeouts %u %u %u\n", timeouts[0], timeouts[1], timeouts[2]);
    if (set(2, &both.service, sizeof both.service) && errno == EEXIST) puts("exists already");
    both.service.port = htons(98);
    if (set(4, &both.service, sizeof both.service) && errno == ESRCH) puts("no such service");
    both.service.port = htons(99);
    if (set(4, &both.service, sizeof both.service) == 0) puts("deleted");
    return 0;
}
