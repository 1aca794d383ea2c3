// SPDX-License-Identifier: Apache-2.0
//
// Datagrams: receives the sender and the destination address, and answers from that address.

#include "internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

// Room for the destination address, aligned as cmsg(3) requires.
union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(struct in6_pktinfo))];
};

int forkcore_tell_destination(int descriptor)
{
    int family;
    if (getsockopt(descriptor, SOL_SOCKET, SO_DOMAIN, &family, &(socklen_t){sizeof family}) != 0)
        return errno;
    int result = 0;
    if (family == AF_INET)
        result = setsockopt(descriptor, IPPROTO_IP, IP_PKTINFO, &(int){1}, sizeof(int));
    else if (family == AF_INET6) // for IPv4 senders too, as mapped addresses
        result = setsockopt(descriptor, IPPROTO_IPV6, IPV6_RECVPKTINFO, &(int){1}, sizeof(int));
    return result != 0 ? errno : 0;
}

static void read_destination(struct msghdr *message, struct forkcore_destination *to)
{
    *to = (struct forkcore_destination){0};
    for (struct cmsghdr *header = CMSG_FIRSTHDR(message); header != NULL; header = CMSG_NXTHDR(message, header)) {
        if (header->cmsg_level == IPPROTO_IP && header->cmsg_type == IP_PKTINFO) {
            struct in_pktinfo info;
            memcpy(&info, CMSG_DATA(header), sizeof info);
            to->family = AF_INET;
            memcpy(to->address, &info.ipi_spec_dst, sizeof info.ipi_spec_dst); // ours, even for a multicast
        } else if (header->cmsg_level == IPPROTO_IPV6 && header->cmsg_type == IPV6_PKTINFO) {
            struct in6_pktinfo info;
            memcpy(&info, CMSG_DATA(header), sizeof info);
            if (IN6_IS_ADDR_MULTICAST(&info.ipi6_addr))
                continue; // no answer can come from there
            to->family = AF_INET6;
            to->interface = IN6_IS_ADDR_LINKLOCAL(&info.ipi6_addr) ? (unsigned)info.ipi6_ifindex : 0;
            memcpy(to->address, &info.ipi6_addr, sizeof info.ipi6_addr);
        }
    }
}

int forkcore_receive_datagram(int descriptor, void *buffer, size_t size, struct sockaddr_storage *peer,
                              socklen_t *length, struct forkcore_destination *to, size_t *count, bool *truncated)
{
    union control control;
    struct iovec data = {.iov_base = buffer, .iov_len = size};
    struct msghdr message;
    ssize_t got;
    do // without room on a Unix socket: what is attached there is not to become a descriptor of ours
        message = (struct msghdr){.msg_name = peer, .msg_namelen = sizeof *peer, .msg_iov = &data, .msg_iovlen = 1,
                                  .msg_control = to ? &control : NULL, .msg_controllen = to ? sizeof control : 0};
    while ((got = recvmsg(descriptor, &message, MSG_DONTWAIT | MSG_TRUNC | MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR);
    if (got < 0)
        return errno;
    *length = message.msg_namelen;
    if (*length == 0) { // an unnamed Unix sender; accept4 at least sets the family for these
        peer->ss_family = AF_UNIX;
        *length = sizeof peer->ss_family;
    }
    if (to)
        read_destination(&message, to);
    *truncated = (size_t)got > size; // MSG_TRUNC: the datagram's own length
    *count = *truncated ? size : (size_t)got;
    return 0;
}

static void write_source(union control *control, struct msghdr *message, const struct forkcore_destination *from)
{
    memset(control, 0, sizeof *control);
    message->msg_control = control;
    if (from->family == AF_INET) {
        struct in_pktinfo info = {0};
        memcpy(&info.ipi_spec_dst, from->address, sizeof info.ipi_spec_dst);
        control->header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof info), .cmsg_level = IPPROTO_IP, .cmsg_type = IP_PKTINFO};
        memcpy(CMSG_DATA(&control->header), &info, sizeof info);
        message->msg_controllen = CMSG_SPACE(sizeof info);
    } else {
        struct in6_pktinfo info = {.ipi6_ifindex = from->interface};
        memcpy(&info.ipi6_addr, from->address, sizeof info.ipi6_addr);
        control->header = (struct cmsghdr){
            .cmsg_len = CMSG_LEN(sizeof info), .cmsg_level = IPPROTO_IPV6, .cmsg_type = IPV6_PKTINFO};
        memcpy(CMSG_DATA(&control->header), &info, sizeof info);
        message->msg_controllen = CMSG_SPACE(sizeof info);
    }
}

static int send_from(int descriptor, struct msghdr *message, const struct forkcore_destination *from)
{
    union control control;
    if (from && from->family != 0)
        write_source(&control, message, from);
    while (sendmsg(descriptor, message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int forkcore_send_datagram(int descriptor, const void *bytes, size_t count, const struct sockaddr *peer,
                           socklen_t length, const struct forkcore_destination *from)
{
    struct iovec data = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {
        .msg_name = (void *)peer, .msg_namelen = length, .msg_iov = &data, .msg_iovlen = 1};
    struct msghdr with_source = message;
    int error = send_from(descriptor, &with_source, from);
    // It was sent to a multicast address, or the address is no longer ours: let the kernel choose another.
    if (from && from->family != 0 && (error == EINVAL || error == EADDRNOTAVAIL || error == ENETUNREACH))
        error = send_from(descriptor, &message, NULL);
    return error;
}
