// SPDX-License-Identifier: Apache-2.0
//
// Many HTTP clients on one epoll instance, in the calling process, as `load.c` does for lines.
//
// A closed loop meets an outage with as many requests as it has clients, and each of them tries again at once when it is
// refused; how many fail would then say how fast the generator is. So a client pauses after a failure, and for how long
// is the caller's word: with 10 ms, each client fails at most 100 times a second.

#define _GNU_SOURCE

#include "client.h"
#include "forkbench_http.h"
#include "forkbench_serve.h"
#include "http_client.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

enum {
    EVENTS = 64,
    TICK_MS = 2, // how often it is looked who may go on after a pause, who waits for ever, and whether a trap is due
};

struct run {
    struct forkbench_http *load;
    struct http_request request, trap_request;
    struct http_client *clients; // one more than there are connections: the last one sends the traps
    struct http_client *trapper;
    int epoll;
    size_t busy;  // clients with a request under way
    size_t begun; // requests
    uint64_t start, counting_from, counting_to;
    uint64_t answered, trapped; // when the last one was
    uint64_t next_trap;
};

static bool is_over(const struct run *run, uint64_t now)
{
    const struct forkbench_http *load = run->load;
    return now >= run->counting_to || (load->request_limit > 0 && run->begun >= load->request_limit);
}

// ------------------------------------------------------------------------------------------------------ counting

// The time without an answer that ends now, or goes on; after the measurement no requests are made.
static void note_gap(struct run *run, uint64_t now)
{
    struct forkbench_http *load = run->load;
    if (now > run->counting_to)
        now = run->counting_to;
    uint64_t gap = now > run->answered ? now - run->answered : 0;
    if (gap > load->longest_gap_ns)
        load->longest_gap_ns = gap;
    if (load->traps_sent == 0)
        return;
    struct forkbench_trap *trap = &load->traps[load->traps_sent - 1];
    uint64_t since = run->answered > run->trapped ? run->answered : run->trapped;
    gap = now > since ? now - since : 0;
    if (gap > trap->gap_ns)
        trap->gap_ns = gap;
}

static void count_answer(struct run *run, const struct http_client *client, uint64_t now)
{
    struct forkbench_http *load = run->load;
    load->requests++;
    if (client->answer.status != 200) {
        load->other_status++;
        return;
    }
    note_gap(run, now);
    run->answered = now;
    load->answered++;
    size_t slot = load->slots ? (size_t)((now - run->start) / load->slot_ns) : 0;
    if (slot < load->slot_count)
        load->slots[slot]++;
    if (now < run->counting_from || now >= run->counting_to)
        return;
    load->latencies[load->counted++] = now - client->begun;
    if (load->counted == load->capacity)
        run->counting_to = now;
}

static void count_failure(struct run *run, const struct http_client *client, uint64_t now)
{
    struct forkbench_http *load = run->load;
    load->requests++;
    if (load->failed < load->failures_capacity)
        load->failures[load->failed] = (struct forkbench_failure){.at_ns = now - run->start, .code = client->failure};
    load->failed++;
}

// ------------------------------------------------------------------------------------------------------- clients

static void finish(struct run *run, struct http_client *client, enum http_progress progress)
{
    uint64_t now = client_now();
    client->request = NULL;
    client->resumes = now;
    run->busy--;
    if (progress == HTTP_ANSWERED) {
        count_answer(run, client, now);
        client->is_reused = true;
        if (!run->load->keep_alive || client->answer.closes)
            http_client_close(client);
    } else {
        count_failure(run, client, now);
        client->resumes = now + run->load->pause_ns;
    }
}

static void follow(struct run *run, struct http_client *client, enum http_progress progress)
{
    while (progress == HTTP_UNTAKEN) {
        run->load->retried++;
        progress = http_client_send(client, run->epoll, run->load->port);
    }
    if (progress != HTTP_PENDING)
        finish(run, client, progress);
}

static void begin(struct run *run, struct http_client *client)
{
    if (client->request != NULL)
        return;
    uint64_t now = client_now();
    if (now < client->resumes || is_over(run, now))
        return;
    client->request = &run->request;
    client->begun = now;
    run->begun++;
    run->busy++;
    follow(run, client, http_client_send(client, run->epoll, run->load->port));
}

// --------------------------------------------------------------------------------------------------------- traps

