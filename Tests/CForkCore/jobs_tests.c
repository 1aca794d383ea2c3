// SPDX-License-Identifier: Apache-2.0
//
// A queue that threads add to, and one takes from.

#include "test.h"

#include "forkcore_jobs.h"
#include <pthread.h>
#include <time.h>

enum { THREADS = 4, EACH = 50000 };

static struct forkcore_job jobs[THREADS][EACH];
static const int64_t FOREVER = INT64_MAX;

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static void order(void)
{
    for (int i = 0; i < 3; i++)
        forkcore_jobs_add(&jobs[0][i], (uintptr_t)i);
    struct forkcore_job *job = forkcore_jobs_take(FOREVER);
    for (uintptr_t i = 0; i < 3; i++, job = job->next)
        CHECK(job == &jobs[0][i] && job->word == i);
    CHECK(!job);
    CHECK(!forkcore_jobs_take(0));
}

static void until(void)
{
    int64_t due = now() + 20000000;
    while (now() < due)
        CHECK(!forkcore_jobs_take(due));
    CHECK(!forkcore_jobs_take(-1));
}

static void woken_before(void)
{
    forkcore_jobs_wake();
    CHECK(!forkcore_jobs_take(FOREVER));
    forkcore_jobs_add(&jobs[0][0], 0);
    CHECK(forkcore_jobs_take(FOREVER) == &jobs[0][0]);
}

static void await_sleep(pthread_t taker)
{
    clockid_t clock;
    struct timespec before, after = {0};
    CHECK(pthread_getcpuclockid(taker, &clock) == 0);
    do { // until it uses no more time
        before = after;
        usleep(1000);
        CHECK(clock_gettime(clock, &after) == 0);
    } while (before.tv_sec != after.tv_sec || before.tv_nsec != after.tv_nsec);
}

static void *take_forever(void *first)
{
    *(struct forkcore_job **)first = forkcore_jobs_take(FOREVER);
    return NULL;
}

static void woken(void)
{
    pthread_t taker;
    struct forkcore_job *first = &jobs[1][0];
    CHECK(pthread_create(&taker, NULL, take_forever, &first) == 0);
    await_sleep(taker);
    forkcore_jobs_wake();
    pthread_join(taker, NULL);
    CHECK(!first);
    CHECK(pthread_create(&taker, NULL, take_forever, &first) == 0);
    await_sleep(taker);
    forkcore_jobs_add(&jobs[0][0], 0);
    pthread_join(taker, NULL);
    CHECK(first == &jobs[0][0]);
}

static void *add_all(void *row)
{
    for (int i = 0; i < EACH; i++)
        forkcore_jobs_add((struct forkcore_job *)row + i, (uintptr_t)i);
    return NULL;
}

// The taker is often about to wait when one is added: were it not woken, it would wait until the test's deadline.
static void storm(void)
{
    pthread_t threads[THREADS];
    uintptr_t next[THREADS] = {0};
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, add_all, jobs[i]) == 0);
    for (int taken = 0; taken < THREADS * EACH;)
        for (struct forkcore_job *job = forkcore_jobs_take(FOREVER); job; job = job->next, taken++) {
            long row = (job - jobs[0]) / EACH;
            CHECK(job == &jobs[row][next[row]] && job->word == next[row]);
            next[row]++;
        }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(!forkcore_jobs_take(0));
}

static void watches(void)
{
    int ends[2], event;
    CHECK(pipe(ends) == 0 && forkcore_event_open(&event) == 0);
    forkcore_jobs_watch(ends[0], event);
    CHECK(!forkcore_jobs_take(0) && !forkcore_jobs_is_readable());
    CHECK(write(ends[1], "x", 1) == 1);
    CHECK(!forkcore_jobs_take(FOREVER) && forkcore_jobs_is_readable());
    forkcore_jobs_add(&jobs[0][0], 0); // a job comes first
    CHECK(forkcore_jobs_take(FOREVER) == &jobs[0][0] && !forkcore_jobs_is_readable());
    char byte;
    CHECK(read(ends[0], &byte, 1) == 1);
    woken(); // by another thread, though nothing is readable
    close(ends[1]);
    CHECK(!forkcore_jobs_take(FOREVER) && forkcore_jobs_is_readable()); // the end of file
    close(ends[0]);
    close(event);
}

const struct test jobs_tests[] = {
    {"jobs are taken in the order in which they were added", order},
    {"a wait for jobs ends at its time", until},
    {"a wait for jobs does not begin after a wake", woken_before},
    {"a wait for jobs ends by a wake, or a job", woken},
    {"a wait for jobs ends when a descriptor is readable", watches},
    {"no job of several threads is lost, and each thread's stay in order", storm},
    {0},
};
