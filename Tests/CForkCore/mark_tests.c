// SPDX-License-Identifier: Apache-2.0
//
// Death marks, memory that children do not have, trimming, and a process's number.

#include "test.h"

#include <pthread.h>

enum { SLOTS = 8, VAIN_IS_ENOUGH = 300 };

// A child with the mark of `slot`.
static pid_t start_marked(struct forkcore_marks *marks, size_t slot, int (*body)(void *), void *context)
{
    struct forkcore_child_plan plan = {.mark = forkcore_marks_occupy(marks, slot)};
    return start(&plan, body, context);
}

static struct forkcore_marks *open_marks(void)
{
    struct forkcore_marks *marks;
    CHECK(forkcore_marks_open(SLOTS, &marks) == 0);
    return marks;
}

// Ends by the signal at `context`, or for 0 by _exit.
static int end_by(void *context)
{
    int number = *(int *)context;
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    if (number == SIGABRT)
        abort();
    if (number != 0)
        raise(number);
    return 3;
}

static void a_mark_is_found_however_its_child_ends(void)
{
    struct forkcore_marks *marks = open_marks();
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == SLOTS); // nobody is there
    int ways[] = {0, SIGKILL, SIGSEGV, SIGABRT, SIGTERM, SIGILL};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        size_t slot = i % SLOTS;
        pid_t pid = start_marked(marks, slot, end_by, &ways[i]);
        await_zombie(pid);
        CHECK(forkcore_marks_next(marks, 0, SLOTS) == slot);
        CHECK(!forkcore_marks_holds(marks, slot, pid));
        await_end(pid);
        forkcore_marks_vacate(marks, slot);
        CHECK(forkcore_marks_next(marks, 0, SLOTS) == SLOTS);
    }
    forkcore_marks_close(marks);
}

#ifdef __GLIBC__

struct ready_gate {
    struct gate ready, gate;
};

static int say_ready_and_wait_for_gate(void *context)
{
    struct ready_gate *both = context;
    (void)!write(both->ready.ends[1], "x", 1);
    return wait_for_gate(&both->gate);
}

static void a_living_child_is_passed_over(void)
{
    struct forkcore_marks *marks = open_marks();
    struct ready_gate both = {make_gate(), make_gate()};
    char byte;
    pid_t pid = start_marked(marks, 2, say_ready_and_wait_for_gate, &both);
    CHECK(read(both.ready.ends[0], &byte, 1) == 1);
    CHECK(forkcore_marks_holds(marks, 2, pid));
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == SLOTS);
    CHECK(!forkcore_marks_holds(marks, 2, getpid()) && !forkcore_marks_holds(marks, 3, pid));
    close_gate(both.gate);
    await_end(pid);
    CHECK(forkcore_marks_next(marks, 0, 1) == 1 && forkcore_marks_next(marks, 0, SLOTS) == 2);
    CHECK(forkcore_marks_next(marks, 3, SLOTS) == SLOTS);
    close_gate(both.ready);
    forkcore_marks_close(marks);
}

// The kernel marks the end before it tells of it: who hears of an end never reads that the child lives.
static void an_end_shows_before_it_is_told(void)
{
    struct forkcore_marks *marks = open_marks();
    for (int i = 0; i < 1000; i++) {
        int way = i % 2 == 0 ? 0 : SIGKILL, pidfd;
        pid_t pid = start_marked(marks, 4, end_by, &way);
        CHECK(forkcore_pidfd(pid, &pidfd) == 0);
        CHECK(is_readable(pidfd, 30000));
        CHECK(forkcore_marks_next(marks, 0, SLOTS) == 4);
        close(pidfd);
        await_end(pid);
        forkcore_marks_vacate(marks, 4);
    }
    forkcore_marks_close(marks);
}

