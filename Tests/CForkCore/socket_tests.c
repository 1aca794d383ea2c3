// SPDX-License-Identifier: Apache-2.0
//
// Listening, adopting, probing, accepting.

#include "test.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/stat.h>
#include <sys/un.h>

static struct sockaddr_in loopback(uint16_t port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
}

static int listen_on(const void *address, socklen_t length, struct forkcore_listen_options options, int *descriptor)
{
    const char *call;
    if (options.backlog == 0)
        options.backlog = 8;
    if (options.mode == 0)
        options.mode = -1;
    return forkcore_listen(address, length, &options, descriptor, &call);
}

static struct sockaddr_in listen_anywhere(struct forkcore_listen_options options, int *descriptor)
{
    struct sockaddr_in address = loopback(0);
    struct sockaddr_storage bound;
    socklen_t length;
    CHECK(listen_on(&address, sizeof address, options, descriptor) == 0);
    CHECK(forkcore_local_address(*descriptor, &bound, &length) == 0 && length == sizeof address);
    memcpy(&address, &bound, sizeof address);
    CHECK(address.sin_port != 0);
    return address;
}

static int flags(int descriptor) { return fcntl(descriptor, F_GETFL); }

static void a_listener_takes_connections(void)
{
    int listener, taken = -1, client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_storage peer;
    socklen_t length;
    struct sockaddr_in address = listen_anywhere((struct forkcore_listen_options){0}, &listener);
    CHECK((flags(listener) & O_NONBLOCK) && (fcntl(listener, F_GETFD) & FD_CLOEXEC));
    CHECK(forkcore_accept(listener, &peer, &length, &taken) == EAGAIN);
    CHECK(connect(client, (struct sockaddr *)&address, sizeof address) == 0);
    CHECK(is_readable(listener, 30000));
    CHECK(forkcore_accept(listener, &peer, &length, &taken) == 0);
    CHECK(!(flags(taken) & O_NONBLOCK) && (fcntl(taken, F_GETFD) & FD_CLOEXEC));
    CHECK(peer.ss_family == AF_INET && length == sizeof address);
    CHECK(forkcore_set_no_delay(taken, true) == 0);
    int on = 0;
    CHECK(getsockopt(taken, IPPROTO_TCP, TCP_NODELAY, &on, &(socklen_t){sizeof on}) == 0 && on);
    close(taken);
    close(client);
    close(listener);
}

static int connect_late(void *context)
{
    usleep(20000); // the parent is in accept by then, or will be: both are right
    int client = socket(AF_INET, SOCK_STREAM, 0);
    return connect(client, context, sizeof(struct sockaddr_in)) == 0 ? 0 : 1;
}

static void accept_is_made_again_after_a_signal(void)
{
    int listener, taken;
    struct sockaddr_storage peer;
    socklen_t length;
    struct sockaddr_in address = listen_anywhere((struct forkcore_listen_options){0}, &listener);
    fcntl(listener, F_SETFL, 0); // one that waits
    pid_t pid = start(NULL, connect_late, &address);
    start_storm();
    CHECK(forkcore_accept(listener, &peer, &length, &taken) == 0);
    stop_storm();
    CHECK(storm_count() > 0);
    CHECK(await_end(pid).code == 0);
    close(taken);
    close(listener);
}

static void failing_binds_leave_no_descriptor(void)
{
    int listener, failing = 5;
    const char *call;
    struct sockaddr_in address = listen_anywhere((struct forkcore_listen_options){0}, &listener);
    struct forkcore_listen_options options = {.backlog = 8, .reuse_address = true};
    for (int i = 0; i < 1024; i++) { // far more than there can be descriptors
        CHECK(forkcore_listen((struct sockaddr *)&address, sizeof address, &options, &failing, &call) == EADDRINUSE);
        CHECK(failing == -1 && (strcmp(call, "bind") == 0 || strcmp(call, "listen") == 0));
    }
    close(listener);
    struct sockaddr unknown = {.sa_family = 12345};
    CHECK(forkcore_listen(&unknown, sizeof unknown, &options, &failing, &call) == EAFNOSUPPORT);
    CHECK(failing == -1 && strcmp(call, "socket") == 0);
}

static void options_are_set(void)
{
    int first, second, value = -1;
    struct forkcore_listen_options shared = {.reuse_port = true}, datagram = {.datagram = true};
    struct sockaddr_in address = listen_anywhere(shared, &first);
    CHECK(listen_on(&address, sizeof address, (struct forkcore_listen_options){0}, &second) == EADDRINUSE);
    CHECK(listen_on(&address, sizeof address, shared, &second) == 0);
    close(first);
    close(second);
    for (int only = 0; only < 2; only++) {
        struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
        struct forkcore_listen_options options = {.v6_only = only};
        if (listen_on(&v6, sizeof v6, options, &first) != 0)
            return; // no IPv6 here
        CHECK(getsockopt(first, IPPROTO_IPV6, IPV6_V6ONLY, &value, &(socklen_t){sizeof value}) == 0 && value == only);
        close(first);
    }
    listen_anywhere(datagram, &first);
    CHECK(!(flags(first) & O_NONBLOCK) && (fcntl(first, F_GETFD) & FD_CLOEXEC));
    CHECK(getsockopt(first, SOL_SOCKET, SO_TYPE, &value, &(socklen_t){sizeof value}) == 0 && value == SOCK_DGRAM);
    close(first);
}

