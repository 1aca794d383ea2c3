// SPDX-License-Identifier: Apache-2.0
//
// forkcore: sockets, datagrams, and descriptors attached to messages. Part of forkcore.h, whose rules apply here.

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
    bool takes_rights;  ///< peers of a Unix socket may attach descriptors; otherwise forkcore_refuse_rights
    int mode;           ///< permissions of a Unix socket's file, less the umask; -1: those of the umask
};

/// Makes a bound socket. A stream socket listens and is non-blocking; a datagram socket reports the destination address
/// of each datagram. On failure no descriptor is left open, and `*call` names the system call that failed.
int forkcore_listen(const struct sockaddr *address, socklen_t length, const struct forkcore_listen_options *options,
                    int *descriptor, const char **call);

/// Sets up an inherited descriptor like one from forkcore_listen. EBADF, ENOTSOCK, EPROTOTYPE (neither stream nor
/// datagram) or EINVAL (a stream socket that does not listen) say what is wrong with it; it is then unchanged.
int forkcore_adopt(int descriptor, bool *datagram);

/// Whether a process serves on a Unix socket's address: 0 if so; ECONNREFUSED if none; otherwise connect's errno.
int forkcore_probe_unix(const struct sockaddr *address, socklen_t length, bool datagram);

/// A descriptor that refers to a file (to the link itself, if it is one) even if the path later names another file.
/// open(2) with O_PATH. The caller closes it.
int forkcore_open_path(const char *path, int *descriptor);

/// Connects to a Unix socket. `timeout_us` as in forkcore_set_timeout, for the connect and all later calls; EAGAIN when
/// it has passed. The caller closes the descriptor. connect(2).
int forkcore_connect(const struct sockaddr *address, socklen_t length, int64_t timeout_us, int *descriptor);

/// Whether a process with this listening socket has called shutdown(2). A Unix socket is then readable for ever, while
/// accept4 says that there is no connection. poll(2).
bool forkcore_is_shut_down(int listener);

/// Makes sure that a listening socket listens at `address`, because another process with this socket may have called
/// shutdown(2). `*again` says whether it had to listen again. ESHUTDOWN if it cannot: a Unix socket stays shut down.
/// poll(2), bind(2), listen(2).
int forkcore_listen_again(int listener, const struct sockaddr *address, socklen_t length, int backlog, bool *again);

/// The address that a socket is bound to. getsockname(2).
int forkcore_local_address(int descriptor, struct sockaddr_storage *address, socklen_t *length);

/// Accepts a connection, blocking and close-on-exec; EAGAIN when there is none. accept4(2).
int forkcore_accept(int listener, struct sockaddr_storage *peer, socklen_t *length, int *descriptor);

/// How many connections wait to be accepted. TCP_INFO in tcp(7); for Unix sockets sock_diag(7), by a descriptor that is
/// closed again. EINVAL if the socket does not listen; EOPNOTSUPP if it is neither TCP nor Unix; ENOENT if the kernel
/// cannot tell, as for a Unix socket from another network namespace; EMFILE and the like. `*queued` is 0 then.
int forkcore_queued(int listener, unsigned *queued);

/// recv(2): `*count` is 0 at the end of the stream. EAGAIN when SO_RCVTIMEO has passed.
int forkcore_receive(int descriptor, void *buffer, size_t size, size_t *count);

/// Waits until recv would not wait, but no longer than this, nor than SO_RCVTIMEO; then EAGAIN. poll(2).
int forkcore_await_input(int descriptor, int64_t timeout_ns);

/// Calls send(2) until all is sent, without SIGPIPE. EAGAIN when SO_SNDTIMEO has passed.
int forkcore_send_all(int descriptor, const void *bytes, size_t count);

/// Sends what the socket takes at once, without SIGPIPE. send(2).
void forkcore_send_now(int descriptor, const void *bytes, size_t count);

/// The close of this socket resets its connection. SO_LINGER in socket(7).
void forkcore_reset_on_close(int descriptor);

/// Which of our addresses a datagram was sent to. The answer must come from there; a socket that is bound to all
/// addresses would choose another.
struct forkcore_destination {
    int family;                ///< AF_INET or AF_INET6; 0: not known
    unsigned interface;        ///< of a link-local address
    unsigned char address[16]; ///< in network byte order; for IPv4 the first four bytes
};

/// recvmsg(2), without waiting. `*truncated` says that the datagram was longer than `size`. With `to`, not for a Unix
/// socket: IP_PKTINFO, IPV6_RECVPKTINFO.
int forkcore_receive_datagram(int descriptor, void *buffer, size_t size, struct sockaddr_storage *peer,
                              socklen_t *length, struct forkcore_destination *to, size_t *count, bool *truncated);

