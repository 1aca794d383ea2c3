// SPDX-License-Identifier: Apache-2.0
//
// Sockets: calls that Glibc's module hides from Swift, and calls whose errno must be read at once. Any process.

#include "internal.h"

#include "forkcore_peers.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int switch_on(int descriptor, int level, int option, bool wanted)
{
    return wanted && setsockopt(descriptor, level, option, &(int){1}, sizeof(int)) != 0 ? errno : 0;
}

static int prepare(int descriptor, const struct sockaddr *address, socklen_t length,
                   const struct forkcore_listen_options *options, const char **call)
{
    bool internet = address->sa_family != AF_UNIX;
    int error;

    *call = "setsockopt";
    if ((error = switch_on(descriptor, SOL_SOCKET, SO_REUSEADDR, internet && options->reuse_address)) != 0
        || (error = switch_on(descriptor, SOL_SOCKET, SO_REUSEPORT, internet && options->reuse_port)) != 0)
        return error;
    if (address->sa_family == AF_INET6
        && setsockopt(descriptor, IPPROTO_IPV6, IPV6_V6ONLY, &(int){options->v6_only}, sizeof(int)) != 0)
        return errno;
    if (!internet && !options->takes_rights)
        forkcore_refuse_rights(descriptor); // if the kernel cannot, forkcore_close_aside closes it
    if (internet && options->datagram && (error = forkcore_tell_destination(descriptor)) != 0)
        return error;
    *call = "fchmod"; // on Linux bind makes the file with this mode, so that it never allows more than was asked for
    if (!internet && options->mode >= 0 && fchmod(descriptor, (mode_t)options->mode) != 0)
        return errno;
    *call = "bind";
    if (bind(descriptor, address, length) != 0)
        return errno;
    *call = "listen";
    return !options->datagram && listen(descriptor, options->backlog) != 0 ? errno : 0;
}

int forkcore_listen(const struct sockaddr *address, socklen_t length, const struct forkcore_listen_options *options,
                    int *descriptor, const char **call)
{
    int type = options->datagram ? SOCK_DGRAM : SOCK_STREAM | SOCK_NONBLOCK;
    *call = "socket";
    *descriptor = socket(address->sa_family, type | SOCK_CLOEXEC, 0);
    if (*descriptor < 0)
        return errno;
    int error = prepare(*descriptor, address, length, options, call);
    if (error != 0) {
        forkcore_close(*descriptor);
        *descriptor = -1;
    }
    return error;
}

int forkcore_adopt(int descriptor, bool *datagram)
{
    int type, listening;
    if (getsockopt(descriptor, SOL_SOCKET, SO_TYPE, &type, &(socklen_t){sizeof type}) != 0)
        return errno;
    if (type != SOCK_STREAM && type != SOCK_DGRAM)
        return EPROTOTYPE;
    *datagram = type == SOCK_DGRAM;
    if (!*datagram) {
        if (getsockopt(descriptor, SOL_SOCKET, SO_ACCEPTCONN, &listening, &(socklen_t){sizeof listening}) != 0)
            return errno;
        if (!listening)
            return EINVAL;
    }
    int error = *datagram ? forkcore_tell_destination(descriptor) : 0;
    if (error != 0)
        return error;
    int flags = fcntl(descriptor, F_GETFL);
    if (flags < 0)
        return errno;
    flags = *datagram ? flags & ~O_NONBLOCK : flags | O_NONBLOCK;
    if (fcntl(descriptor, F_SETFL, flags) < 0 || fcntl(descriptor, F_SETFD, FD_CLOEXEC) < 0)
        return errno;
    return 0;
}

bool forkcore_is_shut_down(int listener)
{
    struct pollfd polled = {.fd = listener, .events = POLLRDHUP};
    while (poll(&polled, 1, 0) < 0)
        if (errno != EINTR)
            return false;
    return polled.revents & (POLLHUP | POLLRDHUP);
}

int forkcore_listen_again(int listener, const struct sockaddr *address, socklen_t length, int backlog, bool *again)
{
    *again = forkcore_is_shut_down(listener);
    if (!*again)
        return 0;
    if (address->sa_family == AF_UNIX)
        return ESHUTDOWN;
    // shutdown takes away a port that the kernel had chosen, but not one that was asked for (EINVAL).
    if (bind(listener, address, length) != 0 && errno != EINVAL)
        return errno;
    return listen(listener, backlog) != 0 ? errno : 0;
}

int forkcore_local_address(int descriptor, struct sockaddr_storage *address, socklen_t *length)
{
    *length = sizeof *address;
    return getsockname(descriptor, (struct sockaddr *)address, length) != 0 ? errno : 0;
}