static void only_servers_sockets_are_adopted(void)
{
    bool datagram = false;
    struct gate gate = make_gate();
    CHECK(forkcore_adopt(63, &datagram) == EBADF);
    CHECK(forkcore_adopt(gate.ends[0], &datagram) == ENOTSOCK);
    close_gate(gate);

    const struct { int type, error; } wrong[] = {{SOCK_STREAM, EINVAL}, {SOCK_SEQPACKET, EPROTOTYPE}};
    for (int i = 0; i < 2; i++) {
        int unfit = socket(AF_UNIX, wrong[i].type, 0);
        CHECK(forkcore_adopt(unfit, &datagram) == wrong[i].error);
        CHECK(!(flags(unfit) & O_NONBLOCK) && !(fcntl(unfit, F_GETFD) & FD_CLOEXEC)); // left as it was
        close(unfit);
    }

    int stream = socket(AF_INET, SOCK_STREAM, 0), unconnected = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK, 0);
    CHECK(listen(stream, 1) == 0);
    CHECK(forkcore_adopt(stream, &datagram) == 0 && !datagram);
    CHECK((flags(stream) & O_NONBLOCK) && (fcntl(stream, F_GETFD) & FD_CLOEXEC));
    CHECK(forkcore_adopt(unconnected, &datagram) == 0 && datagram);
    CHECK(!(flags(unconnected) & O_NONBLOCK) && (fcntl(unconnected, F_GETFD) & FD_CLOEXEC));
    close(stream);
    close(unconnected);
}

static void probing_tells_living_from_stale(void)
{
    int listener;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char directory[] = "/tmp/forkcore-XXXXXX";
    CHECK(mkdtemp(directory) != NULL);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", directory);
    const struct sockaddr *there = (struct sockaddr *)&address;
    socklen_t length = sizeof address;

    CHECK(forkcore_probe_unix(there, length, false) == ENOENT);
    CHECK(listen_on(there, length, (struct forkcore_listen_options){.backlog = 1}, &listener) == 0);
    CHECK(forkcore_probe_unix(there, length, true) == EPROTOTYPE);
    CHECK(forkcore_probe_unix(there, length, false) == 0);
    for (int i = 0; i < 3; i++) { // what was probed waits to be accepted: the queue fills
        int error = forkcore_probe_unix(there, length, false);
        CHECK(error == 0 || error == EAGAIN);
    }
    CHECK(forkcore_probe_unix(there, length, false) == EAGAIN);
    close(listener);
    CHECK(forkcore_probe_unix(there, length, false) == ECONNREFUSED);
    unlink(address.sun_path);
    CHECK(listen_on(there, length, (struct forkcore_listen_options){.datagram = true}, &listener) == 0);
    CHECK(forkcore_probe_unix(there, length, true) == 0);
    close(listener);
    CHECK(forkcore_probe_unix(there, length, true) == ECONNREFUSED);
    unlink(address.sun_path);
    rmdir(directory);
}

static void a_unix_sockets_file_has_the_mode_asked_for(void)
{
    int listener;
    struct stat found;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char directory[] = "/tmp/forkcore-XXXXXX";
    CHECK(mkdtemp(directory) != NULL);
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", directory);
    umask(022);
    const int modes[][2] = {{-1, 0755}, {0600, 0600}, {0666, 0644}};
    for (int i = 0; i < 3; i++) {
        struct forkcore_listen_options options = {.mode = modes[i][0]};
        CHECK(listen_on(&address, sizeof address, options, &listener) == 0);
        CHECK(lstat(address.sun_path, &found) == 0 && (int)(found.st_mode & 07777) == modes[i][1]);
        close(listener);
        unlink(address.sun_path);
    }
    rmdir(directory);
}

const struct test socket_tests[] = {
    {"a listener takes connections", a_listener_takes_connections},
    {"accept is made again after a signal", accept_is_made_again_after_a_signal},
    {"1,024 failing binds leave no descriptor", failing_binds_leave_no_descriptor},
    {"options are set", options_are_set},
    {"only servers' sockets are adopted", only_servers_sockets_are_adopted},
    {"a Unix socket's file has the mode asked for", a_unix_sockets_file_has_the_mode_asked_for},
    {"probing tells living from stale", probing_tells_living_from_stale},
    {0},
};
