// SPDX-License-Identifier: Apache-2.0
//
// The practical limit: a forking echo server as one writes it by hand in C. It bounds nothing, times nothing and
// tells nothing. SIGCHLD's handler reaps, the classic way (Stevens): with SA_RESTART accept never notices.

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void reap(int signal)
{
    (void)signal;
    int before = errno;
    while (waitpid(-1, NULL, WNOHANG) > 0)
        ;
    errno = before;
}

_Noreturn static void echo(int client)
{
    char bytes[16384];
    ssize_t count;
    while ((count = read(client, bytes, sizeof bytes)) > 0)
        for (ssize_t done = 0, sent; done < count; done += sent)
            if ((sent = write(client, bytes + done, (size_t)(count - done))) < 0)
                _exit(1);
    _exit(count == 0 ? 0 : 1);
}

int main(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    struct sigaction action = {.sa_handler = reap, .sa_flags = SA_RESTART | SA_NOCLDSTOP};
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, length) != 0 || listen(listener, 1024) != 0
        || getsockname(listener, (struct sockaddr *)&address, &length) != 0 || sigaction(SIGCHLD, &action, NULL) != 0) {
        perror("forking");
        return 71;
    }
    printf("listening on 127.0.0.1:%d\n", ntohs(address.sin_port));
    fflush(stdout);
    for (;;) {
        int client = accept(listener, NULL, NULL);
        if (client < 0)
            continue;
        pid_t child = fork();
        if (child == 0) {
            close(listener);
            echo(client);
        }
        if (child < 0)
            perror("fork");
        close(client);
    }
}