static void follow_trap(struct run *run, enum http_progress progress)
{
    struct forkbench_http *load = run->load;
    struct http_client *trapper = run->trapper;
    if (trapper->is_sent && trapper->begun == 0) {
        trapper->begun = client_now();
        note_gap(run, trapper->begun);
        run->trapped = trapper->begun;
        load->traps[load->traps_sent++] = (struct forkbench_trap){.at_ns = trapper->begun - run->start};
    }
    if (progress == HTTP_PENDING)
        return;
    if (progress == HTTP_ANSWERED)
        load->traps_answered++;
    http_client_close(trapper);
    trapper->request = NULL;
}

static void send_trap(struct run *run, uint64_t now)
{
    struct forkbench_http *load = run->load;
    struct http_client *trapper = run->trapper;
    if (load->trap_path == NULL || now < run->next_trap || is_over(run, now)
        || load->traps_sent == load->traps_capacity)
        return;
    run->next_trap += load->trap_every_ns;
    http_client_close(trapper); // one that still waits has waited long enough
    trapper->request = &run->trap_request;
    trapper->begun = 0;
    follow_trap(run, http_client_send(trapper, run->epoll, load->port));
}

// ---------------------------------------------------------------------------------------------------------- turns

static void tick(struct run *run)
{
    uint64_t now = client_now();
    send_trap(run, now);
    for (size_t i = 0; i < run->load->connections; i++) {
        struct http_client *client = &run->clients[i];
        if (client->request != NULL && now > client->begun && now - client->begun > run->load->patience_ns) {
            http_client_close(client);
            client->failure = ETIMEDOUT;
            finish(run, client, HTTP_FAILED);
        }
        begin(run, client);
    }
}

static void take(struct run *run, struct http_client *client)
{
    if (client->request == NULL) { // idle: the server closes, or says what nobody asked for
        http_client_close(client);
        return;
    }
    enum http_progress progress = http_client_advance(client, run->epoll);
    if (client == run->trapper) {
        follow_trap(run, progress);
        return;
    }
    follow(run, client, progress);
    begin(run, client);
}

// Requests that began within the measurement are let end after it.
static int turn_until_over(struct run *run)
{
    struct epoll_event events[EVENTS];
    uint64_t ticked = run->start;
    tick(run);
    while (run->busy > 0 || !is_over(run, client_now())) {
        int count = epoll_wait(run->epoll, events, EVENTS, TICK_MS);
        if (forkbench_signal() != 0)
            return EINTR;
        if (count < 0 && errno != EINTR)
            return errno;
        for (int i = 0; i < count; i++)
            take(run, events[i].data.ptr);
        uint64_t now = client_now();
        if (now - ticked >= TICK_MS * 1000000ULL) {
            tick(run);
            ticked = now;
        }
    }
    return 0;
}

static int prepare(struct run *run)
{
    struct forkbench_http *load = run->load;
    load->counted = load->requests = load->answered = load->other_status = load->failed = load->retried = 0;
    load->traps_sent = load->traps_answered = 0;
    load->longest_gap_ns = 0;
    int code = http_request_write(&run->request, load->path, load->port, !load->keep_alive);
    if (code == 0 && load->trap_path != NULL)
        code = http_request_write(&run->trap_request, load->trap_path, load->port, true);
    if (code != 0)
        return code;
    run->clients = calloc(load->connections + 1, sizeof *run->clients);
    if (run->clients == NULL)
        return ENOMEM;
    for (size_t i = 0; i <= load->connections; i++)
        run->clients[i].descriptor = -1;
    run->trapper = &run->clients[load->connections];
    run->epoll = epoll_create1(EPOLL_CLOEXEC);
    return run->epoll < 0 ? errno : 0;
}

int forkbench_run_http(struct forkbench_http *load)
{
    struct run run = {.load = load, .epoll = -1};
    int code = prepare(&run);
    if (code == 0) {
        run.start = run.answered = client_now();
        run.counting_from = run.start + load->warm_up_ns;
        run.counting_to = run.counting_from + load->measure_ns;
        run.next_trap = run.start + load->trap_every_ns;
        code = turn_until_over(&run);
        uint64_t now = client_now();
        note_gap(&run, now);
        if (now > run.counting_to)
            now = run.counting_to;
        load->elapsed_ns = now > run.counting_from ? now - run.counting_from : 0;
    }
    for (size_t i = 0; run.clients && i <= load->connections; i++)
        http_client_close(&run.clients[i]);
    if (run.epoll >= 0)
        close(run.epoll);
    free(run.clients);
    return code;
}