static void in_vain_is_bounded(void)
{
    struct forkcore_marks *marks = open_marks();
    uint32_t *word = forkcore_marks_occupy(marks, 5);
    int asked = 0;
    for (; asked < VAIN_IS_ENOUGH && forkcore_marks_next(marks, 0, SLOTS) == 5; asked++)
        forkcore_marks_doubt(marks, 5); // not taken yet
    CHECK(asked > 2 && asked < 20);
    *word = 0x40000000; // FUTEX_OWNER_DIED: what was known of it is no longer so
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == 5);
    int more = 0; // but who changes it each time does not get asked for each time
    for (uint32_t i = 1; more < VAIN_IS_ENOUGH && forkcore_marks_next(marks, 0, SLOTS) == 5; more++) {
        forkcore_marks_doubt(marks, 5);
        *word = (i++ & 1) << 30;
    }
    CHECK(asked + more < 100);
    for (; asked + more < 256; more++) // however often it is doubted
        forkcore_marks_doubt(marks, 5);
    *word ^= 0x40000000;
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == SLOTS);
    *word = 0;
    forkcore_marks_trust(marks, 5);
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == 5);
    forkcore_marks_vacate(marks, 5);
    forkcore_marks_trust(marks, 5); // nobody is there whatever is done to it
    *word = 0;
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == SLOTS);
    forkcore_marks_occupy(marks, 5); // whoever comes next is not doubted for that
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == 5);
    forkcore_marks_vacate(marks, 5);
    forkcore_marks_occupy(marks, 5); // nor passed over because nobody was there
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == 5);
    forkcore_marks_close(marks);
}

static void who_is_waited_for_holds_its_mark(void)
{
    struct forkcore_marks *marks = open_marks();
    uint32_t *word = forkcore_marks_occupy(marks, 5);
    *word = 0x80000000 | (uint32_t)getpid(); // FUTEX_WAITERS
    CHECK(forkcore_marks_holds(marks, 5, getpid()) && forkcore_marks_next(marks, 0, SLOTS) == SLOTS);
    forkcore_marks_close(marks);
}

struct pipes {
    struct gate in, out;
};

static int become_cat(void *context)
{
    struct pipes *pipes = context;
    dup2(pipes->in.ends[0], STDIN_FILENO);
    dup2(pipes->out.ends[1], STDOUT_FILENO);
    execl("/bin/cat", "cat", NULL);
    return 9;
}

static void exec_ends_a_mark_but_not_the_child(void)
{
    struct forkcore_marks *marks = open_marks();
    struct forkcore_ending ending;
    struct pipes pipes = {make_gate(), make_gate()};
    char byte;
    pid_t pid = start_marked(marks, 0, become_cat, &pipes);
    CHECK(write(pipes.in.ends[1], "x", 1) == 1);
    CHECK(is_readable(pipes.out.ends[0], 30000) && read(pipes.out.ends[0], &byte, 1) == 1); // it is cat by now
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == 0 && !forkcore_marks_holds(marks, 0, pid));
    CHECK(forkcore_reap(pid, false, &ending) == 0 && ending.state == FORKCORE_RUNNING);
    close_gate(pipes.in);
    CHECK(await_end(pid).code == 0);
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == 0);
    close_gate(pipes.out);
    forkcore_marks_close(marks);
}

static int lock_and_leave(void *context)
{
    return pthread_mutex_lock(context) == 0 ? 0 : 1;
}

