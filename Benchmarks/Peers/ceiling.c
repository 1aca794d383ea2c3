// SPDX-License-Identifier: Apache-2.0
//
// Not a peer: an echo server that does not fork. What it reaches says how fast the load generator can go.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static void take_clients(int epoll, int listener)
{
    for (int client; (client = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0;) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = client};
        epoll_ctl(epoll, EPOLL_CTL_ADD, client, &event);
    }
}

static void echo(int client)
{
    char bytes[16384];
    ssize_t count = read(client, bytes, sizeof bytes);
    if (count < 0 && errno == EAGAIN)
        return;
    // Lines are short and answered one by one: the send buffer always takes them whole.
    if (count <= 0 || write(client, bytes, (size_t)count) != count)
        close(client);
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int epoll = epoll_create1(0);
    struct epoll_event events[64] = {{.events = EPOLLIN, .data.fd = listener}};
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 1024) != 0
        || getsockname(listener, (struct sockaddr *)&address, &length) != 0
        || epoll_ctl(epoll, EPOLL_CTL_ADD, listener, events) != 0) {
        perror("ceiling");
        return 71;
    }
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int count = epoll_wait(epoll, events, 64, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.fd == listener)
                take_clients(epoll, listener);
            else
                echo(events[i].data.fd);
        }
    }
}