/// sendmsg(2), without waiting: EAGAIN when there is no room, also in a Unix socket whose owner does not read. With
/// `from`, which may be NULL, sends from that address while it is one of ours.
int forkcore_send_datagram(int descriptor, const void *bytes, size_t count, const struct sockaddr *peer,
                           socklen_t length, const struct forkcore_destination *from);

/// Shuts down sending; what was sent still arrives. shutdown(2) with SHUT_WR.
void forkcore_finish_sending(int descriptor);

/// SO_RCVTIMEO and SO_SNDTIMEO, in microseconds; 0: no timeout.
int forkcore_set_timeout(int descriptor, int64_t timeout_us);

/// TCP_NODELAY.
int forkcore_set_no_delay(int descriptor, bool on);

/// From now on no peer can attach descriptors to what it sends to this socket, or to sockets accepted from it for peers
/// that connect later: the peer gets EPERM. SO_PASSRIGHTS in unix(7). ENOPROTOOPT before Linux 6.16, EOPNOTSUPP if it
/// is no Unix socket.
int forkcore_refuse_rights(int descriptor);

/// Takes that back.
int forkcore_accept_rights(int descriptor);

/// Whether such a socket may have descriptors in its queue. Closing it can then take as long as their sender likes.
bool forkcore_takes_rights(int descriptor);

/// Closes a socket without waiting. If it may have descriptors in its queue, a process that shares our descriptors
/// closes it and ends within milliseconds; its number may be in use that long. At most a few such processes run at a
/// time.
void forkcore_close_aside(int descriptor);

/// If the next message of a datagram or seqpacket socket has descriptors, discards the message and them, within
/// milliseconds; returns whether it did.
bool forkcore_drop_rights(int descriptor);

/// A pair of sockets by which one process hands descriptors over to another. socketpair(2). The caller closes both.
int forkcore_channel_open(int *one, int *other);

/// Sends a descriptor, and `count` bytes with it, without waiting; the caller's copy stays open. EPIPE or ECONNRESET
/// when no process can receive it. SCM_RIGHTS in unix(7). Also works on a Unix stream socket, but only with one byte:
/// more could arrive in pieces.
int forkcore_hand_over(int channel, int descriptor, const void *bytes, size_t count);

/// Waits for a descriptor and exactly `count` bytes. ESHUTDOWN when the other end was closed, EMFILE when this process
/// has no room for the descriptor, EBADMSG when bytes came without one, EMSGSIZE when other bytes came with it. The
/// caller closes the descriptor, which is close-on-exec.
int forkcore_take_over(int channel, int *descriptor, void *bytes, size_t count);

/// A file that exists only in memory, to be written and handed over. It can be sealed. memfd_create(2). The caller
/// closes it.
int forkcore_memory_file(const char *name, int *descriptor);

/// Makes an empty memory file `size` bytes long, all 0, and maps it for writing. All its memory is allocated here, so
/// that a shortage is an error, and not the end of whoever writes: ENOMEM, ENOSPC, or EFBIG at RLIMIT_FSIZE. A fork
/// does not copy the mapping: as long as any process had it, the file could not be sealed. The caller unmaps it. `size`
/// must not be 0. mmap(2).
int forkcore_memory_fill(int descriptor, size_t size, void **start);

/// From now on no process can change a memory file, nor its size. EBUSY while it is mapped for writing. F_ADD_SEALS in
/// fcntl(2).
int forkcore_memory_seal(int descriptor);

/// What is known of a memory file.
struct forkcore_memory {
    bool can_shrink, can_grow, can_change; ///< its seals are missing
    size_t size;
    size_t filled; ///< bytes up to the first that has no memory; `size` if all have
};

/// Looks at a descriptor that a process sent, which is not trusted. Never blocks: of a descriptor that is no memory file
/// nothing is asked that its owner could answer late. If no seal is missing, what it says remains so. EINVAL: no memory
/// file, or one of huge pages, which do not come from the memory that all can use.
int forkcore_memory_look(int descriptor, struct forkcore_memory *memory);

/// Maps a sealed memory file for reading. The caller unmaps it. `size` must not be 0. mmap(2).
int forkcore_memory_map(int descriptor, size_t size, void **start);

/// The process on the other side of a Unix stream socket. SO_PEERCRED.
int forkcore_peer_credentials(int descriptor, pid_t *pid, uid_t *uid, gid_t *gid);

#ifdef __cplusplus
}
#endif

#endif