static void a_childs_own_robust_mutexes_work(void)
{
    struct forkcore_marks *marks = open_marks();
    pthread_mutex_t *mutex = shared_memory();
    pthread_mutexattr_t robust;
    pthread_mutexattr_init(&robust);
    pthread_mutexattr_setpshared(&robust, PTHREAD_PROCESS_SHARED);
    pthread_mutexattr_setrobust(&robust, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(mutex, &robust);
    pid_t pid = start_marked(marks, 1, lock_and_leave, mutex);
    CHECK(await_end(pid).code == 0);
    CHECK(forkcore_marks_next(marks, 0, SLOTS) == 1);
    CHECK(pthread_mutex_lock(mutex) == EOWNERDEAD);
    forkcore_marks_close(marks);
}

static void a_scribbled_mark_does_not_stop_a_child(void)
{
    struct forkcore_marks *marks = open_marks();
    for (int pattern = 0; pattern < 256; pattern += 51) {
        void *mark = forkcore_marks_occupy(marks, 3);
        memset(mark, pattern, sizeof(pthread_mutex_t));
        struct forkcore_child_plan plan = {.mark = mark};
        int way = 0;
        pid_t pid = start(&plan, end_by, &way);
        CHECK(await_end(pid).code == 3);
        CHECK(forkcore_marks_next(marks, 0, SLOTS) == 3);
        forkcore_marks_vacate(marks, 3);
    }
    forkcore_marks_close(marks);
}

static int scribble(void *context)
{
    volatile uint32_t *words = context;
    for (uint32_t pattern = 1; pattern != 0; pattern = pattern * 1664525 + 1013904223) // till it is killed
        for (size_t i = 0; i < sizeof(pthread_mutex_t) / sizeof *words; i++)
            words[i] = pattern;
    return 1;
}

// Not even while it takes it: by way of libc's own mutexes a kind that cannot be would abort it.
static void a_mark_that_is_being_scribbled_on_does_not_stop_a_child(void)
{
    struct forkcore_marks *marks = open_marks();
    pid_t scribbler = start(NULL, scribble, forkcore_marks_occupy(marks, 3));
    for (int i = 0; i < 1000; i++) {
        int way = 0;
        CHECK(await_end(start_marked(marks, 3, end_by, &way)).code == 3);
        forkcore_marks_vacate(marks, 3);
    }
    CHECK(kill(scribbler, SIGKILL) == 0 && await_end(scribbler).signal == SIGKILL);
    forkcore_marks_close(marks);
}

#endif

// In pages.
static long mapped_memory(void)
{
    char text[100] = "";
    int statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    CHECK(read(statm, text, sizeof text - 1) > 0);
    close(statm);
    return atol(text);
}

static void closed_marks_leave_no_memory(void)
{
    struct forkcore_marks *marks;
    long before = mapped_memory();
    CHECK(forkcore_marks_open(100000, &marks) == 0);
    CHECK(mapped_memory() > before);
    forkcore_marks_close(marks);
    CHECK(mapped_memory() == before);
}

static int touch(void *context)
{
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    return *(volatile char *)context;
}

static void children_do_not_have_the_parents_memory(void)
{
    char *memory;
    CHECK(forkcore_parent_memory_open(100000, (void **)&memory) == 0);
    for (size_t i = 0; i < 100000; i++)
        CHECK(memory[i] == 0);
    memory[99999] = 7;
    CHECK(await_end(start(NULL, touch, memory)).signal == SIGSEGV);
    CHECK(await_end(start(NULL, touch, memory + 99999)).signal == SIGSEGV);
    CHECK(memory[99999] == 7);
    forkcore_parent_memory_close(memory, 100000);
}

static char initialised[3 << 16] = {1};
static char empty[3 << 16];

// Whether the page is mapped. mincore(2) would tell of the page cache instead.
static bool is_mapped(const char *page, size_t page_size)
{
    uint64_t entry = 0;
    int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    CHECK(pread(pagemap, &entry, sizeof entry, (off_t)((uintptr_t)page / page_size * sizeof entry)) == sizeof entry);
    close(pagemap);
    return entry >> 63;
}

static void trimming_loses_nothing(void)
{
    char path[] = "/tmp/forkcore-XXXXXX";
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    int file = mkstemp(path);
    CHECK(file >= 0 && unlink(path) == 0);
    for (size_t i = 0; i < 4 * page; i++)
        CHECK(write(file, "f", 1) == 1);
    char *mapped = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
    CHECK(mapped != MAP_FAILED && mapped[0] == 'f' && mapped[3 * page] == 'f');
    mapped[page] = 'm'; // one page is ours from now on, the others are the file's
    memset(initialised, 5, sizeof initialised);
    memset(empty, 6, sizeof empty);
    CHECK(is_mapped(mapped, page) && is_mapped(mapped + page, page));
    CHECK(forkcore_trim() == 0 && !is_blocked(SIGTERM));
    CHECK(!is_mapped(mapped, page) && is_mapped(mapped + page, page));
    CHECK(mapped[page] == 'm');
    for (size_t i = 0; i < 4 * page; i++)
        CHECK(mapped[i] == (i == page ? 'm' : 'f'));
    for (size_t i = 0; i < sizeof empty; i++)
        CHECK(initialised[i] == 5 && empty[i] == 6);
    munmap(mapped, 4 * page);
    close(file);
}

// A shared mapping, which is to be left alone, stands right behind a private one of the same file.
static void trimming_ends_with_a_mapping(void)
{
    char path[] = "/tmp/forkcore-XXXXXX";
    size_t page = (size_t)sysconf(_SC_PAGESIZE), half = 4 * page;
    int file = mkstemp(path);
    CHECK(file >= 0 && unlink(path) == 0 && ftruncate(file, (off_t)half) == 0);
    char *room = mmap(NULL, 2 * half, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(room != MAP_FAILED);
    CHECK(mmap(room, half, PROT_READ, MAP_PRIVATE | MAP_FIXED, file, 0) == room);
    CHECK(mmap(room + half, half, PROT_READ, MAP_SHARED | MAP_FIXED, file, 0) == room + half);
    for (size_t at = 0; at < 2 * half; at += page)
        CHECK(((volatile char *)room)[at] == 0);
    CHECK(forkcore_trim() == 0);
    for (size_t at = 0; at < half; at += page)
        CHECK(!is_mapped(room + at, page) && is_mapped(room + half + at, page));
    munmap(room, 2 * half);
    close(file);
}

static void *wait_for_gate_in_a_thread(void *context)
{
    struct gate *gate = context;
    char byte;
    (void)!read(gate->ends[0], &byte, 1);
    return NULL;
}

static void who_has_threads_is_not_trimmed(void)
{
    struct gate gate = make_gate();
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, wait_for_gate_in_a_thread, &gate) == 0);
    CHECK(forkcore_trim() == EBUSY);
    close(gate.ends[1]);
    pthread_join(thread, NULL);
    close(gate.ends[0]);
}