int forkcore_probe_unix(const struct sockaddr *address, socklen_t length, bool datagram)
{
    // Non-blocking: a live listener with a full backlog gives EAGAIN, and does not block us.
    int probe = socket(AF_UNIX, (datagram ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (probe < 0)
        return errno;
    int error = connect(probe, address, length) != 0 ? errno : 0;
    forkcore_close(probe);
    return error;
}

int forkcore_open_path(const char *path, int *descriptor)
{
    *descriptor = open(path, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return *descriptor < 0 ? errno : 0;
}

int forkcore_connect(const struct sockaddr *address, socklen_t length, int64_t timeout_us, int *descriptor)
{
    *descriptor = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*descriptor < 0)
        return errno;
    int error = forkcore_set_timeout(*descriptor, timeout_us);
    while (error == 0 && connect(*descriptor, address, length) != 0)
        if (errno != EINTR) // on a Unix socket an interrupted connect has had no effect
            error = errno;
    if (error == 0)
        return 0;
    forkcore_close(*descriptor);
    *descriptor = -1;
    return error;
}

int forkcore_accept(int listener, struct sockaddr_storage *peer, socklen_t *length, int *descriptor)
{
    *length = sizeof *peer;
    while ((*descriptor = accept4(listener, (struct sockaddr *)peer, length, SOCK_CLOEXEC)) < 0)
        if (errno != EINTR)
            return errno;
    return 0;
}

int forkcore_receive(int descriptor, void *buffer, size_t size, size_t *count)
{
    ssize_t got;
    while ((got = recv(descriptor, buffer, size, 0)) < 0)
        if (errno != EINTR)
            return errno;
    *count = (size_t)got;
    return 0;
}

int forkcore_await_input(int descriptor, int64_t timeout_ns)
{
    struct timeval own = {0};
    struct pollfd polled = {.fd = descriptor, .events = POLLIN};
    int ready = 0;

    getsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &own, &(socklen_t){sizeof own});
    int64_t own_ns = (int64_t)own.tv_sec * 1000000000 + (int64_t)own.tv_usec * 1000;
    int64_t left = own_ns > 0 && own_ns < timeout_ns ? own_ns : timeout_ns, began = forkcore_now(), end = left;
    for (; left > 0; left = end - (forkcore_now() - began)) {
        struct timespec rest = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        if ((ready = ppoll(&polled, 1, &rest, NULL)) > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return errno;
    }
    return EAGAIN;
}

int forkcore_send_all(int descriptor, const void *bytes, size_t count)
{
    const char *next = bytes;
    while (count > 0) {
        ssize_t sent = send(descriptor, next, count, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            return errno;
        if (sent > 0) {
            next += sent;
            count -= (size_t)sent;
        }
    }
    return 0;
}

void forkcore_send_now(int descriptor, const void *bytes, size_t count)
{
    while (send(descriptor, bytes, count, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno == EINTR) {}
}

void forkcore_reset_on_close(int descriptor)
{
    struct linger reset = {.l_onoff = 1, .l_linger = 0};
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

void forkcore_finish_sending(int descriptor)
{
    shutdown(descriptor, SHUT_WR);
}

int forkcore_set_timeout(int descriptor, int64_t timeout_us)
{
    struct timeval timeout = {.tv_sec = timeout_us / 1000000, .tv_usec = timeout_us % 1000000};
    if (setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) != 0
        || setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout) != 0)
        return errno;
    return 0;
}

int forkcore_set_keepalive(int descriptor, int idle_s, int interval_s, int count)
{
    if (setsockopt(descriptor, SOL_SOCKET, SO_KEEPALIVE, &(int){idle_s > 0}, sizeof(int)) != 0)
        return errno;
    if (idle_s <= 0)
        return 0;
    if (setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPIDLE, &idle_s, sizeof idle_s) != 0
        || setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPINTVL, &interval_s, sizeof interval_s) != 0
        || setsockopt(descriptor, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof count) != 0)
        return errno;
    return 0;
}

int forkcore_set_user_timeout(int descriptor, unsigned timeout_ms)
{
    return setsockopt(descriptor, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof timeout_ms) != 0 ? errno : 0;
}

int forkcore_set_no_delay(int descriptor, bool on)
{
    return setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &(int){on}, sizeof(int)) != 0 ? errno : 0;
}

int forkcore_peer_credentials(int descriptor, pid_t *pid, uid_t *uid, gid_t *gid)
{
    struct ucred peer;
    if (getsockopt(descriptor, SOL_SOCKET, SO_PEERCRED, &peer, &(socklen_t){sizeof peer}) != 0)
        return errno;
    *pid = peer.pid;
    *uid = peer.uid;
    *gid = peer.gid;
    return 0;
}
