// SPDX-License-Identifier: Apache-2.0
//
// Passes descriptors to other processes. Any process.

#include "internal.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

// Room for one descriptor, aligned as cmsg(3) wants it.
union control {
    struct cmsghdr header;
    char room[CMSG_SPACE(sizeof(int))];
};

int forkcore_channel_open(int *one, int *other)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0)
        return errno;
    *one = ends[0];
    *other = ends[1];
    return 0;
}

int forkcore_hand_over(int channel, int descriptor, const void *bytes, size_t count)
{
    union control control = {.header = {.cmsg_len = CMSG_LEN(sizeof(int)),
                                        .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct iovec data = {.iov_base = (void *)bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1,
                             .msg_control = &control, .msg_controllen = sizeof control.room};
    memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
    while (sendmsg(channel, &message, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int forkcore_take_over(int channel, int *descriptor, void *bytes, size_t count)
{
    union control control;
    struct iovec data = {.iov_base = bytes, .iov_len = count};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1,
                             // for one descriptor: the aligned room could hold two
                             .msg_control = &control, .msg_controllen = CMSG_LEN(sizeof(int))};
    ssize_t got;
    while ((got = recvmsg(channel, &message, MSG_CMSG_CLOEXEC)) < 0)
        if (errno != EINTR)
            return errno;
    const struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (got == 0 && header == NULL)
        return ESHUTDOWN;
    if (header == NULL || header->cmsg_type != SCM_RIGHTS || header->cmsg_len != CMSG_LEN(sizeof(int)))
        return message.msg_flags & MSG_CTRUNC ? EMFILE : EBADMSG;
    memcpy(descriptor, CMSG_DATA(header), sizeof *descriptor);
    if ((size_t)got == count && !(message.msg_flags & MSG_TRUNC))
        return 0;
    forkcore_close(*descriptor);
    return EMSGSIZE;
}
