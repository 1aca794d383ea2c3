// SPDX-License-Identifier: Apache-2.0
//
// The number of clients that wait at a listening socket. A TCP socket reports it; for a Unix socket the kernel reports
// it only by netlink: sock_diag(7). Parent.

#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/stat.h>

// The parts that we need of <linux/netlink.h>, <linux/sock_diag.h> and <linux/unix_diag.h>, which musl's compiler does
// not find.
enum { SOCK_DIAG = 4, DIAG_BY_FAMILY = 20, REQUEST = 1, FAILED = 2, RQLEN = 4, SHOW_RQLEN = 1 << RQLEN };

struct netlink_address {
    sa_family_t family;
    uint16_t pad;
    uint32_t port, groups;
};

struct netlink_header {
    uint32_t length;
    uint16_t type, flags;
    uint32_t sequence, port;
};

struct request {
    struct netlink_header header;
    uint8_t family, protocol;
    uint16_t pad;
    uint32_t states, inode, show, cookie[2];
};

struct attribute {
    uint16_t length, type; // the value, and the next attribute, begin at a multiple of 4
};

struct answer {
    struct netlink_header header;
    union {
        int error; // negative
        struct {
            uint8_t family, type, state, pad;
            uint32_t inode, cookie[2];
        } socket;
    };
    char attributes[512];
};

_Static_assert(sizeof(struct request) == 40 && offsetof(struct answer, attributes) == 32, "as the kernel lays them out");

static int ask(uint32_t inode, struct answer *answer, size_t *length)
{
    const struct netlink_address kernel = {.family = AF_NETLINK};
    const struct request request = {
        .header = {.length = sizeof request, .type = DIAG_BY_FAMILY, .flags = REQUEST},
        .family = AF_UNIX, .states = ~0u, .inode = inode, .show = SHOW_RQLEN, .cookie = {~0u, ~0u}};
    int netlink = socket(AF_NETLINK, SOCK_DGRAM | SOCK_CLOEXEC, SOCK_DIAG);
    if (netlink < 0)
        return errno;
    int error = forkcore_send_datagram(netlink, &request, sizeof request, (const void *)&kernel, sizeof kernel, NULL);
    if (error == 0) // the kernel has answered before sendto returns; if not, we do not wait
        do {
            ssize_t got = recv(netlink, answer, sizeof *answer, MSG_DONTWAIT);
            error = got < 0 ? errno : 0;
            *length = got < 0 ? 0 : (size_t)got;
        } while (error == EINTR);
    forkcore_close(netlink);
    return error;
}

static int queued_unix(int listener, unsigned *queued)
{
    struct stat status;
    struct answer answer;
    size_t length, head = offsetof(struct answer, attributes);

    if (fstat(listener, &status) != 0)
        return errno;
    int error = ask((uint32_t)status.st_ino, &answer, &length);
    if (error != 0)
        return error;
    if (length < head)
        return EBADMSG;
    if (answer.header.type == FAILED)
        return answer.error != 0 ? -answer.error : EBADMSG;
    if (answer.header.type != DIAG_BY_FAMILY || answer.socket.inode != (uint32_t)status.st_ino)
        return EBADMSG;
    if (answer.socket.state != TCP_LISTEN) // Unix sockets use TCP's constant
        return EINVAL;
    for (size_t at = head; at + sizeof(struct attribute) <= length;) {
        struct attribute attribute;
        memcpy(&attribute, (char *)&answer + at, sizeof attribute);
        if (attribute.length < sizeof attribute || attribute.length > length - at)
            break;
        if (attribute.type == RQLEN && attribute.length >= sizeof attribute + sizeof(uint32_t)) {
            memcpy(queued, (char *)&answer + at + sizeof attribute, sizeof(uint32_t));
            return 0;
        }
        at += (attribute.length + 3u) & ~3u;
    }
    return EBADMSG;
}

static int queued_tcp(int listener, unsigned *queued)
{
    struct tcp_info info;
    if (getsockopt(listener, IPPROTO_TCP, TCP_INFO, &info, &(socklen_t){sizeof info}) != 0)
        return errno == ENOPROTOOPT ? EOPNOTSUPP : errno;
    if (info.tcpi_state != TCP_LISTEN) // of a connection this is the number of unacknowledged segments
        return EINVAL;
    *queued = info.tcpi_unacked;
    return 0;
}

int forkcore_queued(int listener, unsigned *queued)
{
    int family;
    *queued = 0;
    if (getsockopt(listener, SOL_SOCKET, SO_DOMAIN, &family, &(socklen_t){sizeof family}) != 0)
        return errno;
    return family == AF_UNIX ? queued_unix(listener, queued) : queued_tcp(listener, queued);
}
