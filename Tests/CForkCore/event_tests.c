// SPDX-License-Identifier: Apache-2.0
//
// Signals, events, timers, and waiting for several.

#include "test.h"

#include <time.h>

static void do_nothing(int number) { (void)number; }

static void block(int number)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static void signals_come_by_the_descriptor(void)
{
    int descriptor;
    uint64_t blocked;
    size_t count;
    struct forkcore_signal signals[4];

    block(SIGUSR1);
    CHECK(forkcore_signals_open(bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGCHLD), &descriptor, &blocked) == 0);
    CHECK(blocked == (bit(SIGUSR2) | bit(SIGCHLD)));
    CHECK(is_blocked(SIGUSR1) && is_blocked(SIGUSR2) && !is_blocked(SIGHUP));
    CHECK(fcntl(descriptor, F_GETFD) & FD_CLOEXEC);
    CHECK(forkcore_signals_read(descriptor, signals, 4, &count) == 0 && count == 0); // and does not wait

    kill(getpid(), SIGUSR1);
    kill(getpid(), SIGUSR2);
    for (int number = SIGUSR1; number != 0; number = number == SIGUSR1 ? SIGUSR2 : 0) {
        CHECK(forkcore_signals_read(descriptor, signals, 1, &count) == 0 && count == 1);
        CHECK(signals[0].number == number && signals[0].sender == getpid());
    }
    struct gate gate = make_gate();
    close(gate.ends[1]);
    pid_t pid = start(NULL, wait_for_gate, &gate);
    close(gate.ends[0]);
    await_zombie(pid);
    CHECK(is_readable(descriptor, 30000));
    CHECK(forkcore_signals_read(descriptor, signals, 4, &count) == 0 && count == 1);
    CHECK(signals[0].number == SIGCHLD && signals[0].sender == pid);
    await_end(pid);

    forkcore_signals_close(descriptor, blocked);
    CHECK(is_blocked(SIGUSR1) && !is_blocked(SIGUSR2) && !is_blocked(SIGCHLD));
}

static void what_is_pending_at_close_is_thrown_away(void)
{
    int descriptor, number = SIGRTMIN;
    uint64_t blocked;
    CHECK(forkcore_signals_open(bit(number) | bit(SIGTERM), &descriptor, &blocked) == 0);
    for (int i = 0; i < 40; i++) // they queue; their default ends the process
        CHECK(sigqueue(getpid(), number, (union sigval){0}) == 0);
    kill(getpid(), SIGTERM);
    forkcore_signals_close(descriptor, blocked);
    CHECK(!is_blocked(number) && !is_blocked(SIGTERM));
}

static void a_refused_signalfd_leaves_the_mask(void)
{
    int descriptor = -1, lowest = dup(0);
    uint64_t blocked;
    close(lowest);
    setrlimit(RLIMIT_NOFILE, &(struct rlimit){(rlim_t)lowest, 64});
    CHECK(forkcore_signals_open(bit(SIGUSR1), &descriptor, &blocked) == EMFILE);
    CHECK(!is_blocked(SIGUSR1));
}

static void handlers_are_seen(void)
{
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = do_nothing}, NULL);
    signal(SIGUSR2, SIG_IGN);
    CHECK(forkcore_signals_handled(bit(SIGUSR1) | bit(SIGUSR2) | bit(SIGHUP)) == bit(SIGUSR1));
    CHECK(forkcore_signals_handled(bit(SIGHUP)) == 0);
}

static void zombies_are_kept(void)
{
    struct sigaction action;
    struct gate gate = make_gate();
    close(gate.ends[1]);

    signal(SIGCHLD, SIG_IGN);
    CHECK(forkcore_keep_zombies() == 0);
    CHECK(await_end(start(NULL, wait_for_gate, &gate)).state == FORKCORE_EXITED);

    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT}, NULL);
    CHECK(forkcore_keep_zombies() == 0);
    CHECK(await_end(start(NULL, wait_for_gate, &gate)).state == FORKCORE_EXITED);

    sigaction(SIGCHLD, &(struct sigaction){.sa_handler = do_nothing}, NULL);
    CHECK(forkcore_keep_zombies() == EBUSY);
    sigaction(SIGCHLD, NULL, &action);
    CHECK(action.sa_handler == do_nothing);
    close(gate.ends[0]);
}

