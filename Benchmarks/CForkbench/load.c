// SPDX-License-Identifier: Apache-2.0
//
// Many clients on one epoll instance, in the calling process: it has nothing else to do meanwhile, and so its CPU time
// is the generator's.

#define _GNU_SOURCE

#include "client.h"
#include "forkbench_serve.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    EVENTS = 64,
    TICK_MS = 50,                 // how often clients that wait for ever are looked for
    FAILURES_ENOUGH = 1000,       // a server that fails this often is not going to be measured
    HOLDERS = 16,                 // how many connections are being made at once while idle ones are opened
};

struct crowd {
    struct client *clients;
    size_t count;
    size_t busy; // how many have a connection
    int epoll;
};

static int gather(struct crowd *crowd, size_t count)
{
    *crowd = (struct crowd){.clients = calloc(count, sizeof(struct client)), .count = count, .epoll = -1};
    if (crowd->clients == NULL)
        return ENOMEM;
    for (size_t i = 0; i < count; i++)
        crowd->clients[i].descriptor = -1;
    crowd->epoll = epoll_create1(EPOLL_CLOEXEC);
    return crowd->epoll < 0 ? errno : 0;
}

static void disperse(struct crowd *crowd)
{
    for (size_t i = 0; crowd->clients && i < crowd->count; i++)
        if (crowd->clients[i].descriptor >= 0)
            close(crowd->clients[i].descriptor);
    if (crowd->epoll >= 0)
        close(crowd->epoll);
    free(crowd->clients);
}

// ---------------------------------------------------------------------------------------------------- measuring

struct run {
    struct forkbench_load *load;
    struct crowd crowd;
    uint64_t counting_from, counting_to;
};

static void count_end(struct run *run, const struct client *client, uint64_t now)
{
    struct forkbench_load *load = run->load;
    load->completed++;
    if (now < run->counting_from || now >= run->counting_to)
        return;
    load->latencies[load->counted++] = client->answered - client->begun;
    if (load->counted == load->capacity)
        run->counting_to = now;
}

static void count_failure(struct run *run, const struct client *client)
{
    if (run->load->failed++ == 0)
        run->load->failure = client->failure;
}

static void begin(struct run *run, struct client *client)
{
    if (client_now() >= run->counting_to || run->load->failed >= FAILURES_ENOUGH)
        return;
    if (client_open(client, run->crowd.epoll, run->load->port) == FAILED)
        count_failure(run, client); // the next tick tries again
    else
        run->crowd.busy++;
}

static void follow(struct run *run, struct client *client)
{
    enum progress progress = client_advance(client, run->crowd.epoll);
    if (progress == ANSWERED)
        progress = client_half_close(client);
    if (progress == PENDING)
        return;
    run->crowd.busy--;
    if (progress == ENDED)
        count_end(run, client, client_now());
    else
        count_failure(run, client);
    begin(run, client);
}

static void tick(struct run *run)
{
    uint64_t now = client_now();
    for (size_t i = 0; i < run->crowd.count; i++) {
        struct client *client = &run->crowd.clients[i];
        if (client->descriptor < 0) {
            begin(run, client);
        } else if (now - client->begun > run->load->patience_ns) {
            client_fail(client, ETIMEDOUT);
            count_failure(run, client);
            run->crowd.busy--;
            begin(run, client);
        }
    }
}

// Connections that began within the measurement are let end after it: the server's CPU time is over all of them.
static int turn_until_over(struct run *run)
{
    struct epoll_event events[EVENTS];
    uint64_t ticked = client_now();
    for (size_t i = 0; i < run->crowd.count; i++)
        begin(run, &run->crowd.clients[i]);
    do {
        int count = epoll_wait(run->crowd.epoll, events, EVENTS, TICK_MS);
        if (forkbench_signal() != 0)
            return EINTR;
        if (count < 0 && errno != EINTR)
            return errno;
        for (int i = 0; i < count; i++)
            follow(run, events[i].data.ptr);
        // Only when all that has come is read: were this process itself kept from running, it would blame the server.
        if (count < EVENTS && client_now() - ticked >= TICK_MS * 1000000ULL) {
            tick(run);
            ticked = client_now();
        }
    } while (run->crowd.busy > 0 || (client_now() < run->counting_to && run->load->failed < FAILURES_ENOUGH));
    return 0;
}

int forkbench_run_load(struct forkbench_load *load)
{
    struct run run = {.load = load};
    load->counted = load->completed = load->failed = 0;
    load->failure = 0;
    int code = gather(&run.crowd, load->clients);
    if (code == 0) {
        run.counting_from = client_now() + load->warm_up_ns;
        run.counting_to = run.counting_from + load->measure_ns;
        code = turn_until_over(&run);
        load->elapsed_ns = run.counting_to - run.counting_from;
    }
    disperse(&run.crowd);
    return code;
}

// ------------------------------------------------------------------------------------------------ idle connections

struct holding {
    struct crowd crowd;
    uint16_t port;
    int *descriptors;
    size_t wanted, begun, held;
};

static int hold_next(struct holding *holding, struct client *client)
{
    if (holding->begun == holding->wanted)
        return 0;
    holding->begun++;
    return client_open(client, holding->crowd.epoll, holding->port) == FAILED ? client->failure : 0;
}

static int hold_on(struct holding *holding, struct client *client)
{
    switch (client_advance(client, holding->crowd.epoll)) {
    case PENDING:
        return 0;
    case ANSWERED:
        epoll_ctl(holding->crowd.epoll, EPOLL_CTL_DEL, client->descriptor, NULL);
        holding->descriptors[holding->held++] = client->descriptor;
        client->descriptor = -1;
        return hold_next(holding, client);
    default:
        return client->failure;
    }
}

static int hold_all(struct holding *holding, uint64_t deadline)
{
    struct epoll_event events[EVENTS];
    int code = 0;
    for (size_t i = 0; i < holding->crowd.count && code == 0; i++)
        code = hold_next(holding, &holding->crowd.clients[i]);
    while (code == 0 && holding->held < holding->wanted) {
        if (client_now() >= deadline)
            return ETIMEDOUT;
        int count = epoll_wait(holding->crowd.epoll, events, EVENTS, TICK_MS);
        if (forkbench_signal() != 0)
            return EINTR;
        if (count < 0 && errno != EINTR)
            return errno;
        for (int i = 0; i < count && code == 0; i++)
            code = hold_on(holding, events[i].data.ptr);
    }
    return code;
}

int forkbench_exchange(uint16_t port, uint64_t limit_ns)
{
    int descriptor = -1;
    size_t held = 0;
    int code = hold_connections(port, 1, limit_ns, &descriptor, &held);
    if (held > 0)
        close(descriptor);
    return code;
}

int hold_connections(uint16_t port, size_t count, uint64_t limit_ns, int *descriptors, size_t *held)
{
    struct holding holding = {.port = port, .descriptors = descriptors, .wanted = count};
    int code = gather(&holding.crowd, count < HOLDERS ? count + 1 : HOLDERS);
    if (code == 0)
        code = hold_all(&holding, client_now() + limit_ns);
    *held = holding.held;
    disperse(&holding.crowd);
    return code;
}
