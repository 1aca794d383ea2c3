// SPDX-License-Identifier: Apache-2.0
//
// forkcore: sockets, datagrams, and what is attached to them. Part of forkcore.h, whose rules hold here.

#ifndef FORKCORE_SOCKETS_H
#define FORKCORE_SOCKETS_H

#include "forkcore.h"

#ifdef __cplusplus
extern "C" {
#endif

// ----------------------------------------------------------------------------------------------------------- sockets
// Any process. All signal-safe.

struct forkcore_listen_options {
    int backlog;
    bool datagram;      ///< SOCK_DGRAM: bound, not listening
    bool reuse_address; ///< SO_REUSEADDR (not for Unix sockets)
    bool reuse_port;    ///< SO_REUSEPORT (not for Unix sockets)
    bool v6_only;       ///< IPV6_V6ONLY
    bool takes_rights;  ///< who sends to a Unix socket may attach descriptors; else forkcore_refuse_rights
    int mode;           ///< permissions that a Unix socket's file is made with, less the umask; -1: those of the umask
};

/// Makes a bound socket; a stream's listens and is non-blocking, a datagram's tells where to. On failure
/// nothing is left open and `*call` names the system call that refused.
int forkcore_listen(const struct sockaddr *address, socklen_t length, const struct forkcore_listen_options *options,
                    int *descriptor, const char **call);

/// Makes an inherited descriptor like one from forkcore_listen. EBADF, ENOTSOCK, EPROTOTYPE (neither stream nor
/// datagram) or EINVAL (a stream's that does not listen) say what is wrong with it; it is then left as it was.
int forkcore_adopt(int descriptor, bool *datagram);

/// Whether somebody serves on a Unix socket's address: 0 yes; ECONNREFUSED nobody; else connect's errno.
int forkcore_probe_unix(const struct sockaddr *address, socklen_t length, bool datagram);

/// A descriptor that stands for a file, a link itself if it is one, whatever its path stands for later. open(2) with
/// O_PATH. The caller closes it.
int forkcore_open_path(const char *path, int *descriptor);

/// Connects to a Unix socket. `timeout_us` as in forkcore_set_timeout, for this and for all that follows; EAGAIN when
/// it has passed. The caller closes the descriptor. connect(2).
int forkcore_connect(const struct sockaddr *address, socklen_t length, int64_t timeout_us, int *descriptor);

/// Whether somebody who has a listening socket has called shutdown(2). Where that is a Unix socket it is readable for
/// ever, and accept4 says that there is no connection. poll(2).
bool forkcore_is_shut_down(int listener);

/// Makes sure that a listening socket listens, at `address`: somebody who has it may have called shutdown(2). `*again`
/// says that it had to be told so. ESHUTDOWN if it cannot be: a Unix socket stays shut down. poll(2), bind(2),
/// listen(2).
int forkcore_listen_again(int listener, const struct sockaddr *address, socklen_t length, int backlog, bool *again);

/// The address that a socket is bound to. getsockname(2).
int forkcore_local_address(int descriptor, struct sockaddr_storage *address, socklen_t *length);

/// Takes a connection, blocking and close-on-exec; EAGAIN when there is none. accept4(2).
int forkcore_accept(int listener, struct sockaddr_storage *peer, socklen_t *length, int *descriptor);

/// How many connections wait to be accepted. TCP_INFO in tcp(7); for Unix sockets sock_diag(7), by a descriptor of its
/// own that is closed again. EINVAL if it does not listen, EOPNOTSUPP if it is neither TCP's nor a Unix socket; ENOENT
/// where the kernel cannot tell, as of a Unix socket from another network namespace; EMFILE and the like. `*queued` is
/// 0 then.
int forkcore_queued(int listener, unsigned *queued);

/// recv(2): `*count` is 0 at the end of the stream. EAGAIN when SO_RCVTIMEO has passed.
int forkcore_receive(int descriptor, void *buffer, size_t size, size_t *count);

/// Waits until recv would not wait, but no longer than this, nor than SO_RCVTIMEO; then EAGAIN. poll(2).
int forkcore_await_input(int descriptor, int64_t timeout_ns);

/// send(2) until all is sent, without SIGPIPE. EAGAIN when SO_SNDTIMEO has passed.
int forkcore_send_all(int descriptor, const void *bytes, size_t count);

/// Which of our addresses a datagram was sent to, so that its answer can come from there: a socket bound to all of them
/// would choose another.
struct forkcore_destination {
    int family;                ///< AF_INET or AF_INET6; 0: not known
    unsigned interface;        ///< of a link-local address
    unsigned char address[16]; ///< in the network's order; of IPv4 the first four bytes
};

/// recvmsg(2), without waiting. `*truncated` says that the datagram was longer than `size`. With `to`, not for a Unix
/// socket: IP_PKTINFO, IPV6_RECVPKTINFO.
int forkcore_receive_datagram(int descriptor, void *buffer, size_t size, struct sockaddr_storage *peer,
                              socklen_t *length, struct forkcore_destination *to, size_t *count, bool *truncated);

/// sendmsg(2), without waiting: EAGAIN when there is no room, be it in a Unix socket whose owner does not read. With
/// `from`, which may be NULL, from that address while it is ours.
int forkcore_send_datagram(int descriptor, const void *bytes, size_t count, const struct sockaddr *peer,
                           socklen_t length, const struct forkcore_destination *from);

/// Says that nothing more will be sent; what was sent still arrives. shutdown(2) with SHUT_WR.
void forkcore_finish_sending(int descriptor);

/// SO_RCVTIMEO and SO_SNDTIMEO, in microseconds; 0 is no time-out.
int forkcore_set_timeout(int descriptor, int64_t timeout_us);

/// TCP_NODELAY.
int forkcore_set_no_delay(int descriptor, bool on);

/// Nobody can attach a descriptor any more to what is sent to this socket, or to those accepted from it of who connects
/// from now on: who tries gets EPERM. SO_PASSRIGHTS in unix(7). ENOPROTOOPT before Linux 6.16, EOPNOTSUPP if it is no
/// Unix socket.
int forkcore_refuse_rights(int descriptor);

/// Whether such a socket may have descriptors in its queue: closing it can then take as long as who sent them likes.
bool forkcore_takes_rights(int descriptor);

/// Closes a socket, and waits for nobody: one that may have descriptors in its queue is closed by a process that shares
/// our descriptors and ends within milliseconds, so that its number may be in use that long. No process more than a few
/// at once.
void forkcore_close_aside(int descriptor);

/// If the next message of a datagram or seqpacket socket comes with descriptors, it is thrown away with them, within
/// milliseconds; whether it was.
bool forkcore_drop_rights(int descriptor);

/// A pair of sockets by which one process hands descriptors over to another. socketpair(2). The caller closes both.
int forkcore_channel_open(int *one, int *other);

/// Sends a descriptor, and `count` bytes with it, without waiting; the caller's own stays open. EPIPE or ECONNRESET
/// when nobody will take it. SCM_RIGHTS in unix(7). On a stream of a Unix socket too, with one byte: more could come in
/// pieces.
int forkcore_hand_over(int channel, int descriptor, const void *bytes, size_t count);

/// Waits for a descriptor and exactly `count` bytes. ESHUTDOWN when the other end was closed, EMFILE when this process
/// had no room for it, EBADMSG when bytes came without one, EMSGSIZE when other bytes came with it. The caller closes
/// the descriptor, which is close-on-exec.
int forkcore_take_over(int channel, int *descriptor, void *bytes, size_t count);

/// A file that is nowhere but in memory, to be written and handed over. memfd_create(2). The caller closes it.
int forkcore_memory_file(const char *name, int *descriptor);

/// Who is on the other side of a Unix stream socket. SO_PEERCRED.
int forkcore_peer_credentials(int descriptor, pid_t *pid, uid_t *uid, gid_t *gid);

#ifdef __cplusplus
}
#endif

#endif