static void events_add_up(void)
{
    int descriptor;
    CHECK(forkcore_event_open(&descriptor) == 0);
    CHECK(fcntl(descriptor, F_GETFD) & FD_CLOEXEC);
    CHECK(!is_readable(descriptor, 0) && forkcore_event_take(descriptor) == 0);
    forkcore_event_add(descriptor, 3);
    forkcore_event_add(descriptor, 4);
    CHECK(is_readable(descriptor, 0) && forkcore_event_take(descriptor) == 7);
    CHECK(!is_readable(descriptor, 0) && forkcore_event_take(descriptor) == 0);
    forkcore_event_add(descriptor, UINT64_MAX - 1);
    errno = 42;
    forkcore_event_add(descriptor, 1); // more than it holds: must neither wait nor touch errno
    CHECK(errno == 42);
    forkcore_close(descriptor);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void timers_fire_and_are_taken_back(void)
{
    int descriptor;
    CHECK(forkcore_timer_open(&descriptor) == 0);
    CHECK(fcntl(descriptor, F_GETFD) & FD_CLOEXEC);
    CHECK(!is_readable(descriptor, 0));
    CHECK(forkcore_timer_set(descriptor, 1) == 0); // long past
    CHECK(is_readable(descriptor, 0));
    CHECK(forkcore_timer_set(descriptor, now() + 3600000000000) == 0); // takes back the expiry that nobody read
    CHECK(!is_readable(descriptor, 0));
    int64_t at = now() + 30000000;
    CHECK(forkcore_timer_set(descriptor, at) == 0);
    CHECK(is_readable(descriptor, 30000) && now() >= at);
    CHECK(forkcore_timer_set(descriptor, 0) == 0);
    CHECK(!is_readable(descriptor, 50));
    CHECK(forkcore_timer_set(descriptor, INT64_MAX) == 0);
    forkcore_close(descriptor);
}

static void readable_descriptors_are_told_by_token(void)
{
    enum { MANY = 20 };
    int poll, events[MANY];
    uint64_t tokens[MANY];
    size_t count, total = 0;

    CHECK(forkcore_poll_open(&poll) == 0);
    CHECK(fcntl(poll, F_GETFD) & FD_CLOEXEC);
    for (int i = 0; i < MANY; i++) {
        CHECK(forkcore_event_open(&events[i]) == 0);
        CHECK(forkcore_poll_add(poll, events[i], 1000 + (uint64_t)i) == 0);
    }
    CHECK(forkcore_poll_add(poll, events[0], 1) == EEXIST);
    CHECK(forkcore_poll_ready(poll, tokens, MANY, &count) == 0 && count == 0);
    forkcore_event_add(events[7], 1);
    CHECK(is_readable(poll, 0));
    CHECK(forkcore_poll_ready(poll, tokens, MANY, &count) == 0 && count == 1 && tokens[0] == 1007);
    for (int i = 0; i < MANY; i++)
        forkcore_event_add(events[i], 1);
    CHECK(forkcore_poll_ready(poll, tokens, 3, &count) == 0 && count == 3);
    while (total < MANY + 1) { // a part of them at a time
        CHECK(forkcore_poll_ready(poll, tokens, MANY, &count) == 0 && count > 0);
        for (size_t j = 0; j < count; j++)
            total += forkcore_event_take(events[tokens[j] - 1000]);
    }
    CHECK(forkcore_poll_ready(poll, tokens, MANY, &count) == 0 && count == 0);
    forkcore_event_add(events[3], 1);
    for (int i = 0; i < MANY; i++)
        forkcore_close(events[i]);
    CHECK(forkcore_poll_ready(poll, tokens, MANY, &count) == 0 && count == 0);
    forkcore_close(poll);
}

static void waiting_ends_with_input_time_or_a_signal(void)
{
    struct gate quiet = make_gate(), busy = make_gate();
    int descriptors[9] = {quiet.ends[0], -1, busy.ends[0]};
    uint32_t ready = 99;

    CHECK(forkcore_wait_readable(descriptors, 9, 0, &ready) == EINVAL);
    CHECK(forkcore_wait_readable(descriptors, 3, 0, &ready) == 0 && ready == 0);
    int64_t begun = now();
    CHECK(forkcore_wait_readable(descriptors, 3, 30000000, &ready) == 0 && ready == 0);
    CHECK(now() - begun >= 30000000);
    CHECK(write(busy.ends[1], "x", 1) == 1);
    CHECK(forkcore_wait_readable(descriptors, 3, -1, &ready) == 0 && ready == 1 << 2);
    close(quiet.ends[1]); // a hang-up is something to look at
    CHECK(forkcore_wait_readable(descriptors, 3, -1, &ready) == 0 && ready == (1 << 0 | 1 << 2));
    start_storm();
    CHECK(forkcore_wait_readable(descriptors, 0, -1, &ready) == 0 && ready == 0);
    CHECK(storm_count() > 0);
    stop_storm();
    close(quiet.ends[0]);
    close_gate(busy);
}

const struct test event_tests[] = {
    {"signals come by the descriptor", signals_come_by_the_descriptor},
    {"what is pending at close is thrown away", what_is_pending_at_close_is_thrown_away},
    {"a refused signalfd leaves the mask", a_refused_signalfd_leaves_the_mask},
    {"handlers are seen", handlers_are_seen},
    {"zombies are kept", zombies_are_kept},
    {"events add up", events_add_up},
    {"timers fire and are taken back", timers_fire_and_are_taken_back},
    {"readable descriptors are told by token", readable_descriptors_are_told_by_token},
    {"waiting ends with input, time or a signal", waiting_ends_with_input_time_or_a_signal},
    {0},
};