static int compare_numbers(void *context)
{
    pid_t parents = *(pid_t *)context;
    return forkcore_process() == getpid() && forkcore_process() != parents ? 0 : 1;
}

static int compare_in_a_child(void *context)
{
    (void)context;
    pid_t mine = forkcore_process();
    pid_t pid = fork(); // not by us: libc tells of it
    if (pid == 0)
        _exit(compare_numbers(&mine));
    return mine != getpid() || await_end(pid).code != 0;
}

static void a_process_knows_its_number(void)
{
    pid_t mine = forkcore_process();
    CHECK(mine == getpid());
    CHECK(await_end(start(NULL, compare_numbers, &mine)).code == 0);
    CHECK(await_end(start(NULL, compare_in_a_child, NULL)).code == 0);
}

const struct test mark_tests[] = {
    {"a mark is found however its child ends", a_mark_is_found_however_its_child_ends},
#ifdef __GLIBC__
    {"a living child is passed over", a_living_child_is_passed_over},
    {"an end shows before it is told", an_end_shows_before_it_is_told},
    {"asking in vain is bounded", in_vain_is_bounded},
    {"who is waited for holds its mark", who_is_waited_for_holds_its_mark},
    {"exec ends a mark but not the child", exec_ends_a_mark_but_not_the_child},
    {"a child's own robust mutexes work", a_childs_own_robust_mutexes_work},
    {"a scribbled mark does not stop a child", a_scribbled_mark_does_not_stop_a_child},
    {"a mark that is being scribbled on does not stop a child", a_mark_that_is_being_scribbled_on_does_not_stop_a_child},
#endif
    {"closed marks leave no memory", closed_marks_leave_no_memory},
    {"children do not have the parent's memory", children_do_not_have_the_parents_memory},
    {"trimming loses nothing", trimming_loses_nothing},
    {"trimming ends with a mapping", trimming_ends_with_a_mapping},
    {"who has threads is not trimmed", who_has_threads_is_not_trimmed},
    {"a process knows its number", a_process_knows_its_number},
    {0},
};
